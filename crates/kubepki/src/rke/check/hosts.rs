//! What lies, runs and is served on hosts, against the state.

use std::collections::BTreeMap;

use super::state::renewal;
use super::{Finding, Question};
use crate::check::Severity::{Broken, Due, Note, Warning};
use crate::plan::FingerprintKind;
use crate::rke::placement::{self, HostFile, Part};
use crate::rke::rotate::ports;
use crate::rke::survey::{FileFacts, FileView, HostView, Seen, Survey, text_digest};
use crate::rke::{Bundle, ClusterConfig, Half, Node, Role, names};

const DEPLOY: &str = "kubepki rotate --cluster cluster.yml";

pub(super) fn check(question: &Question<'_>, survey: &Survey) -> Vec<Finding> {
    let stored = question.state.rke_config(Half::Current);
    let config = stored.and_then(|json| ClusterConfig::from_rke_config(json).ok());
    let Some(config) = config else {
        return Vec::new();
    };
    let bundle = question.state.bundle(Half::Current);
    let mut findings = Vec::new();
    for node in &config.nodes {
        match survey.hosts.get(&node.address) {
            Some(Seen::Here(view)) => {
                let host = Host {
                    node,
                    view,
                    bundle: &bundle,
                    config: &config,
                };
                findings.extend(host.check());
            }
            Some(Seen::Away { why, .. }) => findings.push(Finding::new(
                Warning,
                "unreachable",
                node.address.clone(),
                format!("nothing is known of this host: {why}"),
            )),
            None => {}
        }
    }
    findings
}

struct Host<'a> {
    node: &'a Node,
    view: &'a HostView,
    bundle: &'a Bundle,
    config: &'a ClusterConfig,
}

