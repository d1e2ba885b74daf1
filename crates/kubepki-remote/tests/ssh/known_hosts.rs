//! Host keys, judged beside OpenSSH's own client.

use std::path::Path;

use kubepki_remote::ssh::{HostKeyError, HostKeys, Session, SshError};
use testkit::{SshKey, SshKeyType, SshdOptions};

use super::common::{Lab, TIMEOUTS, tool, write};

fn lab(kinds: &[SshKeyType]) -> Lab {
    Lab::with(SshdOptions {
        host_keys: kinds.to_vec(),
        ..SshdOptions::default()
    })
}

/// Whether `ssh -o StrictHostKeyChecking=…` takes the host.
fn openssh_takes(lab: &Lab, files: &[&Path], checking: &str) -> bool {
    let names: Vec<_> = files.iter().map(|it| it.to_str().unwrap()).collect();
    let known = format!("UserKnownHostsFile={}", names.join(" "));
    let checking = format!("StrictHostKeyChecking={checking}");
    let port = lab.server.port().to_string();
    let mut arguments = vec![
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "GlobalKnownHostsFile=none",
    ];
    arguments.extend(["-o", &known, "-o", &checking, "-o", "UpdateHostKeys=no"]);
    // The host's key is judged before anybody logs in, which would take longer.
    arguments.extend(["-o", "PreferredAuthentications=none", "-p", &port]);
    let to = format!("root@{}", lab.server.address());
    arguments.extend([to.as_str(), "true"]);
    let run = testkit::run("ssh", &arguments, b"");
    let text = run.text();
    let taken = text.contains("Permission denied");
    assert!(
        taken != text.contains("Host key verification failed"),
        "{text}"
    );
    taken
}

async fn ours(lab: &Lab, keys: &HostKeys) -> Result<Session, SshError> {
    let connected = Session::connect(&lab.endpoint(), keys, TIMEOUTS).await;
    if let Err(error) = &connected {
        assert!(matches!(error, SshError::HostKey(_)), "{error}");
    }
    connected
}

