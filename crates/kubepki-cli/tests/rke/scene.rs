//! A cluster as a first `rke up` leaves it, and the program on the operator's machine.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kubepki::rke::{Entry, Files, Half, State};
use testkit::rke::{Cluster, Role, Spec, Starts, restarted};
use testkit::{Run, TlsFiles};

/// The program under test.
const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// Node and container.
pub type Places = BTreeSet<(String, String)>;

/// By node and file name: mode and bytes.
pub type OnHosts = BTreeMap<(String, String), (u32, Vec<u8>)>;

/// A running cluster whose first certificates are kubepki's, and its operator's folder.
pub struct Scene {
    pub cluster: Cluster,
    /// `cluster.yml`, by whatever name.
    pub config: PathBuf,
    /// All that the program ever said.
    said: RefCell<Vec<u8>>,
}

/// All that a plan may change, at one moment.
pub struct Snapshot {
    pub starts: Starts,
    pub hosts: OnHosts,
    state: Vec<u8>,
    kubeconfig: Vec<u8>,
}

impl Scene {
    /// A cluster that runs.
    pub fn start(spec: &Spec) -> Self {
        Self::start_as(spec, "cluster.yml", |_, _| ())
    }

    /// The same with another name for `cluster.yml`, in a folder of the operator's or below it,
    /// and with another text.
    pub fn start_as(spec: &Spec, config: &str, edit: impl Fn(&Cluster, &mut String)) -> Self {
        let cluster = Cluster::prepare(spec);
        let path = cluster.folder().join(config);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut text = std::fs::read_to_string(cluster.cluster_yml()).unwrap();
        edit(&cluster, &mut text);
        std::fs::remove_file(cluster.cluster_yml()).unwrap();
        std::fs::write(&path, text).unwrap();
        let scene = Self::of(cluster, path);
        scene.first();
        scene.cluster.deploy_state(&scene.state_file());
        scene.cluster.start();
        scene
    }

    /// The cluster that RKE itself made: its state file, its certificates.
    pub fn recorded(fixture: &testkit::Fixture) -> Self {
        let cluster = Cluster::prepare(&Spec::recorded());
        cluster.adopt(fixture);
        cluster.start();
        let config = cluster.cluster_yml();
        Self::of(cluster, config)
    }

    fn of(cluster: Cluster, config: PathBuf) -> Self {
        Self {
            cluster,
            config,
            said: RefCell::default(),
        }
    }

    /// What `rke up` has in the end: desired and current state alike, and the kubeconfig.
    fn first(&self) {
        let run = self.run_bare(&["init", "--yes", "--cluster", text(&self.config)]);
        assert!(run.success(), "{}", run.text());
        let mut state = self.state();
        state.promote_config();
        let names: Vec<String> = state.bundle(Half::Desired).into_keys().collect();
        state.promote(names.iter().map(String::as_str));
        write_private(&self.state_file(), &state.render());
    }

    /// Beside `cluster.yml`.
    pub fn state_file(&self) -> PathBuf {
        Files::of(&self.config).state
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        Files::of(&self.config).kubeconfig
    }

    /// The state as it is now.
    pub fn state(&self) -> State {
        State::parse(&std::fs::read(self.state_file()).unwrap()).unwrap()
    }

    /// An entry of `currentState`.
    #[track_caller]
    pub fn entry(&self, name: &str) -> Entry {
        let entry = self.state().entry(Half::Current, name);
        entry.unwrap_or_else(|| panic!("currentState has no {name}"))
    }

    /// Where plans are kept.
    pub fn state_dir(&self) -> PathBuf {
        let state = self.state_file();
        let folder = state.parent().unwrap().join(".kubepki");
        folder.join(state.file_stem().unwrap())
    }

    /// Runs `kubepki ARGS --cluster … --known-hosts …` as an operator in another folder does.
    pub fn run(&self, args: &[&str]) -> Run {
        let known = self.cluster.known_hosts();
        let mut all = args.to_vec();
        all.extend(["--cluster", text(&self.config)]);
        all.extend(["--known-hosts", text(&known)]);
        self.run_bare(&all)
    }

