//! Custom certificates, put in force like any rotation.
//!
//! Where the CA is another one, nobody need vouch for it: in a first phase everybody is taught to
//! trust both, in a second the new certificates come, in a third the old CA goes. So no private
//! key of either CA is needed.

use std::collections::BTreeMap;

use super::authority::staged_key;
use super::change::{Changes, EntryChange, Phase, staged_content};
use super::refuse::{Ask, scene};
use super::{Request, RotateError, Scene, draft};
use crate::init::Staged;
use crate::plan::{Content, Plan, StateConfig};
use crate::rke::custom::{CustomEntry, CustomSet};
use crate::rke::{Entry, kubeconfig, names};

/// CAs whose bundles are trusted by somebody.
const AUTHORITIES: [&str; 2] = [names::KUBE_CA, names::REQUEST_HEADER_CA];

/// Plans the installation of what passed `custom::verify`. `admin_key` is the PEM of
/// `kube-admin`'s key, if the set has it; [`Request::rotation`] is not looked at.
///
/// The staged bytes must be kept with [`crate::init::stage`] before the plan is applied.
///
/// # Errors
///
/// [`RotateError`], and [`RotateError::Same`] when everything is in force already.
pub fn install(
    request: &Request<'_>,
    set: &CustomSet,
    admin_key: Option<&str>,
) -> Result<(Plan, Vec<Staged>), RotateError> {
    let state = request.state.bundle(crate::rke::Half::Current);
    let new: BTreeMap<&String, &CustomEntry> = set
        .entries
        .iter()
        .filter(|(name, entry)| differs(entry, state.get(*name)))
        .collect();
    if new.is_empty() {
        return Err(RotateError::Same);
    }
    let touches_etcd = |name: &String| {
        AUTHORITIES[..1].contains(&name.as_str()) || name.starts_with(names::KUBE_ETCD)
    };
    let ask = Ask {
        signs: false,
        etcd: new.keys().any(|name| touches_etcd(name)),
        tokens: new.keys().any(|name| {
            [names::KUBE_APISERVER, names::SERVICE_ACCOUNT_TOKEN].contains(&name.as_str())
        }),
    };
    let scene = scene(request, ask)?;
    let work = Work {
        request,
        scene: &scene,
        set,
        new,
    };
    let changes = work.changes(admin_key)?;
    draft(request, &scene, changes)
}

fn differs(entry: &CustomEntry, present: Option<&Entry>) -> bool {
    let Some(present) = present else { return true };
    let text = |pem: &str| pem.trim_end().to_owned();
    let spki = present.key().ok().flatten();
    let spki = spki.map(|key| key.spki_sha256().to_string());
    let same_key = match entry.key {
        Some(_) => spki.as_deref() == Some(entry.spki.as_str()),
        None => spki.is_none(),
    };
    text(&entry.certificate_pem) != text(&present.certificate_pem) || !same_key
}

struct Work<'a> {
    request: &'a Request<'a>,
    scene: &'a Scene,
    set: &'a CustomSet,
    new: BTreeMap<&'a String, &'a CustomEntry>,
}

