//! A join that is killed while files change.

use testkit::{Run, Victim};

use crate::lab::Lab;
use crate::{KUBEPKI, assert_ends};

/// What is put in place is journalled: `resume` does the rest, `undo` takes all of it back, and
/// leaves the password by which servers know the node.
#[test]
fn is_resumed_or_begun_again_and_taken_back() {
    let lab = Lab::new();
    let [token, password] = ["token", "password"].map(|name| lab.folder.path().join(name));
    std::fs::write(&token, &lab.token).unwrap();
    let data_dir = lab.data_dir().display().to_string();
    let (token, password) = (token.display().to_string(), password.display().to_string());
    let url = lab.server.url();
    let site = ["--data-dir", &data_dir];
    let words = [
        &["join", "--yes", "--node-name", "a", "--node-ip", "10.9.8.7"][..],
        &["--token-file", &token, "--node-password-file", &password],
        &["--server", &url],
        &site,
    ];
    let words = words.concat();
    let kubepki = |words: &[&str]| -> Run { testkit::run(KUBEPKI, words, b"") };
    let victim = Victim::new(KUBEPKI, words.clone()).alone();
    let points = victim.crash_points();
    assert!(points.len() > 100, "{}", points.len());
    let (mut resumed, mut begun_again) = (0, 0);
    for point in points.iter().step_by(17) {
        let _ = std::fs::remove_dir_all(lab.data_dir());
        // How often the network is waited for is chance.
        if !victim.crash_if_reached(point) {
            continue;
        }
        let at = format!("{point:?}");
        let again = kubepki(&words);
        match again.code {
            Some(6) => {
                assert!(again.text().contains("resume"), "{at}: {}", again.text());
                let run = kubepki(&[&["resume"], &site[..]].concat());
                assert_eq!(run.code, Some(0), "{at}: {}", run.text());
                resumed += 1;
            }
            code => {
                assert_eq!(code, Some(0), "{at}: {}", again.text());
                begun_again += 1;
            }
        }
        assert_eq!(lab.state().len(), 13, "{at}");
        assert_ends(&kubepki(&words), 0, "Nothing was due");
        let kept = std::fs::read(&password).unwrap();
        assert_ends(
            &kubepki(&[&["undo", "--yes"], &site[..]].concat()),
            0,
            "Done",
        );
        assert_eq!(lab.state().len(), 0, "{at}");
        assert_eq!(std::fs::read(&password).unwrap(), kept, "{at}");
    }
    assert!(resumed > 5 && begun_again > 0, "{resumed} {begun_again}");
}
