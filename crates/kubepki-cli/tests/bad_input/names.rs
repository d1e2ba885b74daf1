//! Names, kubeconfigs and outputs that want to harm who looks at them.

use std::fs;

use super::common::{KUBEPKI, Node};
use super::{SERVER, assert_civil};

/// A certificate whose names hold what a terminal obeys, lines that look like ours, or a megabyte.
fn hostile(node: &Node, name: &str) -> Vec<u8> {
    let key = node.text_path("hostile.key");
    let algorithm = [
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        &key,
    ];
    testkit::openssl_ok(&algorithm, b"");
    let config = format!(
        "[req]\ndistinguished_name=dn\nprompt=no\nutf8=yes\nstring_mask=utf8only\nx509_extensions=x\n\
         [dn]\nCN={}\nO={}\n[x]\nsubjectAltName=email:{name}\n",
        "x".repeat(60),
        "broken: fake"
    );
    fs::write(node.path("hostile.cnf"), config).unwrap();
    let config = node.text_path("hostile.cnf");
    let args = [
        "req", "-x509", "-new", "-key", &key, "-config", &config, "-days", "3",
    ];
    testkit::openssl_ok(&args, b"").stdout
}

fn with_subject(node: &Node, subject: &str) -> Vec<u8> {
    hostile(node, "a@example.org");
    let key = node.text_path("hostile.key");
    let args = [
        "req", "-x509", "-new", "-key", &key, "-subj", subject, "-utf8", "-days", "3",
    ];
    testkit::openssl_ok(&args, b"").stdout
}

#[test]
fn names_in_certificates_obey_nobody() {
    let node = Node::new(SERVER);
    let subjects = [
        "/CN=\u{1b}[31mRED\u{1b}[0m\u{7}\rX/O=a\nbroken: fake",
        "/CN=\u{202e}gnp.exe\u{2066}",
    ];
    for subject in subjects {
        let pem = with_subject(&node, subject);
        for file in [
            "data/server/tls/client-admin.crt",
            "data/server/tls/client-ca.crt",
        ] {
            let kept = fs::read(node.path(file)).unwrap();
            node.overwrite(file, &pem);
            let file = node.text_path(file);
            let inspected = testkit::run(KUBEPKI, &["inspect", &file], b"");
            assert_civil("inspect", &inspected);
            for form in ["table", "text", "json", "yaml", "prometheus"] {
                assert_tame(&node, &["check", "-o", form]);
            }
            for args in [
                &["check", "--timeline"][..],
                &["plan", "--service", "all"],
                &["renew", "--dry-run"],
                &["rotate", "--dry-run"],
                &["kubeconfig", "list"],
            ] {
                assert_tame(&node, args);
            }
            let data = node.text_path("data");
            for form in ["text", "table", "json", "yaml"] {
                let args = [
                    "k3s",
                    "certificate",
                    "check",
                    "-o",
                    form,
                    "--data-dir",
                    &data,
                ];
                assert_civil(form, &testkit::run(KUBEPKI, &args, b""));
            }
            fs::write(&file, kept).unwrap();
        }
    }
}

#[track_caller]
fn assert_tame(node: &Node, args: &[&str]) {
    let run = node.run(args);
    assert_civil(&args.join(" "), &run);
    let text = run.text();
    // For programs such letters are data; a terminal turns lines around.
    let for_programs = args
        .iter()
        .any(|arg| ["json", "yaml", "prometheus"].contains(arg));
    assert!(
        for_programs || !text.contains(['\u{202e}', '\u{2066}']),
        "{args:?}: {text:?}"
    );
    let fake = text.lines().any(|line| line.starts_with("broken: fake"));
    assert!(!fake, "{args:?}: {text}");
}

#[test]
fn a_megabyte_of_subject_is_not_printed() {
    let node = Node::new(SERVER);
    let pem = hostile(&node, &format!("{}@example.org", "a".repeat(60_000)));
    node.overwrite("data/server/tls/client-admin.crt", &pem);
    let file = node.text_path("data/server/tls/client-admin.crt");
    let run = testkit::run(KUBEPKI, &["inspect", &file], b"");
    assert_civil("inspect", &run);
    assert!(run.stdout.len() < 10_000, "{} bytes", run.stdout.len());
    assert_civil("check", &node.run(&["check"]));
}

#[test]
fn kubeconfigs_that_explode_are_entries() {
    let node = Node::new(SERVER);
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{},", level - 1).repeat(9);
        bomb.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            below.trim_end_matches(',')
        ));
    }
    bomb.push_str("users: *a11\nclusters: *a11\n");
    let cases: [(&str, Vec<u8>); 5] = [
        ("aliases", bomb.into_bytes()),
        ("brackets", "[".repeat(200_000).into_bytes()),
        ("braces", "a: {".repeat(100_000).into_bytes()),
        ("bytes", b"users: [\0\xff".to_vec()),
        (
            "escapes",
            b"users:\n- name: \"\\e[31m\\r\"\n  user: {client-certificate-data: eA==}\n".to_vec(),
        ),
    ];
    let admin = node.kubeconfig().unwrap();
    for (name, bytes) in cases {
        let file = node.path(name);
        fs::write(&file, &bytes).unwrap();
        let file = file.to_str().unwrap();
        let run = node.ends(&["kubeconfig", "list", file], 4);
        assert!(
            run.text().contains("cannot be read"),
            "{name}: {}",
            run.text()
        );
        assert_civil(name, &run);
        let run = node.ends(&["kubeconfig", "renew", "--yes", file], 1);
        assert!(run.text().contains(file), "{name}: {}", run.text());
        assert_civil(name, &run);
        assert_civil(name, &testkit::run(KUBEPKI, &["inspect", file], b""));
        node.overwrite(admin, &bytes);
        assert_civil(name, &node.ends(&["check"], 4));
        let run = node.ok(&["rotate", "--dry-run", "--service", "admin"]);
        assert!(
            run.text().contains("K3s writes it"),
            "{name}: {}",
            run.text()
        );
    }
}

#[test]
fn nobody_listening_is_no_panic() {
    let node = Node::new(SERVER);
    let before = node.tree();
    let data = node.text_path("data");
    for command in [
        "check",
        "rotate --yes",
        "plan --at soon",
        "nonsense",
        "--help",
        "history",
    ] {
        for redirection in [
            "> /dev/full",
            "2> /dev/full > /dev/full",
            "2>&- >&-",
            "| head -c 1",
        ] {
            let tail = match command {
                "nonsense" | "--help" => String::new(),
                _ => format!(" --data-dir {data}"),
            };
            // Nothing is changed: `rotate` cannot show its plan.
            if command == "rotate --yes" && !redirection.starts_with(['>', '2']) {
                continue;
            }
            if command == "rotate --yes" && redirection.contains("&-") {
                continue;
            }
            let script = format!("{KUBEPKI} {command}{tail} {redirection}; echo code $?");
            let run = testkit::run("sh", &["-c", &script], b"");
            assert!(!run.text().contains("code 101"), "{script}: {}", run.text());
            assert!(!run.text().contains("panicked"), "{script}: {}", run.text());
        }
    }
    node.assert_untouched(&before);
}
