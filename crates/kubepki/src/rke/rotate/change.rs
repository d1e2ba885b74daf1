//! What becomes of the bundle: entries, in one phase or two.

use std::collections::BTreeMap;

use pki::{Certificate, Purpose, San, Serial};

use super::authority::{self, Fresh, Issuer};
use super::{Request, RotateError, Scene, Switch, notes};
use crate::init::Staged;
use crate::plan::{Content, IssuerRef, KeyOrigin, Leaf, LeafCertificate, LeafId, StateConfig};
use crate::rke::generate::{self, LeafKey, LeafSpec, leaf_validity};
use crate::rke::{Entry, Role, Rotation, Wanted, kubeconfig, names};

/// What a plan changes, whatever it is for: rotations make it, and so does the installation of
/// custom certificates.
#[derive(Debug, Default)]
pub struct Changes {
    /// The plan's title.
    pub title: String,
    /// Why it cannot be taken back, if it cannot.
    pub irreversible: Option<String>,
    /// Certificates to issue.
    pub leaves: BTreeMap<LeafId, Leaf>,
    /// Secret bytes that the contents name.
    pub staged: Vec<Staged>,
    /// One after the other.
    pub phases: Vec<Phase>,
    /// Whether files of entries that do not change are put right where they differ from the
    /// state.
    pub repair: bool,
    /// Whether system pods are deleted, after the first phase.
    pub pods: bool,
    /// Sentences for the plan.
    pub notes: Vec<String>,
}

/// Entries that change together.
#[derive(Debug, Default)]
pub struct Phase {
    /// By name.
    pub entries: BTreeMap<String, EntryChange>,
    /// Entries that leave the bundle.
    pub removed: Vec<String>,
    /// Why, for the operator.
    pub reason: String,
}

/// One entry that changes.
#[derive(Clone, Debug, Default)]
pub struct EntryChange {
    /// Its certificate file; `None` where it stays.
    pub certificate: Option<Content>,
    /// Its key file; `None` where it stays.
    pub key: Option<Content>,
    /// Its kubeconfig in the state; `None` where it stays.
    pub config: Option<StateConfig>,
    /// The certificate as a leaf of the plan, if it is one.
    pub leaf: Option<LeafId>,
    /// The entry of the CA that signs it, if known.
    pub issuer: Option<&'static str>,
    /// The administrator's kubeconfig on this machine, where no leaf of the plan makes it.
    pub local: Option<Content>,
}

/// What a rotation changes.
pub(super) fn changes(request: &Request<'_>, scene: &Scene) -> Result<Changes, RotateError> {
    let wanted = generate::renewed(request.rotation, &scene.config, &scene.bundle)?;
    let mut work = Work {
        request,
        scene,
        fresh: BTreeMap::new(),
        changes: Changes {
            title: notes::title(request, scene),
            irreversible: (scene.switch == Some(Switch::Compromised)).then(notes::irreversible),
            repair: !matches!(request.rotation, Rotation::Services(_)),
            pods: scene.switch.is_some(),
            notes: scene.notes.clone(),
            ..Changes::default()
        },
    };
    work.authorities(&wanted)?;
    let first = work.first(&wanted)?;
    let two = scene.switch == Some(Switch::Cross) && !scene.keep_old;
    let second = two.then(|| work.second(&first));
    work.changes.phases.push(first);
    work.changes.phases.extend(second);
    Ok(work.changes)
}

struct Work<'a> {
    request: &'a Request<'a>,
    scene: &'a Scene,
    fresh: BTreeMap<&'static str, Fresh>,
    changes: Changes,
}

