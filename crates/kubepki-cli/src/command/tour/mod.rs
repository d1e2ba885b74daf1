//! `tour`: the main job on a made-up server, in a temporary directory, with a clock of its own.

mod cas;
mod killer;
mod rke;
mod serve;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use kubepki::apply::{Executor, Outcome, Patience, Quiet, Standing, plan_id};
use kubepki::catalogue::K3S;
use kubepki::check::{AUTHORITY_WINDOW, Question, Severity, check, worst};
use kubepki::cluster::{Policy, Wishes};
use kubepki::edge::{FixedClock, FreshKeys, SystemEntropy};
use kubepki::host::{Host, LocalHost};
use kubepki::init::{self, Spec, Words, plan_init, survey};
use kubepki::inventory::{DetectedRelease, Inventory, Site, collect};
use kubepki::plan::{self, Plan, Request};
use kubepki::report::{Report, table};
use kubepki::state::{Locked, StateDir};
use pki::{DAY, UnixTime};

use crate::args::TourArgs;
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

use killer::Killer;
use tls::{Pair, handshake};

/// The server of the tour.
const NODE: &str = "tour-server";
/// How long ago it started: its leaves have 65 of their 365 days left.
const AGE: i64 = 300 * DAY;
/// How many files are replaced before the process is killed.
const FILES_BEFORE_DEATH: usize = 9;

/// `kubepki tour`.
///
/// # Errors
///
/// When a step of the tour does not do what it says.
pub async fn run(args: &TourArgs) -> Result<Exit, CliError> {
    if let Some(root) = &args.die_in {
        let tour = Tour {
            root: root.clone(),
            now: World::real().now(),
        };
        return tour.die().await;
    }
    let directory = tempfile::Builder::new().prefix("kubepki-tour-").tempdir()?;
    let now = World::real().now();
    let tour = Tour {
        root: directory.path().join("k3s"),
        now,
    };
    tour.first_start().await?;
    tour.look().await?;
    let old = tour.material().await?;
    let made = tour.renew_and_die().await?;
    tour.prove(&old).await?;
    tour.take_back(&made, &old).await?;
    tour.ten_years().await?;
    tour.rotate_cas().await?;
    tour.company().await?;
    tour.serve_nodes()?;
    if args.keep {
        let kept = directory.keep();
        say(&format!("Kept in {}.", kept.display()))?;
    }
    say("The tour is over; nothing outside its own directory was touched.")?;
    say("On a K3s server, or beside a cluster.yml, start with:  kubepki check")?;
    Ok(Exit::Fine)
}

/// Where and when.
struct Tour {
    root: PathBuf,
    now: UnixTime,
}

/// Certificates, keys and bundles as they lie on disk at one moment.
struct Material {
    server_chain: Vec<u8>,
    server_key: Vec<u8>,
    client_chain: Vec<u8>,
    client_key: Vec<u8>,
    server_roots: Vec<u8>,
    client_roots: Vec<u8>,
}

impl Material {
    /// A handshake of this server with the client of `other`; why one refused, if one did.
    async fn meets(&self, other: &Self, at: UnixTime) -> Result<Option<String>, CliError> {
        let server = Pair {
            chain: &self.server_chain,
            key: &self.server_key,
        };
        let client = Pair {
            chain: &other.client_chain,
            key: &other.client_key,
        };
        let roots = (other.server_roots.as_slice(), self.client_roots.as_slice());
        handshake(server, client, roots, at).await
    }
}

impl Tour {
    async fn first_start(&self) -> Result<(), CliError> {
        let started = self.now.plus(-AGE);
        title(
            1,
            &format!("A K3s server's first start, as if at {started}"),
        )?;
        init::make_data_dir(&LocalHost, &self.root).await?;
        let words = Words {
            node_name: NODE.to_owned(),
            node_ip: vec!["192.0.2.10".to_owned()],
            tls_san: vec!["k3s.example.net".to_owned()],
            ..Words::default()
        };
        let spec = Spec::new(&words)?;
        let found = survey(&LocalHost, &self.root, &spec, started).await?;
        let id = plan_id(started, "init", &SystemEntropy)?;
        let request = init::Request {
            id: &id,
            spec: &spec,
            survey: &found,
            token: None,
            agent_token: None,
            now: started,
            entropy: &SystemEntropy,
            keys: &FreshKeys,
        };
        let (plan, staged) = plan_init(&request)?;
        let state = self.state()?;
        init::stage(&state, &plan.id, &staged)?;
        self.apply(&state, &LocalHost, &plan, started).await?;
        say(&format!(
            "{} files: five CAs of ten years, every leaf of one year.",
            plan.steps.len()
        ))
    }

