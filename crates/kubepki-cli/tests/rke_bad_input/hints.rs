//! What messages tell to type, and how flags may be spelt.

use std::fs;

use crate::{Operator, text};

/// Commands that a message names find the same cluster and the same plans.
#[test]
fn commands_name_the_cluster() {
    let operator = Operator::new();
    let folder = operator.folder();
    fs::remove_file(folder.join("cluster.rkestate")).unwrap();
    // Found in the directory, named nowhere.
    for command in ["rotate", "rotate-ca"] {
        let run = operator.run(&[command]);
        assert_eq!(run.code, Some(1), "{}", run.text());
        let said = run.text();
        assert!(said.contains("can't find old certificates"), "{said}");
        assert!(said.contains("`kubepki state pull`"), "{said}");
    }
    fs::rename(folder.join("cluster.yml"), folder.join("my prod.yml")).unwrap();
    let run = operator.run(&["rotate-ca", "--cluster", "my prod.yml", "--state-dir", "d"]);
    assert_eq!(run.code, Some(1), "{}", run.text());
    for command in ["state pull", "state rebuild"] {
        let wanted = format!("`kubepki {command} --cluster 'my prod.yml' --state-dir d`");
        assert!(run.text().contains(&wanted), "{}", run.text());
    }
    let run = operator.run(&["state", "pull", "--cluster", "my prod.yml"]);
    assert_eq!(run.code, Some(1), "{}", run.text());
    let wanted = "`kubepki state rebuild --cluster 'my prod.yml'`";
    assert!(run.text().contains(wanted), "{}", run.text());
    // Neither kind of cluster.
    let run = operator.run(&["rotate-ca"]);
    assert_eq!(run.code, Some(2), "{}", run.text());
    for flag in ["--path DIR", "--staged", "--cluster cluster.yml"] {
        assert!(run.text().contains(flag), "{flag}: {}", run.text());
    }
}

/// What mends a finding is typed as it stands.
#[test]
fn findings_name_the_cluster() {
    let operator = Operator::new();
    let folder = operator.folder();
    fs::create_dir(folder.join("sites")).unwrap();
    for (name, place) in [
        ("cluster.yml", "north.yml"),
        ("cluster.rkestate", "north.rkestate"),
    ] {
        fs::rename(folder.join(name), folder.join("sites").join(place)).unwrap();
    }
    let at = ["check", "--offline", "--at", "2046-01-01T00:00:00Z"];
    let run = operator.run(&[&at[..], &["--cluster", "sites/north.yml"]].concat());
    assert_eq!(run.code, Some(4), "{}", run.text());
    let said = text(&run.stdout);
    assert!(
        said.contains("-> kubepki rotate-ca --cluster sites/north.yml\n"),
        "{said}"
    );
    assert!(!said.contains("cluster.yml\n"), "{said}");
}

/// RKE's command line is Go's: a flag may say that it is meant, or not.
#[test]
fn flags_are_true_or_false() {
    let operator = Operator::new();
    let rotate = ["rke", "cert", "rotate"];
    let etcd = [
        "--service",
        "etcd",
        "--ssh-agent-auth=f",
        "--ignore-docker-version=1",
    ];
    for (flag, code, words) in [
        ("--rotate-ca=true", 1, "it cannot be used with --service"),
        ("--rotate-ca=T", 1, "it cannot be used with --service"),
        ("--rotate-ca", 1, "it cannot be used with --service"),
        (
            "--rotate-ca=false",
            1,
            "failed to connect to the following etcd host(s)",
        ),
        (
            "--rotate-ca=0",
            1,
            "failed to connect to the following etcd host(s)",
        ),
        ("--rotate-ca=yes", 1, "it is neither true nor false"),
        ("--ssh-agent-auth=", 1, "ssh-agent-auth"),
    ] {
        let run = operator.run(&[&rotate[..], &etcd, &[flag]].concat());
        assert_eq!(run.code, Some(code), "{flag}: {}", run.text());
        assert!(run.text().contains(words), "{flag}: {}", run.text());
    }
}
