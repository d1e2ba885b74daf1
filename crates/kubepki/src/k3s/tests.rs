use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::host::LocalHost;

fn yaml(path: &str, text: &str) -> Layer {
    Layer::from_yaml(path, text.as_bytes()).unwrap()
}

fn merged(files: Vec<Layer>) -> K3sConfig {
    K3sConfig::merge(Layer::default(), files, Layer::default()).unwrap()
}

fn texts<T: std::fmt::Display>(found: &[Found<T>]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_all_defaults() {
    let config = merged(vec![
        yaml("c", ""),
        yaml("d", "# only a comment\n"),
        yaml("e", "null"),
    ]);
    assert_eq!(config.data_dir.value, Path::new("/var/lib/rancher/k3s"));
    assert_eq!(
        config.https_listen_port,
        Found {
            value: 6443,
            from: "default".to_owned()
        }
    );
    assert_eq!(config.cluster_domain.value, "cluster.local");
    assert_eq!(config.service_cidr[0].value, "10.43.0.0/16");
    assert_eq!(config.write_kubeconfig_mode.value, 0o600);
    assert!(config.tls_san_security.value && !config.secrets_encryption.value);
    assert_eq!(
        (config.token, config.datastore, config.tls_san),
        (None, None, vec![])
    );
}

#[test]
fn values_remember_their_line() {
    let config = merged(vec![yaml(
        "/etc/rancher/k3s/config.yaml",
        "# K3s\nwrite-kubeconfig-mode: \"0644\"\ntls-san:\n  - a.example\n  - 192.0.2.1,b.example\n\
         node-name: n1\nnode-ip: 10.0.0.1,fd00::1\nsecrets-encryption: true\nfoo: {bar: 1}\n\
         https-listen-port: 7443\n",
    )]);
    let at = "/etc/rancher/k3s/config.yaml";
    assert_eq!(
        texts(&config.tls_san),
        [
            format!("a.example ({at}:4)"),
            format!("192.0.2.1 ({at}:5)"),
            format!("b.example ({at}:5)")
        ]
    );
    assert_eq!(
        config.node_name.unwrap().to_string(),
        format!("n1 ({at}:6)")
    );
    assert_eq!(
        texts(&config.node_ip),
        [format!("10.0.0.1 ({at}:7)"), format!("fd00::1 ({at}:7)")]
    );
    assert_eq!(config.write_kubeconfig_mode.value, 0o644);
    assert_eq!(
        config.https_listen_port.to_string(),
        format!("7443 ({at}:10)")
    );
    assert_eq!(
        config.secrets_encryption.to_string(),
        format!("true ({at}:8)")
    );
}

#[test]
fn later_files_replace_or_append() {
    let base = yaml(
        "c.yaml",
        "tls-san: [a, b]\nnode-name: one\nnode-external-ip: 192.0.2.1\n",
    );
    let first = yaml("c.d/1.yaml", "tls-san+: c\nnode-name: two\n");
    let second = yaml(
        "c.d/2.yaml",
        "tls-san+:\n- d,e\nnode-external-ip:\n- 192.0.2.2\n",
    );
    let config = merged(vec![base.clone(), first.clone(), second.clone()]);
    assert_eq!(
        texts(&config.tls_san),
        [
            "a (c.yaml:1)",
            "b (c.yaml:1)",
            "c (c.d/1.yaml:1)",
            "d (c.d/2.yaml:2)",
            "e (c.d/2.yaml:2)"
        ]
    );
    assert_eq!(config.node_name.unwrap().to_string(), "two (c.d/1.yaml:2)");
    assert_eq!(
        texts(&config.node_external_ip),
        ["192.0.2.2 (c.d/2.yaml:4)"]
    );
    // A plain key throws away what was appended before.
    let config = merged(vec![base, first, yaml("c.d/3.yaml", "tls-san: z")]);
    assert_eq!(texts(&config.tls_san), ["z (c.d/3.yaml:1)"]);
}

#[test]
fn flags_win_over_files_and_files_over_environment() {
    let arguments = [
        "--tls-san",
        "f1",
        "--tls-san=f2",
        "-d",
        "/flag",
        "--secrets-encryption",
        "--x",
        "y",
    ];
    let flags = Layer::from_arguments("unit", &arguments.map(str::to_owned));
    let files = vec![yaml(
        "c",
        "data-dir: /file\ntls-san: file\nnode-name: file\n",
    )];
    let environment = Layer::from_environment(
        "env",
        [
            ("K3S_NODE_NAME", "environment"),
            ("K3S_KUBECONFIG_MODE", "640"),
            ("K3S_DATA_DIR", "/e"),
        ],
    );
    let config = K3sConfig::merge(flags, files, environment).unwrap();
    assert_eq!(
        config.data_dir,
        Found {
            value: "/flag".into(),
            from: "unit (--data-dir)".into()
        }
    );
    assert_eq!(
        texts(&config.tls_san),
        [
            "file (c:2)",
            "f1 (unit (--tls-san))",
            "f2 (unit (--tls-san))"
        ]
    );
    assert_eq!(config.node_name.unwrap().value, "file");
    assert_eq!(config.write_kubeconfig_mode.value, 0o640);
    assert!(config.secrets_encryption.value);
}

#[test]
fn an_unquoted_octal_mode_is_what_k3s_makes_of_it() {
    assert_eq!(
        merged(vec![yaml("c", "write-kubeconfig-mode: 0644")])
            .write_kubeconfig_mode
            .value,
        0o420
    );
    assert_eq!(
        merged(vec![yaml("c", "write-kubeconfig-mode: 644")])
            .write_kubeconfig_mode
            .value,
        0o644
    );
}

#[test]
fn secrets_are_seen_but_not_kept() {
    let text = "token: hunter2\nagent-token-file: /t\n\
        datastore-endpoint: postgres://user:hunter2@db:5432/k3s\n";
    let layer = yaml("c", text);
    assert!(!format!("{layer:?}").contains("hunter2"));
    let config = merged(vec![layer]);
    assert_eq!(
        config.token,
        Some(Found {
            value: (),
            from: "c:1".to_owned()
        })
    );
    assert_eq!(config.agent_token.unwrap().from, "c:2");
    assert_eq!(config.datastore.unwrap().value, DatastoreKind::Postgres);
    let unit = Unit::parse(
        "k3s",
        ["[Service]\nExecStart=k3s server --token hunter2\nEnvironment=K3S_TOKEN=hunter2"],
    );
    assert!(!format!("{unit:?}").contains("hunter2"));
}

#[test]
fn mistakes_name_their_place() {
    let message = |text: &str| {
        Layer::from_yaml("c.yaml", text.as_bytes())
            .and_then(|layer| K3sConfig::merge(Layer::default(), [layer], Layer::default()))
            .unwrap_err()
            .to_string()
    };
    insta::assert_snapshot!(message("a: 1\nnode-ip: 10.0.0\n"), @r#"c.yaml:2: node-ip is "10.0.0", which is not an IP address"#);
    insta::assert_snapshot!(message("https-listen-port: 70000"), @r#"c.yaml:1: https-listen-port is "70000", which is not a port"#);
    insta::assert_snapshot!(message("disable-etcd: maybe"), @r#"c.yaml:1: disable-etcd is "maybe", which is not true or false"#);
    insta::assert_snapshot!(message("\n\ntls-san: {a: b}"), @"c.yaml:3: tls-san is a mapping, not text");
    insta::assert_snapshot!(message("- a"), @"c.yaml:1: a list, not a mapping");
    insta::assert_snapshot!(message("a: b: c"), @"c.yaml:1: mapping values are not allowed in this context");
}

const UNIT: &str = "[Unit]\nDescription=Lightweight Kubernetes\n[Service]\nType=notify\n\
    EnvironmentFile=-/etc/default/%N\nEnvironmentFile=-/etc/sysconfig/%N\n\
    ExecStartPre=-/sbin/modprobe overlay\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\
    \t'--tls-san' \\\n\t'a b' \\\n# a comment\n\t\"--node-name=n\\\"1\" \\\n\n[Install]\nExecStart=no\n";

#[test]
fn a_unit_of_the_installer_is_understood() {
    let unit = Unit::parse(
        "k3s",
        [UNIT, "[Service]\nEnvironment=\"K3S_NODE_NAME=a b\" X=1\n"],
    );
    let (command, arguments) = unit.arguments().unwrap();
    assert_eq!(
        (command, arguments),
        (
            "server",
            &["--tls-san", "a b", "--node-name=n\"1"].map(str::to_owned)[..]
        )
    );
    assert_eq!(
        unit.environment_files[0],
        (PathBuf::from("/etc/default/k3s"), true)
    );
    assert_eq!(
        unit.environment[0],
        ("K3S_NODE_NAME".to_owned(), "a b".to_owned())
    );
    let reset = Unit::parse(
        "k3s",
        [UNIT, "[Service]\nExecStart=\nExecStart=-/k3s agent\n"],
    );
    assert_eq!(reset.arguments(), Some(("agent", &[][..])));
    assert_eq!(
        environment_file("# c\nK3S_TOKEN='a b'\nexport X=1 # no\n\nbad\n"),
        [
            ("K3S_TOKEN".to_owned(), "a b".to_owned()),
            ("X".to_owned(), "1 # no".to_owned())
        ]
    );
}

#[expect(clippy::disallowed_methods, reason = "the test lays out its own files")]
fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn the_pieces_are_found_on_a_host() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let unit = format!(
        "[Service]\nEnvironmentFile=-{}\nExecStart=/k3s server --config {}\n",
        at("k3s.env").display(),
        at("k3s.yaml").display()
    );
    write(root.path(), "units/k3s.service", &unit);
    write(
        root.path(),
        "units/k3s.service.d/10.conf",
        "[Service]\nEnvironment=K3S_DATA_DIR=/env\n",
    );
    write(
        root.path(),
        "k3s.env",
        "K3S_DATASTORE_ENDPOINT=mysql://u:p@tcp(h)/d\n",
    );
    write(root.path(), "real.yaml", "tls-san: a\nnode-name: one\n");
    std::os::unix::fs::symlink("real.yaml", at("k3s.yaml")).unwrap();
    write(root.path(), "k3s.yaml.d/b.yml", "tls-san+: c\n");
    write(root.path(), "k3s.yaml.d/a.yaml", "tls-san+: b\n");
    write(root.path(), "k3s.yaml.d/notes.txt", "tls-san+: z\n");
    let mut places = Places {
        unit_directories: vec![at("units")],
        ..Places::default()
    };
    let config = discover(&LocalHost, &places).await.unwrap();
    let sans: Vec<&str> = config
        .tls_san
        .iter()
        .map(|san| san.value.as_str())
        .collect();
    assert_eq!(sans, ["a", "b", "c"]);
    assert_eq!(config.data_dir.value, Path::new("/env"));
    assert_eq!(config.datastore.unwrap().value, DatastoreKind::Mysql);
    places.config = Some(at("absent.yaml"));
    let error = discover(&LocalHost, &places).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("absent.yaml: there is no such file"),
        "{error}"
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n\t\"'\\\\]{0,200}") {
        let _ = Layer::from_yaml("c", text.as_bytes());
        let unit = Unit::parse("k3s", [format!("[Service]\nExecStart={text}").as_str()]);
        if let Some((_, arguments)) = unit.arguments() {
            Layer::from_arguments("u", arguments);
        }
        environment_file(&text);
    }
}

#[expect(clippy::disallowed_methods, reason = "the test lays out its own files")]
#[tokio::test]
async fn the_connection_is_whole_and_is_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(
        &config,
        "datastore-endpoint: mysql://u:old@tcp(db)/k\ntoken: from-the-file\n\
         datastore-cafile: /pki/ca.pem\n",
    )
    .unwrap();
    let units = directory.path().join("units");
    fs::create_dir(&units).unwrap();
    fs::write(
        units.join("k3s.service"),
        "[Service]\nEnvironment=K3S_TOKEN_FILE=/root/token\n\
         ExecStart=/usr/local/bin/k3s server --datastore-endpoint 'postgres://u:hunter2@db/k'\n",
    )
    .unwrap();
    let places = Places {
        config: Some(config.clone()),
        unit_directories: vec![units.clone()],
        units: vec!["k3s".to_owned()],
    };
    let connection = discover_connection(&LocalHost, &places).await.unwrap();
    let endpoint = connection.endpoint.unwrap();
    assert_eq!(*endpoint.value, "postgres://u:hunter2@db/k");
    assert!(
        endpoint
            .from
            .ends_with("k3s.service (--datastore-endpoint)")
    );
    assert_eq!(*connection.token.unwrap().value, "from-the-file");
    assert_eq!(connection.ca_file.unwrap().value, Path::new("/pki/ca.pem"));
    assert_eq!(
        connection.token_file.unwrap().value,
        Path::new("/root/token")
    );
    assert!(connection.key_file.is_none());
    let shown = discover(&LocalHost, &places).await.unwrap();
    assert!(!format!("{shown:?}").contains("hunter2"));
    let layer = yaml(
        "c",
        "token: hunter2\ndatastore-endpoint: mysql://hunter2@/k\n",
    );
    assert!(!format!("{layer:?}").contains("hunter2"));
}
