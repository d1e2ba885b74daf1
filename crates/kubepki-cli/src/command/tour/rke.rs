//! The third part of the tour: an RKE cluster whose certificates a company's CA takes over. No
//! host is reached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kubepki::apply::plan_id;
use kubepki::edge::{FreshKeys, SystemEntropy};
use kubepki::host::{Attributes, Entry, EntryKind, LocalHost};
use kubepki::machine::ContainerState;
use kubepki::plan;
use kubepki::rke::cert_dir::CertDir;
use kubepki::rke::custom::{Against, verify};
use kubepki::rke::init::{InitRequest, first_state, rke_config};
use kubepki::rke::placement::{components_of, files_of};
use kubepki::rke::rotate::{Options, Request, Site, install};
use kubepki::rke::survey::{FileView, HostView, Seen, Survey};
use kubepki::rke::{ClusterConfig, Files, Half, Node, Rotation, State, names};
use pki::{
    Authority, CertificateRequest, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San,
    Serial, UnixTime, Validity,
};

use super::cas::{Ran, overwrite};
use super::{Tour, bytes, say, title};
use crate::error::CliError;

/// The tour's cluster.
const CLUSTER: &str = "\
cluster_name: tour
nodes:
  - {address: 192.0.2.11, user: rke, role: [controlplane, etcd]}
  - {address: 192.0.2.12, user: rke, role: [controlplane, etcd]}
  - {address: 192.0.2.13, user: rke, role: [etcd, worker]}
authentication:
  sans: [api.example.net]
";

impl Tour {
    pub(super) async fn company(&self) -> Result<(), CliError> {
        let folder = self.beside("rke");
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("cluster.yml");
        overwrite(&config, CLUSTER.as_bytes())?;
        let cluster = format!("--cluster={}", config.display());
        let parsed = ClusterConfig::parse(CLUSTER).map_err(|error| CliError::failed(&error))?;
        title(11, "An RKE cluster: its state file")?;
        let state = self.rke_state(&config, &parsed).await?;
        let ran = self.done(&["state", "show", &cluster])?;
        for line in ran.said.lines().take(5) {
            say(line)?;
        }
        say(&format!(
            "… {} entries, each with its key; nothing else has the CA's.",
            state.bundle(Half::Current).len()
        ))?;
        self.signed_by_a_company(&config, &parsed, &cluster).await?;
        self.plan_for_hosts(&config, &parsed, &state).await
    }

    /// A cluster as `rke up` has left it.
    async fn rke_state(&self, config: &Path, parsed: &ClusterConfig) -> Result<State, CliError> {
        let site = site(config).await?;
        let id = plan_id(self.now, "init", &SystemEntropy)?;
        let mut state = first_state(&InitRequest {
            id: &id,
            config: parsed,
            site: &site,
            now: self.now,
            entropy: &SystemEntropy,
            keys: &FreshKeys,
        })?
        .state;
        state.set_rke_config(Half::Current, rke_config(parsed));
        let made: Vec<String> = state.bundle(Half::Desired).into_keys().collect();
        state.promote(made.iter().map(String::as_str));
        overwrite(&site.state, &state.render())?;
        Ok(state)
    }

    /// Runs a command that has to succeed.
    fn done(&self, words: &[&str]) -> Result<Ran, CliError> {
        let ran = self.run(words, &[])?;
        match ran.code {
            Some(0) => Ok(ran),
            code => Err(CliError::message(format!(
                "kubepki {} ended with {code:?}: {}",
                words.join(" "),
                ran.said
            ))),
        }
    }

    async fn signed_by_a_company(
        &self,
        config: &Path,
        parsed: &ClusterConfig,
        cluster: &str,
    ) -> Result<(), CliError> {
        title(12, "Requests for the company's CA, and what comes back")?;
        let ran = self.done(&["generate-csr", cluster])?;
        say(ran.said.lines().next().unwrap_or_default())?;
        let folder = Files::of(config).cert_dir;
        let company = Company::new(self.now, names::KUBE_CA)?;
        let front = Company::new(self.now, names::REQUEST_HEADER_CA)?;
        for leaf in kubepki::rke::csr::expected(parsed)? {
            let request = folder.join(names::request_file(&leaf.entry));
            let request = CertificateRequest::from_pem(&bytes(&request).await?)?;
            let signer = match leaf.issuer {
                names::REQUEST_HEADER_CA => &front,
                _ => &company,
            };
            let sans = match leaf.entry.as_str() {
                // The first time, the company forgets a name.
                names::KUBE_APISERVER => request.sans().get(1..).unwrap_or_default(),
                _ => request.sans(),
            };
            signer.sign(self.now, (leaf.entry.as_str(), &request), sans, &folder)?;
        }
        company.publish(&folder, names::KUBE_CA)?;
        front.publish(&folder, names::REQUEST_HEADER_CA)?;
        let ran = self.run(&["custom-certs", "verify", cluster], &[])?;
        let finding = ran.said.lines().find(|line| line.starts_with("error"));
        let (Some(finding), Some(4)) = (finding, ran.code) else {
            return Err(CliError::message(format!(
                "a missing name was not found: {}",
                ran.said
            )));
        };
        say(finding)?;
        say("Refused; RKE itself would have installed it. The company signs once more.")?;
        let request = folder.join(names::request_file(names::KUBE_APISERVER));
        let request = CertificateRequest::from_pem(&bytes(&request).await?)?;
        let named = (names::KUBE_APISERVER, &request);
        company.sign(self.now, named, request.sans(), &folder)?;
        let ran = self.done(&["custom-certs", "verify", cluster])?;
        say(ran.said.lines().last().unwrap_or_default())
    }