    async fn look(&self) -> Result<(), CliError> {
        title(
            2,
            &format!("The clock moves on to {}: $ kubepki check", self.now),
        )?;
        let inventory = self.inventory(self.now).await?;
        let policy = Policy::k3s(inventory.release);
        let question = Question {
            inventory: &inventory,
            wishes: &wishes(&inventory),
            policy: &policy,
            now: self.now,
            authority_window: AUTHORITY_WINDOW,
        };
        let findings = check(&question);
        if worst(&findings) != Some(Severity::Due) {
            return Err(CliError::message(
                "the check does not say that leaves are due",
            ));
        }
        output::data(&table::render(&Report::new(&question, &findings), false))?;
        say("K3s renews these at a start; a server that is never restarted dies of them.")
    }

    async fn renew_and_die(&self) -> Result<Plan, CliError> {
        title(3, "Renew them, and die in the middle")?;
        let plan = self.renewal(self.now).await?;
        let seen = self.inventory(self.now).await?;
        let shown = plan::show(&plan, Some(&seen));
        let steps = shown.lines().skip_while(|line| !line.starts_with("   1. "));
        for line in steps.take(8) {
            say(line)?;
        }
        say(&format!(
            "… {} steps in all, each with what must be there before.",
            plan.steps.len()
        ))?;
        self.state()?.save_plan(&plan)?;
        self.die_on_the_way()?;
        let state = self.state()?;
        say("$ kubepki resume")?;
        let outcome = self
            .executor(&state, &LocalHost, &self.clock())
            .resume(&plan.id)
            .await?;
        finished(&outcome)?;
        let due = self.renewal(self.now).await?;
        if !due.steps.is_empty() {
            return Err(CliError::message(
                "something is still due after the renewal",
            ));
        }
        say("Every step done once, none twice; nothing is due any more.")?;
        Ok(plan)
    }

    /// Lets another process begin the plan and kill itself.
    fn die_on_the_way(&self) -> Result<(), CliError> {
        let program = std::env::current_exe()?;
        #[expect(clippy::disallowed_methods, reason = "the tour's own second process")]
        let mut child = std::process::Command::new(program);
        let status = child.arg("tour").arg("--die-in").arg(&self.root).status()?;
        match std::os::unix::process::ExitStatusExt::signal(&status) {
            Some(signal) => say(&format!(
                "!! the process was killed (signal {signal}) with {FILES_BEFORE_DEATH} files \
                 replaced: new keys beside old certificates"
            )),
            None => Err(CliError::message(format!(
                "the process did not die: {status}"
            ))),
        }
    }

    /// What that process does.
    async fn die(&self) -> Result<Exit, CliError> {
        let state = self.state()?;
        let planned = kubepki::apply::history(&state)?
            .into_iter()
            .rev()
            .find(|past| past.standing == Standing::Planned)
            .ok_or_else(|| CliError::message("the tour saved no plan"))?;
        let plan = state.load_plan(&planned.id)?;
        let killer = Killer {
            left: AtomicUsize::new(FILES_BEFORE_DEATH),
        };
        self.executor(&state, &killer, &self.clock())
            .apply(&plan)
            .await?;
        Ok(Exit::Fine)
    }

    async fn prove(&self, old: &Material) -> Result<(), CliError> {
        title(4, "Prove who can connect to whom")?;
        let new = self.material().await?;
        if new.server_key == old.server_key || new.client_key == old.client_key {
            return Err(CliError::message("a renewed leaf kept its key"));
        }
        let later = self.now.plus(70 * DAY);
        for (who, server, client, at, accepted) in [
            ("new client, new server", &new, &new, self.now, true),
            ("old client, new server", &new, old, self.now, true),
            ("new client, old server", old, &new, self.now, true),
            (
                "70 days later, new client, new server",
                &new,
                &new,
                later,
                true,
            ),
            (
                "70 days later, old client, new server",
                &new,
                old,
                later,
                false,
            ),
            (
                "70 days later, new client, old server",
                old,
                &new,
                later,
                false,
            ),
        ] {
            let refused = server.meets(client, at).await?;
            if refused.is_none() != accepted {
                return Err(CliError::message(format!("{who}: {refused:?}")));
            }
            let said = refused.map_or("both accept".to_owned(), |why| format!("refused: {why}"));
            say(&format!("TLS handshake, {who}: {said}"))?;
        }
        Ok(())
    }