impl Work<'_> {
    fn authorities(&mut self, wanted: &Wanted) -> Result<(), RotateError> {
        let switch = self.scene.switch.unwrap_or_default();
        for spec in &wanted.authorities {
            let old = self.scene.bundle.get(spec.entry);
            let old = old.filter(|old| !self.is_over(spec.entry, old, switch));
            let fresh = authority::fresh(self.request, spec, old, switch)?;
            self.fresh.insert(spec.entry, fresh);
        }
        Ok(())
    }

    /// Whether the aggregation layer's CA is out of its time: nobody believes what it signed, so
    /// the new one need not be vouched for. (Where it is the cluster's, the switch is at once.)
    fn is_over(&mut self, name: &str, old: &Entry, switch: Switch) -> bool {
        if switch != Switch::Cross || name != names::REQUEST_HEADER_CA {
            return false;
        }
        let Ok(Some(certificate)) = old.certificate() else {
            return false;
        };
        let validity = certificate.validity();
        let over = !validity.contains(self.request.now);
        if over {
            self.changes.notes.push(format!(
                "{name} is valid from {} to {} only: aggregated API servers refuse the API server \
                 already, so the new one takes its place without the old one's word.",
                validity.not_before, validity.not_after
            ));
        }
        over
    }

    /// Everything that is new: CAs with the old ones beside them, leaves with what vouches for
    /// their CA.
    fn first(&mut self, wanted: &Wanted) -> Result<Phase, RotateError> {
        let mut entries = BTreeMap::new();
        for (entry, fresh) in &self.fresh {
            let key = staged_content(&fresh.staged);
            entries.insert(
                (*entry).to_owned(),
                EntryChange {
                    certificate: Some(Content::Text(fresh.bundle.clone())),
                    key: Some(key),
                    config: host_config(entry),
                    ..EntryChange::default()
                },
            );
            self.changes.staged.push(Staged {
                name: fresh.staged.name.clone(),
                bytes: fresh.staged.bytes.clone(),
            });
        }
        let mut leaves = wanted.leaves.clone();
        if self.scene.switch == Some(Switch::Compromised) {
            leaves.extend(service_account(self.scene)?);
        }
        for spec in &leaves {
            let change = match spec.key {
                LeafKey::New => self.leaf(spec)?,
                LeafKey::Of(other) => self.copied(other),
            };
            entries.insert(spec.entry.clone(), change);
        }
        for given in &wanted.given {
            entries.extend(self.given(given));
        }
        Ok(Phase {
            entries,
            removed: wanted.removed.clone(),
            reason: notes::first_phase(self.scene),
        })
    }

    /// The new roots alone, and nothing behind the leaves.
    fn second(&self, first: &Phase) -> Phase {
        let mut entries = BTreeMap::new();
        for (entry, change) in &first.entries {
            let certificate = match (self.fresh.get(entry.as_str()), &change.leaf) {
                (Some(fresh), _) => Content::Text(fresh.alone.clone()),
                (None, Some(leaf)) => Content::BareCertificate(leaf.clone()),
                (None, None) => continue,
            };
            let alone = self.fresh.get(names::KUBE_CA).map(|it| it.alone.clone());
            let config = match (&change.config, alone) {
                (Some(StateConfig::Admin { .. }), Some(alone)) => self.admin_config(alone),
                _ => None,
            };
            entries.insert(
                entry.clone(),
                EntryChange {
                    certificate: Some(certificate),
                    key: None,
                    config,
                    ..change.clone()
                },
            );
        }
        Phase {
            entries,
            removed: Vec::new(),
            reason: "the new root alone is trusted from now on".to_owned(),
        }
    }

    fn leaf(&mut self, spec: &LeafSpec) -> Result<EntryChange, RotateError> {
        let issuer = match self.fresh.get(spec.issuer) {
            Some(fresh) => fresh.issuer.clone(),
            None => authority::present(self.request, &self.scene.bundle, spec.issuer)?,
        };
        let id = LeafId(spec.entry.clone());
        let leaf = leaf(self.request, spec, &issuer)?;
        self.changes.leaves.insert(id.clone(), leaf);
        let config = match spec.entry.as_str() {
            names::KUBE_ADMIN => self.admin_config(self.trusted()),
            entry => host_config(entry),
        };
        Ok(EntryChange {
            certificate: Some(Content::LeafCertificate(id.clone())),
            key: Some(Content::LeafKey(id.clone())),
            config,
            leaf: Some(id),
            issuer: Some(spec.issuer),
            local: None,
        })
    }

    /// The trust bundle that the administrator gets.
    fn trusted(&self) -> String {
        match self.fresh.get(names::KUBE_CA) {
            Some(fresh) => fresh.bundle.clone(),
            None => {
                let present = self.scene.bundle.get(names::KUBE_CA);
                present.map_or_else(String::new, |entry| entry.certificate_pem.clone())
            }
        }
    }

    fn admin_config(&self, authority: String) -> Option<StateConfig> {
        let server = self.scene.admin_node()?;
        Some(StateConfig::Admin {
            server: kubeconfig::admin_server(&server.address),
            cluster: self.scene.config.cluster_name.clone(),
            authority,
            path: self.request.site.kubeconfig_spelled.clone(),
        })
    }

    /// A service-account entry as RKE makes it where there was none: certificate and key of
    /// another entry.
    fn copied(&mut self, of: &str) -> EntryChange {
        let Some(other) = self.scene.bundle.get(of) else {
            return EntryChange::default();
        };
        let staged = authority::staged_key(names::SERVICE_ACCOUNT_TOKEN, &other.key_pem);
        let key = staged_content(&staged);
        self.changes.staged.push(staged);
        EntryChange {
            certificate: Some(Content::Text(other.certificate_pem.clone())),
            key: Some(key),
            ..EntryChange::default()
        }
    }

    /// What `cluster.yml` brings along, if it differs from what is there.
    fn given(&mut self, given: &Entry) -> Option<(String, EntryChange)> {
        let present = self.scene.bundle.get(&given.name);
        let same = |it: &&Entry| {
            it.certificate_pem == given.certificate_pem && it.key_pem == given.key_pem
        };
        if present.is_some_and(|it| same(&it)) {
            return None;
        }
        let key = (!given.key_pem.is_empty()).then(|| {
            let staged = authority::staged_key(&given.name, &given.key_pem);
            let content = staged_content(&staged);
            self.changes.staged.push(staged);
            content
        });
        let change = EntryChange {
            certificate: Some(Content::Text(given.certificate_pem.clone())),
            key,
            ..EntryChange::default()
        };
        Some((given.name.clone(), change))
    }
}

