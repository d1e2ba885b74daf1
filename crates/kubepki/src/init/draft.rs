//! From what is wanted and what is there to a plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pki::{Certificate, Digest, PrivateKey, Purpose, San, sha256};
use zeroize::Zeroizing;

use super::authorities::{Authorities, Standing, state_of_authorities};
use super::survey::{MODES, directory_mode};
use super::{InitError, Request, Staged, Token, hash_of, make, settings};
use crate::catalogue::{Kind, Row, Side};
use crate::cluster::{LeafWant, Policy, Wishes};
use crate::host::Attributes;
use crate::inventory::{
    DetectedRelease, Facts, Found, Inventory, KeyFacts, Observed, ObservedRow, Present,
};
use crate::kubeconfig::{Reference, render_reference};
use crate::plan::{
    self, Action, Before, Content, Fingerprint, FingerprintKind, KeyOrigin, Leaf, LeafId,
    PLAN_FORMAT, Plan, SecretRef, Selection, Step, Target, due, plan_leaves,
};

/// Plans a server: see [`super::plan_init`].
pub(super) fn plan(request: &Request<'_>) -> Result<(Plan, Vec<Staged>), InitError> {
    let mut draft = Draft::new(request);
    let authorities = draft.authorities()?;
    draft.make_authorities(&authorities)?;
    draft.first_certificates();
    draft.leaves()?;
    draft.service_keys(&authorities)?;
    draft.listener()?;
    draft.kubeconfigs();
    draft.secrets()?;
    draft.settings();
    draft.agent_copies();
    draft.admin_kubeconfig();
    Ok(draft.finish())
}

/// A plan in the making.
struct Draft<'a> {
    request: &'a Request<'a>,
    /// What is there, with what the plan puts in place of CAs.
    inventory: Inventory,
    release: DetectedRelease,
    policy: Policy,
    plan: Plan,
    staged: Vec<Staged>,
    /// Where keys lie until their step is done, by their place in the tree.
    staged_keys: BTreeMap<PathBuf, String>,
}

