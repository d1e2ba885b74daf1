//! RKE's log beside ours: what both do is said in the same words and order.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "several test crates use a part of this, and tests panic"
)]

/// Level and text of a line.
pub type Said = (String, String);

/// What a rotation has in common with RKE's of that kind.
pub struct Kind<'a> {
    /// Containers that ours restarts, too; RKE restarts everything.
    pub restarts: &'a [&'a str],
    /// Lines of RKE's for what ours does not do: their beginnings.
    pub left_out: &'a [&'a str],
}

/// RKE's control plane and nodes, which ours leaves alone when only etcd is concerned.
pub const ETCD_ALONE: Kind<'static> = Kind {
    restarts: &["etcd"],
    left_out: &["[controlplane]", "[worker]", "[reconcile]", LOCAL],
};
/// kube-apiserver is etcd's client with the node's pair; nothing else of the control plane reads
/// it. The administrator's kubeconfig stays.
pub const KUBELET: Kind<'static> = Kind {
    restarts: &["kubelet", "kube-apiserver"],
    left_out: &["[reconcile]", LOCAL],
};
/// Everything.
pub const ALL: Kind<'static> = Kind {
    restarts: &[
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    ],
    left_out: &[],
};

const LOCAL: &str = "Successfully Deployed local admin kubeconfig";

/// The lines of a log in the form for pipes; anything else in it fails.
pub fn parsed(log: &str) -> Vec<Said> {
    log.lines()
        .map(|line| {
            let rest = line
                .strip_prefix("time=\"")
                .unwrap_or_else(|| panic!("{line}"));
            let (time, rest) = rest.split_once("\" level=").unwrap();
            assert!(time.len() >= 20, "{line}");
            let (level, text) = rest.split_once(" msg=").unwrap();
            let text = match text.strip_prefix('"') {
                Some(quoted) => quoted.strip_suffix('"').unwrap().replace("\\\"", "\""),
                None => text.to_owned(),
            };
            (level.to_owned(), text)
        })
        .collect()
}

/// A recorded log without what RKE's helper containers say, what is not RKE's, and nginx-proxy,
/// which has no certificate.
pub fn recorded(log: &str) -> Vec<Said> {
    let logged: Vec<&str> = log.lines().filter(|it| it.starts_with("time=")).collect();
    let log = logged.join("\n").replace("127.0.0.1", "10.99.0.1");
    let chatter = |text: &str| {
        let parts = [
            "cert-deployer",
            "file-deployer",
            "[file-deploy]",
            "deployed admission control config",
            "deployed audit policy file",
            "nginx-proxy",
            "Failed to save full state to Kubernetes",
            "[reconcile] no control plane node",
        ];
        text.starts_with("Image [") || parts.iter().any(|part| text.contains(part))
    };
    let mut lines = parsed(&log);
    lines.retain(|(_, text)| !chatter(text));
    lines
}

/// Lines that name a host: RKE works on all at once, ours on one after the other.
fn of_host(text: &str) -> bool {
    [
        "Restarting container [",
        "[restart/",
        "[dialer]",
        "[reconcile] host",
    ]
    .iter()
    .any(|start| text.starts_with(start))
}

/// Lines of steps that ours takes when all is proven.
fn late(text: &str) -> bool {
    ["[reconcile]", LOCAL, "[state]"]
        .iter()
        .any(|start| text.starts_with(start))
}

fn first_ones(lines: &[Said], wanted: impl Fn(&str) -> bool) -> Vec<&Said> {
    let mut found: Vec<&Said> = Vec::new();
    for line in lines {
        if wanted(&line.1) && !found.contains(&line) {
            found.push(line);
        }
    }
    found
}

/// Whether the API answered is another matter.
fn reached(lines: &[Said]) -> Vec<Said> {
    let reached = |(level, text): &Said| match text.starts_with("[reconcile] host") {
        true => ("info".to_owned(), text.replace(" without ", " with ")),
        false => (level.clone(), text.clone()),
    };
    lines.iter().map(reached).collect()
}

/// Fails unless `ours` says what RKE says, as far as `kind` has it, in RKE's order, and nothing
/// that RKE does not say.
#[track_caller]
pub fn assert_like(ours: &[Said], rke: &[Said], kind: &Kind<'_>) {
    let (ours, rke) = (reached(ours), reached(rke));
    for line in &ours {
        assert!(rke.contains(line), "RKE does not say {line:?}");
    }
    let shared = |text: &str| !kind.left_out.iter().any(|start| text.starts_with(start));
    for group in [
        &(|text: &str| !of_host(text) && !late(text)) as &dyn Fn(&str) -> bool,
        &|text: &str| !of_host(text) && late(text),
    ] {
        let wanted = first_ones(&rke, |text| group(text) && shared(text));
        assert_eq!(first_ones(&ours, group), wanted);
    }
    let wanted = first_ones(&rke, |text| {
        let restarts =
            |it: &&str| text.contains(&format!("[{it}] on")) || text.contains(&format!("/{it}]"));
        text.starts_with("[dialer]") || (of_host(text) && kind.restarts.iter().any(restarts))
    });
    for line in wanted {
        assert!(ours.contains(line), "ours does not say {line:?}");
    }
}
