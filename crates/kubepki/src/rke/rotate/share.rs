//! What one host gets: files that change, files that are put right, files that go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::change::{Phase, staged_content};
use super::draft::Draft;
use crate::host::Attributes;
use crate::init::Staged;
use crate::plan::{Before, Content, FileChange, FileSet};
use crate::rke::catalogue::{Per, row_of};
use crate::rke::entry::Origin;
use crate::rke::placement::{self, HostFile, Part};
use crate::rke::survey::{FileFacts, FileView, text_digest, with_line_end};
use crate::rke::{Bundle, Entry, Node, Secret, Service, kubeconfig, names};

/// What one host gets in one phase.
pub(super) struct Share<'n> {
    pub node: &'n Node,
    pub set: FileSet,
    /// The changed files that components read.
    pub files: Vec<HostFile>,
    pub components: Vec<Service>,
}

impl Draft<'_> {
    /// What one host gets; `None` if nothing changes there.
    pub(super) fn share<'n>(
        &mut self,
        node: &'n Node,
        phase: &Phase,
        first: bool,
    ) -> Option<Share<'n>> {
        let shape = shape(&self.scene.bundle, phase);
        let mut files = BTreeMap::new();
        let mut read = Vec::new();
        for file in placement::files_of(node, &shape, &self.scene.config) {
            let content = match phase.entries.contains_key(&file.entry) {
                true => self.changed(node, phase, &file),
                false => self.repaired(node, &file).filter(|_| self.repair && first),
            };
            if let Some(content) = content {
                // A CA's key that stays elsewhere from now on.
                let gone = content == Content::Text(String::new());
                let before = self.before(node, &file.name);
                if gone && before == Before::Absent {
                    continue;
                }
                let change = FileChange {
                    before,
                    attributes: attributes(&file),
                    content: (!gone).then_some(content),
                };
                files.insert(file.name.clone(), change);
                read.push(file);
            }
        }
        files.extend(self.strays(node, phase, &shape));
        if files.is_empty() {
            return None;
        }
        let (components, missing) = self.components(node, &read);
        if first && !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|it| it.name()).collect();
            self.plan.notes.push(format!(
                "Host {} has no container {}: its files are put there, and nothing is restarted \
                 or proven for it.",
                node.address,
                names.join(", ")
            ));
        }
        Some(Share {
            node,
            set: FileSet {
                host: node.address.clone(),
                directory: PathBuf::from(names::SSL_DIRECTORY),
                files,
            },
            files: read,
            components,
        })
    }

    /// What becomes of a file whose entry changes; `None` where it stays.
    fn changed(&self, node: &Node, phase: &Phase, file: &HostFile) -> Option<Content> {
        let change = phase.entries.get(&file.entry)?;
        match file.part {
            Part::Certificate => change.certificate.clone(),
            Part::Key => change.key.clone(),
            Part::Kubeconfig => {
                let text = kubeconfig::host(&file.entry);
                let known = self.view(node, &file.name);
                let right = known.is_some_and(|view| view.text == text_digest(text.as_bytes()));
                let written = self
                    .left
                    .contains_key(&(node.address.clone(), file.name.clone()));
                if right || written {
                    return None;
                }
                let text = with_line_end(text.as_bytes());
                Some(Content::Text(String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }

    /// A file of an entry that stays, where the host has it not or otherwise. Hosts that were
    /// not looked at are left alone.
    fn repaired(&mut self, node: &Node, file: &HostFile) -> Option<Content> {
        self.request.survey.host(&node.address)?;
        let bytes = file.content(&self.scene.bundle)?;
        let right = self
            .view(node, &file.name)
            .is_some_and(|view| view.text == text_digest(&bytes));
        if right {
            return None;
        }
        self.plan.notes.push(format!(
            "Host {}: {} is not what the state holds, and is put right.",
            node.address, file.name
        ));
        let bytes = with_line_end(&bytes);
        if !file.is_secret() {
            return Some(Content::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        let staged = Staged {
            name: format!("kept-{}", file.name),
            bytes,
        };
        let content = staged_content(&staged);
        if !self.staged.iter().any(|known| known.name == staged.name) {
            self.staged.push(staged);
        }
        Some(content)
    }

    /// Certificates and keys of other nodes, which RKE spreads over all: they are removed with
    /// the rotation that replaces them, if they are exactly what the state holds for the other,
    /// or if the host is away and nobody can tell.
    fn strays(
        &mut self,
        node: &Node,
        phase: &Phase,
        shape: &Bundle,
    ) -> BTreeMap<String, FileChange> {
        let mut removed = BTreeMap::new();
        let mut kept = Vec::new();
        for file in placement::surplus_of(node, shape, &self.scene.config) {
            let others = row_of(&file.entry).is_some_and(|row| row.per != Per::Cluster);
            let key = (node.address.clone(), file.name.clone());
            // An earlier phase has taken it away.
            let gone = self.left.contains_key(&key);
            if gone || !others || !phase.entries.contains_key(&file.entry) {
                continue;
            }
            let before = match self.request.survey.host(&node.address) {
                // Nobody looked: the host keeps what goes, whatever it is.
                None => Before::Any,
                Some(host) => {
                    let Some(view) = host.file(&file.name) else {
                        continue;
                    };
                    if !is_of(view, self.scene.bundle.get(&file.entry), file.part) {
                        kept.push(file.name);
                        continue;
                    }
                    Before::Present(view.fingerprint.clone())
                }
            };
            let change = FileChange {
                before,
                attributes: attributes(&file),
                content: None,
            };
            removed.insert(file.name, change);
        }
        let known = self.request.survey.host(&node.address).is_some();
        if known && !removed.is_empty() {
            self.strayed.push((node.address.clone(), removed.len()));
        }
        if !kept.is_empty() {
            let note = format!(
                "Host {} has files named after other nodes that are not what the state holds; \
                 they stay, look at them: {}.",
                node.address,
                kept.join(", ")
            );
            // Each phase finds them.
            if !self.plan.notes.contains(&note) {
                self.plan.notes.push(note);
            }
        }
        removed
    }

    fn view(&self, node: &Node, file: &str) -> Option<&FileView> {
        self.request.survey.host(&node.address)?.file(file)
    }

    fn before(&self, node: &Node, file: &str) -> Before {
        if let Some(left) = self.left.get(&(node.address.clone(), file.to_owned())) {
            return left.clone();
        }
        match self.request.survey.host(&node.address) {
            None => Before::Any,
            Some(view) => match view.file(file) {
                Some(view) => Before::Present(view.fingerprint.clone()),
                None => Before::Absent,
            },
        }
    }

    /// The containers on a node's host that read a changed file and exist, as far as is known,
    /// and those that should exist and do not.
    fn components(&self, node: &Node, files: &[HostFile]) -> (Vec<Service>, Vec<Service>) {
        let mut components = placement::affected(node, files, &self.scene.config);
        if self.scene.config.has_external_etcd() {
            components.retain(|component| *component != Service::Etcd);
        }
        match self.request.survey.host(&node.address) {
            Some(view) => components
                .into_iter()
                .partition(|component| view.containers.contains_key(component.name())),
            None => (components, Vec::new()),
        }
    }
}

fn attributes(file: &HostFile) -> Attributes {
    Attributes {
        uid: Some(file.owner.0),
        gid: Some(file.owner.1),
        ..Attributes::new(file.mode)
    }
}

/// The bundle as the phase will leave it, as far as which files there are goes.
fn shape(bundle: &Bundle, phase: &Phase) -> Bundle {
    let mut shape = bundle.clone();
    for name in &phase.removed {
        shape.remove(name);
    }
    for (name, change) in &phase.entries {
        let there = "-";
        let known = shape.remove(name).unwrap_or_default();
        let has_key = change.key.is_some() || !known.key_pem.is_empty();
        let key = Secret::from(if has_key { there } else { "" });
        let entry = Entry::new(name, there, key, Origin::Issued);
        shape.insert(name.clone(), entry);
    }
    shape
}

/// Whether a file is what the state holds for an entry.
fn is_of(view: &FileView, entry: Option<&Entry>, part: Part) -> bool {
    let Some(entry) = entry else { return false };
    let text = part.text_of(entry);
    if !text.is_empty() && view.text == text_digest(text.as_bytes()) {
        return true;
    }
    match &view.facts {
        FileFacts::Key { spki, .. } => {
            let key = entry.key().ok().flatten();
            key.is_some_and(|key| key.spki_sha256() == *spki)
        }
        _ => false,
    }
}
