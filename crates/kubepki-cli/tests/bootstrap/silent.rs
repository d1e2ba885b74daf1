//! No key, password or token in what is said or written down.

use std::fs;
use std::path::Path;

use testkit::Secrets;

use crate::lab::{Lab, TOKEN};

#[test]
fn nothing_secret_is_said_or_written_down() {
    let lab = Lab::new("k3s-1.36-encryption-token-rotated");
    let mut secrets = Secrets::below(lab.scratch(""));
    secrets.add_secret(TOKEN.as_bytes(), "the former token");
    let old = lab.token(TOKEN);
    let wrong = lab.token("a-wrong-token-of-another-cluster");
    secrets.add_secret(b"a-wrong-token-of-another-cluster", "the wrong token");
    let out = lab.scratch("out");
    let out = out.to_str().unwrap();
    let still = ["--yes", "--still-for", "0", "--token-file"];
    let mut said = Vec::new();
    let mut run = |args: &[&str]| {
        let run = lab.run(args);
        secrets.add_below(lab.scratch("data/server"));
        said.push((format!("{args:?}"), run.stdout, run.stderr));
    };
    for output in ["table", "text", "json"] {
        run(&["bootstrap", "show", "-o", output, "--token-file", &old]);
    }
    for output in ["text", "json"] {
        run(&["bootstrap", "verify", "-o", output, "--token-file", &old]);
        run(&["bootstrap", "diff", "-o", output]);
    }
    run(&["bootstrap", "extract", "--to", out, "--yes"]);
    run(&["bootstrap", "extract", "--yes", "-o", "json"]);
    // Newer on disk: refused, kept, taken back, written over.
    let path = lab.server().join("tls/service.key");
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(b'\n');
    fs::write(&path, &bytes).unwrap();
    let reconcile = [&["reconcile", "--node-ip", "10.0.0.1"], &still[..]].concat();
    run(&[&reconcile[..], &[&wrong]].concat());
    run(&[&reconcile[..], &[&old, "--keep", "disk"]].concat());
    run(&["undo", "--yes", "--still-for", "0"]);
    run(&[&["bootstrap", "restore"], &still[..], &[&wrong]].concat());
    run(&[&reconcile[..], &[&old, "--cluster-reset", "-o", "json"]].concat());
    fs::remove_file(lab.server().join("token")).unwrap();
    fs::remove_file(lab.server().join("cred/passwd")).unwrap();
    run(&["bootstrap", "show", "--token-file", &wrong]);
    run(&["bootstrap", "show", "--token-file", &old]);

    for (what, stdout, stderr) in &said {
        secrets.assert_absent(what, stdout);
        secrets.assert_absent(what, stderr);
    }
    let state = lab.data_dir().join("kubepki");
    let (backups, staging) = (state.join("backups"), state.join("staging"));
    let by_design = |path: &Path| path.starts_with(&backups) || path.starts_with(&staging);
    secrets.assert_absent_below(&state, by_design);
    for part in ["plans", "journal"] {
        assert!(
            fs::read_dir(state.join(part)).unwrap().count() > 0,
            "{part}"
        );
    }
}
