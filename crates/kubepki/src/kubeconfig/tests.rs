use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::test_pki::{authority, client, days};

/// PEM of an old and a new leaf with chain, their keys, and of two CAs.
struct Material {
    old: [String; 3],
    new: [String; 3],
}

fn material() -> &'static Material {
    static MADE: OnceLock<Material> = OnceLock::new();
    MADE.get_or_init(|| {
        let make = |name: &str| {
            let ca = authority(name);
            let (leaf, key) = client(&ca, "system:admin", days(365));
            let chain = leaf.to_pem() + &ca.certificate().to_pem();
            [chain, key, ca.certificate().to_pem()]
        };
        Material {
            old: make("k3s-client-ca@1"),
            new: make("k3s-client-ca@2"),
        }
    })
}

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

/// `replace_user` with the new material; the CA too if `authority`.
fn replace(text: &str, user: &str, authority: bool) -> Result<String, KubeconfigError> {
    let [chain, key, ca] = &material().new;
    let ca = authority.then_some(ca.as_str());
    let bytes = replace_user(text.as_bytes(), user, chain, key, ca)?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// `template` with @CERT@, @KEY@ and @CA@ replaced.
fn fill(template: &str, [chain, key, ca]: &[String; 3]) -> String {
    template
        .replace("@CERT@", &b64(chain))
        .replace("@KEY@", &b64(key))
        .replace("@CA@", &b64(ca))
}

/// Replacing in the template filled with old values gives the template filled with new ones.
fn assert_replaces(template: &str, user: &str) {
    let all = replace(&fill(template, &material().old), user, true).unwrap();
    assert_eq!(all, fill(template, &material().new));
    let [chain, key, _] = material().new.clone();
    let mixed = [chain, key, material().old[2].clone()];
    let leaf_only = replace(&fill(template, &material().old), user, false).unwrap();
    assert_eq!(leaf_only, fill(template, &mixed));
}

const ODD: &str = "\u{feff}# my clusters\nusers:   # people\n    - user:\n         token: ''\n         \
    client-key-data:    '@KEY@'   # secret\n\n         client-certificate-data: \"@CERT@\"\n      \
    name: \"admin\"\n    - {name: other, user: {token: abc}}\nkind: Config\nclusters:\n- name: c1 # one\n  \
    cluster: {server: 'https://a:6443', certificate-authority-data: @CA@, x: [1, 2]}\n\
    contexts: [{name: a, context: {user: admin, cluster: c1}}]\nextensions:\n  note: &n hello\n  \
    again: *n\n# end";

#[test]
fn comments_order_and_quoting_stay() {
    assert_replaces(ODD, "admin");
}

#[test]
fn line_ends_of_windows_stay() {
    assert_replaces(&ODD.replace('\n', "\r\n"), "admin");
}

#[test]
fn json_stays_json() {
    let template = r#"{"kind":"Config", "users":[{"name":"a\u0064min","user":
      {"client-certificate-data":"@CERT@","client-key-data" : "@KEY@"}}],
      "contexts":[{"name":"x","context":{"cluster":"c","user":"admin"}}],
      "clusters":[{"name":"c","cluster":{"certificate-authority-data":"@CA@"}}]}"#;
    assert_replaces(template, "admin");
    let text = replace(&fill(template, &material().old), "admin", true).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
}

#[test]
fn k3s_yaml_is_rendered_and_replaced() {
    let render = |[chain, key, ca]: &[String; 3]| {
        let inline = Inline {
            name: "default",
            server: "https://127.0.0.1:6443",
            authority: ca.as_bytes(),
            certificate: chain.as_bytes(),
            key: key.as_bytes(),
            preferences: true,
        };
        String::from_utf8(render_inline(&inline).to_vec()).unwrap()
    };
    let text = replace(&render(&material().old), "default", true).unwrap();
    assert_eq!(text, render(&material().new));
}

/// `value` in lines of `width` behind an indentation of four.
fn block(value: &str, width: usize) -> String {
    let lines: Vec<&str> = value
        .as_bytes()
        .chunks(width)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    lines.join("\n    ")
}

