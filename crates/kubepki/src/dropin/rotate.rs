//! `k3s certificate rotate` as a plan: back up, set the listener's trigger, remove.
//!
//! K3s issues what is missing at its next start, so removing is all that there is to do.

use std::path::{Path, PathBuf};

use pki::UnixTime;

use super::backup::{Backup, gather};
use super::error::DropinError;
use super::layout::Layout;
use super::log::{Level, Line};
use super::read::follow;
use super::services::Selection;
use crate::catalogue::{Flavour, Kind, Service, Side};
use crate::host::{Attributes, Entry, EntryKind, Host, HostError};
use crate::plan::{Action, Before, Content, Fingerprint, PLAN_FORMAT, Plan, PlanId, Step, Target};

/// What a rotation is called, where and when.
#[derive(Clone, Debug)]
pub struct RotationRequest {
    /// The plan's name: [`plan_id`](crate::apply::plan_id).
    pub id: PlanId,
    /// The node.
    pub node: String,
    /// Now: the backup is named after it.
    pub now: UnixTime,
}

/// A rotation, ready to be applied.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// What to do. Without steps there is nothing to do, which is no error.
    pub plan: Plan,
    /// What K3s says once it is done, `--debug` lines among it.
    pub lines: Vec<Line>,
    /// The backup's directory as the operator would write it.
    pub backup: PathBuf,
}

/// The plan that does what K3s does for the services of `selection`.
///
/// # Errors
///
/// Nothing can have changed: [`DropinError::NoTree`], [`DropinError::File`] where the listener's
/// trigger is wanted on a node without a server's `tls` (K3s's own message), and what stands in
/// the way of a backup or of a removal.
pub async fn rotate_plan(
    host: &dyn Host,
    flavour: &Flavour,
    layout: &Layout,
    selection: &Selection,
    request: RotationRequest,
) -> Result<Rotation, DropinError> {
    require_tree(host, layout).await?;
    let services: Vec<_> = selection
        .services
        .iter()
        .map(|service| (*service, flavour.files_of(service, None)))
        .collect();
    let files = || services.iter().flat_map(|(_, files)| files);
    let agent: Vec<PathBuf> = files()
        .filter(|(side, _)| *side == Side::Agent)
        .map(|(_, path)| path.clone())
        .collect();
    let backup = gather(host, layout, &agent, request.now).await?;
    let mut steps = Steps {
        host,
        layout,
        steps: Vec::new(),
    };
    let mut lines = Vec::new();
    let shown = layout.show(&backup.folder);

    steps.back_up(&backup).await?;
    if services
        .iter()
        .any(|(service, _)| has_listener(flavour, service))
    {
        steps.trigger(backup.has_tls).await?;
        lines.push(Line::new(
            Level::Info,
            "Rotating dynamic listener certificate",
        ));
    }
    for (service, files) in &services {
        if has_listener(flavour, service) {
            continue;
        }
        lines.push(Line::new(
            Level::Info,
            format!("Rotating certificates for {}", service.name),
        ));
        for (side, path) in files {
            if steps.remove(service, *side, path).await? {
                let gone = layout.shown(*side, path);
                let text = format!("file {} is deleted", gone.display());
                lines.push(Line::new(Level::Debug, text));
            }
        }
    }
    lines.push(Line::new(
        Level::Info,
        format!(
            "Successfully backed up certificates to {}, please restart {} server or agent to \
             rotate certificates",
            shown.display(),
            flavour.name
        ),
    ));
    let plan = plan(flavour, layout, selection, request, steps.steps);
    Ok(Rotation {
        plan,
        lines,
        backup: shown,
    })
}

fn plan(
    flavour: &Flavour,
    layout: &Layout,
    selection: &Selection,
    request: RotationRequest,
    steps: Vec<Step>,
) -> Plan {
    let names: Vec<_> = selection
        .services
        .iter()
        .map(|service| service.name)
        .collect();
    let title = match selection.all {
        true => format!("{} certificate rotate", flavour.name),
        false => format!(
            "{} certificate rotate --service {}",
            flavour.name,
            names.join(",")
        ),
    };
    Plan {
        format: PLAN_FORMAT,
        id: request.id,
        undoes: None,
        title,
        node: request.node,
        root: layout.root().to_owned(),
        created: request.now,
        datastore: None,
        irreversible: None,
        deferrable: std::collections::BTreeSet::new(),
        hypothetical: false,
        leaves: Default::default(),
        steps,
        notes: vec![format!(
            "Restart {}: it issues what was removed when it starts, and not before.",
            flavour.name
        )],
    }
}

