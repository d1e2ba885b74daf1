//! Plans that call a K3s server over HTTPS: carried out, repeated, refused, taken back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kubepki::apply::{
    ApplyError, CallError, Caller, Executor, Outcome, Patience, Quiet, StepError,
};
use kubepki::bootstrap::{Bundle, Field, Stamp, read_directory};
use kubepki::edge::{Clock as _, FreshKeys, SystemClock, SystemEntropy};
use kubepki::error_chain;
use kubepki::host::LocalHost;
use kubepki::journal::{Progress, replay};
use kubepki::plan::*;
use kubepki::state::{Locked, StateDir};
use kubepki::token::{Token, authority_hash};
use kubepki_remote::Supervisor;
use pki::{
    Authority, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial, UnixTime,
    Validity,
};
use testkit::supervisor::{Cluster, Supervisor as Standing};

const PASSWORD: &str = "fixture-token-0123456789abcdef";
const PUT: &str = "/v1-k3s/cert/cacerts?force=false";
const PUT_BACK: &str = "/v1-k3s/cert/cacerts?force=true";

fn now() -> UnixTime {
    SystemClock.now()
}

/// A server under a CA of its own.
fn cluster() -> Cluster {
    let (key, of_ca) = (
        PrivateKey::generate(KeyAlgorithm::P256).unwrap(),
        PrivateKey::generate(KeyAlgorithm::P256).unwrap(),
    );
    let serial = || Serial::random(pki::random).unwrap();
    let validity = Validity {
        not_before: now().plus(-DAY),
        not_after: now().plus(DAY),
    };
    let name = Name::new(&[], "k3s-server-ca").unwrap();
    let ca = Authority::self_signed(&name, of_ca, serial(), validity).unwrap();
    let request = LeafRequest {
        organizations: &["k3s".to_owned()],
        common_name: "k3s",
        sans: &[San::from_text("127.0.0.1")],
        purposes: &[Purpose::ServerAuth],
        spki_der: key.spki_der(),
        serial: serial(),
        validity,
    };
    let (leaf, ca) = (
        ca.issue(&request).unwrap().to_pem(),
        ca.certificate().to_pem(),
    );
    Cluster {
        chain: format!("{leaf}{ca}").into_bytes(),
        key: key.to_pem().unwrap().as_bytes().to_vec(),
        cacerts: ca.into_bytes(),
        password: PASSWORD.to_owned(),
        agent_password: "another".to_owned(),
        kubernetes: Default::default(),
    }
}

/// A server that says yes as long as `willing`, and a plan for it in a state directory.
struct Case {
    folder: tempfile::TempDir,
    server: Standing,
    token: Token,
    willing: Arc<AtomicBool>,
    plan: Plan,
    old: Bundle,
    new: Bundle,
}

impl Case {
    async fn new() -> Self {
        let cluster = cluster();
        let hash = authority_hash(&cluster.cacerts, now()).unwrap();
        let token = Token::new(hash, "server", PASSWORD.to_owned().into());
        let willing = Arc::new(AtomicBool::new(true));
        let decides = willing.clone();
        let server = Standing::start(cluster, Box::new(move |_| decides.load(Ordering::SeqCst)));
        let folder = tempfile::tempdir().unwrap();
        let fixture = testkit::fixture("k3s-1.36-custom-ca");
        let (live, staged) = (
            fixture.data_dir().join("server"),
            fixture.extra("staged-same-root"),
        );
        let mut old = read_directory(&LocalHost, &live).await.unwrap();
        let new = read_directory(&LocalHost, &staged).await.unwrap();
        old.files.retain(|field, _| field.is_rotatable());
        assert!(
            new.files.len() > 5 && old.content(Field::ServerCa) != new.content(Field::ServerCa)
        );
        let plan = plan(folder.path(), &server.url(), &old, &new);
        Self {
            folder,
            server,
            token,
            willing,
            plan,
            old,
            new,
        }
    }

    fn state(&self) -> Locked {
        StateDir::new(self.folder.path().join("state"))
            .lock()
            .unwrap()
    }