impl<'a> Draft<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        let mut inventory = request.survey.inventory.clone();
        let release = release(request, &inventory);
        inventory.release = release;
        let plan = Plan {
            format: PLAN_FORMAT,
            id: request.id.clone(),
            undoes: None,
            title: format!("make the server {}", request.spec.node.name),
            node: request.spec.node.name.clone(),
            root: inventory.site.data_dir.clone(),
            created: request.now,
            hypothetical: false,
            leaves: BTreeMap::new(),
            steps: Vec::new(),
            notes: Vec::new(),
        };
        Self {
            request,
            inventory,
            release,
            policy: Policy::k3s(release),
            plan,
            staged: Vec::new(),
            staged_keys: BTreeMap::new(),
        }
    }

    fn authorities(&mut self) -> Result<Authorities, InitError> {
        let token_ca = self.inventory.site.server().join("tls/token-ca.crt");
        if self
            .inventory
            .strays
            .iter()
            .any(|stray| stray.path == token_ca)
        {
            return Err(InitError::Legacy { path: token_ca });
        }
        let found = state_of_authorities(&self.inventory, self.release, self.request.now)
            .map_err(|faults| InitError::Authorities { faults })?;
        if found.is_partial() && !self.request.spec.complete {
            return Err(InitError::Incomplete {
                missing: found.missing,
            });
        }
        Ok(found)
    }

    /// The CAs that are missing; what is there is only looked at.
    fn make_authorities(&mut self, authorities: &Authorities) -> Result<(), InitError> {
        for index in 0..self.inventory.rows.len() {
            let Some(observed) = self.inventory.rows.get(index).cloned() else {
                continue;
            };
            let Kind::Authority { common_name, signs } = observed.row.kind else {
                continue;
            };
            let Some(key) = &observed.key else { continue };
            let present = match authorities.standing(observed.row.id) {
                Standing::Whole => {
                    self.note_early_end(&observed);
                    continue;
                }
                Standing::KeyOnly => Some(self.lone_key(&key.path)?),
                Standing::Absent => None,
            };
            let keeps = present.is_some();
            let made = make::authority(self.request, common_name, present)?;
            let reason = if keeps {
                format!("signs {signs}; is missing, its key is there")
            } else {
                format!("signs {signs}")
            };
            if !keeps {
                let name = format!("{}.key", observed.row.id);
                let bytes = make::pem(made.key(), &name)?;
                self.stage_secret(key, &name, bytes, &reason);
                self.staged_keys.insert(key.path.clone(), name);
            }
            let pem = made.certificate().to_pem();
            self.put(
                &observed.file,
                observed.row.mode(),
                Content::Text(pem.clone()),
                &reason,
            );
            let facts = KeyFacts {
                spki: made.key().spki_sha256(),
                algorithm: made.key().algorithm(),
            };
            if let Some(row) = self.inventory.rows.get_mut(index) {
                let certificates = Facts::Certificates(vec![made.certificate().clone()]);
                row.file.found =
                    foreseen(sha256(pem.as_bytes()), observed.row.mode(), certificates);
                if let (Some(key), false) = (&mut row.key, keeps) {
                    key.found = foreseen(Digest([0; 32]), 0o600, Facts::Keys(vec![facts]));
                }
            }
        }
        Ok(())
    }

    fn lone_key(&self, path: &Path) -> Result<PrivateKey, InitError> {
        let failed = |source| InitError::Key {
            path: path.to_owned(),
            source,
        };
        let missing = pki::Error::NoPemBlock {
            expected: "PRIVATE KEY",
        };
        let pem = self
            .request
            .survey
            .keys
            .get(path)
            .ok_or_else(|| failed(missing))?;
        PrivateKey::from_pem(pem).map_err(failed)
    }

    fn note_early_end(&mut self, observed: &ObservedRow) {
        let Some(ca) = observed.file.first_certificate() else {
            return;
        };
        let end = make::ends_early(ca, self.request.now, self.policy.lifetime);
        let signs = self
            .inventory
            .flavour
            .signed_by(observed.row.id)
            .next()
            .is_some();
        if let (Some(end), true) = (end, signs) {
            let path = observed.file.path.display();
            self.plan
                .notes
                .push(format!("{path} ends {end}, and its leaves end with it"));
        }
    }

    /// `*.nochain.crt`: K3s writes them at every start.
    fn first_certificates(&mut self) {
        for observed in self.rows(|kind| matches!(kind, Kind::FirstOf { .. })) {
            let Kind::FirstOf { authority } = observed.row.kind else {
                continue;
            };
            let Some(first) = self.inventory.authority(authority).first() else {
                continue;
            };
            if self.wants(&observed) || observed.file.first_certificate() != Some(first) {
                let pem = first.to_pem();
                let reason = format!("{authority} alone");
                self.put_unless_same(&observed.file, observed.row.mode(), pem, &reason);
            }
        }
    }

    /// What is missing, and what K3s's start would make anew.
    fn leaves(&mut self) -> Result<(), InitError> {
        let spec = self.request.spec;
        let wishes = self.wishes();
        let now = self.request.now;
        let due =
            due(&self.inventory, &wishes, &self.policy, now).map_err(plan::PlanError::from)?;
        let mut selected = due.selected;
        // Settings decide over this one, and here they are known.
        if let Some(row) = self.inventory.row("etcd-server-client")
            && row.file.is_absent()
            && !spec.disable_etcd
            && self.release_has(row.row)
        {
            selected.push(Selection {
                row: row.row.id,
                reason: "etcd: is missing".to_owned(),
            });
        }
        let side = |selection: &Selection| self.inventory.row(selection.row).map(|o| o.row.side);
        selected.retain(|it| side(it) == Some(Side::Server) || spec.with_agent);
        let mut inventory = self.inventory.clone();
        // A kubeconfig that is still to be made inlines nothing yet.
        inventory
            .rows
            .retain(|o| o.row.side != Side::Admin || !o.file.is_absent());
        let leaves = plan_leaves(&self.plan_request(&inventory, &wishes), &selected)?;
        for (id, mut leaf) in leaves.leaves {
            self.use_staged_key(&mut leaf);
            self.plan.leaves.insert(id, leaf);
        }
        self.plan.steps.extend(leaves.steps);
        self.plan
            .notes
            .extend(due.notes.into_iter().chain(leaves.notes));
        Ok(())
    }

    fn wishes(&self) -> Wishes {
        let node = self.request.spec.node.clone();
        Wishes {
            add_sans: node
                .tls_sans
                .iter()
                .map(|text| San::from_text(text))
                .collect(),
            node: Some(node),
            drop_sans: Vec::new(),
            release: self.release,
        }
    }

    fn plan_request<'b>(
        &'b self,
        inventory: &'b Inventory,
        wishes: &'b Wishes,
    ) -> plan::Request<'b> {
        plan::Request {
            id: self.plan.id.clone(),
            title: self.plan.title.clone(),
            inventory,
            wishes,
            policy: self.policy,
            now: self.request.now,
            hypothetical: false,
            entropy: self.request.entropy,
        }
    }

    /// A CA key that is still to be put in place signs from where it is staged.
    fn use_staged_key(&self, leaf: &mut Leaf) {
        let Some(certificate) = &mut leaf.certificate else {
            return;
        };
        if let SecretRef::File(path) = &certificate.issuer.key
            && let Some(name) = self.staged_keys.get(path)
        {
            certificate.issuer.key = SecretRef::Staged(name.clone());
        }
    }

    fn service_keys(&mut self, authorities: &Authorities) -> Result<(), InitError> {
        let rows = self.inventory.clone();
        let Some(all) = rows.row("service.key") else {
            return Ok(());
        };
        let first = match authorities.standing("service.key") {
            Standing::Whole => match self.request.survey.keys.get(&all.file.path) {
                Some(pem) => PrivateKey::from_pem(pem).map_err(|source| InitError::Key {
                    path: all.file.path.clone(),
                    source,
                })?,
                // The other file is there too.
                None => return Ok(()),
            },
            Standing::Absent | Standing::KeyOnly => {
                let key = make::service_key(self.request)?;
                let bytes = make::pem(&key, "service.key")?;
                let reason = "signs service-account tokens";
                self.stage_secret(&all.file, "service.key", bytes, reason);
                key
            }
        };
        let Some(current) = rows.row("service.current.key") else {
            return Ok(());
        };
        if self.wants(current) {
            let bytes = make::pem(&first, "service.current.key")?;
            let reason = "the service-account key that signs";
            self.stage_secret(&current.file, "service.current.key", bytes, reason);
        }
        Ok(())
    }

    fn listener(&mut self) -> Result<(), InitError> {
        let Some(observed) = self.inventory.row("dynamic-listener").cloned() else {
            return Ok(());
        };
        let Kind::Listener { authority } = observed.row.kind else {
            return Ok(());
        };
        if !observed.file.is_absent() {
            return Ok(());
        }
        let node = &self.request.spec.node;
        let mut names: Vec<String> = node
            .server_names()
            .iter()
            .chain(&node.service_names())
            .map(San::to_string)
            .collect();
        // K3s keeps them as sorted annotations.
        names.sort();
        let want = LeafWant {
            organizations: vec!["k3s".to_owned()],
            common_name: "k3s".to_owned(),
            sans: names.iter().map(|name| San::from_text(name)).collect(),
            purposes: vec![Purpose::ServerAuth],
        };
        let wishes = self.wishes();
        let inventory = self.inventory.clone();
        let certificate =
            plan::certificate(&self.plan_request(&inventory, &wishes), want, authority)?;
        let key = KeyOrigin::New {
            algorithm: self.policy.algorithm.to_string(),
        };
        let mut leaf = Leaf {
            key,
            certificate: Some(certificate),
        };
        self.use_staged_key(&mut leaf);
        let id = LeafId(observed.row.id.to_owned());
        self.plan.leaves.insert(id.clone(), leaf);
        self.put(
            &observed.file,
            0o600,
            Content::NewListenerSecret { leaf: id },
            "is missing",
        );
        Ok(())
    }

    /// Kubeconfigs that point to files, for components.
    fn kubeconfigs(&mut self) {
        let spec = self.request.spec;
        let recorded = self.inventory.site.recorded_data_dir.clone();
        for observed in self.rows(|kind| matches!(kind, Kind::Kubeconfig { .. })) {
            let Kind::Kubeconfig { leaf, authority } = observed.row.kind else {
                continue;
            };
            let Some(leaf_row) = self.inventory.flavour.row(leaf) else {
                continue;
            };
            if !self.wants(&observed) {
                continue;
            }
            let (side, port) = match observed.row.side {
                Side::Agent => (recorded.join("agent"), spec.https_port),
                Side::Server | Side::Admin => (recorded.join("server"), spec.apiserver_port),
            };
            let path = |file: PathBuf| side.join(file).display().to_string();
            let text = render_reference(&Reference {
                server: &spec.loopback_url(port),
                authority: &path(authority.into()),
                certificate: &path(leaf_row.file()),
                key: &path(leaf_row.key_file().unwrap_or_default()),
            });
            let reason = format!("points to {leaf}");
            self.put(
                &observed.file,
                observed.row.mode(),
                Content::Text(text),
                &reason,
            );
        }
    }

    /// `passwd`, `token` and its other names, `ipsec.psk`.
    fn secrets(&mut self) -> Result<(), InitError> {
        let own = self.authority_hash();
        let passwd = make::passwords(self.request, own)?;
        let file = |draft: &Self, id| draft.inventory.row(id).cloned();
        if let Some(row) = file(self, "passwd")
            && (row.file.is_absent() || passwd != self.request.survey.passwd)
        {
            let bytes = Zeroizing::new(passwd.to_text().as_bytes().to_vec());
            self.stage_secret(
                &row.file,
                "passwd",
                bytes,
                "passwords of servers and agents",
            );
        }
        if let Some(row) = file(self, "ipsec.psk")
            && row.file.is_absent()
        {
            let bytes = make::pre_shared_key(self.request)?;
            self.stage_secret(&row.file, "ipsec.psk", bytes, "pre-shared key");
        }
        let text_of = |user: &str| {
            let password = passwd.password(user)?.clone();
            let token = Token::new(own, user, password);
            Some((
                Zeroizing::new(format!("{}\n", *token.to_text()).into_bytes()),
                token,
            ))
        };
        let Some((bytes, token)) = text_of("server") else {
            return Ok(());
        };
        if let Some(row) = file(self, "token") {
            if !is_file(&row.file, &bytes) && !is_link(&row.file) {
                let reason = "pins the server CA, proves a server";
                self.stage_secret(&row.file, "token", bytes, reason);
            }
            let path = row.file.path.display();
            self.plan
                .notes
                .push(format!("servers join with the token in {path}: {token}"));
            let link = self.inventory.site.recorded_data_dir.join("server/token");
            if let Some(row) = file(self, "node-token")
                && row.file.is_absent()
            {
                self.put(
                    &row.file,
                    0o777,
                    Content::Link(link.clone()),
                    "the token's old name",
                );
            }
            if let Some(row) = file(self, "agent-token")
                && self.wants(&row)
            {
                match text_of("node") {
                    Some((bytes, agent))
                        if passwd.password("node") != passwd.password("server") =>
                    {
                        self.stage_secret(&row.file, "agent-token", bytes, "agents join with it");
                        self.plan.notes.push(format!("agents join with {agent}"));
                    }
                    _ => self.put(&row.file, 0o777, Content::Link(link), "agents join with it"),
                }
            }
        }
        Ok(())
    }

    /// The hash that this cluster's tokens pin.
    fn authority_hash(&self) -> Digest {
        let Some(observed) = self.inventory.row("server-ca") else {
            return Digest([0; 32]);
        };
        let file = match observed
            .file
            .present()
            .map(|present| &present.fingerprint.kind)
        {
            Some(FingerprintKind::File(hex)) => digest(hex),
            _ => None,
        };
        let file = file.unwrap_or(Digest([0; 32]));
        let certificates = observed.file.certificates();
        match self.release {
            // The same releases that take CAs under other CAs hash their root.
            DetectedRelease::Known(release) if !super::authorities::outer_authorities(release) => {
                file
            }
            _ => hash_of(file, certificates, self.request.now),
        }
    }

    fn settings(&mut self) {
        let spec = self.request.spec;
        let tls = self
            .inventory
            .site
            .recorded_data_dir
            .join("server/tls")
            .display()
            .to_string();
        let texts = [
            (
                "egress-selector-config",
                settings::egress_selector(spec, &tls),
            ),
            ("cloud-config", settings::cloud_config(spec)),
        ];
        for (id, text) in texts {
            if let Some(row) = self.inventory.row(id).cloned()
                && self.wants(&row)
            {
                self.put(
                    &row.file,
                    row.row.mode(),
                    Content::Text(text),
                    row.row.summary,
                );
            }
        }
    }

    /// The agent's copies of what it trusts.
    fn agent_copies(&mut self) {
        for observed in self.rows(|kind| matches!(kind, Kind::CopyOf { .. })) {
            let Kind::CopyOf { authority } = observed.row.kind else {
                continue;
            };
            let Some(source) = self.inventory.row(authority) else {
                continue;
            };
            if !self.wants(&observed) {
                continue;
            }
            if let Some(FingerprintKind::File(sha256)) = source
                .file
                .present()
                .map(|present| &present.fingerprint.kind)
            {
                let content = Content::CopyOf {
                    path: source.file.path.clone(),
                    sha256: sha256.clone(),
                };
                self.put(
                    &observed.file,
                    observed.row.mode(),
                    content,
                    observed.row.summary,
                );
            }
        }
    }

    /// The kubeconfig for people, where it is in scope and missing.
    fn admin_kubeconfig(&mut self) {
        let spec = self.request.spec;
        for observed in self.rows(|kind| matches!(kind, Kind::AdminKubeconfig { .. })) {
            let Kind::AdminKubeconfig { leaf, authority } = observed.row.kind else {
                continue;
            };
            let id = LeafId(leaf.to_owned());
            if !observed.file.is_absent() {
                continue;
            }
            if !self.plan.leaves.contains_key(&id) {
                // Its key is in the tree and in no plan: K3s writes this file at every start.
                let path = observed.file.path.display();
                self.plan.notes.push(format!(
                    "{path} is missing; K3s writes it at its next start"
                ));
                continue;
            }
            let bundle = self.inventory.authority(authority);
            let content = Content::NewKubeconfig {
                name: "default".to_owned(),
                server: spec.people_url(),
                authority: bundle.iter().map(Certificate::to_pem).collect(),
                preferences: writes_preferences(self.release),
                leaf: id,
            };
            self.put(
                &observed.file,
                spec.kubeconfig_mode,
                content,
                observed.row.summary,
            );
        }
    }

    /// Rows of a kind, agent's only if they are wanted.
    fn rows(&self, kind: impl Fn(&Kind) -> bool) -> Vec<ObservedRow> {
        self.inventory
            .rows
            .iter()
            .filter(|o| o.row.side != Side::Agent || self.request.spec.with_agent)
            .filter(|o| kind(&o.row.kind))
            .cloned()
            .collect()
    }

    fn wants(&self, observed: &ObservedRow) -> bool {
        observed.file.is_absent() && self.release_has(observed.row)
    }

    fn release_has(&self, row: &Row) -> bool {
        self.release.expects(row)
    }

    fn put_unless_same(&mut self, file: &Observed, mode: u32, text: String, reason: &str) {
        if !is_file(file, text.as_bytes()) && !is_link(file) {
            self.put(file, mode, Content::Text(text), reason);
        }
    }

    /// Stages secret bytes and plans to put them at `file`.
    fn stage_secret(
        &mut self,
        file: &Observed,
        name: &str,
        bytes: Zeroizing<Vec<u8>>,
        reason: &str,
    ) {
        let sha256 = sha256(&bytes).to_string();
        self.put(
            file,
            0o600,
            Content::Staged {
                name: name.to_owned(),
                sha256,
            },
            reason,
        );
        self.staged.push(Staged {
            name: name.to_owned(),
            bytes,
        });
    }

    fn put(&mut self, file: &Observed, mode: u32, content: Content, reason: &str) {
        // A replacement keeps owner, mode and labels; only its time is new.
        let (before, attributes) = match file.present() {
            Some(present) => {
                let kept = present.fingerprint.attributes.clone();
                let attributes = Attributes {
                    mtime: None,
                    ..kept
                };
                (Before::Present(present.fingerprint.clone()), attributes)
            }
            None => (Before::Absent, Attributes::new(mode)),
        };
        self.plan
            .steps
            .push(step(&file.path, before, attributes, content, reason));
    }

    /// The plan with the directories that its files need, numbered.
    fn finish(mut self) -> (Plan, Vec<Staged>) {
        let mut steps = self.directories();
        steps.append(&mut self.plan.steps);
        for (step, number) in steps.iter_mut().zip(1_u32..) {
            step.number = number;
        }
        self.plan.steps = steps;
        if self.plan.steps.is_empty() {
            self.plan.title = format!("nothing to make: {} is whole", self.plan.root.display());
            self.plan.notes.clear();
        }
        (self.plan, self.staged)
    }

    fn directories(&self) -> Vec<Step> {
        let data_dir = &self.inventory.site.data_dir;
        let known = |path: &Path| self.request.survey.directories.get(path).copied();
        let mut wanted: Vec<&Path> = Vec::new();
        for step in &self.plan.steps {
            let Target::File { path, .. } = &step.target else {
                continue;
            };
            let above = path
                .ancestors()
                .skip(1)
                .filter(|path| known(path) == Some(false));
            wanted.extend(above);
        }
        let scratch = data_dir.join(TEMPORARY);
        if wanted.iter().any(|path| path.ends_with("server/tls")) {
            wanted.push(&scratch);
        }
        // A directory sorts before what lies in it.
        wanted.sort_unstable();
        wanted.dedup();
        let mode = |path: &Path| path.strip_prefix(data_dir).map_or(0o755, directory_mode);
        let directory = |path: &Path| {
            let attributes = Attributes::new(mode(path));
            step(
                path,
                Before::Absent,
                attributes,
                Content::Directory,
                "is missing",
            )
        };
        wanted.into_iter().map(directory).collect()
    }
}

