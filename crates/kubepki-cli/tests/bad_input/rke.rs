//! What is wrong with the way to the hosts of an RKE cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use testkit::Run;

use super::as_root;
use super::common::KUBEPKI;

const STATE: &str = "cluster.rkestate";

/// A folder with a recorded cluster's files, whose hosts do not answer, and a key.
fn operator(passphrase: &str) -> testkit::Fixture {
    let fixture = testkit::fixture("rke-1.6-live");
    let folder = fixture.scratch("operator");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(fixture.extra(STATE), folder.join(STATE)).unwrap();
    let text = fixture.extra_text("cluster.yml");
    // Nobody listens at port 1.
    let text = text.replace("user: root", "user: root\n    port: 1");
    fs::write(folder.join("cluster.yml"), text).unwrap();
    let key = folder.join("id");
    let key = key.to_str().unwrap();
    let args = ["-q", "-t", "ed25519", "-N", passphrase, "-f", key];
    assert!(testkit::run("ssh-keygen", &args, b"").success());
    fixture
}

fn run_in(folder: &Path, args: &[&str]) -> Run {
    let folder = folder.to_str().unwrap();
    let mut all = vec!["-i", "-C", folder, "LC_ALL=C", "HOME=/nonexistent", KUBEPKI];
    all.extend(args);
    testkit::run("env", &all, b"")
}

fn check(folder: &Path) -> Run {
    run_in(
        folder,
        &["check", "--cluster", "cluster.yml", "--ssh-agent-auth"],
    )
}

#[test]
fn an_agent_that_is_not_there_leaves_two_ways() {
    let folder = |fixture: &testkit::Fixture| -> PathBuf { fixture.scratch("operator") };
    // As in RKE, a key will do.
    let fixture = operator("");
    let run = check(&folder(&fixture));
    assert!(!run.text().contains("SSH_AUTH_SOCK"), "{}", run.text());
    // Away, and not twice.
    assert!(run.text().contains("nothing is known"), "{}", run.text());
    assert!(!run.text().contains("cannot be reached"), "{}", run.text());
    fs::remove_file(folder(&fixture).join("id")).unwrap();
    let missing = check(&folder(&fixture));
    let locked = check(&folder(&operator("a passphrase")));
    for (run, why) in [
        (missing, "no such file or directory"),
        (locked, "the key is encrypted"),
    ] {
        assert_eq!(run.code, Some(1), "{}", run.text());
        for word in ["SSH_AUTH_SOCK", why, "ssh-add", "ssh_key_path"] {
            assert!(run.text().contains(word), "{word}: {}", run.text());
        }
    }
}

#[test]
fn another_user_is_told_whose_files_they_are() {
    if !as_root() {
        return;
    }
    let fixture = operator("");
    let folder = fixture.scratch("operator");
    let program = folder.join("kubepki");
    fs::copy(KUBEPKI, &program).unwrap();
    for path in folder.ancestors().take_while(|it| *it != Path::new("/tmp")) {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    }
    fs::set_permissions(folder.join(STATE), fs::Permissions::from_mode(0o600)).unwrap();
    let config = folder.join("cluster.yml");
    let args = ["check", "--cluster", config.to_str().unwrap()];
    let run = super::run(program.to_str().unwrap(), &args, Some("65534"));
    assert_eq!(run.code, Some(1), "{}", run.text());
    assert!(run.text().contains("Permission denied"), "{}", run.text());
    let words = "the user whom cluster.yml and the files beside it belong to";
    assert!(run.text().contains(words), "{}", run.text());
    assert!(!run.text().contains("K3s"), "{}", run.text());
}