#[test]
fn block_scalars_stay_block_scalars() {
    let [chain, key, _] = &material().old;
    let [new_chain, new_key, _] = &material().new;
    let text = |chain: &str, key: &str| {
        format!(
            "users:\n- name: u\n  user:\n    client-certificate-data: | # wrapped\n    {}\n    # c\n    \
             client-key-data: >-\n\n      {}\n\n- name: v\n",
            block(&b64(chain), 76)
                .replace("    ", "      ")
                .replacen("", "  ", 1),
            b64(key)
        )
    };
    let before = text(chain, key);
    assert_eq!(
        replace(&before, "u", false).unwrap(),
        text(new_chain, new_key)
    );
    let windows = before.replace('\n', "\r\n");
    assert_eq!(
        replace(&windows, "u", false).unwrap(),
        text(new_chain, new_key).replace('\n', "\r\n")
    );
}

#[test]
fn a_wrapped_quoted_value_becomes_one_line() {
    let [chain, key, _] = &material().old;
    let (head, tail) = (b64(chain), b64(key));
    let (first, second) = head.split_at(40);
    let text = format!(
        "users:\n- name: u\n  user:\n    client-certificate-data: \"{first}\\\n      {second}\" # c\n    \
         client-key-data: {tail}\n"
    );
    let [chain, key, _] = &material().new;
    let want = format!(
        "users:\n- name: u\n  user:\n    client-certificate-data: \"{}\" # c\n    client-key-data: {}\n",
        b64(chain),
        b64(key)
    );
    assert_eq!(replace(&text, "u", false).unwrap(), want);
}

/// The message of a refusal.
fn refusal(template: &str, user: &str, authority: bool) -> String {
    replace(&fill(template, &material().old), user, authority)
        .unwrap_err()
        .to_string()
}

const USER: &str =
    "users:\n- name: u\n  user: {client-certificate-data: @CERT@, client-key-data: @KEY@}\n";

