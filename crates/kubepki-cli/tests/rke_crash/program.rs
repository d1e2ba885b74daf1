//! The program itself is killed.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Instant;

use testkit::rke::Spec;
use testkit::{CrashPoint, Victim};

use crate::kept::{Before, Pattern, below, settled, strays};
use crate::operator::{End, Journals, KUBEPKI, Kinds, Line, arguments, killed_when};
use crate::scene::Scene;

const ROTATE: &[&str] = &["rotate", "--yes"];
const AUTHORITIES: &[&str] = &["rotate-ca", "--yes"];
const RESUME: &[&str] = &["resume"];
const UNDO: &[&str] = &["undo", "--yes"];

/// What is killed, and what it comes to when it is not.
struct Change<'a> {
    scene: &'a Scene,
    args: &'static [&'static str],
    pattern: Pattern,
    /// How many lines its journal has.
    lines: usize,
}

impl<'a> Change<'a> {
    /// Runs it once without a kill.
    fn new(scene: &'a Scene, args: &'static [&'static str]) -> Self {
        let before = Before::now(scene);
        let mut journals = Journals::now(scene);
        scene.ok(args);
        let pattern = before.pattern(scene);
        assert!(pattern.entries.len() > 5, "{pattern:?}");
        assert!(pattern.files.len() > 20, "{pattern:?}");
        Self {
            scene,
            args,
            pattern,
            lines: journals.news().len(),
        }
    }

    /// Kills it right after lines of every kind in its journal, and resumes.
    fn after_lines(&self) {
        let (start, before) = (Instant::now(), Before::now(self.scene));
        let kills = self.killed_and_resumed(&before, self.args, "killed after lines");
        before.assert_changed(self.scene, &self.pattern, "killed after lines");
        assert!(kills > 15, "{kills} of {}", self.lines);
        told(self.args, "after lines", kills, start);
    }

    /// Begins with `args`; kills after new lines, the first of every kind and some of the others,
    /// and resumes. Ends well. Answers the number of kills.
    fn killed_and_resumed(&self, before: &Before, args: &[&str], what: &str) -> usize {
        let mut journals = Journals::now(self.scene);
        let mut seen = std::collections::BTreeSet::new();
        let mut kinds = Kinds::default();
        let (mut args, mut kills) = (args, 0);
        loop {
            let mut line = None;
            let moment = || {
                let mut news = journals.news();
                news.retain(|it| seen.insert(told_line(it)));
                // All that came are seen.
                let wanted = news.iter().filter(|it| kinds.want(&journals, it));
                let wanted = wanted.count() > 0;
                line = news.last().map(told_line).filter(|_| wanted);
                wanted
            };
            let end = killed_when(self.scene, args, moment);
            let line = line.unwrap_or_default();
            match end {
                End::Killed => {}
                End::ByItself(run) if run.success() && line.is_empty() => {
                    let (kinds, lines) = (kinds.count(), kinds.lines());
                    println!("{what}: {kills} kills at {lines} lines of {kinds} kinds");
                    // Where several hosts work at once, two lines may come together.
                    assert!(kills * 3 > kinds * 2, "{kills} kills at {kinds} kinds");
                    return kills;
                }
                // It was faster.
                End::ByItself(run) => assert!(run.success(), "{what}: {line}: {}", run.text()),
            }
            kills += 1;
            before.assert_kept(self.scene, &format!("{what}: {line}"));
            args = RESUME;
        }
    }

    /// Kills it right before lines of its journal are written, what they say being done already,
    /// and resumes: before the next one, the one after it, and so on to the fifth, in turn.
    fn before_lines(&self) {
        let (start, before) = (Instant::now(), Before::now(self.scene));
        let mut journals = Journals::now(self.scene);
        let mut plan = None;
        let begun = killed_when(self.scene, self.args, || {
            let news = journals.news();
            plan = news.first().map(|it| it.plan.clone());
            plan.is_some()
        });
        assert!(matches!(begun, End::Killed), "{begun:?}");
        let plan = plan.unwrap();
        let folder = self.scene.state_dir().join("journal");
        let victim = Victim::new(KUBEPKI, arguments(self.scene, RESUME))
            .at_files([folder.join(format!("{plan}.jsonl"))]);
        let (mut kills, mut nth) = (0, 2);
        loop {
            let point = CrashPoint {
                call: "write".to_owned(),
                nth,
                seen: "the journal".to_owned(),
            };
            if !victim.kill_within(&point) {
                break;
            }
            kills += 1;
            let news = journals.news();
            let last = news.last().map(told_line).unwrap_or_default();
            before.assert_kept(self.scene, &format!("killed after {last}"));
            // A restart in flight begins with the line that it was begun with.
            let is_new = news.iter().any(|it| it.intends().is_none()) || nth > 2;
            nth = if is_new { 2 + kills % 5 } else { nth + 1 };
        }
        self.scene.ok(RESUME);
        assert!(kills * 4 > self.lines, "{kills} of {}", self.lines);
        before.assert_changed(self.scene, &self.pattern, "killed before lines");
        told(self.args, "before lines", kills, start);
    }

    /// Kills it after the `nth` new line, and takes back what is done; the undo is killed after
    /// its own lines too if it is to `stumble`.
    fn undone_after(&self, nth: usize, stumble: bool) {
        let before = Before::now(self.scene);
        let mut journals = Journals::now(self.scene);
        let mut lines = Vec::new();
        let end = killed_when(self.scene, self.args, || {
            lines.extend(journals.news().iter().map(told_line));
            lines.len() >= nth
        });
        let at = format!("{}: undone after {:?}", self.args[0], lines.last());
        assert!(matches!(end, End::Killed), "{at}: {end:?}");
        self.take_back(&before, stumble, &at);
    }

    /// At five moments between the first line and the last; the undo is killed on its way too at
    /// the one where most is to be taken back.
    fn undone_at_some(&self) {
        const MOMENTS: usize = 5;
        for number in 1..=MOMENTS {
            // Not right before the end: it would come before the kill.
            self.undone_after(number * (self.lines - 3) / MOMENTS, number == MOMENTS);
        }
    }

    fn take_back(&self, before: &Before, stumble: bool, at: &str) {
        before.assert_kept(self.scene, at);
        if stumble {
            self.killed_and_resumed(before, UNDO, at);
        } else {
            let run = self.scene.run(UNDO);
            let nothing = run.text().contains("nothing to undo");
            assert!(run.success() || nothing, "{at}: {}", run.text());
        }
        self.scene.ok(RESUME);
        before.assert_back(self.scene, at);
    }

    /// Kills it when that many files of the node are staged, or in place. What is staged is there
    /// for milliseconds: who sleeps through them tries again.
    fn killed_in_the_middle(&self, node: &str, files: usize, staged: bool, at: &str) -> Before {
        for _ in 0..5 {
            let before = Before::now(self.scene);
            let first = places(self.scene, node);
            let end = killed_when(self.scene, self.args, || match staged {
                true => stage(self.scene, node).len() >= files,
                false => {
                    let now = places(self.scene, node);
                    first.iter().filter(|it| !now.contains(it)).count() >= files
                }
            });
            match end {
                End::Killed => return before,
                End::ByItself(run) => assert!(run.success(), "{at}: {}", run.text()),
            }
        }
        panic!("{at}: never met");
    }

    /// Kills it while files are on their way onto hosts.
    fn in_mid_deployment(&self) {
        let start = Instant::now();
        let moments: [(&str, usize, bool); 4] = [
            ("cp1", 1, true),
            ("w1", 9, true),
            ("cp2", 1, false),
            ("w1", 5, false),
        ];
        for (number, (node, files, staged)) in moments.into_iter().enumerate() {
            let at = format!("{files} files of {node}, staged: {staged}");
            let before = self.killed_in_the_middle(node, files, staged, &at);
            if number % 2 == 0 {
                before.assert_kept(self.scene, &at);
                self.scene.ok(RESUME);
                before.assert_changed(self.scene, &self.pattern, &at);
            } else {
                self.take_back(&before, false, &at);
            }
        }
        told(self.args, "in mid-deployment", moments.len(), start);
    }
}

/// What lies on a node, by name and inode.
fn places(scene: &Scene, node: &str) -> Vec<(PathBuf, u64)> {
    let ssl = scene.cluster.ssl(node);
    let inode = |path: PathBuf| {
        let inode = std::fs::metadata(&path).map(|it| it.ino());
        (path, inode.unwrap_or_default())
    };
    below(&ssl).into_iter().map(inode).collect()
}

/// The files that are staged on a node.
fn stage(scene: &Scene, node: &str) -> Vec<PathBuf> {
    let sets = scene.cluster.host(node).path("/etc/kubernetes/.kubepki");
    let staged = |it: &PathBuf| it.to_string_lossy().contains("/old.new-");
    below(&sets).into_iter().filter(staged).collect()
}

fn told_line(line: &Line) -> String {
    format!("{}: {}", line.plan, line.event)
}

fn told(args: &[&str], how: &str, kills: usize, start: Instant) {
    println!(
        "{}: killed {how}, {kills} times, in {:?}",
        args[0],
        start.elapsed()
    );
}

#[test]
fn is_killed() {
    let scene = settled(&Spec::three());
    let rotate = Change::new(&scene, ROTATE);
    never_begun(&scene);
    rotate.after_lines();
    rotate.before_lines();
    rotate.in_mid_deployment();
    left_clean(&scene);
}

#[test]
fn is_killed_and_taken_back() {
    let scene = settled(&Spec::three());
    Change::new(&scene, ROTATE).undone_at_some();
    left_clean(&scene);
}

#[test]
fn is_killed_with_new_authorities() {
    let scene = settled(&Spec::three());
    Change::new(&scene, AUTHORITIES).after_lines();
    left_clean(&scene);
}

#[test]
fn is_killed_with_new_authorities_and_taken_back() {
    let scene = settled(&Spec::three());
    Change::new(&scene, AUTHORITIES).undone_at_some();
    left_clean(&scene);
}

/// The next rotation finds nothing in its way, and leaves nothing.
fn left_clean(scene: &Scene) {
    scene.ok(ROTATE);
    assert_eq!(strays(scene), Vec::<PathBuf>::new());
}

/// Killed when all hosts are locked, and nothing is begun: `resume` lets go of them.
fn never_begun(scene: &Scene) {
    let before = Before::now(scene);
    let locked = || {
        let mut hosts = scene.cluster.hosts().iter();
        hosts.all(|it| {
            let names = it.docker().names().unwrap_or_default();
            names.iter().any(|it| it == "kubepki")
        })
    };
    let end = killed_when(scene, ROTATE, locked);
    assert!(matches!(end, End::Killed), "{end:?}");
    scene.ok(RESUME);
    Journals::now(scene).assert_settled("killed with hosts locked");
    scene.assert_nothing_left();
    // It was not begun, or is done now.
    let pattern = before.pattern(scene);
    assert!(
        pattern.entries.is_empty() || pattern.entries.len() > 5,
        "{pattern:?}"
    );
}