    async fn take_back(&self, made: &Plan, old: &Material) -> Result<(), CliError> {
        title(5, "Take it back")?;
        let state = self.state()?;
        say(&format!("$ kubepki undo {}", made.id))?;
        let clock = self.clock();
        let executor = self.executor(&state, &LocalHost, &clock);
        let undo = executor.undo(&made.id).await?;
        finished(&executor.apply(&undo).await?)?;
        drop(state);
        let back = self.material().await?;
        if back.client_key != old.client_key || back.server_chain != old.server_chain {
            return Err(CliError::message(
                "the undo did not bring the old files back",
            ));
        }
        say("The old certificates and keys are back, byte for byte.")?;
        let state = self.state()?;
        let again = self.renewal(self.now).await?;
        self.apply(&state, &LocalHost, &again, self.now).await?;
        say("$ kubepki renew\nRenewed once more.")
    }

    async fn ten_years(&self) -> Result<(), CliError> {
        title(6, "Look ahead: the day the CAs end")?;
        let end = self.now.plus(-AGE + 3650 * DAY);
        match self.renewal(end).await {
            Err(error) => say(&format!("At {end}: {}", error.message)),
            Ok(_) => Err(CliError::message("an expired CA was used")),
        }
    }

    async fn renewal(&self, at: UnixTime) -> Result<Plan, CliError> {
        let inventory = self.inventory(at).await?;
        let (wishes, policy) = (wishes(&inventory), Policy::k3s(inventory.release));
        let due = plan::due(&inventory, &wishes, &policy, at)?;
        let request = Request {
            id: plan_id(at, "renew", &SystemEntropy)?,
            title: "renew what is due".to_owned(),
            inventory: &inventory,
            wishes: &wishes,
            policy,
            now: at,
            hypothetical: false,
            entropy: &SystemEntropy,
        };
        Ok(plan::plan_leaves(&request, &due.selected)?)
    }

    async fn inventory(&self, at: UnixTime) -> Result<Inventory, CliError> {
        let site = Site::open(&LocalHost, &self.root, None).await?;
        Ok(collect(&LocalHost, &site, &K3S, at).await)
    }

    async fn material(&self) -> Result<Material, CliError> {
        let tls = self.root.join("server/tls");
        let read = |name: &str| {
            let path = tls.join(name);
            async move { bytes(&path).await }
        };
        Ok(Material {
            server_chain: read("serving-kube-apiserver.crt").await?,
            server_key: read("serving-kube-apiserver.key").await?,
            client_chain: read("client-admin.crt").await?,
            client_key: read("client-admin.key").await?,
            server_roots: read("server-ca.crt").await?,
            client_roots: read("client-ca.crt").await?,
        })
    }

    fn state(&self) -> Result<Locked, CliError> {
        Ok(StateDir::of_data_dir(&self.root).lock()?)
    }

    fn clock(&self) -> FixedClock {
        FixedClock(self.now)
    }

    fn executor<'a>(
        &self,
        state: &'a Locked,
        host: &'a dyn Host,
        clock: &'a FixedClock,
    ) -> Executor<'a> {
        Executor {
            host,
            state,
            clock,
            entropy: &SystemEntropy,
            keys: &FreshKeys,
            observer: &Quiet,
            patience: Patience::default(),
            cluster: None,
            caller: None,
            machines: None,
            kubernetes: None,
        }
    }

    async fn apply(
        &self,
        state: &Locked,
        host: &dyn Host,
        plan: &Plan,
        at: UnixTime,
    ) -> Result<(), CliError> {
        let clock = FixedClock(at);
        finished(&self.executor(state, host, &clock).apply(plan).await?)
    }
}

fn wishes(inventory: &Inventory) -> Wishes {
    let release: DetectedRelease = inventory.release;
    Wishes {
        node: None,
        add_sans: Vec::new(),
        drop_sans: Vec::new(),
        release,
    }
}

fn finished(outcome: &Outcome) -> Result<(), CliError> {
    match outcome {
        Outcome::Finished { .. } => Ok(()),
        Outcome::Waiting { instruction, .. } => Err(CliError::message(format!(
            "the tour waits for a person: {instruction}"
        ))),
        Outcome::Partly { open, .. } => Err(CliError::message(format!(
            "the tour has steps left: {open:?}"
        ))),
    }
}

async fn bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    let entry = LocalHost.read(path).await?;
    entry
        .as_ref()
        .and_then(|entry| entry.bytes())
        .map(<[u8]>::to_vec)
        .ok_or_else(|| CliError::message(format!("{} is not there", path.display())))
}

fn title(number: u32, text: &str) -> Result<(), CliError> {
    output::data(&format!("\n== {number}. {text}\n"))
}

fn say(text: &str) -> Result<(), CliError> {
    output::data(&format!("{text}\n"))
}
