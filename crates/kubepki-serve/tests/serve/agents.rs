//! K3s's agents as Go programs that say what those say, in their order (reference section 13).

use std::sync::OnceLock;

use kubepki_serve::accept::Limits;
use kubepki_serve::node::Strictness;

use crate::common::{Running, serve, serve_with};

fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = testkit::go_program(include_str!("agents.go"));
        built.display().to_string()
    })
}

/// The whole conversation of an agent of that version with the token of the tree.
fn joins(server: &Running, version: &str, node: &str) -> Result<(), String> {
    let token = std::fs::read_to_string(server.fixture.data_dir().join("server/token")).unwrap();
    let base = format!("https://{}", server.address);
    let arguments = [version, &base, token.trim(), node];
    let run = testkit::run(program(), &arguments, b"");
    match run.success() {
        true => Ok(()),
        false => Err(run.text()),
    }
}

#[test]
fn an_agent_of_today_joins_under_both_rules() {
    for strictness in [Strictness::Strict, Strictness::K3sCompatible] {
        let server = serve(strictness);
        assert_eq!(joins(&server, "1.36", "worker-1"), Ok(()), "{strictness:?}");
    }
}

#[test]
fn it_does_on_cas_of_ones_own_before_and_after_a_rotation() {
    for fixture in [
        "k3s-1.36-custom-ca",
        "k3s-1.36-custom-ca-rotated",
        "k3s-1.36-default-rotated",
    ] {
        let server = serve_with(fixture, Strictness::Strict, Limits::default());
        assert_eq!(joins(&server, "1.36", "worker-1"), Ok(()), "{fixture}");
    }
}

#[test]
fn an_agent_of_2021_joins_behind_the_switch_and_is_refused_without() {
    let server = serve(Strictness::K3sCompatible);
    assert_eq!(joins(&server, "1.21", "worker-1"), Ok(()));
    let server = serve(Strictness::Strict);
    let refused = joins(&server, "1.21", "worker-1").unwrap_err();
    assert!(
        refused.contains("GET /v1-k3s/serving-kubelet.crt: 405"),
        "{refused}"
    );
    // An operator who looks into the log finds out what to do.
    let said = server.said.lock().unwrap().join("\n");
    assert!(said.contains("--k3s-compatible"), "{said}");
}
