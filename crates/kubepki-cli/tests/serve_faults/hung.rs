//! The disk of the issuance log hangs: it neither takes what is written nor fails.

use std::path::Path;

use testkit::run;

use crate::{Site, asked_for};

/// A file system in a file of its own.
struct Disk(String);

impl Disk {
    /// `None`, and why, where none can be mounted.
    fn mount(image: &Path, at: &Path) -> Result<Self, String> {
        let [image, at] = [image, at].map(|it| it.display().to_string());
        let script = format!(
            "mkdir -p {at} && truncate -s 16M {image} && mkfs.ext4 -q -F {image} && \
             mount -o loop {image} {at} && rmdir {at}/lost+found"
        );
        let made = run("sh", &["-c", &script], b"");
        match made.success() {
            true => Ok(Self(at)),
            false => Err(made.text()),
        }
    }

    fn freeze(&self) -> Frozen<'_> {
        let frozen = run("fsfreeze", &["-f", &self.0], b"");
        assert!(frozen.success(), "{}", frozen.text());
        Frozen(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0], b"");
    }
}

/// Whatever writes there sleeps in the kernel, and cannot even be killed, until this is dropped.
struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = run("fsfreeze", &["-u", &self.0.0], b"");
    }
}

/// Nothing leaves, what needs no log is served, readyz names the part; the server ends when it is
/// told to; and once the disk goes on all is well.
#[test]
fn a_log_whose_disk_hangs_issues_nothing_and_goes_on() {
    // Leaves that are due at every look.
    let mut site = Site::new(&["--window", "400"]);
    let days = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS".to_owned();
    site.environment = vec![(days, "30".to_owned())];
    let log = site.data_dir().join("kubepki/log");
    let disk = match Disk::mount(&site.folder.path().join("image"), &log) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut server = site.start();
    let request = site.request();
    assert_eq!(server.ask(&request, "a").0, 200);

    let frozen = disk.freeze();
    for node in ["a", "b"] {
        let (code, body) = server.ask(&request, node);
        assert_eq!(code, 503, "{body}");
        assert!(!body.contains("BEGIN CERTIFICATE"), "{body}");
    }
    for path in ["/cacerts", "/ping", "/healthz", "/v1-k3s/config"] {
        assert_eq!(server.curl(path, &[]).0, 200, "{path}");
    }
    let (code, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert_eq!(code, 200, "{ready}");
    assert!(
        ready.contains("warning: issuance-log: ") && ready.contains("hangs"),
        "{ready}"
    );
    let (_, metrics) = server.curl("/metrics", &[]);
    let gauge = "kubepki_part_state{part=\"issuance-log\"} 1";
    assert!(metrics.contains(gauge), "{metrics}");
    // Its own leaves are good for weeks: they stay.
    server.signal("-HUP");
    let told = server.until(r#""message":"needs a look","part":"leaves""#);
    assert!(told.contains("hangs"), "{told}");
    drop(frozen);
    server.until_asked(&request, 200);
    let (_, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert!(!ready.contains("issuance-log"), "{ready}");
    server.signal("-HUP");
    server.until("a leaf of this node was renewed");
    server.until(r#""message":"in order again","part":"leaves""#);
    // The one write that hung was done; of what was refused after it nothing is written.
    assert_eq!(asked_for(&site), 3);

    let frozen = disk.freeze();
    assert_eq!(server.ask(&request, "a").0, 503);
    server.signal("-TERM");
    let told = server.until(r#""message":"stopped""#);
    assert!(told.contains("hangs"), "{told}");
    // Nothing of it is in the way, but the kernel lets no process go that waits for a disk.
    assert_eq!(server.curl("/ping", &[]).0, 0);
    drop(frozen);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let server = site.start();
    assert_eq!(server.ask(&request, "a").0, 200);
    server.terminate();
    // Whether the write was done that it died at depends on the kernel.
    assert!([4, 5].contains(&asked_for(&site)));
    let verified = site.kubepki(&["log", "verify"]);
    assert_eq!(verified.code, Some(0), "{}", verified.text());
}
