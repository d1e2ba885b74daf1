//! Files and directories that are not what they are named for.

use std::os::unix::ffi::OsStrExt as _;

use crate::Lab;

#[test]
fn token_files_that_hold_none() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let file = lab.beside("given-token");
    let long = vec![b'x'; 70_000];
    let cases: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (b"\xff\xfe\x00binary", "not text"),
        (
            b"\xef\xbb\xbffixture-token-0123456789abcdef\n",
            "byte order mark",
        ),
        (&long, "are no token"),
        (b"K10abc::server:x", "has 3 characters, not 64"),
        (b"abcdef.0123456789abcdef", "shape of a bootstrap token"),
    ];
    for (bytes, word) in cases {
        std::fs::write(&file, bytes).unwrap();
        let before = lab.tree();
        for command in [&["bootstrap", "show"][..], &["token", "rotate", "--yes"]] {
            let run = lab.ends(&[command, &["--token-file", &file]].concat(), 2, word);
            assert!(run.text().contains("given-token"), "{}", run.text());
        }
        lab.assert_untouched(&before);
    }
}

#[test]
fn arguments_that_cannot_be_meant() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let (pipe, nothing) = (lab.beside("pipe"), lab.beside("nothing"));
    assert!(testkit::run("mkfifo", &[&pipe], b"").success());
    std::fs::write(&nothing, "nothing\n").unwrap();
    let before = lab.tree();
    let out = lab.beside("out");
    lab.ends(
        &["bootstrap", "show", "--snapshot", &pipe],
        2,
        "no regular file",
    );
    for algorithm in ["ed25519", "rsa1024", "nonsense"] {
        for command in [
            &["ca", "stage", "--same-root", "--algorithm"][..],
            &["ca", "create", "--ca-algorithm"],
            &["ca", "request", "--ca-algorithm"],
        ] {
            let words = [command, &[algorithm, "--out", &out]].concat();
            lab.ends(&words, 2, algorithm);
        }
    }
    let keys = [
        "ca",
        "stage",
        "--same-root",
        "--keys",
        &nothing,
        "--out",
        &out,
    ];
    lab.ends(&keys, 5, "holds no certificate and no key");
    lab.assert_untouched(&before);
}

#[test]
fn an_agent_and_a_server_without_its_cas() {
    let server = Lab::new("k3s-1.36-custom-ca");
    let good = server.good();
    let rotate = ["rotate-ca", "--path", &good, "--yes", "--still-for", "0"];
    let forced = [&rotate[..], &["--force"]].concat();

    let agent = Lab::new("k3s-1.36-agent-only");
    let before = agent.tree();
    for words in [&rotate[..], &forced] {
        agent.ends(words, 1, "is an agent's: CAs are rotated on a server");
    }
    agent.ends(&["bootstrap", "show"], 1, "is an agent's");
    agent.assert_untouched(&before);

    std::fs::remove_file(server.server().join("tls/server-ca.crt")).unwrap();
    let before = server.tree();
    for words in [&rotate[..], &forced] {
        let run = server.ends(words, 5, "tls/server-ca.crt missing");
        assert!(run.text().contains("bootstrap extract"), "{}", run.text());
        assert!(!run.text().contains("say --force"), "{}", run.text());
    }
    server.assert_untouched(&before);
}

/// Somebody else's file in the directory of the kubeconfig is nobody's business.
#[test]
fn a_foreign_name_that_is_no_text() {
    let lab = Lab::new("k3s-1.36-custom-ca");
    let kubeconfig = lab.fixture.admin_kubeconfig();
    let foreign = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let foreign = kubeconfig.parent().unwrap().join(foreign);
    std::fs::write(&foreign, "x").unwrap();
    let (good, kubeconfig) = (lab.good(), kubeconfig.display().to_string());
    let site = ["--yes", "--still-for", "0", "--kubeconfig", &kubeconfig];
    let rotate = [&["rotate-ca", "--path", &good][..], &site].concat();
    lab.ends(&rotate, 0, "Done");
    // Not this server alone.
    lab.ends(
        &[&["undo"][..], &site].concat(),
        0,
        "Every server takes this up",
    );
    assert!(foreign.exists());
}

/// What is told to take something back does.
#[test]
fn an_extraction_elsewhere_is_taken_back_as_told() {
    let lab = Lab::new("k3s-1.36-sqlite");
    let to = lab.beside("elsewhere");
    let run = lab.ends(&["bootstrap", "extract", "--to", &to, "--yes"], 0, "Done");
    let text = run.text();
    let (_, told) = text.split_once("Take it back with: kubepki ").unwrap();
    let mut words: Vec<&str> = told.split_whitespace().take(4).collect();
    words.push("--yes");
    lab.ends(&words, 0, "Done");
    assert!(!std::path::Path::new(&to).exists());
}
