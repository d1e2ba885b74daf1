//! What changes in the middle of an answer: nothing of before leaves, and who is as good as before
//! notices nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kubepki::log::{Reading, entries};
use kubepki_serve::cluster::{Control, Undone};
use kubepki_serve::forgotten::forget;
use kubepki_serve::node::Strictness;
use kubepki_serve::password::PREFIX as NODES;
use kubepki_serve::service::Loaded;
use pki::Certificate;
use zeroize::Zeroizing;

use crate::admission::{Caller, KUBELET, Lab, Orders, TOKEN, replace_authority, replace_passwords};
use crate::common::{NODE_PASSWORD, PASSWORD, RECORD, runtime, serve};

const AUTHORITIES: &str = "/v1-k3s/cert/cacerts";

fn agent() -> Caller {
    Caller::with("node", PASSWORD).node("a", NODE_PASSWORD)
}

/// The CA that clients are certified by.
fn authority(lab: &Lab) -> Certificate {
    let loaded = lab.service().loaded().unwrap();
    loaded.tree.client.issuer.authority.certificate().clone()
}

/// Serial numbers of all that was recorded.
fn recorded(lab: Lab) -> Vec<String> {
    let mut server = lab.server;
    server.finish();
    let read = entries(&server.fixture.scratch("log").join("s1")).unwrap();
    let record = |reading: Reading| match reading {
        Reading::Record(entry) => entry.issued.serial,
        damaged => panic!("{damaged:?}"),
    };
    read.map(|it| record(it.unwrap())).collect()
}

#[test]
fn a_leaf_whose_ca_is_replaced_while_it_is_recorded_does_not_leave() {
    let lab = Lab::new(serve(Strictness::Strict));
    let former = authority(&lab);
    let service = Arc::clone(&lab.server.service);
    let replaced = move || replace_authority(&service);
    lab.server.meanwhile.before(RECORD, replaced);
    let leaf = lab.leaf(&agent());
    assert!(lab.server.meanwhile.is_over());
    let now = authority(&lab);
    assert_ne!(now.der(), former.der());
    leaf.verify_signature(now.spki_der()).unwrap();
    assert_eq!(lab.said("\"issued\""), 1);
    // Both are written down: the first one was signed.
    let serials = recorded(lab);
    assert_eq!(serials.len(), 2, "{serials:?}");
    assert_ne!(serials[0], serials[1]);
    assert_eq!(serials[1], leaf.serial().to_string());
}

#[test]
fn whose_proof_is_replaced_while_a_leaf_is_recorded_gets_nothing() {
    let lab = Lab::new(serve(Strictness::Strict));
    let kubelet = Caller::by(&lab.leaf(&agent())).node("a", NODE_PASSWORD);
    for by_certificate in [true, false] {
        let service = Arc::clone(&lab.server.service);
        lab.server
            .meanwhile
            .before(RECORD, move || match by_certificate {
                true => replace_authority(&service),
                false => replace_passwords(&service),
            });
        let caller = if by_certificate {
            kubelet.clone()
        } else {
            agent()
        };
        let (code, text) = lab.ask(KUBELET, &caller);
        assert_eq!(code, 401, "{text}");
        assert!(lab.server.meanwhile.is_over() && !text.contains("CERTIFICATE"));
    }
    assert_eq!(lab.said("\"issued\""), 1);
}

#[test]
fn a_node_that_is_forgotten_while_it_is_written_down_stays_forgotten() {
    let lab = Lab::new(serve(Strictness::Strict));
    let leaf = lab.leaf(&agent());
    let key = format!("{NODES}a");
    lab.remove(&key);
    lab.server.time.to(10);
    let (service, time) = (
        Arc::clone(&lab.server.service),
        Arc::clone(&lab.server.time),
    );
    lab.server.meanwhile.before(&key, move || {
        let forgets = std::thread::spawn(move || {
            let store = service.datastore.as_ref();
            runtime()
                .block_on(forget(store, "a", time.as_ref()))
                .unwrap()
        });
        assert!(!forgets.join().unwrap().known);
    });
    let kubelet = Caller::by(&leaf).node("a", NODE_PASSWORD);
    let (code, text) = lab.ask(KUBELET, &kubelet);
    assert_eq!(code, 401, "{text}");
    assert!(lab.server.meanwhile.is_over());
    assert!(!lab.has_record("a"));
    assert_eq!(lab.said("\"issued\""), 1);
    // Whoever comes anew has the name.
    lab.server.time.to(20);
    assert_eq!(lab.code(KUBELET, &agent()), 200);
}

#[test]
fn orders_of_who_is_as_good_as_before_are_carried_out() {
    for (path, body) in [
        (TOKEN, r#"{"newToken":""}"#),
        (AUTHORITIES, r#"{"ServerCA":{"Timestamp":"","Content":""}}"#),
    ] {
        let lab = Lab::new(serve(Strictness::Strict));
        let orders = Orders::of(&lab);
        let server = Caller::with("server", PASSWORD).says(body.as_bytes());
        // Its password is no CA's.
        let (code, text) = lab.ask_while(("PUT", path), &server, || {
            replace_authority(lab.service());
        });
        assert!(matches!(code, 200 | 204), "{path}: {code} {text}");
        assert_eq!(orders.done.load(Ordering::SeqCst), 1, "{path}");
    }
}

/// Carries out nothing.
struct Unwilling;

#[async_trait::async_trait]
impl Control for Unwilling {
    async fn put_authorities(
        &self,
        _body: Zeroizing<Vec<u8>>,
        force: bool,
        _admitted: &Arc<Loaded>,
    ) -> Result<(), Undone> {
        Err(Undone::Failed(format!("the disk is full, force: {force}")))
    }

    async fn put_token(
        &self,
        _new: Zeroizing<String>,
        _admitted: &Arc<Loaded>,
    ) -> Result<(), Undone> {
        Err(Undone::Failed("the datastore is away".to_owned()))
    }
}

/// The caller is told a number, the log the reason under it.
#[test]
fn why_an_order_failed_is_in_the_log() {
    let lab = Lab::new(serve(Strictness::Strict));
    lab.service().cluster.controlled_by(Arc::new(Unwilling));
    for (path, component, body, reason) in [
        (
            TOKEN,
            "token",
            r#"{"newToken":"x"}"#,
            "the datastore is away",
        ),
        (
            AUTHORITIES,
            "certificate",
            r#"{"ServerCA":{}}"#,
            "the disk is full, force: false",
        ),
    ] {
        let server = Caller::with("server", PASSWORD).says(body.as_bytes());
        let (code, text) = lab.ask_while(("PUT", path), &server, || ());
        assert_eq!(code, 500, "{text}");
        let begin = format!("{component} error ID ");
        let at = text.find(&begin).unwrap();
        let id = &text[at..at + begin.len() + 5];
        assert!(!text.contains(reason), "{text}");
        let said = lab.server.said.lock().unwrap();
        let line = said.iter().find(|line| line.contains(id)).unwrap();
        assert!(line.contains(reason), "{line}");
    }
}
