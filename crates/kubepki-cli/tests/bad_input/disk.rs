//! Disks that are full or read-only, and a second process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::{DiffOptions, Fixture, Run, Tree};

use super::common::KUBEPKI;
use super::{SERVER, as_root, assert_civil};

/// A node on a file system of its own.
struct Small {
    mount: PathBuf,
    _folder: tempfile::TempDir,
}

impl Small {
    /// `None`, with the reason printed, where nothing may be mounted.
    fn mount(options: &str) -> Option<Self> {
        if !as_root() {
            println!("skipped: only root can mount");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("small");
        fs::create_dir(&mount).unwrap();
        let path = mount.to_str().unwrap();
        let run = testkit::run("mount", &["-t", "tmpfs", "-o", options, "small", path], b"");
        if !run.success() {
            println!("skipped: {}", run.text());
            return None;
        }
        let small = Self {
            mount,
            _folder: folder,
        };
        let fixture = Fixture::without_datastore(SERVER);
        let from = fixture.data_dir();
        let copied = testkit::run("cp", &[Path::new("-a"), &from, &small.mount], b"");
        assert!(copied.success(), "{}", copied.text());
        Some(small)
    }

    fn remount(&self, options: &str) {
        let path = self.mount.to_str().unwrap();
        let run = testkit::run("mount", &["-o", &format!("remount,{options}"), path], b"");
        assert!(run.success(), "{}", run.text());
    }

    fn tree(&self) -> Tree {
        Tree::snapshot(self.mount.join("data"))
    }

    fn run(&self, args: &[&str]) -> Run {
        let data = self.mount.join("data");
        let args = [args, &["--data-dir", data.to_str().unwrap()]].concat();
        let run = testkit::run(KUBEPKI, &args, b"");
        assert_civil(&args.join(" "), &run);
        run
    }

    #[track_caller]
    fn ends(&self, args: &[&str], code: i32) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "{args:?}: {}", run.text());
        run.text()
    }

    /// Fills the disk to the last byte.
    fn fill(&self) {
        let zeros = vec![0; 1 << 16];
        let path = self.mount.join("fill");
        let mut file = fs::File::create(path).unwrap();
        use std::io::Write as _;
        while file.write(&zeros).is_ok_and(|written| written > 0) {}
    }

    /// How many more files may be made: `count`.
    fn allow_files(&self, count: u64) {
        let path = self.mount.to_str().unwrap();
        let run = testkit::run("df", &["--output=iused", path], b"");
        let used: u64 = run.text().lines().nth(1).unwrap().trim().parse().unwrap();
        self.remount(&format!("nr_inodes={}", used + count));
    }

    #[track_caller]
    fn assert_is(&self, before: &Tree) {
        let options = DiffOptions::exact()
            .without_directory_mtimes()
            .ignoring("kubepki");
        Tree::assert_equal(before, &self.tree(), &options);
    }

    /// Nothing half-written: every certificate is whole and has its key.
    fn assert_no_temporary(&self) {
        let tree = self.tree();
        let left: Vec<&str> = tree.files().filter(|path| path.ends_with("-tmp")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = testkit::run("umount", &[&self.mount], b"");
    }
}

#[test]
fn a_read_only_disk_is_looked_at_and_not_changed() {
    let Some(small) = Small::mount("size=16m") else {
        return;
    };
    let before = small.tree();
    small.remount("ro");
    for args in [
        &["check"][..],
        &["renew", "--yes"],
        &["rotate", "--dry-run"],
        &["history"],
    ] {
        small.ends(args, 0);
    }
    for args in [&["rotate", "--yes"][..], &["plan", "--service", "all"]] {
        let text = small.ends(args, 1);
        assert!(text.contains("cannot make"), "{text}");
        assert!(text.contains("remount it for writing"), "{text}");
    }
    let text = small.ends(&["k3s", "certificate", "rotate"], 1);
    assert!(text.contains("Read-only file system"), "{text}");
    small.remount("rw");
    small.assert_is(&before);
}

