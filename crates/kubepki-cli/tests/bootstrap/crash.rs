//! A kill in the middle of a reconciliation that writes datastore and disk: it is finished, or
//! taken back, whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use kubepki::bootstrap::Field;
use testkit::Victim;

use crate::lab::{KUBEPKI, Lab, TOKEN, files};

const ARGS: [&str; 8] = [
    "reconcile",
    "--yes",
    "--keep",
    "disk",
    "--still-for",
    "0",
    "--node-ip",
    "10.0.0.1",
];

/// How many kills the test affords, spread over all that there are.
const KILLS: usize = 14;

fn copy(lab: &Lab, from: &str, to: &str) {
    let (from, to) = (lab.scratch(from), lab.scratch(to));
    let _ = fs::remove_dir_all(&to);
    let arguments = [
        "-a".to_owned(),
        from.display().to_string(),
        to.display().to_string(),
    ];
    assert!(testkit::run("cp", &arguments, b"").success());
}

fn tls(lab: &Lab) -> BTreeMap<PathBuf, Vec<u8>> {
    files(&lab.server().join("tls"))
}

#[test]
fn a_killed_reconciliation_ends_whole() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let service = lab.server().join("tls/service.key");
    let mut ours = fs::read(&service).unwrap();
    ours.push(b'\n');
    fs::write(&service, &ours).unwrap();
    fs::remove_file(lab.server().join("tls/client-ca.key")).unwrap();
    let theirs = lab.opened(TOKEN).bundle;
    let theirs = theirs.content(Field::ServiceKey).unwrap();
    let original = tls(&lab);
    copy(&lab, "data", "base");

    let data_dir = lab.data_dir().display().to_string();
    let args = ARGS.into_iter().map(str::to_owned);
    let args = args.chain(["--data-dir".to_owned(), data_dir]);
    let victim = Victim::new(KUBEPKI, args).alone();
    let points = victim.crash_points();
    assert!(points.len() > KILLS);
    let (mut resumed, mut unbegun) = (0, 0);
    for point in points.iter().step_by(points.len() / KILLS) {
        copy(&lab, "base", "data");
        // SQLite writes from a thread of its own: one run makes a call more or less than another.
        victim.crash_if_reached(point);
        copy(&lab, "data", "saved");
        let again = lab.run(&ARGS);
        match again.code {
            Some(6) => {
                lab.ends(&["resume", "--still-for", "0"], 0);
                resumed += 1;
            }
            Some(0) => unbegun += 1,
            _ => panic!("{point:?}: {}", again.text()),
        }
        let opened = lab.opened(TOKEN);
        assert_eq!(
            opened.bundle.content(Field::ServiceKey),
            Some(&ours[..]),
            "{point:?}"
        );
        lab.ends(&["bootstrap", "diff"], 0);

        copy(&lab, "saved", "data");
        let undo = lab.run(&["undo", "--yes", "--still-for", "0"]);
        let nothing = undo.code == Some(1) && undo.text().contains("nothing to take back");
        assert!(undo.success() || nothing, "{point:?}: {}", undo.text());
        assert_eq!(tls(&lab), original, "{point:?}");
        let opened = lab.opened(TOKEN);
        assert_eq!(
            opened.bundle.content(Field::ServiceKey),
            Some(theirs),
            "{point:?}"
        );
    }
    assert!(
        resumed > 2 && unbegun > 0,
        "{resumed} resumed, {unbegun} unbegun"
    );
}