    /// Runs `kubepki ARGS`.
    pub fn run_bare(&self, args: &[&str]) -> Run {
        let run = testkit::run(KUBEPKI, args, b"");
        let mut said = self.said.borrow_mut();
        said.extend_from_slice(&run.stdout);
        said.extend_from_slice(&run.stderr);
        run
    }

    /// The same, and its exit code must be `code`.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Run {
        let run = self.run(args);
        let why = || format!("kubepki {}: {}", args.join(" "), run.text());
        assert_eq!(run.code, Some(code), "{}", why());
        run
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Run {
        self.ends(args, 0)
    }

    /// The plans that are kept.
    pub fn plans(&self) -> Vec<String> {
        let run = self.ok(&["history", "-o", "json"]);
        let list: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        let ids = list.as_array().unwrap().iter();
        ids.map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The plans that a node keeps old files for.
    pub fn kept(&self, node: &str) -> BTreeSet<String> {
        let ssl = self.cluster.ssl(node);
        let sets = std::fs::read_dir(ssl.with_file_name(".kubepki")).unwrap();
        let names = sets.map(|it| it.unwrap().file_name().into_string().unwrap());
        let plan = |name: String| Some(name.rsplit_once('-')?.0.to_owned());
        names.filter_map(plan).collect()
    }

    /// Whether the API turns this machine away, and nobody else.
    pub fn shut_api(&self, shut: bool) {
        let way = if shut { "-A" } else { "-D" };
        for node in self.cluster.nodes() {
            if node.has(Role::ControlPlane) {
                let host = self.cluster.host(&node.name);
                let us = host.network().address(254).to_string();
                let words = "INPUT -p tcp --dport 6443 -j REJECT --reject-with tcp-reset";
                let mut words: Vec<_> = words.split(' ').collect();
                words.extend(["-s", &us]);
                words.insert(0, way);
                host.must("iptables", &words);
            }
        }
    }

    /// All that the program said so far.
    pub fn said(&self) -> Vec<u8> {
        self.said.borrow().clone()
    }

    /// The pair of a node, which clients of etcd have.
    pub fn node_pair(&self) -> TlsFiles {
        let ssl = self.cluster.ssl("cp1");
        TlsFiles {
            cert: ssl.join("kube-node.pem"),
            key: ssl.join("kube-node-key.pem"),
            trusted: Some(ssl.join("kube-ca.pem")),
        }
    }

    /// Fails unless exactly these containers were started since `before`; the lock, which an
    /// interrupted plan keeps, apart.
    #[track_caller]
    pub fn assert_restarted(&self, before: &Starts, wanted: &Places) {
        let mut found = restarted(before, &self.cluster.starts());
        found.retain(|(_, container)| container != "kubepki");
        assert_eq!(found, *wanted);
    }

    /// These components on every node that has them.
    pub fn everywhere(&self, components: &[&str]) -> Places {
        let mut places = Places::new();
        for node in self.cluster.nodes() {
            for component in components {
                let there = match *component {
                    "etcd" => node.has(Role::Etcd),
                    "kubelet" | "kube-proxy" => true,
                    _ => node.has(Role::ControlPlane),
                };
                if there {
                    places.insert((node.name.clone(), (*component).to_owned()));
                }
            }
        }
        places
    }

    /// All that a plan may change.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            starts: self.cluster.starts(),
            hosts: self.on_hosts(),
            state: std::fs::read(self.state_file()).unwrap(),
            kubeconfig: std::fs::read(self.kubeconfig()).unwrap(),
        }
    }

    /// Fails unless nothing has changed since.
    #[track_caller]
    pub fn assert_untouched(&self, before: &Snapshot) {
        self.assert_restarted(&before.starts, &Places::new());
        self.assert_files(before);
    }

    /// Fails unless every file is as it was.
    #[track_caller]
    pub fn assert_files(&self, before: &Snapshot) {
        let now = self.on_hosts();
        assert!(before.hosts.keys().eq(now.keys()), "other files on hosts");
        for (place, held) in &before.hosts {
            assert!(now[place] == *held, "{place:?} has changed");
        }
        let state = State::parse(&before.state).unwrap();
        for half in [Half::Current, Half::Desired] {
            assert!(self.state().bundle(half) == state.bundle(half), "{half:?}");
        }
        let kubeconfig = std::fs::read(self.kubeconfig()).unwrap();
        assert!(kubeconfig == before.kubeconfig, "another kubeconfig");
        self.assert_nothing_left();
    }

    /// Everything that lies in `/etc/kubernetes/ssl` of every node.
    pub fn on_hosts(&self) -> OnHosts {
        use std::os::unix::fs::PermissionsExt as _;

        let mut found = OnHosts::new();
        for node in self.cluster.nodes() {
            for entry in std::fs::read_dir(self.cluster.ssl(&node.name)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                // What a killed program began may still be at work there.
                let bytes = match std::fs::read(entry.path()) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    bytes => bytes.unwrap(),
                };
                let metadata = entry.metadata();
                let mode = metadata.map_or(0, |it| it.permissions().mode() & 0o7777);
                found.insert((node.name.clone(), name), (mode, bytes));
            }
        }
        found
    }

    /// Fails unless the cluster is whole: desired state reached and proven, served certificates
    /// those of the state and good to OpenSSL, kubeconfig and the copy in the cluster likewise,
    /// nobody refused anybody, nothing of ours left on the hosts.
    #[track_caller]
    pub fn assert_whole(&self) {
        self.cluster.wait_healthy();
        let state = self.state();
        assert!(
            state.bundle(Half::Current) == state.bundle(Half::Desired),
            "desiredState is not reached"
        );
        self.assert_served();
        self.assert_on_hosts(&state);
        self.assert_kubeconfig();
        self.assert_nothing_left();
    }

    /// What is served on each port is what the state holds, and OpenSSL accepts it.
    #[track_caller]
    fn assert_served(&self) {
        for node in self.cluster.nodes() {
            let mut ports = vec![(10250, format!("kube-kubelet-{}", node.id()))];
            if node.has(Role::Etcd) {
                ports.push((2379, format!("kube-etcd-{}", node.id())));
            }
            if node.has(Role::ControlPlane) {
                ports.push((6443, "kube-apiserver".to_owned()));
            }
            for (port, entry) in ports {
                let address = node.address.to_string();
                let served = self.served(&address, port);
                let held = self.entry(&entry).certificate_pem;
                assert_eq!(first(&served), first(&held), "{address}:{port}");
            }
        }
    }

    /// The certificate served at an address, as OpenSSL sees it, which must accept it.
    #[track_caller]
    fn served(&self, address: &str, port: u16) -> String {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let client = self.entry("kube-node");
        let authority = put("ca.pem", self.entry("kube-ca").certificate_pem.as_bytes());
        let cert = put("node.pem", client.certificate_pem.as_bytes());
        let key = put("node-key.pem", client.key_pem.as_bytes());
        let place = format!("{address}:{port}");
        let run = testkit::openssl(
            &[
                "s_client",
                "-connect",
                &place,
                "-cert",
                text(&cert),
                "-key",
                text(&key),
                "-CAfile",
                text(&authority),
                "-verify_return_error",
                "-verify_ip",
                address,
                "-purpose",
                "sslserver",
            ],
            b"",
        );
        let said = run.text();
        assert!(
            run.success() && said.contains("Verify return code: 0 (ok)"),
            "{place}: {said}"
        );
        said
    }

    /// Every file that lies on a host is what the state holds, to the byte.
    #[track_caller]
    fn assert_on_hosts(&self, state: &State) {
        let bundle = state.bundle(Half::Current);
        for ((node, file), (mode, bytes)) in self.on_hosts() {
            let held = bundle.values().find_map(|entry| {
                let stem = file.strip_suffix("-key.pem");
                match (stem, file.strip_suffix(".pem")) {
                    (Some(stem), _) if stem == entry.name => Some(entry.key_pem.as_bytes()),
                    (None, Some(stem)) if stem == entry.name => {
                        Some(entry.certificate_pem.as_bytes())
                    }
                    _ if file == format!("kubecfg-{}.yaml", entry.name) => {
                        Some(entry.config.as_bytes())
                    }
                    _ => None,
                }
            });
            let held = held.unwrap_or_else(|| panic!("{file} on {node} is of no entry"));
            assert!(
                bytes.trim_ascii_end() == held.trim_ascii_end(),
                "{file} on {node} is not what the state holds"
            );
            assert_eq!(mode, 0o600, "{file} on {node}");
        }
    }

    /// The administrator gets in with the kubeconfig, and finds the state in the cluster.
    #[track_caller]
    fn assert_kubeconfig(&self) {
        let (url, folder) = self.unpacked_kubeconfig();
        let said = self.as_admin(&url, &folder, "/version");
        assert!(said.contains("gitVersion"), "{said}");
        let said = self.as_admin(
            &url,
            &folder,
            "/api/v1/namespaces/kube-system/secrets/full-cluster-state",
        );
        let secret: serde_json::Value = serde_json::from_str(&said).unwrap();
        let data = secret["data"]["full-cluster-state"].as_str();
        let saved = unbase64(data.unwrap_or_else(|| panic!("{said}")));
        assert!(!saved.contains(&b'\n'), "it is one line, as RKE's");
        let saved = State::parse(&saved).unwrap();
        assert!(
            saved.bundle(Half::Current) == self.state().bundle(Half::Current),
            "the copy in the cluster is another one"
        );
    }

    fn unpacked_kubeconfig(&self) -> (String, tempfile::TempDir) {
        let text = std::fs::read_to_string(self.kubeconfig()).unwrap();
        let value = |name: &str| {
            let mut lines = text.lines();
            let found = lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            let found = found.unwrap_or_else(|| panic!("the kubeconfig has no {name}"));
            found.trim_matches('"').to_owned()
        };
        let folder = tempfile::tempdir().unwrap();
        for (name, key) in [
            ("ca.pem", "certificate-authority-data"),
            ("cert.pem", "client-certificate-data"),
            ("key.pem", "client-key-data"),
        ] {
            std::fs::write(folder.path().join(name), unbase64(&value(key))).unwrap();
        }
        (value("server"), folder)
    }

    fn as_admin(&self, url: &str, folder: &tempfile::TempDir, path: &str) -> String {
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let all = [
            "-sS".to_owned(),
            "--max-time".to_owned(),
            "30".to_owned(),
            "--cacert".to_owned(),
            file("ca.pem"),
            "--cert".to_owned(),
            file("cert.pem"),
            "--key".to_owned(),
            file("key.pem"),
            format!("{url}{path}"),
        ];
        testkit::run("curl", &all, b"").text()
    }

    /// No helper container, which is the lock, and no staged file.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        for host in self.cluster.hosts() {
            let names = host.docker().names().unwrap();
            assert!(
                !names.iter().any(|it| it.contains("kubepki")),
                "{}: {names:?}",
                host.name()
            );
            let found = host.must("find", &["/etc/kubernetes", "-name", "*.kubepki-*"]);
            assert_eq!(found, "", "{}", host.name());
        }
    }
}

/// A path that the tests made.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The first certificate of a PEM text.
#[track_caller]
fn first(pem: &str) -> String {
    let (_, rest) = pem
        .split_once("-----BEGIN CERTIFICATE-----")
        .unwrap_or_else(|| panic!("no certificate in {pem}"));
    let (body, _) = rest.split_once("-----END").unwrap();
    body.split_whitespace().collect()
}

fn unbase64(text: &str) -> Vec<u8> {
    let run = testkit::openssl_ok(&["base64", "-d", "-A"], text.as_bytes());
    run.stdout
}

pub fn write_private(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Waits until something is there.
#[track_caller]
pub fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(it) = ready() {
            return it;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
