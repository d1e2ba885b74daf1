//! Who guesses waits, and nobody else behind the same address; and how much of that is said.

use kubepki_serve::node::Strictness;
use kubepki_serve::quiet::BURST as LINES;
use kubepki_serve::throttle::BURST;
use pki::Certificate;
use testkit::Fixture;

use crate::admission::{Caller, KUBELET, Lab, made_token};
use crate::common::{NODE_PASSWORD, PASSWORD, serve, serve_tree};

const CONFIG: &str = "/v1-k3s/config";

/// Shows so many wrong tokens that nothing more is looked at.
fn guess(lab: &Lab) {
    for number in 0..2 * BURST {
        let wrong = Caller::with("node", &format!("wrong-{number}"));
        let expected = if number < BURST { 401 } else { 429 };
        assert_eq!(lab.code(CONFIG, &wrong), expected, "{number}");
    }
}

#[test]
fn who_guesses_keeps_nobody_waiting_behind_the_same_address() {
    let fixture = Fixture::new("k3s-1.36-sqlite");
    let random = "8f0d6c1b7e2a4953c4d1e0f2a3b5968d";
    let path = fixture.data_dir().join("server/cred/passwd");
    let text = std::fs::read_to_string(&path).unwrap();
    let row = format!("{random},strong,strong,k3s:agent\n");
    std::fs::write(&path, text + &row).unwrap();
    let lab = Lab::new(serve_tree(fixture, Strictness::Strict, Default::default()));
    let agent = Caller::with("node", PASSWORD).node("a", NODE_PASSWORD);
    let leaf = lab.leaf(&agent);
    let (used, unused) = (made_token(&lab, None), made_token(&lab, None));
    assert_eq!(lab.code(CONFIG, &Caller::bearer(&used)), 200);
    guess(&lab);
    // What nobody can have guessed.
    assert_eq!(lab.code(CONFIG, &Caller::by(&leaf)), 200);
    let kubelet = Caller::by(&leaf).node("a", NODE_PASSWORD);
    assert_eq!(lab.code(KUBELET, &kubelet), 200);
    assert_eq!(lab.code(CONFIG, &Caller::with("strong", random)), 200);
    assert_eq!(lab.code(CONFIG, &Caller::bearer(&used)), 200);
    for open in ["/cacerts", "/ping", "/healthz"] {
        let wrong = Caller::with("node", "wrong");
        assert_eq!(lab.code(open, &wrong), 200, "{open}");
    }
    // What a person may have chosen, and what was never right before.
    assert_eq!(lab.code(CONFIG, &agent), 429);
    assert_eq!(lab.code(CONFIG, &Caller::bearer(&unused)), 429);
}

#[test]
fn a_clock_that_is_set_locks_nobody_out() {
    let lab = Lab::new(serve(Strictness::Strict));
    lab.server.time.set(300 * pki::DAY);
    guess(&lab);
    lab.server.time.set(0);
    let agent = Caller::with("node", PASSWORD);
    assert_eq!(lab.code(CONFIG, &agent), 429);
    lab.server.time.to(5);
    assert_eq!(lab.code(CONFIG, &agent), 200);
}

#[test]
fn a_nodes_password_is_guessed_slowly_and_no_other_node_waits() {
    let lab = Lab::new(serve(Strictness::Strict));
    let agent = Caller::with("node", PASSWORD);
    let (own, other) = (NODE_PASSWORD, NODE_PASSWORD.replace('0', "e"));
    assert_eq!(lab.code(KUBELET, &agent.clone().node("a", own)), 200);
    for number in 0..2 * BURST {
        let wrong = agent.clone().node("a", &format!("{number:032x}"));
        let expected = if number < BURST { 403 } else { 429 };
        assert_eq!(lab.code(KUBELET, &wrong), expected, "{number}");
    }
    assert_eq!(lab.code(KUBELET, &agent.clone().node("b", &other)), 200);
    // It was right a moment ago, and is random.
    assert_eq!(lab.code(KUBELET, &agent.clone().node("a", own)), 200);
}

#[test]
fn strangers_write_little_and_all_are_counted() {
    let lab = Lab::new(serve(Strictness::Strict));
    let long = format!("/{}", "x".repeat(9000));
    for _ in 0..3 * LINES {
        assert_eq!(lab.code(&long, &Caller::default()), 401);
    }
    assert_eq!(lab.said("refused"), usize::try_from(LINES).unwrap());
    let counted = lab.metric(r#"kubepki_requests_refused_total{code="401"}"#);
    assert!(counted.ends_with(&format!(" {}", 3 * LINES)), "{counted}");
    assert!(
        lab.server
            .said
            .lock()
            .unwrap()
            .iter()
            .all(|it| it.len() < 600)
    );
    lab.server.time.to(1);
    assert_eq!(lab.code(&long, &Caller::default()), 401);
    assert_eq!(lab.said(&format!("{} more were refused", 2 * LINES)), 1);
    // Agents that want an API server, each second.
    let pem = std::fs::read(lab.server.agent_file("client-k3s-controller.crt")).unwrap();
    let leaf = Certificate::all_from_pem(&pem).unwrap().remove(0);
    for _ in 0..50 {
        assert_eq!(lab.code("/apis", &Caller::by(&leaf)), 503);
    }
    assert_eq!(lab.said("apiserver disabled"), 1);
    lab.server.time.to(3601);
    assert_eq!(lab.code("/apis", &Caller::by(&leaf)), 503);
    assert_eq!(lab.said("apiserver disabled"), 2);
    assert_eq!(lab.said("49 more were refused"), 1);
}