#[test]
fn a_full_disk_is_seen_before_anything_is_changed() {
    let Some(small) = Small::mount("size=16m") else {
        return;
    };
    let before = small.tree();
    small.fill();
    for args in [&["rotate", "--yes"][..], &["k3s", "certificate", "rotate"]] {
        let text = small.ends(args, 1);
        assert!(text.contains("0 bytes free"), "{text}");
        assert!(text.contains("make room"), "{text}");
    }
    // Plans and journals elsewhere do not help where the certificates have no room.
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("state");
    let text = small.ends(
        &["rotate", "--yes", "--state-dir", state.to_str().unwrap()],
        1,
    );
    assert!(text.contains("0 bytes free"), "{text}");
    small.ends(&["check"], 0);
    fs::remove_file(small.mount.join("fill")).unwrap();
    small.assert_is(&before);
    small.ends(&["rotate", "--yes"], 0);
    small.ends(&["check"], 0);
}

#[test]
fn a_disk_that_fills_up_in_the_middle_is_resumed_or_undone() {
    for (way, count) in [("resume", 30), ("resume", 60), ("undo", 30), ("undo", 60)] {
        let Some(small) = Small::mount("size=32m,nr_inodes=10k") else {
            return;
        };
        let before = small.tree();
        small.allow_files(count);
        let text = small.ends(&["rotate", "--yes"], 6);
        assert!(text.contains("No space left on device"), "{text}");
        assert!(text.contains("kubepki resume"), "{text}");
        small.assert_no_temporary();
        // Still full: it stops again, and is no worse.
        small.ends(&["resume"], 6);
        let text = small.ends(&["rotate", "--yes"], 6);
        assert!(text.contains("was interrupted"), "{text}");
        small.assert_no_temporary();
        small.remount("nr_inodes=10k");
        if way == "resume" {
            small.ends(&["resume"], 0);
            small.ends(&["check"], 0);
        }
        small.ends(&["undo", "--yes"], 0);
        small.ends(&["check"], 0);
        small.assert_is(&before);
    }
}

#[test]
fn a_second_run_at_once_is_told_who_is_at_work() {
    let node = super::common::Node::new(SERVER);
    let flag = node.path("go-on");
    let script = node.path("wait.sh");
    let wait = format!(
        "#!/bin/sh\nwhile ! [ -e {} ]; do sleep 0.05; done\n",
        flag.display()
    );
    fs::write(&script, wait).unwrap();
    let command = format!("/bin/sh {}", script.display());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            node.run(&[
                "rotate",
                "--yes",
                "--restart-command",
                &command,
                "--restart-timeout",
                "0",
            ])
        });
        let lock = node.path("data/kubepki/lock");
        let last = "data/agent/client-k3s-controller.crt";
        let old = node.contents()[last].clone();
        while fs::read(node.path(last)).unwrap() == old {
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = fs::read_to_string(lock).unwrap();
        let busy = format!("process {}", pid.trim());
        for args in [
            &["rotate", "--yes"][..],
            &["renew", "--yes"],
            &["undo", "--yes"],
            &["resume"],
            &["plan", "--service", "all"],
        ] {
            let run = node.ends(args, 5);
            assert!(run.text().contains(&busy), "{args:?}: {}", run.text());
            assert_civil("second", &run);
        }
        let text = node.ok(&["history"]).text();
        assert!(text.contains("at work") && text.contains(&busy), "{text}");
        let data = node.text_path("data");
        let args = ["k3s", "certificate", "rotate", "--data-dir", &data];
        let run = testkit::run(KUBEPKI, &args, b"");
        assert_eq!(run.code, Some(1), "{}", run.text());
        assert!(run.text().contains(&busy), "{}", run.text());
        fs::write(&flag, "").unwrap();
        first.join().unwrap();
    });
}
