//! Certificates from elsewhere: known to the letter beforehand, their keys in the state file only.

use std::collections::BTreeMap;
use std::path::Path;

use kubepki::apply::{Executor, Outcome};
use kubepki::error_chain;
use kubepki::host::{Attributes, Host, LocalHost};
use kubepki::init::{Staged, stage};
use kubepki::plan::*;
use kubepki::rke::Half;
use kubepki::state::Locked;
use pki::{Authority, Certificate, PrivateKey};
use zeroize::Zeroizing;

use crate::scene::{NAMES, SSL, Scene, authority, finished, hosts, issue};

/// A pair that somebody else made.
struct Pair {
    key: PrivateKey,
    certificate: Certificate,
}

impl Pair {
    fn of(authority: &Authority, name: &str) -> Self {
        let (key, certificate) = issue(authority, name);
        Self { key, certificate }
    }

    fn sha256(&self) -> String {
        self.certificate.fingerprint().to_string()
    }

    fn pem(&self) -> Content {
        Content::Text(self.certificate.to_pem())
    }

    fn staged(&self, name: &str) -> (Staged, Content) {
        let bytes = Zeroizing::new(self.key.to_pem().unwrap().as_bytes().to_vec());
        let sha256 = pki::sha256(&bytes).to_string();
        let name = name.to_owned();
        let content = Content::Staged {
            name: name.clone(),
            sha256,
        };
        (Staged { name, bytes }, content)
    }
}

/// A server's pair for a host.
async fn pair_on(scene: &Scene, host: &str, (pem, key): (Content, Content)) -> FileSet {
    let mut files = BTreeMap::new();
    for (name, content) in [("web.pem", pem), ("web-key.pem", key)] {
        let here = scene.node(host).at(Path::new(SSL)).join(name);
        let before = LocalHost.read(&here).await.unwrap().unwrap();
        let change = FileChange {
            before: Before::Present(Fingerprint::of(&before)),
            attributes: Attributes::new(0o600),
            content: Some(content),
        };
        files.insert(name.to_owned(), change);
    }
    FileSet {
        host: host.to_owned(),
        directory: SSL.into(),
        files,
    }
}

/// Puts a client's pair into the state file and a server's on the first host, and proves `proof`.
async fn install(
    scene: &Scene,
    state: &Locked,
    id: &str,
    (server, client): (&Pair, &Pair),
    proof: Vec<Proof>,
) -> Plan {
    let host = NAMES[0];
    let (first, server_key) = server.staged("web.key");
    let (second, client_key) = client.staged("client.key");
    let at = scene.path("cluster.rkestate");
    let file = || Target::File {
        host: "local".to_owned(),
        path: at.clone(),
    };
    let edit = |edit| Action::Put {
        attributes: Attributes::new(0o600),
        content: Content::RkeState(Box::new(edit)),
    };
    let entry = StateEntry {
        certificate: Some(client.pem()),
        key: Some(client_key),
        config: None,
    };
    let desire = StateEdit::Desire {
        entries: BTreeMap::from([("kube-node".to_owned(), entry)]),
        removed: Vec::new(),
        config: None,
    };
    let promote = StateEdit::Promote {
        entries: vec!["kube-node".to_owned()],
        config: false,
    };
    let set = pair_on(scene, host, (server.pem(), server_key)).await;
    let restart = ContainerRestart {
        host: host.to_owned(),
        container: "web".to_owned(),
        guard: Vec::new(),
        proof,
    };
    let restarts = vec![restart];
    let now = LocalHost.read(&at).await.unwrap().unwrap();
    let now = Before::Present(Fingerprint::of(&now));
    let steps = vec![
        (file(), now, edit(desire)),
        (
            hosts(&[host]),
            Before::Any,
            Action::Deploy { sets: vec![set] },
        ),
        (
            hosts(&[host]),
            Before::Any,
            Action::RestartContainers { restarts },
        ),
        (file(), Before::LeftBy(1), edit(promote)),
    ];
    let certain = steps.len();
    let plan = scene.plan_of(id, steps, certain);
    stage(state, &plan.id, &[first, second]).unwrap();
    plan
}

fn proofs(scene: &Scene, sha256: &str, kept: bool) -> Vec<Proof> {
    let host = NAMES[0].to_owned();
    let address = format!("127.0.0.1:{}", scene.node(NAMES[0]).port);
    let url = format!("https://{address}/health");
    let client = Credential::RkeDesired {
        path: scene.path("cluster.rkestate"),
        entry: "kube-node".to_owned(),
    };
    vec![
        Proof::ServesExactly {
            host: host.clone(),
            address,
            sha256: sha256.to_owned(),
            kept,
        },
        Proof::Healthy {
            host: host.clone(),
            url: url.clone(),
            client: Some(client.clone()),
            member: None,
        },
        Proof::Accepts { host, url, client },
    ]
}