impl Work<'_> {
    fn changes(&self, admin_key: Option<&str>) -> Result<Changes, RotateError> {
        let mut changes = Changes {
            title: "install custom certificates".to_owned(),
            notes: self.scene.notes.clone(),
            ..Changes::default()
        };
        let moved: Vec<(&str, String)> = AUTHORITIES
            .into_iter()
            .filter_map(|name| Some((name, self.old_root(name)?)))
            .collect();
        if !moved.is_empty() {
            let phase = self.distribute(&moved, &mut changes.staged);
            changes.phases.push(phase);
            changes.pods = moved.iter().any(|(name, _)| *name == names::KUBE_CA);
        }
        let admin = self.admin(&moved, admin_key, &mut changes.staged);
        changes.phases.push(self.certificates(&moved, admin));
        let retire = !moved.is_empty() && !self.scene.keep_old && self.scene.skipped.is_empty();
        if retire {
            changes.phases.push(self.retire(&moved, admin_key));
        }
        if !retire && !moved.is_empty() {
            let why = match self.request.options.api_away {
                true => {
                    " because the cluster's API does not answer, so that system pods cannot be \
                     made to read the new one"
                }
                false => "",
            };
            changes.notes.push(format!(
                "The old CA stays trusted{why}: its key can still sign for this cluster. It goes \
                 with the next change of the CA."
            ));
        }
        if !self.set.can_issue() {
            changes.notes.push(
                "A CA's key stays elsewhere: nothing can be rotated here, renew the certificates \
                 the way these came."
                    .to_owned(),
            );
        }
        Ok(changes)
    }

    /// What is trusted now, where the CA is another one.
    fn old_root(&self, name: &str) -> Option<String> {
        let new = self.new.get(&name.to_owned())?;
        let old = self.scene.bundle.get(name)?;
        let known = old.certificate_pem.trim_end();
        let moved = !known.is_empty() && new.certificate_pem.trim_end() != known;
        moved.then(|| format!("{known}\n"))
    }

    /// Everybody trusts both, the administrator too; what is shown is what was.
    fn distribute(&self, moved: &[(&str, String)], staged: &mut Vec<Staged>) -> Phase {
        let entries = moved.iter().filter_map(|(name, old)| {
            let new = self.new.get(&(*name).to_owned())?;
            let both = format!("{old}{}", new.certificate_pem);
            let change = EntryChange {
                certificate: Some(Content::Text(both)),
                ..EntryChange::default()
            };
            Some(((*name).to_owned(), change))
        });
        let mut entries: BTreeMap<String, EntryChange> = entries.collect();
        let both = self.trusted(moved);
        let present = self.scene.bundle.get(names::KUBE_ADMIN);
        if moved.iter().any(|(name, _)| *name == names::KUBE_CA)
            && let Some(present) = present.filter(|it| !it.key_pem.is_empty())
            && let Some(node) = self.scene.admin_node()
        {
            let text = kubeconfig::admin(
                &node.address,
                &self.scene.config.cluster_name,
                &both,
                &present.certificate_pem,
                &present.key_pem,
            );
            let file = Staged {
                name: "kubeconfig-present".to_owned(),
                ..staged_key("", &text)
            };
            let change = EntryChange {
                config: self.admin_config(&both),
                local: Some(staged_content(&file)),
                ..EntryChange::default()
            };
            staged.push(file);
            entries.insert(names::KUBE_ADMIN.to_owned(), change);
        }
        Phase {
            entries,
            removed: Vec::new(),
            reason: "the new CA is trusted beside the old one".to_owned(),
        }
    }

    fn certificates(&self, moved: &[(&str, String)], admin: Option<Content>) -> Phase {
        let mut entries = BTreeMap::new();
        for (name, entry) in &self.new {
            let mut certificate = entry.certificate_pem.clone();
            if let Some((_, old)) = moved.iter().find(|(it, _)| *it == name.as_str()) {
                certificate.push_str(old);
            }
            let key = match &entry.key {
                Some(file) => Content::CopyOf {
                    path: file.path.clone(),
                    sha256: file.sha256.clone(),
                },
                None => Content::Text(String::new()),
            };
            let config = match name.as_str() {
                names::KUBE_ADMIN => self.admin_config(&self.trusted(moved)),
                name => {
                    names::has_host_config(name).then(|| StateConfig::Text(kubeconfig::host(name)))
                }
            };
            let change = EntryChange {
                certificate: (!certificate.is_empty()).then_some(Content::Text(certificate)),
                key: Some(key),
                config,
                local: admin.clone().filter(|_| name.as_str() == names::KUBE_ADMIN),
                ..EntryChange::default()
            };
            entries.insert((*name).clone(), change);
        }
        Phase {
            entries,
            removed: Vec::new(),
            reason: "custom certificates".to_owned(),
        }
    }

    /// The new CA alone.
    fn retire(&self, moved: &[(&str, String)], admin_key: Option<&str>) -> Phase {
        let entries = moved.iter().filter_map(|(name, _)| {
            let new = self.new.get(&(*name).to_owned())?;
            let change = EntryChange {
                certificate: Some(Content::Text(new.certificate_pem.clone())),
                ..EntryChange::default()
            };
            Some(((*name).to_owned(), change))
        });
        let mut entries: BTreeMap<String, EntryChange> = entries.collect();
        let alone = self.trusted(&[]);
        if moved.iter().any(|(name, _)| *name == names::KUBE_CA)
            && admin_key.is_some()
            && let Some(admin) = self.admin_config(&alone)
        {
            let change = EntryChange {
                config: Some(admin),
                local: self
                    .admin_text(&alone, admin_key)
                    .map(|it| staged_content(&it)),
                ..EntryChange::default()
            };
            entries.insert(names::KUBE_ADMIN.to_owned(), change);
        }
        Phase {
            entries,
            removed: Vec::new(),
            reason: "the new CA alone is trusted from now on".to_owned(),
        }
    }

    /// What the administrator trusts.
    fn trusted(&self, moved: &[(&str, String)]) -> String {
        let ca = names::KUBE_CA.to_owned();
        let mut text = match (self.set.entries.get(&ca), self.scene.bundle.get(&ca)) {
            (Some(new), _) => new.certificate_pem.clone(),
            (None, Some(old)) => old.certificate_pem.clone(),
            (None, None) => String::new(),
        };
        if let Some((_, old)) = moved.iter().find(|(name, _)| *name == ca) {
            text.push_str(old);
        }
        text
    }

    fn admin_config(&self, authority: &str) -> Option<StateConfig> {
        Some(StateConfig::Admin {
            server: kubeconfig::admin_server(&self.scene.admin_node()?.address),
            cluster: self.scene.config.cluster_name.clone(),
            authority: authority.to_owned(),
            path: self.request.site.kubeconfig_spelled.clone(),
        })
    }

    /// The administrator's kubeconfigs, staged: with both roots, and with the new one.
    fn admin(
        &self,
        moved: &[(&str, String)],
        key: Option<&str>,
        staged: &mut Vec<Staged>,
    ) -> Option<Content> {
        let now = self.admin_text(&self.trusted(moved), key)?;
        let content = staged_content(&now);
        staged.push(now);
        if let Some(later) = self
            .admin_text(&self.trusted(&[]), key)
            .filter(|_| !moved.is_empty())
        {
            staged.push(later);
        }
        Some(content)
    }

    fn admin_text(&self, authority: &str, key: Option<&str>) -> Option<Staged> {
        let entry = self.set.entries.get(names::KUBE_ADMIN)?;
        let address = &self.scene.admin_node()?.address;
        let text = kubeconfig::admin(
            address,
            &self.scene.config.cluster_name,
            authority,
            &entry.certificate_pem,
            key?,
        );
        let roots = authority.matches("BEGIN CERTIFICATE").count();
        Some(Staged {
            name: format!("kubeconfig-{roots}"),
            ..staged_key("", &text)
        })
    }
}
