//! Images under the names that RKE 1.6 gives them, from files of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::guard;
use super::host::Host;
use super::network::Network;

/// What RKE uses for its own errands: a shell and the usual commands (BusyBox).
pub const TOOLS_IMAGE: &str = "rancher/rke-tools:v0.1.103";

/// Debian's etcd.
pub const ETCD_IMAGE: &str = "rancher/mirrored-coreos-etcd:v3.5.12";

/// What stands in for the Kubernetes components.
pub const KUBERNETES_IMAGE: &str = "rancher/hyperkube:v1.30.5-rancher1";

/// How engines keep the files of containers: in layers, as everywhere, or as copies where the kernel
/// has no such file system (or does not let us have it), which take their time and their memory.
pub(super) fn storage() -> &'static str {
    static STORAGE: OnceLock<&str> = OnceLock::new();
    STORAGE.get_or_init(|| {
        let words = ["--mount", "sh", "-ec", LAYERS];
        match crate::run("unshare", &words, b"").success() {
            true => "overlay2",
            false => "vfs",
        }
    })
}

/// Succeeds where the disk of a machine (a file system in memory) can hold layers.
const LAYERS: &str = "mount -t tmpfs tmpfs /mnt
cd /mnt
mkdir lower upper work merged
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
: >merged/file";

/// `/var/lib/docker` of an engine that has loaded the images and nothing else, to be copied.
pub(super) fn store() -> PathBuf {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(make_store).clone()
}

fn make_store() -> PathBuf {
    let images = [
        (TOOLS_IMAGE, tools()),
        (ETCD_IMAGE, etcd()),
        (KUBERNETES_IMAGE, kubernetes()),
    ];
    let mut digest = storage().to_owned();
    for (name, tar) in &images {
        digest.push_str(name);
        digest.push_str(&crate::sha256(tar));
    }
    let digest = crate::sha256(digest.as_bytes());
    let name = digest.get(..16).unwrap_or_default();
    let cache = crate::cache("rke-images");
    let whole = cache.join(name);
    if whole.is_dir() {
        return whole;
    }
    let scratch = tempfile::Builder::new()
        .prefix("new-")
        .tempdir_in(&cache)
        .unwrap_or_else(|error| panic!("no temporary folder: {error}"));
    let fresh = scratch.path().join("docker");
    let network = Network::start();
    let host = Host::assemble(&network, "images", 1, None);
    for (name, tar) in &images {
        host.docker().import(name, tar);
    }
    host.stop_dockerd();
    let from = host.path("/var/lib/docker");
    guard::must(
        "cp",
        &["-a", &from.to_string_lossy(), &fresh.to_string_lossy()],
    );
    // Who an engine is, it finds out when it starts.
    let _ = fs::remove_file(fresh.join("engine-id"));
    // Whoever is second finds it there.
    let _ = rename(&fresh, &whole);
    whole
}

#[expect(clippy::disallowed_methods, reason = "a folder in a cache")]
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)
}

fn tools() -> Vec<u8> {
    Layer::with_shell().tar()
}

fn etcd() -> Vec<u8> {
    let mut layer = Layer::with_shell();
    layer.program("etcd", "usr/local/bin/etcd");
    layer.tar()
}

fn kubernetes() -> Vec<u8> {
    let mut layer = Layer::with_shell();
    layer.file(
        "opt/rke-tools/entrypoint.sh",
        0o755,
        b"#!/bin/sh\nexec \"$@\"\n",
    );
    layer.file("usr/local/bin/components", 0o755, &read(&components()));
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "nginx-proxy",
    ] {
        layer.link(&format!("usr/local/bin/{name}"), "components");
    }
    layer.tar()
}

/// The program that stands in for the Kubernetes components, by the name that it is called by.
/// It is compiled once per source text, whoever asks, and the same source is the same program.
pub(super) fn components() -> PathBuf {
    let sources = [
        ("main.go", include_str!("go/main.go")),
        ("files.go", include_str!("go/files.go")),
        ("components.go", include_str!("go/components.go")),
        ("controllers.go", include_str!("go/controllers.go")),
        ("apiserver.go", include_str!("go/apiserver.go")),
        ("objects.go", include_str!("go/objects.go")),
        ("pods.go", include_str!("go/pods.go")),
        ("etcd.go", include_str!("go/etcd.go")),
        ("writer.go", include_str!("go/writer.go")),
    ];
    crate::opinion::static_go_program(&sources)
}

/// The files of an image. Their times are all the same, so that equal files are an equal image.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    /// BusyBox, every command of it, and the folders that programs expect.
    fn with_shell() -> Self {
        let mut layer = Self(tar::Builder::new(Vec::new()));
        for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
            layer.entry(folder, tar::EntryType::Directory, mode, &[]);
        }
        // Debian has it with and without libraries.
        layer.program("busybox", "bin/busybox");
        let list = guard::must("busybox", &["--list"]);
        for command in list.lines().filter(|it| *it != "busybox") {
            layer.link(&format!("bin/{command}"), "busybox");
        }
        layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n");
        layer.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n");
        layer
    }

    /// A program of this machine with the libraries that it is linked to.
    fn program(&mut self, name: &str, path: &str) {
        let program = find(name);
        self.file(path, 0o755, &read(&program));
        let run = crate::run("ldd", &[&program], b"");
        let said = run.text();
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`
        let words = said.split_whitespace().filter(|it| it.starts_with('/'));
        let mut libraries: Vec<_> = words.filter(|it| !it.ends_with(':')).collect();
        libraries.sort_unstable();
        libraries.dedup();
        for library in libraries {
            self.file(
                library.trim_start_matches('/'),
                0o755,
                &read(Path::new(library)),
            );
        }
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, tar::EntryType::Regular, mode, content);
    }

    fn link(&mut self, path: &str, target: &str) {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        let done = self.0.append_link(&mut header, path, target);
        done.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
        let mut header = header(kind, mode, content.len() as u64);
        let done = self.0.append_data(&mut header, path, content);
        done.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn tar(self) -> Vec<u8> {
        let tar = self.0.into_inner();
        tar.unwrap_or_else(|error| panic!("a tar in memory: {error}"))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a program lies.
fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend([
        "/usr/sbin".into(),
        "/sbin".into(),
        "/usr/bin".into(),
        "/bin".into(),
    ]);
    let found = folders
        .iter()
        .map(|it| it.join(name))
        .find(|it| it.is_file());
    found.unwrap_or_else(|| panic!("no {name}; ./scripts/test installs what tests need"))
}