fn only_restart(plan: &Plan) -> &[Proof] {
    let restarts = plan.steps.iter().find_map(|step| match &step.action {
        Action::RestartContainers { restarts } => Some(restarts),
        _ => None,
    });
    &restarts.unwrap()[0].proof
}

/// Fails to prove, and is taken back.
async fn unproven(scene: &Scene, executor: &Executor<'_>, plan: &Plan, words: &str) {
    let before = scene.picture().await;
    let mut brief = *executor;
    brief.patience.proof = std::time::Duration::from_millis(100);
    let error = brief.apply(plan).await.map(drop).unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains(words), "{text}");
    let undo = executor.undo(&plan.id).await.unwrap();
    finished(executor.apply(&undo).await);
    assert_eq!(scene.picture().await, before);
    scene.assert_serves().await;
}

#[tokio::test]
async fn what_comes_from_elsewhere_is_proven_to_the_letter() {
    let scene = Scene::new();
    let state = scene.lock();
    let executor = scene.executor(&state);
    let ca = scene.ca();
    let (server, client) = (Pair::of(&ca, NAMES[0]), Pair::of(&ca, "client"));
    let pairs = (&server, &client);
    let before = scene.picture().await;
    let wanted = proofs(&scene, &server.sha256(), false);
    let id = "20261122T101500Z-install-0001";
    let plan = install(&scene, &state, id, pairs, wanted).await;
    assert!(
        !serde_json::to_string(&plan)
            .unwrap()
            .contains("PRIVATE KEY")
    );
    let outcome = executor.apply(&plan).await;
    assert!(
        matches!(outcome, Ok(Outcome::Finished { .. })),
        "{outcome:?}"
    );
    let held = scene
        .state_file()
        .entry(Half::Current, "kube-node")
        .unwrap();
    assert_eq!(held.certificate_pem, client.certificate.to_pem());

    // Taken back it is served no more, and the client is the one of before.
    let undo = executor.undo(&plan.id).await.unwrap();
    match only_restart(&undo) {
        [
            Proof::ServesOtherAt { sha256, .. },
            Proof::Healthy {
                client: Some(Credential::RkeState { entry, .. }),
                ..
            },
        ] => assert_eq!((sha256, entry.as_str()), (&server.sha256(), "kube-node")),
        other => panic!("{other:?}"),
    }
    finished(executor.apply(&undo).await);
    assert_eq!(scene.picture().await, before);
    scene.assert_serves().await;

    // Another one than was planned.
    let other = Pair::of(&ca, NAMES[0]);
    let wanted = proofs(&scene, &other.sha256(), false);
    let id = "20261122T101600Z-install-0002";
    let plan = install(&scene, &state, id, pairs, wanted).await;
    unproven(&scene, &executor, &plan, "than the one that was put there").await;

    // A client that the server does not know.
    let stranger = Pair::of(&authority(), "client");
    let wanted = proofs(&scene, &server.sha256(), false);
    let id = "20261122T101700Z-install-0003";
    let plan = install(&scene, &state, id, (&server, &stranger), wanted).await;
    unproven(&scene, &executor, &plan, "/health on 10.0.0.1").await;
}

/// What was there already is there still when the plan is taken back.
#[tokio::test]
async fn what_was_there_already_stays() {
    let scene = Scene::new();
    let state = scene.lock();
    let executor = scene.executor(&state);
    let ca = scene.ca();
    let pairs = (&Pair::of(&ca, NAMES[0]), &Pair::of(&ca, "client"));
    let mut last = None;
    for (id, kept) in [("0001", false), ("0002", true)] {
        let wanted = proofs(&scene, &pairs.0.sha256(), kept);
        let id = format!("20261122T101500Z-install-{id}");
        let plan = install(&scene, &state, &id, pairs, wanted).await;
        finished(executor.apply(&plan).await);
        last = Some(plan);
    }
    let undo = executor.undo(&last.unwrap().id).await.unwrap();
    assert!(matches!(
        only_restart(&undo),
        [Proof::ServesExactly { .. }, Proof::Healthy { .. }]
    ));
    finished(executor.apply(&undo).await);
    scene.assert_serves().await;
}