impl Host<'_> {
    fn at(&self, file: &str) -> String {
        format!("{}:{}/{file}", self.node.address, names::SSL_DIRECTORY)
    }

    fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let files = placement::files_of(self.node, self.bundle, self.config);
        for file in &files {
            findings.extend(self.file(file).map(|it| it.entry(&file.entry)));
            findings.extend(self.mode(file).map(|it| it.entry(&file.entry)));
        }
        findings.extend(self.pairs(&files));
        findings.extend(self.strays(&files));
        findings.extend(self.containers(&files));
        findings.extend(self.served());
        findings
    }

    fn file(&self, file: &HostFile) -> Option<Finding> {
        let bytes = file.content(self.bundle)?;
        let at = self.at(&file.name);
        let Some(view) = self.view.file(&file.name) else {
            let unused = placement::readers(&file.name, self.config).is_empty();
            let severity = if unused { Note } else { Broken };
            let finding = Finding::new(severity, "missing", at, "is missing".to_owned());
            return Some(finding.mend(DEPLOY));
        };
        if view.text == text_digest(&bytes) {
            return None;
        }
        if let FileFacts::Malformed(detail) = &view.facts {
            let what = format!("is not what it should be: {detail}");
            return Some(Finding::new(Broken, "malformed", at, what).mend(DEPLOY));
        }
        let same = match file.part {
            Part::Certificate => {
                let entry = self.bundle.get(&file.entry)?.certificates().ok()?;
                view.certificates() == entry.as_slice()
            }
            Part::Key => {
                let key = self.bundle.get(&file.entry)?.key().ok()??;
                matches!(&view.facts, FileFacts::Key { spki, .. } if *spki == key.spki_sha256())
            }
            Part::Kubeconfig => false,
        };
        (!same).then(|| {
            let what = "is another one than the state's".to_owned();
            let finding = Finding::new(Due, "state-differs", at, what);
            finding.mend(renewal(&file.entry))
        })
    }

    fn mode(&self, file: &HostFile) -> Option<Finding> {
        let mode = self.view.file(&file.name)?.fingerprint.attributes.mode;
        let open = mode & !file.mode & 0o777;
        let harmless = !file.is_secret() && open & 0o022 == 0;
        if open == 0 || harmless {
            return None;
        }
        let severity = match file.is_secret() && open & 0o077 != 0 {
            true => Broken,
            false => Warning,
        };
        let what = format!(
            "has mode {mode:04o}: others than its owner can get at it; RKE sets {:04o}",
            file.mode
        );
        let at = self.at(&file.name);
        let mends = format!("chmod {:04o} {}", file.mode, file.path());
        Some(Finding::new(severity, "wrong-mode", at, what).mend(mends))
    }

    /// Certificates and keys of the host that do not belong together: a component that starts
    /// with them fails.
    fn pairs(&self, files: &[HostFile]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for file in files.iter().filter(|file| file.part == Part::Key) {
            let certificate = names::certificate_file(&file.entry);
            let certificate = self.view.file(&certificate).map(FileView::certificates);
            let first = certificate.and_then(<[_]>::first);
            let key = self.view.file(&file.name).map(|view| &view.facts);
            if let (Some(first), Some(FileFacts::Key { spki, .. })) = (first, key)
                && first.spki_sha256() != *spki
                && file.entry != names::SERVICE_ACCOUNT_TOKEN
            {
                let what = "belongs to another certificate than the one beside it".to_owned();
                let finding = Finding::new(Broken, "key-mismatch", self.at(&file.name), what);
                findings.push(finding.entry(&file.entry).mend(renewal(&file.entry)));
            }
        }
        findings
    }

    /// Keys that have no business on this host.
    fn strays(&self, files: &[HostFile]) -> Vec<Finding> {
        let mut foreign = Vec::new();
        let mut authority = Vec::new();
        for name in self.view.files.iter().flat_map(BTreeMap::keys) {
            let Some(entry) = name.strip_suffix("-key.pem") else {
                continue;
            };
            if files.iter().any(|file| file.name == *name) {
                continue;
            }
            let of_node = |kind: &str| {
                entry
                    .strip_prefix(kind)
                    .is_some_and(|it| it.starts_with('-'))
            };
            if entry == names::KUBE_CA || entry == names::REQUEST_HEADER_CA {
                authority.push(name.as_str());
            } else if of_node(names::KUBE_ETCD) || of_node(names::KUBE_KUBELET) {
                foreign.push(name.as_str());
            }
        }
        let mut findings = Vec::new();
        if !foreign.is_empty() {
            let what = format!(
                "has keys of other nodes, as RKE spreads them: {}",
                foreign.join(", ")
            );
            let path = format!("{}:{}", self.node.address, names::SSL_DIRECTORY);
            findings.push(Finding::new(Note, "stray-key", path, what).mend(DEPLOY));
        }
        if !authority.is_empty() && !self.node.has(Role::ControlPlane) {
            let what = format!(
                "has keys of CAs, which belong on control-plane hosts only: {}",
                authority.join(", ")
            );
            let path = format!("{}:{}", self.node.address, names::SSL_DIRECTORY);
            let finding = Finding::new(Warning, "authority-key-here", path, what);
            findings.push(finding.mend("remove them"));
        }
        findings
    }

    /// Components that are missing, stopped, or run with what their files held before.
    fn containers(&self, files: &[HostFile]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for component in placement::components_of(self.node) {
            if component == crate::rke::Service::Etcd && self.config.has_external_etcd() {
                continue;
            }
            let name = component.name();
            let path = format!("{}: {name}", self.node.address);
            let Some(container) = self.view.containers.get(name) else {
                let what = "there is no such container".to_owned();
                findings.push(Finding::new(Warning, "container-missing", path, what));
                continue;
            };
            if !container.running {
                let what = "does not run".to_owned();
                findings.push(Finding::new(Broken, "container-stopped", path, what));
                continue;
            }
            let (started, nanos) = container.started;
            let newer: Vec<&str> = files
                .iter()
                .filter(|file| placement::readers(&file.name, self.config).contains(&component))
                .filter(|file| {
                    let view = self.view.file(&file.name);
                    let written = view.and_then(|view| view.fingerprint.attributes.mtime);
                    written.is_some_and(|written| written > (started.as_secs(), nanos))
                })
                .map(|file| file.name.as_str())
                .collect();
            if !newer.is_empty() {
                let what = format!(
                    "was started {started}, before files that it reads were written: {}",
                    newer.join(", ")
                );
                let finding = Finding::new(Due, "serves-old", path, what);
                findings.push(finding.mend(format!("docker restart {name}")));
            }
        }
        findings
    }

    fn served(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (address, entry) in ports(self.node, self.config) {
            let Some(seen) = self.view.served.get(&address) else {
                continue;
            };
            let path = format!("{}: {address}", self.node.address);
            let served = match seen {
                Ok(served) => served,
                Err(why) => {
                    let what = format!("serves nothing: {why}");
                    let finding = Finding::new(Broken, "not-served", path, what);
                    findings.push(finding.entry(&entry));
                    continue;
                }
            };
            let wanted = self.bundle.get(&entry);
            let wanted = wanted.and_then(|entry| entry.certificate().ok().flatten());
            if wanted.is_some_and(|wanted| wanted != *served) {
                let what = format!(
                    "serves another certificate than the state's {entry}: serial {}, ends {}",
                    served.serial(),
                    served.validity().not_after
                );
                let finding = Finding::new(Due, "serves-other", path, what).subject(served);
                findings.push(finding.entry(&entry).mend(renewal(&entry)));
            }
        }
        findings
    }
}

/// Whether an entry of a host's directory is a file.
pub(super) fn is_file(view: &FileView) -> bool {
    matches!(view.fingerprint.kind, FingerprintKind::File(_))
}