impl Scene {
    /// The control-plane node that the administrator's kubeconfig points to: the one that it
    /// points to now, if that is there, or else the first that is.
    pub fn admin_node(&self) -> Option<&crate::rke::Node> {
        let planes = || self.nodes().filter(|node| node.has(Role::ControlPlane));
        let here = || planes().filter(|node| !self.is_skipped(node));
        let named = self.admin_server.as_deref();
        let named = named.map(|it| it.trim_end_matches('/'));
        let present = here().find(|node| {
            let server = kubeconfig::admin_server(&node.address);
            named == Some(server.as_str())
        });
        present
            .or_else(|| here().next())
            .or_else(|| planes().next())
    }
}

/// The leaf whose key signs service-account tokens, anew.
fn service_account(scene: &Scene) -> Result<Option<LeafSpec>, RotateError> {
    let all = generate::first(&scene.config)?;
    let mut leaves = all.leaves.into_iter();
    Ok(leaves.find(|leaf| leaf.entry == names::SERVICE_ACCOUNT_TOKEN))
}

/// An entry's kubeconfig on hosts, for the state.
fn host_config(entry: &str) -> Option<StateConfig> {
    names::has_host_config(entry).then(|| StateConfig::Text(kubeconfig::host(entry)))
}

/// A staged secret, by name and digest.
pub(super) fn staged_content(staged: &Staged) -> Content {
    Content::Staged {
        name: staged.name.clone(),
        sha256: pki::sha256(&staged.bytes).to_string(),
    }
}

fn leaf(request: &Request<'_>, spec: &LeafSpec, issuer: &Issuer) -> Result<Leaf, RotateError> {
    let make = |source| RotateError::Make {
        what: format!("the certificate {}", spec.entry),
        source,
    };
    let validity = leaf_validity(request.now, issuer.certificate.validity());
    if validity.not_after <= request.now {
        return Err(RotateError::NoTime {
            entry: spec.entry.clone(),
            end: validity.not_after,
        });
    }
    let serial = Serial::random(|bytes| request.entropy.fill(bytes)).map_err(make)?;
    Ok(Leaf {
        key: KeyOrigin::New {
            algorithm: spec.algorithm().to_string(),
        },
        certificate: Some(LeafCertificate {
            organizations: spec.organizations.clone(),
            common_name: spec.common_name.clone(),
            sans: spec.sans.iter().map(San::to_string).collect(),
            purposes: spec.purposes.iter().map(purpose).collect(),
            serial: serial.to_string(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            issuer: IssuerRef {
                certificate: issuer.certificate.to_pem(),
                key: issuer.key.clone(),
                spki: issuer.certificate.spki_sha256().to_string(),
            },
            chain: issuer.chain.iter().map(Certificate::to_pem).collect(),
        }),
    })
}

fn purpose(purpose: &Purpose) -> String {
    match purpose {
        Purpose::ServerAuth => "server-auth".to_owned(),
        Purpose::ClientAuth => "client-auth".to_owned(),
        Purpose::Any => "any".to_owned(),
        Purpose::Other(oid) => oid.clone(),
    }
}