#[test]
fn refusals_name_line_and_reason() {
    insta::assert_snapshot!(refusal(USER, "admin", false), @r#"no user "admin" here; there is "u""#);
    insta::assert_snapshot!(
        refusal("users:\n- name: u\n  user:\n    client-certificate: /a.crt\n    client-key: /a.key\n", "u", false),
        @r#"line 2: "u" has no inlined client-certificate-data: it is in the file /a.crt; renew that file instead"#
    );
    insta::assert_snapshot!(
        refusal("users:\n- name: u\n  user: {token: x}\n", "u", false),
        @r#"line 2: "u" has no inlined client-certificate-data: it logs in by token"#
    );
    insta::assert_snapshot!(
        refusal("users:\n- name: u\n  user:\n    client-certificate-data: @CERT@\n    client-key: k\n", "u", false),
        @r#"line 2: "u" has no inlined client-key-data: it is in the file k; renew that file instead"#
    );
    insta::assert_snapshot!(
        refusal(USER, "u", true),
        @r#"no context joins the user "u" to a cluster, so there is no certificate-authority-data to replace"#
    );
    let clusters = "contexts:\n- {name: a, context: {user: u, cluster: a}}\n\
        - {name: b, context: {user: u, cluster: b}}\nclusters:\n\
        - {name: a, cluster: {certificate-authority-data: @CA@}}\n";
    insta::assert_snapshot!(
        refusal(&format!("{USER}{clusters}- {{name: b, cluster: {{certificate-authority-data: @CERT@}}}}\n"), "u", true),
        @r#"the user "u" logs in at "a" (line 8) and "b" (line 9), which trust different authorities; split the file by cluster first"#
    );
    insta::assert_snapshot!(
        refusal(&format!("{USER}{clusters}- name: b\n"), "u", true),
        @r#"line 9: "b" has no inlined certificate-authority-data: the system's trust store is used"#
    );
    assert!(
        replace(
            &fill(
                &format!(
                    "{USER}{clusters}- {{name: b, cluster: {{certificate-authority-data: @CA@}}}}\n"
                ),
                &material().old
            ),
            "u",
            true
        )
        .is_ok()
    );
}

#[test]
fn shared_values_are_refused() {
    insta::assert_snapshot!(
        refusal("users:\n- name: u\n  user: {client-certificate-data: &c @CERT@, client-key-data: @KEY@}\nx: *c\n", "u", false),
        @"line 3: client-certificate-data cannot be replaced in place: other parts of the file refer to it by its anchor; write it out there first"
    );
    insta::assert_snapshot!(
        refusal("x: &k @KEY@\nusers:\n- name: u\n  user: {client-certificate-data: @CERT@, client-key-data: *k}\n", "u", false),
        @"line 4: client-key-data cannot be replaced in place: it comes through an alias; write it out there first"
    );
    insta::assert_snapshot!(
        refusal("x: &m {client-certificate-data: @CERT@, client-key-data: @KEY@}\nusers:\n- name: u\n  user:\n    <<: *m\n", "u", false),
        @"line 5: client-certificate-data cannot be replaced in place: client-certificate-data comes through an alias or merge key; write it out there first"
    );
    insta::assert_snapshot!(
        refusal("x:\n- &e {name: u, user: {client-certificate-data: @CERT@, client-key-data: @KEY@}}\nusers: [*e]\n", "u", false),
        @"line 3: client-certificate-data cannot be replaced in place: it comes through an alias; write it out there first"
    );
    insta::assert_snapshot!(
        refusal("users:\n- name: u\n  user: {client-certificate-data: !!binary @CERT@, client-key-data: @KEY@}\n", "u", false),
        @r#"line 3: client-certificate-data cannot be replaced in place: it has the tag "tag:yaml.org,2002:binary"; write it out there first"#
    );
    // An anchor that nothing refers to is only text.
    assert_replaces(
        "users: &l\n- name: u\n  user: {client-certificate-data: &c @CERT@, client-key-data: !!str @KEY@}\n\
         contexts: [{name: c, context: {user: u, cluster: c}}]\n\
         clusters: [{name: c, cluster: {certificate-authority-data: @CA@}}]\n",
        "u",
    );
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let text = fill(USER, &material().old);
    let error = replace_user(
        text.as_bytes(),
        "u",
        &material().new[0],
        &material().old[1],
        None,
    );
    assert!(
        matches!(
            error,
            Err(KubeconfigError::Material {
                what: "private key",
                ..
            })
        ),
        "{error:?}"
    );
}

#[test]
fn bad_files_are_refused_with_their_line() {
    let message = |text: &str| Kubeconfig::parse(text.as_bytes()).unwrap_err().to_string();
    insta::assert_snapshot!(message(""), @"empty");
    insta::assert_snapshot!(message("a: 1\nb: [1\n"), @"line 2: unclosed bracket '['");
    insta::assert_snapshot!(message("- a\n"), @"line 1: a list where a kubeconfig should be");
    insta::assert_snapshot!(message("kind: Secret\n"), @r#"line 1: kind is "Secret"; a kubeconfig's is Config"#);
    insta::assert_snapshot!(message("a: 1\n---\nb: 1\n"), @"line 2: a second document starts here; one is expected");
    insta::assert_snapshot!(message("users: x\n"), @"line 1: users is text, not a list");
    insta::assert_snapshot!(message("users:\n- user: {}\n"), @"line 2: an entry of users has no name");
    insta::assert_snapshot!(message("users:\n- name: a\n- name: a\n"), @r#"line 3: users has a second entry named "a""#);
    insta::assert_snapshot!(message("users: []\nusers: []\n"), @r#"line 2: the key "users" is given a second time"#);
    insta::assert_snapshot!(
        message("users:\n- name: a\n  user:\n    client-key-data: '?'\n"),
        @r#"line 4: client-key-data of "a" is not base64"#
    );
    assert_eq!(
        Kubeconfig::parse(b"a: 1\nb: \xff\n").unwrap_err(),
        KubeconfigError::Malformed {
            line: 2,
            detail: "not UTF-8".to_owned()
        }
    );
    assert!(message("a: &a [*a]\n").contains("line 1"));
}

#[test]
fn everything_about_certificates_is_read() {
    let template = "current-context: c\nclusters:\n- name: a\n  cluster: {server: 'https://x', \
        tls-server-name: y, insecure-skip-tls-verify: true, certificate-authority: ca.crt}\n\
        users:\n- name: u\n  user:\n    client-certificate: shadowed\n    client-certificate-data: @CERT@\n    \
        client-key-data: @KEY@\n    exec: {command: z}\ncontexts:\n- name: c\n  context: {cluster: a, user: u}\n";
    let text = fill(template, &material().old);
    let config = Kubeconfig::parse(text.as_bytes()).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("c"));
    let cluster = config.clusters_of("u")[0];
    assert_eq!(cluster.server.as_deref(), Some("https://x"));
    assert_eq!(cluster.tls_server_name.as_deref(), Some("y"));
    assert!(cluster.insecure_skip_tls_verify);
    assert_eq!(cluster.authority, Some(Placement::File("ca.crt".into())));
    let user = config.user("u").unwrap();
    assert_eq!(
        user.certificate,
        Some(Placement::Inline(material().old[0].clone().into_bytes()))
    );
    assert_eq!(user.other_credentials, ["exec"]);
    let Some(KeyPlacement::Inline(key)) = &user.key else {
        panic!("no key")
    };
    assert_eq!(key.as_slice(), material().old[1].as_bytes());
    assert!(format!("{config:?}").contains("key: Some(Inline(***))"));
}

#[test]
fn reference_is_k3s_own_text() {
    let text = render_reference(&Reference {
        server: "https://127.0.0.1:6444",
        authority: "/var/lib/rancher/k3s/server/tls/server-ca.crt",
        certificate: "/var/lib/rancher/k3s/server/tls/client-admin.crt",
        key: "/var/lib/rancher/k3s/server/tls/client-admin.key",
    });
    insta::assert_snapshot!(text, @r"
    apiVersion: v1
    clusters:
    - cluster:
        server: https://127.0.0.1:6444
        certificate-authority: /var/lib/rancher/k3s/server/tls/server-ca.crt
      name: local
    contexts:
    - context:
        cluster: local
        namespace: default
        user: user
      name: Default
    current-context: Default
    kind: Config
    preferences: {}
    users:
    - name: user
      user:
        client-certificate: /var/lib/rancher/k3s/server/tls/client-admin.crt
        client-key: /var/lib/rancher/k3s/server/tls/client-admin.key
    ");
    let odd = render_reference(&Reference {
        server: "https://[::1]:6444",
        authority: "/a #b: c",
        certificate: "yes",
        key: "C:\\k",
    });
    let config = Kubeconfig::parse(odd.as_bytes()).unwrap();
    assert!(odd.contains("server: https://[::1]:6444\n"));
    assert_eq!(
        config.clusters[0].authority,
        Some(Placement::File("/a #b: c".into()))
    );
    assert_eq!(
        config.users[0].certificate,
        Some(Placement::File("yes".into()))
    );
    assert_eq!(
        config.users[0].key,
        Some(KeyPlacement::File("C:\\k".into()))
    );
}

/// How one value is written in a generated file.
fn styled() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        Just(("", "")),
        Just(("'", "'")),
        Just(("\"", "\" # quoted: 'yes'")),
        Just(("&an ", "")),
        Just(("!!str ", "   # tagged")),
        Just(("|\n            ", "")),
        Just((">-   # folded\n            ", "\n")),
    ]
}

fn noise() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just("\n"),
        Just("# client-key-data: no\n"),
        Just("          # users:\n\n"),
        Just("   \n"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn only_the_values_change(
        styles in proptest::array::uniform3(styled()),
        noise in proptest::array::uniform6(noise()),
        others in 0_usize..3,
        user_first in any::<bool>(),
        key_first in any::<bool>(),
        windows in any::<bool>(),
        note in "[a-zA-Z0-9 #:'é-]{0,20}",
    ) {
        let value = |name: &str, (open, close): (&str, &str), mark: &str| {
            format!("          {name}:  {open}{mark}{close}\n")
        };
        let cert = value("client-certificate-data", styles[0], "@CERT@");
        let key = value("client-key-data", styles[1], "@KEY@").replace("&an", "&bn");
        let (first, second) = if key_first { (key, cert) } else { (cert, key) };
        let mut users = format!("users:\n{}", noise[0]);
        let other = |n: usize| format!(
            "    - name: other{n}\n      user:\n          client-key-data: {}\n", b64("other")
        );
        for n in 0..others {
            users += &other(n);
        }
        users += &format!("    - name: me\n{}      user:\n{first}{}{second}{}", noise[1], noise[2], noise[3]);
        users += &other(9);
        let ca = value("certificate-authority-data", styles[2], "@CA@").replace("&an", "&cn");
        let clusters = format!(
            "clusters:\n  - name: here\n    cluster:\n          server: x\n{}{ca}{}  - name: there\n    \
             cluster: {{certificate-authority-data: {}}}\n",
            noise[4], noise[5], b64("there")
        );
        let tail = format!(
            "contexts: [{{name: c, context: {{cluster: here, user: me}}}},\n  {{name: d, context: {{cluster: \
             there, user: other9}}}}] # {note}\nnote: {}\n",
            serde_json::Value::from(note.clone())
        );
        let template = if user_first { users + &clusters + &tail } else { tail + &clusters + &users };
        let template = if windows { template.replace('\n', "\r\n") } else { template };
        assert_replaces(&template, "me");
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n\t]{0,200}", prefix in prop_oneof![Just(""), Just("users:\n- name: u\n  user:\n    ")]) {
        let text = format!("{prefix}{text}");
        let _ = Kubeconfig::parse(text.as_bytes());
        let _ = replace(&text, "u", true);
    }
}