/// Files as people and `ssh-keygen` make them: a name for what is in it, and the text.
type Table = Vec<(&'static str, String)>;

fn table(lab: &Lab, other: &SshKey) -> Table {
    let mut all = names(lab, other);
    all.extend(keys(lab, other));
    all
}

/// Ways to name a host.
fn names(lab: &Lab, other: &SshKey) -> Table {
    let keys: Vec<_> = lab.server.host_keys().iter().map(SshKey::bare).collect();
    let (first, last) = (&keys[0], &keys[keys.len() - 1]);
    let port = lab.server.port();
    let name = format!("[127.0.0.1]:{port}");
    let stranger = other.bare();
    let odd = port + 1;
    vec![
        ("empty", String::new()),
        (
            "comments and blanks",
            format!("# {name} {first}\n\n   \n#\n"),
        ),
        ("plain", format!("{name} {first}\n")),
        ("the last kind only", format!("{name} {last}\n")),
        (
            "all kinds",
            keys.iter().map(|key| format!("{name} {key}\n")).collect(),
        ),
        ("without a line end", format!("{name} {first}")),
        ("carriage returns", format!("{name} {first}\r\n")),
        (
            "tabs and blanks",
            format!("\t {name}\t {}  a comment\n", first.replace(' ', "\t")),
        ),
        (
            "list of names",
            format!("example.com,{name},10.0.0.1 {first}\n"),
        ),
        ("another host", format!("example.com {first}\n")),
        ("another port", format!("[127.0.0.1]:{odd} {first}\n")),
        ("name without the port", format!("127.0.0.1 {first}\n")),
        (
            "name without the port, another key",
            format!("127.0.0.1 {stranger}\n"),
        ),
        ("star", format!("* {first}\n")),
        ("star of the port", format!("[127.0.0.*]:{port} {first}\n")),
        ("question marks", format!("[127.?.?.1]:{port} {first}\n")),
        (
            "star that ends early",
            format!("[127.0*0.0.0.1]:{port} {first}\n"),
        ),
        ("brackets are letters", format!("[127.0.0.1]* {first}\n")),
        ("negated", format!("*,!{name} {first}\n")),
        ("negated before", format!("!{name},* {first}\n")),
        ("negated another", format!("!10.*,{name} {first}\n")),
        ("only a negation", format!("!10.0.0.1 {first}\n")),
    ]
}

/// Ways to say which key it has, or must not have.
fn keys(lab: &Lab, other: &SshKey) -> Table {
    let first = lab.server.host_keys()[0].bare();
    let name = format!("[127.0.0.1]:{}", lab.server.port());
    let stranger = other.bare();
    vec![
        ("another key", format!("{name} {stranger}\n")),
        (
            "another key, then the right one",
            format!("{name} {stranger}\n{name} {first}\n"),
        ),
        (
            "right one, then another",
            format!("{name} {first}\n{name} {stranger}\n"),
        ),
        ("revoked", format!("@revoked {name} {first}\n")),
        (
            "known and revoked",
            format!("{name} {first}\n@revoked {name} {first}\n"),
        ),
        (
            "revoked for all",
            format!("@revoked * {first}\n{name} {first}\n"),
        ),
        (
            "another one revoked",
            format!("@revoked * {stranger}\n{name} {first}\n"),
        ),
        (
            "revoked at another host",
            format!("@revoked example.com {first}\n{name} {first}\n"),
        ),
        ("authority", format!("@cert-authority {name} {stranger}\n")),
        (
            "the key as authority",
            format!("@cert-authority {name} {first}\n"),
        ),
        (
            "authority and key",
            format!("@cert-authority * {stranger}\n{name} {first}\n"),
        ),
        ("unknown marker", format!("@trusted {name} {first}\n")),
        (
            "broken base64",
            format!("{name} ssh-ed25519 AAAA!\n{name} {first}\n"),
        ),
        ("only broken base64", format!("{name} ssh-ed25519 AAAA!\n")),
        (
            "kind of another key",
            format!("{name} ssh-dss {}\n", first.split(' ').nth(1).unwrap()),
        ),
        ("no key", format!("{name}\n")),
        ("upper case", format!("{} {first}\n", name.to_uppercase())),
        (
            "not UTF-8 comes later",
            format!("{name} {first} \u{fffd}\n"),
        ),
    ]
}

/// The same files hashed by `ssh-keygen -H`, which leaves patterns and markers alone.
fn hashed(folder: &Path, text: &str) -> Option<String> {
    let file = folder.join("to-hash");
    write(&file, text.as_bytes());
    let run = testkit::run(
        "ssh-keygen",
        &["-q", "-H", "-f", file.to_str().unwrap()],
        b"",
    );
    let text = std::fs::read_to_string(&file).unwrap();
    (run.success() && text.contains("|1|")).then_some(text)
}

/// Compares every line of the table, and hashed ones too where `with_hashed`.
async fn compare(kinds: &[SshKeyType], with_hashed: bool) {
    let mut taken = 0;
    let mut refused = 0;
    let lab = lab(kinds);
    let other = SshKey::make(lab.folder.path(), "other", kinds[0], "");
    let file = lab.path("table");
    for (what, text) in table(&lab, &other) {
        let hashed = if with_hashed {
            hashed(lab.folder.path(), &text)
        } else {
            None
        };
        for text in [Some(text), hashed].into_iter().flatten() {
            write(&file, text.as_bytes());
            let theirs = openssh_takes(&lab, &[&file], "yes");
            let mine = ours(&lab, &HostKeys::strict([file.clone()])).await;
            assert_eq!(mine.is_ok(), theirs, "{what}: {mine:?}\n{text}");
            if theirs {
                taken += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(taken > 15 && refused > 15, "{taken} {refused}");
}

#[tokio::test]
async fn the_judgement_is_openssh_s_of_a_host_with_one_key() {
    compare(&[SshKeyType::Ed25519], true).await;
}

#[tokio::test]
async fn the_judgement_is_openssh_s_of_a_host_with_an_rsa_key() {
    compare(&[SshKeyType::Rsa], false).await;
}

#[tokio::test]
async fn the_judgement_is_openssh_s_of_a_host_with_three_keys() {
    let kinds = [SshKeyType::Ed25519, SshKeyType::Ecdsa, SshKeyType::Rsa];
    compare(&kinds, false).await;
}

#[tokio::test]
async fn what_ssh_keyscan_writes_is_read() {
    let lab = lab(&[SshKeyType::Ed25519, SshKeyType::Rsa]);
    let port = lab.server.port().to_string();
    for arguments in [
        ["-p", &port, "127.0.0.1"].as_slice(),
        &["-H", "-p", &port, "127.0.0.1"],
    ] {
        let file = lab.path("scanned");
        write(&file, tool("ssh-keyscan", arguments).as_bytes());
        assert!(
            ours(&lab, &HostKeys::strict([file])).await.is_ok(),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn several_files_count_as_one() {
    let lab = lab(&[SshKeyType::Ed25519]);
    let key = &lab.server.host_keys()[0];
    let (global, own, missing) = (lab.path("global"), lab.path("own"), lab.path("missing"));
    let name = format!("[127.0.0.1]:{}", lab.server.port());
    write(&own, format!("{name} {}\n", key.bare()).as_bytes());
    for (text, expected) in [
        (String::new(), true),
        (format!("@revoked * {}\n", key.bare()), false),
    ] {
        write(&global, text.as_bytes());
        assert_eq!(
            openssh_takes(&lab, &[&own, &global, &missing], "yes"),
            expected
        );
        let keys = HostKeys::strict([own.clone(), global.clone(), missing.clone()]);
        assert_eq!(ours(&lab, &keys).await.is_ok(), expected);
    }
    // A folder where a file should be is no empty file.
    let error = ours(&lab, &HostKeys::strict([lab.folder.path().to_owned()]))
        .await
        .unwrap_err();
    assert!(
        matches!(error, SshError::HostKey(HostKeyError::Read { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn refusals_say_what_to_look_at() {
    let lab = lab(&[SshKeyType::Ed25519]);
    let key = &lab.server.host_keys()[0];
    let other = SshKey::make(lab.folder.path(), "other", SshKeyType::Ed25519, "");
    let file = lab.path("lines");
    let name = format!("[127.0.0.1]:{}", lab.server.port());
    let said = async |text: String| {
        write(&file, text.as_bytes());
        let error = ours(&lab, &HostKeys::strict([file.clone()]))
            .await
            .unwrap_err();
        assert!(!error.is_unreachable());
        error.to_string()
    };

    let unknown = said(String::new()).await;
    for part in [
        &name,
        "ssh-ed25519",
        &key.fingerprint(),
        "ssh_host_ed25519_key.pub",
        "--ssh-accept-new",
        file.to_str().unwrap(),
    ] {
        assert!(unknown.contains(part), "{part}: {unknown}");
    }
    let changed = said(format!(
        "# one\nexample.com {0}\n{name} {0}\n",
        other.bare()
    ))
    .await;
    let place = format!("{}:3", file.display());
    for part in [
        "CHANGED",
        &place,
        &key.fingerprint(),
        &other.fingerprint(),
        "ssh-keygen -R",
    ] {
        assert!(changed.contains(part), "{part}: {changed}");
    }
    let revoked = said(format!("\n@revoked * {}\n", key.bare())).await;
    let place = format!("{}:2", file.display());
    assert!(
        revoked.contains("revoked") && revoked.contains(&place),
        "{revoked}"
    );
    let authority = said(format!("@cert-authority * {}\n", other.bare())).await;
    assert!(
        authority.contains("certificates of hosts are not supported"),
        "{authority}"
    );

    // The command that is told does what is said.
    write(&file, format!("{name} {}\n", other.bare()).as_bytes());
    tool(
        "ssh-keygen",
        &["-q", "-R", &name, "-f", file.to_str().unwrap()],
    );
    assert!(said_unknown(&lab, &file).await);
}

async fn said_unknown(lab: &Lab, file: &Path) -> bool {
    let error = ours(lab, &HostKeys::strict([file.to_owned()]))
        .await
        .unwrap_err();
    matches!(error, SshError::HostKey(HostKeyError::Unknown { .. }))
}

#[tokio::test]
async fn a_new_host_is_recorded_once_and_believed_from_then_on() {
    use std::os::unix::fs::PermissionsExt as _;

    let lab = lab(&[SshKeyType::Rsa, SshKeyType::Ed25519]);
    let file = lab.path("new/known_hosts");
    let accepting = HostKeys::strict([lab.path("elsewhere")]).accepting_new(file.clone());
    let session = ours(&lab, &accepting).await.unwrap();
    let accepted = session.accepted();
    let key = &lab.server.host_keys()[1];
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].fingerprint, key.fingerprint());
    let told = accepted[0].to_string();
    assert!(
        told.contains(&key.fingerprint()) && told.contains(file.to_str().unwrap()),
        "{told}"
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        text,
        format!("[127.0.0.1]:{} {}\n", lab.server.port(), key.bare())
    );

    // OpenSSH reads it, and the second time nothing is said or written.
    assert!(openssh_takes(&lab, &[&file], "yes"));
    assert_eq!(ours(&lab, &accepting).await.unwrap().accepted(), []);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn accepting_new_hosts_is_not_accepting_new_keys() {
    let lab = lab(&[SshKeyType::Ed25519]);
    let key = &lab.server.host_keys()[0];
    let name = format!("[127.0.0.1]:{}", lab.server.port());
    let file = lab.path("file");
    for kind in [SshKeyType::Ed25519, SshKeyType::Rsa] {
        let other = SshKey::make(lab.folder.path(), "other", kind, "");
        for text in [
            format!("{name} {}\n", other.bare()),
            format!("@revoked * {}\n", key.bare()),
            format!("@cert-authority * {}\n", other.bare()),
        ] {
            write(&file, text.as_bytes());
            let accepting = HostKeys::default().accepting_new(file.clone());
            let error = ours(&lab, &accepting).await.unwrap_err();
            assert!(
                !matches!(error, SshError::HostKey(HostKeyError::Unknown { .. })),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }
    // What cannot be recorded is not accepted.
    let accepting = HostKeys::default().accepting_new("/proc/known_hosts".into());
    let error = ours(&lab, &accepting).await.unwrap_err();
    assert!(
        matches!(error, SshError::HostKey(HostKeyError::Record { .. })),
        "{error}"
    );
}

/// A wave of hosts is met at once; each line arrives, and what was there stays, links too.
#[tokio::test]
async fn many_new_hosts_at_once_are_all_recorded() {
    let lab = lab(&[SshKeyType::Ed25519]);
    let real = lab.path("real");
    write(&real, b"example.com ssh-ed25519 AAAA no line end");
    super::common::mode(&real, 0o644);
    let file = lab.path("link");
    std::os::unix::fs::symlink(&real, &file).unwrap();
    // One server, many names for it.
    let all = Lab::with(SshdOptions {
        listen: "0.0.0.0".to_owned(),
        port: None,
        ..SshdOptions::default()
    });
    let accepting = HostKeys::default().accepting_new(file.clone());
    let connections = (1..=20).map(|number| {
        let mut endpoint = all.endpoint();
        endpoint.address = format!("127.0.1.{number}");
        let accepting = accepting.clone();
        tokio::spawn(async move { Session::connect(&endpoint, &accepting, TIMEOUTS).await })
    });
    let connections: Vec<_> = connections.collect();
    for connection in connections {
        assert_eq!(connection.await.unwrap().unwrap().accepted().len(), 1);
    }
    let text = std::fs::read_to_string(&real).unwrap();
    assert_eq!(text.lines().count(), 21, "{text}");
    assert!(
        text.starts_with("example.com ssh-ed25519 AAAA no line end\n[127.0.1."),
        "{text}"
    );
    assert!(std::fs::symlink_metadata(&file).unwrap().is_symlink());
}

#[tokio::test]
async fn host_names_are_compared_in_lower_case() {
    let lab = lab(&[SshKeyType::Ed25519]);
    let key = &lab.server.host_keys()[0];
    let file = lab.path("case");
    write(
        &file,
        format!("[LocalHost]:{} {}\n", lab.server.port(), key.bare()).as_bytes(),
    );
    let mut endpoint = lab.endpoint();
    for address in ["localhost", "LOCALHOST"] {
        endpoint.address = address.to_owned();
        let keys = HostKeys::strict([file.clone()]);
        let session = Session::connect(&endpoint, &keys, TIMEOUTS).await;
        assert!(session.is_ok(), "{address}: {session:?}");
    }
}
