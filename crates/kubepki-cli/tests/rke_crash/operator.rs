//! Runs of the program that are ended from outside, and what its journals say meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kubepki::journal::{Event, Progress};
use kubepki::plan::{Action, Plan, PlanId, Step};
use kubepki::state::StateDir;
use testkit::Run;

use crate::scene::{Scene, text};

/// The program under test.
pub const KUBEPKI: &str = env!("CARGO_BIN_EXE_kubepki");

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// `ARGS --cluster … --known-hosts …`.
pub fn arguments(scene: &Scene, args: &[&str]) -> Vec<String> {
    let known = scene.cluster.known_hosts();
    let where_to = ["--cluster", text(&scene.config), "--known-hosts"];
    let all = args.iter().copied().chain(where_to).chain([text(&known)]);
    all.map(str::to_owned).collect()
}

/// How a run ended.
#[derive(Debug)]
pub enum End {
    Killed,
    ByItself(Run),
}

/// The program at work.
pub struct Running {
    child: Child,
    said: tempfile::NamedTempFile,
}

impl Running {
    /// Starts `kubepki ARGS`.
    pub fn start(scene: &Scene, args: &[&str]) -> Self {
        let said = tempfile::NamedTempFile::new().unwrap();
        let to = |file: &File| Stdio::from(file.try_clone().unwrap());
        let child = Command::new(KUBEPKI)
            .args(arguments(scene, args))
            .stdin(Stdio::null())
            .stdout(to(said.as_file()))
            .stderr(to(said.as_file()))
            .spawn();
        Self {
            child: child.unwrap(),
            said,
        }
    }

