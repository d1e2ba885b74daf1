//! A machine in between.

use kubepki_remote::ssh::{Endpoint, HostKeyError, HostKeys, Session, SshError};
use testkit::{SshKey, SshKeyType, SshdOptions};

use super::common::{Lab, TIMEOUTS, credentials, endpoint, output, write};

struct Two {
    bastion: Lab,
    host: Lab,
}

impl Two {
    /// A bastion with a key of its own, on an address of its own.
    fn new(lines: &[&str]) -> Self {
        let bastion = Lab::with(SshdOptions {
            listen: "127.0.0.2".to_owned(),
            host_keys: vec![SshKeyType::Ecdsa],
            lines: lines.iter().map(|&it| it.to_owned()).collect(),
            ..SshdOptions::default()
        });
        let host = Lab::with(SshdOptions {
            listen: "127.0.0.3".to_owned(),
            ..SshdOptions::default()
        });
        Self { bastion, host }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            bastion: Some(Box::new(self.bastion.endpoint())),
            ..self.host.endpoint()
        }
    }

    fn host_keys(&self) -> HostKeys {
        HostKeys::strict([
            self.host.path("known_hosts"),
            self.bastion.path("known_hosts"),
        ])
    }

    async fn fails(&self, endpoint: &Endpoint) -> SshError {
        let connected = Session::connect(endpoint, &self.host_keys(), TIMEOUTS).await;
        connected.unwrap_err()
    }
}

#[tokio::test]
async fn a_host_is_reached_through_its_bastion_alone() {
    let two = Two::new(&[]);
    let session = Session::connect(&two.endpoint(), &two.host_keys(), TIMEOUTS)
        .await
        .unwrap();
    let seen = output(&session, &["sh", "-c", "echo $SSH_CONNECTION"]).await;
    // The host saw the bastion come, on loopback both.
    assert!(
        seen.contains(&format!("127.0.0.3 {}", two.host.server.port())),
        "{seen}"
    );
    let big = "x".repeat(300_000);
    let echoed = session
        .exec(&["cat".to_owned()], big.as_bytes(), TIMEOUTS.request)
        .await
        .unwrap();
    assert!(echoed.stdout == big.as_bytes());

    // The bastion's connection lives as long as the host's, and no longer.
    assert!(!two.bastion.server.sessions().is_empty());
    drop(session);
    for _ in 0..400 {
        if two.bastion.server.sessions().is_empty() && two.host.server.sessions().is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("a connection stays open");
}

#[tokio::test]
async fn each_of_the_two_is_held_to_its_own_key() {
    let two = Two::new(&[]);
    let bastion_only = HostKeys::strict([two.bastion.path("known_hosts")]);
    let error = Session::connect(&two.endpoint(), &bastion_only, TIMEOUTS)
        .await
        .unwrap_err();
    assert!(
        matches!(error, SshError::HostKey(HostKeyError::Unknown { .. })),
        "{error}"
    );
    let host_only = HostKeys::strict([two.host.path("known_hosts")]);
    let error = Session::connect(&two.endpoint(), &host_only, TIMEOUTS)
        .await
        .unwrap_err();
    let text = error.to_string();
    let bastion = two.bastion.endpoint().name();
    assert!(
        text.starts_with(&format!(
            "Failed to connect to the bastion host [{bastion}]: "
        )),
        "{text}"
    );
    assert!(
        text.contains(&two.bastion.server.host_keys()[0].fingerprint()),
        "{text}"
    );
    assert!(!error.is_unreachable());

    let fresh = two.host.path("fresh");
    let accepting = HostKeys::default().accepting_new(fresh.clone());
    let session = Session::connect(&two.endpoint(), &accepting, TIMEOUTS)
        .await
        .unwrap();
    let told: Vec<_> = session
        .accepted()
        .iter()
        .map(|it| it.fingerprint.clone())
        .collect();
    let keys = [&two.bastion, &two.host].map(|lab| lab.server.host_keys()[0].fingerprint());
    assert_eq!(told, keys);
    let again = HostKeys::strict([fresh]);
    assert!(
        Session::connect(&two.endpoint(), &again, TIMEOUTS)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_fails_on_the_way_says_where() {
    let two = Two::new(&[]);
    let mut wrong_user = two.endpoint();
    wrong_user.bastion.as_mut().unwrap().user = "stranger".to_owned();
    let error = two.fails(&wrong_user).await;
    let text = error.to_string();
    assert!(
        text.starts_with("Failed to connect to the bastion host ["),
        "{text}"
    );
    assert!(text.contains("no supported methods remain"), "{text}");

    let mut wrong_key = two.endpoint();
    let stranger = SshKey::make(two.host.folder.path(), "stranger", SshKeyType::Ed25519, "");
    wrong_key.keys = credentials(&stranger.path);
    let error = two.fails(&wrong_key).await;
    assert!(matches!(&error, SshError::Refused { host, .. } if *host == wrong_key.name()));

    two.host.server.kill();
    let error = two.fails(&two.endpoint()).await;
    let text = error.to_string();
    let expected = format!(
        "Failed to connect to the host [{}]: the bastion host [{}] says: ssh: rejected: connect \
         failed (open failed)",
        two.endpoint().name(),
        two.bastion.endpoint().name()
    );
    assert_eq!(text, expected);
    assert!(error.is_unreachable());

    two.bastion.server.kill();
    let error = two.fails(&two.endpoint()).await;
    assert!(error.is_unreachable(), "{error:?}");
    assert!(
        error.to_string().ends_with("connect: connection refused"),
        "{error}"
    );
}

#[tokio::test]
async fn a_bastion_that_forbids_forwarding_is_named() {
    let two = Two::new(&["AllowTcpForwarding no"]);
    let error = two.fails(&two.endpoint()).await.to_string();
    assert!(
        error.ends_with("ssh: rejected: administratively prohibited (open failed)"),
        "{error}"
    );
}

/// Two bastions, one behind the other: nothing says that there is one only.
#[tokio::test]
async fn bastions_can_be_chained() {
    let two = Two::new(&[]);
    let last = Lab::with(SshdOptions {
        listen: "127.0.0.4".to_owned(),
        ..SshdOptions::default()
    });
    let all = last.path("all");
    let known = [&two.bastion, &two.host, &last].map(|lab| lab.server.known_hosts());
    write(&all, known.concat().as_bytes());
    let chained = Endpoint {
        bastion: Some(Box::new(two.endpoint())),
        ..endpoint(&last.server, last.keys())
    };
    let session = Session::connect(&chained, &HostKeys::strict([all]), TIMEOUTS)
        .await
        .unwrap();
    assert_eq!(output(&session, &["id", "-un"]).await, "root\n");
    two.bastion.server.kill();
    let error = session
        .exec(&["true".to_owned()], b"", TIMEOUTS.request)
        .await
        .unwrap_err();
    assert!(error.is_unreachable(), "{error}");
}