/// Whether the service is the dynamic listener, which is renewed by a trigger.
fn has_listener(flavour: &Flavour, service: &Service) -> bool {
    let mut rows = service.rows.iter().filter_map(|id| flavour.row(id));
    rows.any(|row| matches!(row.kind, Kind::Listener { .. }))
}

/// K3s reports success on a tree that does not exist; whoever mistyped `--data-dir` should know.
async fn require_tree(host: &dyn Host, layout: &Layout) -> Result<(), DropinError> {
    let nothing = Path::new("");
    for side in [Side::Server, Side::Agent] {
        let found = follow(host, &layout.real(side, nothing)).await;
        let shown = layout.shown(side, nothing);
        if found
            .map_err(|error| DropinError::file("stat", &shown, &error))?
            .is_some()
        {
            return Ok(());
        }
    }
    Err(DropinError::NoTree {
        server: layout.shown(Side::Server, nothing),
        agent: layout.shown(Side::Agent, nothing),
    })
}

struct Steps<'a> {
    host: &'a dyn Host,
    layout: &'a Layout,
    steps: Vec<Step>,
}

impl Steps<'_> {
    async fn back_up(&mut self, backup: &Backup) -> Result<(), DropinError> {
        for (below, copy) in &backup.copies {
            let path = match below.as_os_str().is_empty() {
                true => backup.folder.clone(),
                false => backup.folder.join(below),
            };
            // Two rotations within one second share a directory, as with K3s.
            let before = self.read(&path).await?;
            let attributes = Attributes::new(copy.mode);
            let action = Action::Put {
                attributes,
                content: copy.content.clone(),
            };
            self.push(path, before, action, "kept in K3s's own backup".to_owned());
        }
        Ok(())
    }

    /// K3s makes the listener's certificate anew when it finds this file at its start.
    async fn trigger(&mut self, has_tls: bool) -> Result<(), DropinError> {
        let name = Path::new("tls/dynamic-cert-regenerate");
        if !has_tls {
            return Err(DropinError::missing(
                "open",
                &self.layout.shown(Side::Server, name),
            ));
        }
        let path = self.layout.real(Side::Server, name);
        let before = self.read(&path).await?;
        self.refuse_directory(before.as_ref(), Side::Server, name)?;
        let content = Content::Text(String::new());
        let action = Action::Put {
            attributes: Attributes::new(0o600),
            content,
        };
        self.push(
            path,
            before,
            action,
            "K3s then makes a new listener certificate".to_owned(),
        );
        Ok(())
    }

    /// Whether there is something to remove.
    async fn remove(
        &mut self,
        service: &Service,
        side: Side,
        path: &Path,
    ) -> Result<bool, DropinError> {
        let place = self.layout.real(side, path);
        let before = self.read(&place).await?;
        self.refuse_directory(before.as_ref(), side, path)?;
        if before.is_none() {
            return Ok(false);
        }
        let reason = format!("K3s makes it anew for {}", service.name);
        self.push(place, before, Action::Remove, reason);
        Ok(true)
    }

    fn refuse_directory(
        &self,
        entry: Option<&Entry>,
        side: Side,
        path: &Path,
    ) -> Result<(), DropinError> {
        match entry.map(|entry| &entry.kind) {
            Some(EntryKind::Directory) => Err(DropinError::Directory {
                path: self.layout.shown(side, path),
            }),
            _ => Ok(()),
        }
    }

    async fn read(&self, path: &Path) -> Result<Option<Entry>, DropinError> {
        let unsaved = |source: HostError| DropinError::Unsaved {
            path: self.layout.show(path),
            source,
        };
        self.host.read(path).await.map_err(unsaved)
    }

    fn push(&mut self, path: PathBuf, before: Option<Entry>, action: Action, reason: String) {
        let number = u32::try_from(self.steps.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let before = before.map_or(Before::Absent, |entry| {
            Before::Present(Fingerprint::of(&entry))
        });
        let target = Target::File {
            host: "local".to_owned(),
            path,
        };
        self.steps.push(Step {
            number,
            target,
            before,
            action,
            reason,
        });
    }
}
