//! What a plan says beside its steps.

use super::refuse::Ask;
use super::{Request, Scene, Site, Switch};
use crate::rke::config::Difference;
use crate::rke::{Role, Rotation, Service};

/// The plan's title.
pub(super) fn title(request: &Request<'_>, scene: &Scene) -> String {
    let mut title = match (request.rotation, scene.switch) {
        (Rotation::Services(services), _) => {
            let names: Vec<&str> = services.iter().map(|it| it.name()).collect();
            format!("rotate {}", names.join(", "))
        }
        (_, Some(Switch::Compromised)) => "rotate CAs after a compromise".to_owned(),
        (_, Some(Switch::Hard)) => "rotate CAs, the old root given up at once".to_owned(),
        (_, Some(Switch::Cross)) if scene.keep_old => {
            "rotate CAs, the old root stays trusted".to_owned()
        }
        (_, Some(Switch::Cross)) => "rotate CAs".to_owned(),
        (_, None) => "rotate all certificates".to_owned(),
    };
    if request.options.parallel_restarts {
        title.push_str(", restarts at once");
    }
    title
}

pub(super) fn irreversible() -> String {
    "the old keys are in wrong hands, and it would put them back in force".to_owned()
}

/// Why the first phase changes what it changes.
pub(super) fn first_phase(scene: &Scene) -> String {
    match scene.switch {
        None => "new certificates with new keys".to_owned(),
        Some(Switch::Cross) => "new CAs and certificates; the old root is trusted, too".to_owned(),
        Some(Switch::Hard | Switch::Compromised) => {
            "new CAs and certificates; the old root is not trusted any more".to_owned()
        }
    }
}

pub(super) fn differences(found: &[Difference], applied: bool) -> Vec<String> {
    if found.is_empty() {
        return Vec::new();
    }
    let heading = match applied {
        true => {
            "Taken from cluster.yml, which differs from the state (flags of components change \
             with `rke up` only):"
        }
        false => {
            "cluster.yml differs from what the cluster was made with; the rotation goes by the \
             state, as RKE's does, unless --apply-config is given:"
        }
    };
    let lines = found.iter().map(|it| format!("\n  {it}"));
    vec![format!("{heading}{}", lines.collect::<String>())]
}

pub(super) fn foreign(found: &[(String, String)]) -> Vec<String> {
    if found.is_empty() {
        return Vec::new();
    }
    let lines = found
        .iter()
        .map(|(entry, kind)| format!("\n  {entry}: {kind}"));
    vec![format!(
        "Keys that RKE itself cannot read (it panics on anything but RSA); new leaves get RSA \
         keys:{}",
        lines.collect::<String>()
    )]
}

/// What the plan's circumstances mean.
pub(super) fn scene(request: &Request<'_>, scene: &Scene, ask: Ask) -> Vec<String> {
    let mut notes = Vec::new();
    for host in &scene.gone {
        let cut_off = match scene.switch {
            None => "",
            Some(Switch::Cross) if scene.keep_old => "",
            Some(_) => {
                " It is cut off once the old root goes: if it is a node still, put it back into \
                 cluster.yml first."
            }
        };
        notes.push(format!(
            "Host {host} is in the state and not in cluster.yml: it is not touched and keeps its \
             certificates.{cut_off}"
        ));
    }
    let skipped: Vec<&str> = scene.skipped.iter().map(String::as_str).collect();
    if !skipped.is_empty() {
        notes.push(format!(
            "Left out because they cannot be reached: {}. `kubepki resume` picks them up once \
             they are back; until then the plan stays unfinished.",
            skipped.join(", ")
        ));
    }
    if ask.etcd && !scene.config.has_external_etcd() {
        notes.extend(etcd(request, scene));
    }
    if let Rotation::Services(services) = request.rotation
        && services.contains(&Service::Etcd)
        && scene.config.has_external_etcd()
    {
        notes.push(
            "etcd is an external one (services.etcd.external_urls): there is nothing to do for the \
             service etcd."
                .to_owned(),
        );
    }
    notes.extend(authorities(request, scene));
    if ask.signs && !matches!(request.rotation, Rotation::Services(_)) {
        notes.push(
            "The service-account key and its certificate stay, so that tokens stay valid."
                .to_owned(),
        );
    }
    notes
}

