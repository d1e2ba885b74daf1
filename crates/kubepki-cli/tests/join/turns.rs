//! Several servers, and servers that are busy, away, or of another cluster.

use crate::lab::Lab;
use crate::signer::Wrong;
use crate::{PASSWORD, assert_ends};

const DEAD: &str = "https://127.0.0.1:1";

fn join(lab: &Lab, token: &str, servers: &[&str], more: &[&str]) -> testkit::Run {
    let servers = servers.join(",");
    let words = ["join", "--token-file", "-", "--node-name", "a", "--server"];
    lab.run(&[&words[..], &[&servers], more].concat(), token)
}

#[test]
fn servers_are_tried_in_turn_and_each_failure_is_told() {
    let lab = Lab::new();
    let good = lab.server.url();
    let run = join(&lab, &lab.token, &[DEAD, &good], &[]);
    assert_ends(&run, 0, "13 files written");
    let told = "the next server is tried";
    assert!(
        run.text().contains(DEAD) && run.text().contains(told),
        "{}",
        run.text()
    );
    let run = join(&lab, &lab.token, &[DEAD], &["--patience", "0"]);
    assert_ends(&run, 1, "cannot reach");
}

/// A busy server is asked again, and not for what it has given.
#[test]
fn a_busy_server_is_asked_again_for_the_rest() {
    let lab = Lab::with(Some(Wrong::BusyOnce));
    let run = lab.join(&[]);
    assert_ends(&run, 0, "13 files written");
    assert!(run.text().contains("it is asked again"), "{}", run.text());
    let mut asked = lab.asked();
    asked.retain(|path| !path.ends_with("-ca.crt"));
    let expected = [
        "client-kubelet",
        "serving-kubelet",
        "client-kube-proxy",
        "client-kube-proxy",
        "client-k3s-controller",
    ];
    assert_eq!(asked, expected.map(|it| format!("/v1-k3s/{it}.crt")));
    // In the end it is no refusal.
    let lab = Lab::with(Some(Wrong::Busy));
    assert_ends(&lab.join(&["--patience", "0"]), 1, "429");
    assert!(lab.state().is_empty());
}

/// A token without a hash is given to one CA in a run, not to whoever comes next.
#[test]
fn the_first_server_that_is_trusted_binds_the_others() {
    let (busy, stranger) = (Lab::with(Some(Wrong::Busy)), Lab::stranger(0));
    let urls = [busy.server.url(), stranger.server.url()];
    let urls = [urls[0].as_str(), &urls[1]];
    let trust = ["--trust-on-first-use", "--patience", "0"];
    let run = join(&busy, PASSWORD, &urls, &trust);
    assert_ends(&run, 5, "they are not of one cluster");
    assert!(!busy.asked().is_empty());
    assert_eq!(stranger.asked(), [""; 0]);
    assert!(busy.state().is_empty());
}

/// What a node knows its cluster by is believed before any server (reference section 5.4).
#[test]
fn a_node_that_knows_its_ca_trusts_no_other() {
    let lab = Lab::new();
    let good = lab.server.url();
    let trust = ["--trust-on-first-use"];
    assert_ends(
        &join(&lab, PASSWORD, &[&good], &trust),
        0,
        "trusted on first use",
    );
    let before = lab.state();
    let stranger = Lab::stranger(0);
    let run = join(&lab, PASSWORD, &[&stranger.server.url()], &trust);
    assert_ends(&run, 5, "another CA than the one that this node has");
    assert!(run.text().contains("give the full token"), "{}", run.text());
    assert_eq!(stranger.asked(), [""; 0]);
    assert_eq!(lab.changed(&before), [""; 0]);
    let run = join(&lab, PASSWORD, &[&good], &trust);
    assert_ends(&run, 0, "Nothing was due");
    assert!(
        !run.text().contains("trusted on first use"),
        "{}",
        run.text()
    );
}

/// Each refusal with its own way out.
#[test]
fn what_to_do_about_a_refusal_follows_from_what_was_said() {
    let lab = Lab::new();
    let taken = ("k3s-fixture".to_owned(), "f".repeat(32));
    lab.signer.passwords.lock().unwrap().extend([taken]);
    let run = lab.join(&[]);
    assert_ends(&run, 5, "another node has this name");
    assert!(!run.text().contains("for agents"), "{}", run.text());
}