    async fn connect(&self) -> Supervisor {
        Supervisor::connect(&self.server.url(), &self.token, false, now())
            .await
            .unwrap()
    }

    /// Asserts that the call of this number put this, with this time or a later one.
    fn assert_put(&self, nth: usize, path: &str, bundle: &Bundle, since: Option<Stamp>) {
        let call = &self.server.calls()[nth];
        assert_eq!((call.method.as_str(), call.path.as_str()), ("PUT", path));
        let sent = Bundle::parse(&call.body).unwrap();
        assert_eq!(sent.files.len(), bundle.files.len());
        for (field, file) in &sent.files {
            assert_eq!(bundle.content(*field), Some(file.content.as_slice()));
            match since {
                None => assert_eq!(file.stamp, bundle.files[field].stamp),
                Some(since) => assert!(file.stamp >= since, "{field} {}", file.stamp),
            }
        }
    }
}

fn plan(folder: &Path, url: &str, old: &Bundle, new: &Bundle) -> Plan {
    let id = PlanId("call".to_owned());
    let state = StateDir::new(folder.join("state")).lock().unwrap();
    let staged = |name: &str, bundle: &Bundle| {
        let json = bundle.to_json();
        state.stage(&id, name, &json).unwrap();
        Content::Staged {
            name: name.to_owned(),
            sha256: pki::sha256(&json).to_string(),
        }
    };
    let step = Step {
        number: 1,
        target: Target::Http {
            method: "PUT".to_owned(),
            url: format!("{url}{PUT}"),
        },
        before: Before::Any,
        action: Action::Call {
            body: staged("new", new),
            former: staged("old", old),
            former_url: Some(format!("{url}{PUT_BACK}")),
        },
        reason: "test".to_owned(),
    };
    Plan {
        format: PLAN_FORMAT,
        undoes: None,
        title: "put CAs".to_owned(),
        node: "test".to_owned(),
        root: folder.to_owned(),
        datastore: None,
        irreversible: None,
        deferrable: std::collections::BTreeSet::new(),
        created: now(),
        hypothetical: false,
        leaves: Default::default(),
        steps: vec![step],
        notes: Vec::new(),
        id: id.clone(),
    }
}

fn executor<'a>(state: &'a Locked, caller: &'a dyn Caller) -> Executor<'a> {
    Executor {
        host: &LocalHost,
        state,
        clock: &SystemClock,
        entropy: &SystemEntropy,
        keys: &FreshKeys,
        observer: &Quiet,
        patience: Patience::default(),
        cluster: None,
        caller: Some(caller),
        machines: None,
        kubernetes: None,
    }
}

/// Connections end with the runtime that opened them, and the server with its connections.
fn with_case(test: impl AsyncFnOnce(&mut Case)) {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let mut case = runtime().block_on(Case::new());
    runtime().block_on(test(&mut case));
}

#[track_caller]
fn finished(outcome: Result<Outcome, ApplyError>) {
    match outcome {
        Ok(Outcome::Finished { untidy: None, .. }) => {}
        Ok(other) => panic!("{other:?}"),
        Err(error) => panic!("{}", error_chain(&error)),
    }
}

fn progress(state: &Locked, plan: &Plan) -> Progress {
    let entries = state.journal(&plan.id).unwrap().entries;
    replay(&entries).unwrap().progress
}

#[test]
fn cas_are_put_taken_back_and_put_again_with_new_times() {
    with_case(async |case| {
        let (state, supervisor) = (case.state(), case.connect().await);
        let executor = executor(&state, &supervisor);
        finished(executor.apply(&case.plan).await);
        case.assert_put(0, PUT, &case.new, None);
        assert!(state.holds_ca_key(&case.plan.id).unwrap());

        let since = Stamp::at(now());
        let undo = executor.undo(&case.plan.id).await.unwrap();
        finished(executor.apply(&undo).await);
        case.assert_put(1, PUT_BACK, &case.old, Some(since));
        let redo = executor.undo(&undo.id).await.unwrap();
        finished(executor.apply(&redo).await);
        case.assert_put(2, PUT, &case.new, Some(since));
        assert_eq!(case.server.calls().len(), 3);
        let mut secrets = testkit::Secrets::below(state.path().join("backups"));
        for bundle in [&case.old, &case.new] {
            for (field, file) in bundle.files.iter().filter(|(field, _)| field.is_secret()) {
                secrets.add_secret(&file.content, field.name());
            }
        }
        secrets.add_secret(PASSWORD.as_bytes(), "the token");
        assert!(secrets.count() > 10, "{}", secrets.count());
        for folder in ["plans", "journal"] {
            secrets.assert_absent_below(state.path().join(folder), |_| false);
        }
    });
}