/// The API server's own scratch directory, which K3s makes with the others.
const TEMPORARY: &str = MODES[2].0;

fn step(
    path: &Path,
    before: Before,
    attributes: Attributes,
    content: Content,
    reason: &str,
) -> Step {
    Step {
        number: 0,
        target: Target::File {
            host: "local".to_owned(),
            path: path.to_owned(),
        },
        before,
        action: Action::Put {
            attributes,
            content,
        },
        reason: reason.to_owned(),
    }
}

/// Which K3s: as the operator says, else as the files tell, else the newest.
fn release(request: &Request<'_>, inventory: &Inventory) -> DetectedRelease {
    let has_leaves = inventory
        .rows
        .iter()
        .any(|o| o.row.leaf().is_some() && o.row.side == Side::Server && !o.file.is_absent());
    match request.spec.release {
        Some(release) => DetectedRelease::Known(release),
        None if has_leaves => inventory.release,
        None => DetectedRelease::Known(super::NEWEST),
    }
}

/// Whether client-go of that release still writes `preferences: {}` into kubeconfigs.
fn writes_preferences(release: DetectedRelease) -> bool {
    matches!(release, DetectedRelease::Known(release) if release.minor < 34)
}

/// What a file will be once its step is done.
fn foreseen(content: Digest, mode: u32, facts: Facts) -> Found {
    let kind = FingerprintKind::File(content.to_string());
    let fingerprint = Fingerprint {
        kind,
        attributes: Attributes::new(mode),
    };
    Found::Present(Box::new(Present { fingerprint, facts }))
}

fn is_file(file: &Observed, bytes: &[u8]) -> bool {
    let kind = file.present().map(|present| &present.fingerprint.kind);
    matches!(kind, Some(FingerprintKind::File(found)) if *found == sha256(bytes).to_string())
}

fn is_link(file: &Observed) -> bool {
    matches!(
        file.present().map(|present| &present.facts),
        Some(Facts::Link(_))
    )
}

fn digest(hex: &str) -> Option<Digest> {
    Some(Digest(pki::unhex(hex)?.try_into().ok()?))
}