fn etcd(request: &Request<'_>, scene: &Scene) -> Option<String> {
    let members = scene.config.with_role(Role::Etcd).count();
    if scene.etcd_at_once {
        return Some(
            "All members of etcd restart at once: the cluster stands still until they are back."
                .to_owned(),
        );
    }
    if !scene.etcd_sick.is_empty() {
        let sick: Vec<&str> = scene.etcd_sick.iter().map(String::as_str).collect();
        return Some(format!(
            "Members of etcd that are not healthy restart first: {}. If they do not get well with \
             the new certificates, it stops there, and the others keep their quorum.",
            sick.join(", ")
        ));
    }
    (request.options.allow_etcd_outage && members < 3).then(|| {
        format!(
            "etcd has {members} member{}: the cluster stands still while one restarts.",
            if members == 1 { "" } else { "s" }
        )
    })
}

fn authorities(request: &Request<'_>, scene: &Scene) -> Vec<String> {
    let own_pods = "Pods of your own that have read ca.crt when they started";
    match scene.switch {
        None => Vec::new(),
        Some(Switch::Cross) if scene.keep_old => {
            let (why, when) = match request.options {
                options if options.keep_old => ("", ""),
                _ if !scene.skipped.is_empty() => (
                    " while hosts are left out that know nothing newer",
                    " once they are back",
                ),
                _ => (
                    " because the cluster's API does not answer, so that system pods cannot be \
                     made to read the new one",
                    " once the API answers",
                ),
            };
            vec![
                format!(
                    "The old root stays trusted{why}: its key can still sign for this cluster. \
                     Another `kubepki rotate-ca`{when} makes a newer root, and leaves that one \
                     alone trusted."
                ),
                format!("{own_pods} go on, and learn the new root when they restart."),
            ]
        }
        Some(Switch::Cross) => vec![
            format!(
                "{own_pods} know only the old root, and are shut out in the second phase until \
                 they restart. --keep-old stops before it."
            ),
            elsewhere(request, "in the second phase"),
        ],
        Some(Switch::Hard) => vec![
            format!(
                "From the deployment until everything has been restarted, components refuse each \
                 other. {own_pods} are shut out until they restart."
            ),
            elsewhere(request, "at once"),
        ],
        Some(Switch::Compromised) => compromised(request, own_pods),
    }
}

/// Who is not a pod and holds the old root all the same.
fn elsewhere(request: &Request<'_>, when: &str) -> String {
    format!(
        "Other kubeconfigs with certificates of the old CA, and clients elsewhere that hold a copy \
         of it, are shut out {when}, too, until they are given new certificates and the new root, \
         which {} then holds.",
        request.site.kubeconfig_spelled
    )
}

/// What else has to be done, and every place where old keys lie.
fn compromised(request: &Request<'_>, own_pods: &str) -> Vec<String> {
    let site = request.site;
    let state = site.state.display();
    vec![
        "From the deployment until everything has been restarted, components refuse each other."
            .to_owned(),
        format!(
            "The service-account key is replaced: every token that was signed so far is void. \
             {own_pods} have to be restarted; delete Secrets of type \
             kubernetes.io/service-account-token, and their controller makes them anew."
        ),
        format!(
            "Old keys still lie in: this tool's backups beside {state} (`kubepki history forget` \
             removes them); /etc/kubernetes/.kubepki on every host; etcd's snapshots and \
             pki.bundle.tar.gz in /opt/rke/etcd-snapshots, and wherever they are sent, which hold \
             the state file; the revisions of Secret full-cluster-state (and of the ConfigMap of \
             that name) that etcd has not compacted; copies of {state} and of kubeconfigs \
             (rkestate*, kube_config*); directories of custom certificates."
        ),
        "Secrets that the API server encrypted can be read with the key in the state file: if \
         that was seen, too, `rke encrypt rotate-key` and new credentials are called for."
            .to_owned(),
    ]
}

/// That the administrator's kubeconfig changes its server.
pub(super) fn other_server(site: &Site, present: &str, server: &str) -> Option<String> {
    let differs = present.trim_end_matches('/') != server;
    differs.then(|| {
        format!(
            "{} names {present}, which is no host of the control plane that can be reached; it \
             will name {server}, as RKE makes it.",
            site.kubeconfig_spelled
        )
    })
}

/// Files of other nodes that are removed.
pub(super) fn strayed(hosts: &[(String, usize)]) -> Option<String> {
    let lines = hosts
        .iter()
        .map(|(host, files)| format!("\n  {host}: {files} files"));
    (!hosts.is_empty()).then(|| {
        format!(
            "RKE gives certificates and keys of etcd members and kubelets to every host; those of \
             other nodes are removed:{}",
            lines.collect::<String>()
        )
    })
}
