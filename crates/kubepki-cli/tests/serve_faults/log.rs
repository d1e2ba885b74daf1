//! A log that is lost, and one that cannot be written.

use testkit::run;

use crate::{Site, records};

/// The disk with the log is replaced: the start is refused, names the way on, and the log tells of
/// the break for good.
#[test]
fn a_lost_log_is_begun_anew() {
    let site = Site::new(&[]);
    let server = site.start();
    let request = site.request();
    for _ in 0..3 {
        let (code, body) = server.ask(&request, "a");
        assert_eq!(code, 200, "{body}");
    }
    let own = site.data_dir().join("kubepki/log/one");
    server.terminate();
    let kept = records(&site);
    std::fs::remove_dir_all(&own).unwrap();
    let refused = site.command().output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(why.contains("kubepki log begin-anew"), "{why}");
    let anew = |more: &[&str]| {
        let fixed = ["log", "begin-anew", "--server", "one", "--by", "anna"];
        let rest = ["--why", "the disk was replaced", "--still-for", "0"];
        site.kubepki(&[&fixed[..], &rest, more].concat())
    };
    assert_eq!(anew(&[]).code, Some(5));
    let done = anew(&["--yes"]);
    assert!(done.success(), "{}", done.text());
    assert_eq!(anew(&["--yes"]).code, Some(5));
    let server = site.start();
    assert_eq!(server.ask(&request, "a").0, 200);
    server.terminate();
    let verified = site.kubepki(&["log", "verify"]);
    let text = verified.text();
    assert_eq!(verified.code, Some(0), "{text}");
    assert!(
        text.contains("by anna on") && text.contains("the disk was replaced"),
        "{text}"
    );
    assert!(
        text.contains(&format!("records 1 to {kept} are missing")),
        "{text}"
    );
}

/// A disk without room for the log: nothing leaves, and with room again all goes on; also where
/// what the failed write left could not be cut off meanwhile, for the file may only grow.
#[test]
fn a_full_disk_issues_nothing() {
    let small = tempfile::tempdir().unwrap();
    let path = small.path().display().to_string();
    let mounted = run(
        "mount",
        &["-t", "tmpfs", "-o", "size=8m", "small", &path],
        b"",
    );
    if !mounted.success() {
        println!("skipped: {}", mounted.text());
        return;
    }
    let unmount = Unmount(path.clone());
    let site = Site::new(&["--state-dir", &path]);
    let server = site.start();
    let request = site.request();
    assert_eq!(server.ask(&request, "a").0, 200);
    let log = small.path().join("log/one/00000000000000000001.jsonl");
    let log = log.display().to_string();
    let attribute = |change: &str| assert!(run("chattr", &[change, &log], b"").success());
    attribute("+a");
    let filling = format!("cat /dev/zero > {path}/filling 2>/dev/null; true");
    assert!(run("sh", &["-c", &filling], b"").success());
    // A page that the log has already may take some records more.
    let mut answered = 1;
    let (code, why) = loop {
        let (code, body) = server.ask(&request, "a");
        if code != 200 {
            break (code, body);
        }
        answered += 1;
        assert!(answered < 1000, "the disk is never full");
    };
    assert_eq!(code, 503, "{why}");
    std::fs::remove_file(small.path().join("filling")).unwrap();
    assert_eq!(server.ask(&request, "a").0, 503);
    let (_, ready) = server.curl("/v1-k3s/readyz", &[]);
    assert!(
        ready.contains("warning: issuance-log: ") && ready.contains("can be cut off"),
        "{ready}"
    );
    attribute("-a");
    assert_eq!(server.ask(&request, "a").0, 200);
    assert_eq!(server.curl("/v1-k3s/readyz", &[]).1, "ok");
    // In another file's place nothing is written that nobody would find.
    let away = format!("{log}.away");
    let moved = |from: &str, to: &str| assert!(run("mv", &[from, to], b"").success());
    moved(&log, &away);
    assert_eq!(server.ask(&request, "a").0, 503);
    moved(&away, &log);
    assert_eq!(server.ask(&request, "a").0, 200);
    answered += 2;
    server.terminate();
    let state = ["--state-dir", path.as_str()];
    let verified = site.kubepki(&[&["log", "verify"][..], &state].concat());
    assert_eq!(verified.code, Some(0), "{}", verified.text());
    let exported = site.kubepki(&[&["log", "export"][..], &state].concat());
    let text = String::from_utf8_lossy(&exported.stdout).into_owned();
    // The others are the server's own.
    let asked = text
        .lines()
        .filter(|it| it.contains("\"credential\":\"token\""));
    assert_eq!(asked.count(), answered);
    drop(unmount);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0], b"");
    }
}