/// The call was made, and its answer never came.
#[derive(Debug)]
struct Deaf<'a>(&'a Supervisor);

#[async_trait]
impl Caller for Deaf<'_> {
    async fn call(&self, method: &str, url: &str, body: &[u8]) -> Result<(), CallError> {
        self.0.call(method, url, body).await?;
        Err(CallError {
            message: "the answer was lost".to_owned(),
            not_done: false,
            source: None,
        })
    }
}

#[test]
fn a_call_in_doubt_is_made_again_or_taken_back() {
    for resumes in [true, false] {
        with_case(async |case| {
            let (state, supervisor) = (case.state(), case.connect().await);
            let deaf = Deaf(&supervisor);
            let error = executor(&state, &deaf).apply(&case.plan).await.unwrap_err();
            assert!(error_chain(&error).contains("answer was lost"), "{error}");
            assert_eq!(progress(&state, &case.plan), Progress::InFlight { step: 1 });
            let executor = executor(&state, &supervisor);
            if resumes {
                finished(executor.resume(&case.plan.id).await);
                case.assert_put(1, PUT, &case.new, None);
            } else {
                let undo = executor.undo(&case.plan.id).await.unwrap();
                finished(executor.apply(&undo).await);
                case.assert_put(1, PUT_BACK, &case.old, Some(Stamp::ZERO));
            }
            assert_eq!(case.server.calls().len(), 2);
        });
    }
}

#[test]
fn a_server_that_says_no_is_quoted_and_may_be_asked_again() {
    with_case(async |case| {
        case.willing.store(false, Ordering::SeqCst);
        let (state, supervisor) = (case.state(), case.connect().await);
        let executor = executor(&state, &supervisor);
        let error = executor.apply(&case.plan).await.unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains("error ID"), "{text}");
        case.willing.store(true, Ordering::SeqCst);
        finished(executor.resume(&case.plan.id).await);
    });
}

/// A call that was certainly not made leaves nothing to take back.
#[test]
fn a_call_that_was_turned_away_can_be_given_up_without_another() {
    with_case(async |case| {
        let hash = authority_hash(&case.connect().await.seen().bundle, now()).unwrap();
        case.token = Token::new(hash, "server", "wrong".to_owned().into());
        let (state, supervisor) = (case.state(), case.connect().await);
        let executor = executor(&state, &supervisor);
        let error = executor.apply(&case.plan).await.unwrap_err();
        let ApplyError::Stopped { source, .. } = &error else {
            panic!("{error}")
        };
        assert!(
            matches!(**source, StepError::Refused { .. }),
            "{}",
            error_chain(&error)
        );
        let next = Progress::InProgress { next: 1 };
        assert_eq!(progress(&state, &case.plan), next);
        let undo = executor.undo(&case.plan.id).await.unwrap();
        assert!(undo.steps.is_empty());
        finished(executor.apply(&undo).await);
        assert!(case.server.calls().is_empty());
    });
}

#[test]
fn without_a_caller_nothing_is_begun() {
    with_case(async |case| {
        let (state, supervisor) = (case.state(), case.connect().await);
        let mut executor = executor(&state, &supervisor);
        executor.caller = None;
        let error = executor.apply(&case.plan).await.unwrap_err();
        assert!(
            matches!(error, ApplyError::NoCaller { step: 1, .. }),
            "{error}"
        );
        assert!(state.plans().unwrap().is_empty() && case.server.calls().is_empty());
    });
}
