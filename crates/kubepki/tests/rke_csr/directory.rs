//! The directory itself: links, strange things, modes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kubepki::host::LocalHost;
use kubepki::rke::cert_dir::{CertDir, NewFile, write};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::lab::now;

fn failure(path: &Path) -> String {
    let read = CertDir::read(&LocalHost, path, Path::new("./certs"));
    now(read).unwrap_err().to_string()
}

#[test]
fn links_are_followed_and_strange_things_named() {
    let folder = TempDir::new().unwrap();
    let outside = folder.path().join("company.crt");
    fs::write(&outside, b"CA").unwrap();
    let certs = folder.path().join("certs");
    fs::create_dir(&certs).unwrap();
    symlink("../company.crt", certs.join("kube-ca.pem")).unwrap();
    fs::write(certs.join("notes.txt"), b"x").unwrap();
    fs::write(certs.join("empty.pem"), b"").unwrap();
    let read = now(CertDir::read(&LocalHost, &certs, Path::new("./certs"))).unwrap();
    assert_eq!(
        read.names().collect::<Vec<_>>(),
        ["empty.pem", "kube-ca.pem"]
    );
    let file = read.file("kube-ca.pem").unwrap();
    assert_eq!(file.bytes.as_slice(), b"CA");
    assert_eq!(
        fs::canonicalize(&file.path).unwrap(),
        fs::canonicalize(&outside).unwrap()
    );
    assert!(read.file("empty.pem").is_none());
    assert!(!format!("{read:?}").contains("CA\""));

    symlink("kube-x.pem", certs.join("kube-x.pem")).unwrap();
    assert_eq!(
        failure(&certs),
        "./certs/kube-x.pem is a link in a circle; remove or mend it"
    );
    fs::remove_file(certs.join("kube-x.pem")).unwrap();
    symlink("nowhere", certs.join("kube-y.pem")).unwrap();
    assert!(failure(&certs).contains("kube-y.pem is a link to nothing"));
    fs::remove_file(certs.join("kube-y.pem")).unwrap();
    fs::create_dir(certs.join("kube-z.pem")).unwrap();
    assert!(failure(&certs).contains("kube-z.pem is a directory"));
    assert!(failure(&outside).contains("./certs is not a directory"));
    let none = folder.path().join("none");
    let missing = CertDir::read(&LocalHost, &none, Path::new("n"));
    assert!(!now(missing).unwrap().exists);
}

#[test]
fn directories_are_made_private_and_others_left_as_they_are() {
    let folder = TempDir::new().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = NewFile {
        name: "a-key.pem".to_owned(),
        bytes: Zeroizing::new(b"secret".to_vec()),
    };
    assert!(!format!("{file:?}").contains("secret"));
    let deep = folder.path().join("a/b");
    now(write(&LocalHost, &deep, &[])).unwrap();
    assert!(!deep.exists());
    now(write(&LocalHost, &deep, std::slice::from_ref(&file))).unwrap();
    assert_eq!(mode(&deep), 0o700);
    assert_eq!(mode(&deep.join("a-key.pem")), 0o600);
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    now(write(&LocalHost, &open, &[file])).unwrap();
    assert_eq!(mode(&open), 0o755);
    assert_eq!(fs::read_dir(&open).unwrap().count(), 1);
}