    /// Looks all the time whether the moment has come; `false` if the run ended before.
    #[track_caller]
    pub fn wait_for(&mut self, mut moment: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        loop {
            if moment() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return moment();
            }
            assert!(start.elapsed() < PATIENCE, "no end: {}", self.said());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The end that it comes to by itself.
    #[track_caller]
    pub fn end(mut self) -> Run {
        let mut code = None;
        let start = Instant::now();
        while code.is_none() {
            code = self.child.try_wait().unwrap();
            assert!(start.elapsed() < PATIENCE, "no end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        Run {
            code: code.and_then(|it| it.code()),
            stdout: Vec::new(),
            stderr: self.said().into_bytes(),
        }
    }

    /// Kills it, unless it has ended.
    pub fn kill(mut self) -> End {
        if self.child.try_wait().unwrap().is_some() {
            return End::ByItself(self.end());
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        End::Killed
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.said.path()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it until the moment and kills it then.
#[track_caller]
pub fn killed_when(scene: &Scene, args: &[&str], moment: impl FnMut() -> bool) -> End {
    let mut running = Running::start(scene, args);
    match running.wait_for(moment) {
        true => running.kill(),
        false => End::ByItself(running.end()),
    }
}

/// A line of a journal.
#[derive(Clone, Debug)]
pub struct Line {
    pub plan: PlanId,
    pub event: Event,
}

impl Line {
    /// The step that it says to be begun.
    pub fn intends(&self) -> Option<u32> {
        match &self.event {
            Event::Intend(intend) => Some(intend.step),
            _ => None,
        }
    }
}

/// All journals of a cluster, read on and on.
pub struct Journals {
    state: StateDir,
    /// Bytes and lines that were read.
    read: BTreeMap<PlanId, (u64, usize)>,
}

impl Journals {
    /// What they hold now is read already.
    pub fn now(scene: &Scene) -> Self {
        let mut journals = Self {
            state: StateDir::new(scene.state_dir()),
            read: BTreeMap::new(),
        };
        journals.news();
        journals
    }

    /// The lines that came since.
    pub fn news(&mut self) -> Vec<Line> {
        let mut news = Vec::new();
        let folder = self.state.path().join("journal");
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = file.file_name().into_string().unwrap();
            let Some(id) = name.strip_suffix(".jsonl") else {
                continue;
            };
            let id = PlanId(id.to_owned());
            let length = file.metadata().map(|it| it.len()).unwrap_or_default();
            let (bytes, lines) = self.read.entry(id.clone()).or_default();
            if *bytes == length {
                continue;
            }
            let entries = self.state.journal(&id).unwrap().entries;
            let fresh = entries.get(*lines..).unwrap_or_default();
            news.extend(fresh.iter().map(|entry| Line {
                plan: id.clone(),
                event: entry.event.clone(),
            }));
            // A line that is just being written is seen the next time.
            (*bytes, *lines) = (length, entries.len());
        }
        news
    }

    /// A plan that was saved.
    #[track_caller]
    pub fn plan(&self, id: &PlanId) -> Plan {
        self.state.load_plan(id).unwrap()
    }

    /// Nothing is interrupted or put off, and what is done needs no secret any more; the key of a
    /// CA stays where its plan was given up, until it is forgotten.
    #[track_caller]
    pub fn assert_settled(&self, at: &str) {
        let unfinished = kubepki::apply::unfinished(&self.state).unwrap();
        assert_eq!(unfinished.map(|it| it.id), None, "{at}");
        let open = kubepki::apply::put_off(&self.state).unwrap();
        assert_eq!(open.map(|it| it.id), None, "{at}");
        let staging = std::fs::read_dir(self.state.path().join("staging"));
        let mut staged: Vec<_> = staging.into_iter().flatten().flatten().collect();
        staged.retain(|it| {
            let id = PlanId(it.file_name().into_string().unwrap());
            let entries = self.state.journal(&id).unwrap().entries;
            let progress = kubepki::journal::replay(&entries).unwrap().progress;
            progress != Progress::Abandoned || !self.state.holds_ca_key(&id).unwrap()
        });
        assert!(staged.is_empty(), "{at}: {staged:?}");
    }
}

/// Which kinds of steps and lines there are: of those that are alike not all need be tried.
#[derive(Default)]
pub struct Kinds {
    steps: BTreeMap<PlanId, Vec<String>>,
    met: BTreeMap<String, usize>,
}

impl Kinds {
    /// Of the lines of a kind the first is to be tried, and then every so manieth.
    const EVERY: usize = 4;

    /// Whether this line is to be tried.
    pub fn want(&mut self, journals: &Journals, line: &Line) -> bool {
        let kind = self.kind(journals, line);
        let met = self.met.entry(kind).or_default();
        *met += 1;
        *met % Self::EVERY == 1
    }

    /// How many kinds there were.
    pub fn count(&self) -> usize {
        self.met.len()
    }

    /// How many lines there were.
    pub fn lines(&self) -> usize {
        self.met.values().sum()
    }

    /// What is done with which containers, and how far it is: `restart etcd: progress proved etcd`.
    fn kind(&mut self, journals: &Journals, line: &Line) -> String {
        let word = match &line.event {
            Event::Progress { what, .. } => {
                let words = what.split(' ');
                let words = words.filter(|it| !it.starts_with(|it: char| it.is_ascii_digit()));
                words.collect::<Vec<_>>().join(" ")
            }
            event => event.to_string().split(' ').next().unwrap().to_owned(),
        };
        let Some(number) = line.event.step() else {
            return word;
        };
        // Once for a plan, for whoever is to be killed runs on meanwhile.
        let steps = self.steps.entry(line.plan.clone()).or_insert_with(|| {
            let plan = journals.plan(&line.plan);
            plan.steps.iter().map(kind_of_step).collect()
        });
        let step = &steps[usize::try_from(number).unwrap() - 1];
        format!("{step}: {word}")
    }
}

fn kind_of_step(step: &Step) -> String {
    match &step.action {
        Action::RestartContainers { restarts } => {
            let names: BTreeSet<&str> = restarts.iter().map(|it| it.container.as_str()).collect();
            format!("restart {names:?}")
        }
        action => {
            let text = format!("{action:?}");
            let end = text.find(|it: char| !it.is_alphanumeric());
            text[..end.unwrap_or(text.len())].to_owned()
        }
    }
}