    /// What `custom-certs install` would do, had the cluster any hosts.
    async fn plan_for_hosts(
        &self,
        config: &Path,
        parsed: &ClusterConfig,
        state: &State,
    ) -> Result<(), CliError> {
        title(13, "The plan that puts them in force on three hosts")?;
        let shown = Files::of(config).cert_dir;
        let directory = CertDir::read(&LocalHost, &shown, &shown).await?;
        let current = state.bundle(Half::Current);
        let verdict = verify(
            &directory,
            &Against {
                config: parsed,
                now: self.now,
                current: Some(&current),
            },
        )?;
        let set = verdict
            .set
            .ok_or_else(|| CliError::message("the certificates cannot be installed"))?;
        let key = bytes(&shown.join(names::key_file(names::KUBE_ADMIN))).await?;
        let key = zeroize::Zeroizing::new(String::from_utf8(key).unwrap_or_default());
        let made = install(
            &Request {
                id: &plan_id(self.now, "install", &SystemEntropy)?,
                rotation: &Rotation::All,
                options: &Options::default(),
                site: &site(config).await?,
                state,
                config: parsed,
                survey: &self.hosts(parsed, state),
                now: self.now,
                entropy: &SystemEntropy,
                keys: &FreshKeys,
            },
            &set,
            Some(key.as_str()),
        );
        let (made, _) = made.map_err(|error| CliError::from_rotation(&error))?;
        let text = plan::show(&made, None);
        let steps = text.lines().skip_while(|line| !line.starts_with("  "));
        for line in steps.take(12) {
            say(line)?;
        }
        let restarts =
            |step: &&plan::Step| matches!(step.action, plan::Action::RestartContainers { .. });
        say(&format!(
            "… {} steps in all, {} of them restarts, each proven before the next; etcd one member \
             at a time, and the old CA trusted until the last one knows the new.",
            made.steps.len(),
            made.steps.iter().filter(restarts).count()
        ))
    }

    /// Hosts as RKE has left them, every container running.
    fn hosts(&self, config: &ClusterConfig, state: &State) -> Survey {
        let bundle = state.bundle(Half::Current);
        let view = |node: &Node| {
            let files = files_of(node, &bundle, config);
            let files = files.into_iter().filter_map(|file| {
                let entry = Entry {
                    kind: EntryKind::File(file.content(&bundle)?),
                    attributes: Attributes::new(file.mode),
                };
                Some((file.name.clone(), FileView::of(&file.name, &entry)))
            });
            let running = ContainerState {
                running: true,
                started: (self.now, 0),
                image: String::new(),
                arguments: Vec::new(),
            };
            let components = components_of(node).into_iter();
            let containers = components.map(|it| (it.name().to_owned(), running.clone()));
            Seen::Here(Box::new(HostView {
                files: Some(files.collect()),
                containers: containers.collect(),
                ..HostView::default()
            }))
        };
        let nodes = config.nodes.iter();
        let hosts: BTreeMap<String, Seen> =
            nodes.map(|it| (it.address.clone(), view(it))).collect();
        Survey {
            taken: self.now,
            hosts,
        }
    }
}

async fn site(config: &Path) -> Result<Site, CliError> {
    let root: PathBuf = config.parent().unwrap_or(Path::new("/")).to_owned();
    let (site, _) = Site::open(&LocalHost, root, &Files::of(config)).await?;
    Ok(site)
}

/// A CA that is nobody's here.
struct Company(Authority);

impl Company {
    fn new(now: UnixTime, entry: &str) -> Result<Self, CliError> {
        let key = PrivateKey::generate(KeyAlgorithm::Rsa(2048))?;
        let name = Name::new(&["Example Ltd".to_owned()], &format!("Example {entry}"))?;
        let validity = Validity {
            not_before: now.plus(-DAY),
            not_after: now.plus(3650 * DAY),
        };
        Ok(Self(Authority::self_signed(
            &name,
            key,
            serial()?,
            validity,
        )?))
    }

    fn sign(
        &self,
        now: UnixTime,
        (entry, request): (&str, &CertificateRequest),
        sans: &[San],
        folder: &Path,
    ) -> Result<(), CliError> {
        let subject = request.subject();
        let organizations: Vec<String> = subject
            .organizations()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let purposes: &[Purpose] = request.purposes();
        let certificate = self.0.issue(&LeafRequest {
            organizations: &organizations,
            common_name: subject.common_name().unwrap_or_default(),
            sans,
            purposes,
            spki_der: request.spki_der(),
            serial: serial()?,
            validity: Validity {
                not_before: now.plus(-DAY),
                not_after: now.plus(365 * DAY),
            },
        })?;
        let path = folder.join(names::certificate_file(entry));
        overwrite(&path, certificate.to_pem().as_bytes())
    }

    fn publish(&self, folder: &Path, entry: &str) -> Result<(), CliError> {
        let path = folder.join(names::certificate_file(entry));
        overwrite(&path, self.0.certificate().to_pem().as_bytes())
    }
}

fn serial() -> Result<Serial, CliError> {
    use kubepki::edge::Entropy as _;

    Ok(Serial::random(|bytes| SystemEntropy.fill(bytes))?)
}
