//! The data that servers share, as a server that starts or serves works with them: the same plans
//! as `reconcile`, `rotate-ca` and `token rotate` make, journalled and undoable.

use std::sync::Arc;
use std::time::Duration;

use kubepki::apply::{Aftermath, Executor, Outcome, plan_id, unfinished};
use kubepki::bootstrap::{
    Candidates, Disk, KEY_PREFIX, LocateError, Opened, Passphrase, Verdict, compare, locate,
};
use kubepki::datastore::{DatastoreError, Record};
use kubepki::edge::file::make_directory;
use kubepki::host::Attributes;
use kubepki::init::{Staged, stage};
use kubepki::plan::{Plan, PlanId};
use kubepki::reconcile::{Request, plan_reconcile};
use kubepki::state::{Locked, StateDir};
use kubepki::token::Token;
use kubepki_serve::issuance::Need;

use super::hooks::Hooks;
use super::records::{Recorded, Records};
use super::renew::services;
use super::start::init_args;
use super::unfollowed::{Unfollowed, differing, refused};
use super::{ServeArgs, tell};
use crate::command::change::{INTERRUPTED, failed, lock, refuse_unfinished};
use crate::command::reconcile::look;
use crate::datastore::{Connected, candidates, named, open_or_make, reached, unopened};
use crate::error::CliError;
use crate::k3s::Settings;
use crate::world::{World, state_dir};

/// The key that the server holds which makes a new cluster's CAs. K3s's own lock, an empty value
/// under `/bootstrap/`, is K3s's and never ours.
const FIRST: &str = "/kubepki/first";

/// Looks at that key, or at K3s's lock, until its holder is taken to be dead; a second between
/// two, as long as K3s waits all in all.
const LOOKS: u32 = 25;
const PAUSE: Duration = Duration::from_secs(1);

/// Longest time for the datastore to say what it holds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bootstrap keys with their revisions: what is compared to see a change.
pub(super) type Rows = Vec<(String, i64)>;

/// A server's hold on what it shares with others. It has a connection of its own, so that nodes
/// that are served do not wait for it.
pub(super) struct Commons {
    pub world: World,
    pub args: ServeArgs,
    pub settings: Settings,
    pub connected: Connected,
    pub state: StateDir,
    pub records: Arc<Records>,
    /// Who is told of leaves that are issued anew.
    pub hooks: Arc<Hooks>,
}

/// What of the datastore is in force here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// The rows that were looked at.
    pub rows: Rows,
    /// Whether anything on the disk was changed.
    pub changed: bool,
}

impl Commons {
    /// Opens the datastore, making what a first start makes.
    ///
    /// # Errors
    ///
    /// When it cannot be reached or written.
    pub(super) async fn open(
        world: World,
        args: &ServeArgs,
        settings: Settings,
        (records, hooks): (Arc<Records>, Arc<Hooks>),
    ) -> Result<Self, CliError> {
        let connected = open_or_make(&world.host, &args.endpoint, &settings).await?;
        // A client on this machine holds the lock of the state directory above while it calls us.
        let state = state_dir(&args.site, &settings.data_dir);
        let state = state.path().join("serve");
        if !state.is_dir() {
            make_directory(&state, &Attributes::new(0o700))?;
        }
        Ok(Self {
            state: StateDir::new(state),
            world,
            args: args.clone(),
            settings,
            connected,
            records,
            hooks,
        })
    }

    /// Where plans lie that change the files of this node: whose they are who work beside this
    /// server, and its own.
    pub(super) fn plans(&self) -> Vec<StateDir> {
        let above = state_dir(&self.args.site, &self.settings.data_dir);
        vec![above, self.state.clone()]
    }

    /// What K3s does with the data when it starts: takes them out of the datastore, or makes
    /// them, of two servers that start at once one.
    ///
    /// # Errors
    ///
    /// Where K3s would not start either, and as plans fail.
    pub(super) async fn begin(&self) -> Result<Followed, CliError> {
        self.mend().await?;
        let mut holder: Option<(i64, u32)> = None;
        let mut locked = 0;
        loop {
            match self.follow().await {
                Err(Unfollowed::NoData) => {}
                Err(Unfollowed::Locked(_)) if locked < LOOKS => {
                    locked += 1;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(other) => return Err(other.into()),
                Ok(followed) => return Ok(followed),
            }
            let Some(held) = self.first(&mut holder).await? else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let made = self.make().await;
            // Whoever waits for it takes it over later where this fails.
            let _ = self.connected.store.delete(FIRST, held).await;
            match made {
                // K3s was faster. What was made for nothing was taken back.
                Err(error) if self.rows().await.is_ok_and(|rows| rows.is_empty()) => {
                    return Err(error);
                }
                _ => {}
            }
        }
    }

    /// Takes the key of the first server; `None` while another holds it.
    async fn first(&self, seen: &mut Option<(i64, u32)>) -> Result<Option<i64>, CliError> {
        let store = self.connected.store.as_ref();
        let value = self.world.now().to_string();
        let held = match store.get(FIRST).await.map_err(reached)? {
            None => store.create(FIRST, value.as_bytes()).await,
            Some(record) => {
                let times = match *seen {
                    Some((revision, times)) if revision == record.revision => times + 1,
                    _ => 0,
                };
                *seen = Some((record.revision, times));
                if times < LOOKS {
                    return Ok(None);
                }
                let revision = record.revision;
                store.update(FIRST, revision, value.as_bytes()).await
            }
        };
        match held {
            Ok(revision) => Ok(Some(revision)),
            Err(DatastoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(reached(error)),
        }
    }

    /// Makes what is missing on the disk, and puts it into a datastore that has nothing.
    async fn make(&self) -> Result<(), CliError> {
        if !self.rows().await?.is_empty() {
            return Ok(());
        }
        let candidates = self.candidates().await?;
        let token = match self.args.endpoint.token_files.first() {
            Some(path) => Some(token(path)?),
            None if self.settings.data_dir.join("server/cred/passwd").exists() => None,
            None => candidates
                .first()
                .map(|it| Token::parse(it.owner.expose()))
                .transpose()
                .map_err(|error| CliError::usage(error.to_string()))?,
        };
        self.reconcile(None, token.as_ref(), &candidates).await?;
        tell("the cluster's CAs are in the datastore", Vec::new());
        Ok(())
    }

    /// Brings this server's files to what the datastore holds.
    ///
    /// # Errors
    ///
    /// [`Unfollowed`]; then the files are as they were.
    pub(super) async fn follow(&self) -> Result<Followed, Unfollowed> {
        let (records, opened, candidates) = self.opened().await?;
        let changed = self.reconcile(Some(&opened), None, &candidates).await?;
        let rows = rows_of(&records);
        Ok(Followed { rows, changed })
    }

    /// The datastore's rows, if this server's files are those in it.
    ///
    /// # Errors
    ///
    /// As [`Self::follow`].
    pub(super) async fn same(&self) -> Result<Option<Rows>, Unfollowed> {
        let (records, opened, _) = self.opened().await?;
        let disk = self.disk().await?;
        let is_same = compare(&opened.bundle, &disk).verdict() == Verdict::Same;
        Ok(is_same.then(|| rows_of(&records)))
    }

    /// Which files on this server's disk are not the datastore's, in words; `None` if all are.
    ///
    /// # Errors
    ///
    /// As [`Self::follow`].
    pub(super) async fn foreign(&self) -> Result<Option<String>, Unfollowed> {
        let (_, opened, _) = self.opened().await?;
        let disk = self.disk().await?;
        Ok(differing(&compare(&opened.bundle, &disk)))
    }

    /// The datastore's rows, what they hold, and the tokens that open them.
    ///
    /// # Errors
    ///
    /// As [`Self::follow`].
    pub(super) async fn opened(&self) -> Result<(Vec<Record>, Opened, Candidates), Unfollowed> {
        let records = self.records().await.map_err(Unfollowed::Away)?;
        let candidates = self.candidates().await?;
        match locate(&records, &candidates) {
            Ok(opened) => Ok((records, opened, candidates)),
            Err(LocateError::NoData) => Err(Unfollowed::NoData),
            Err(error @ LocateError::Locked { .. }) => {
                Err(Unfollowed::Locked(unopened(&self.connected, &error)))
            }
            Err(error) => Err(unopened(&self.connected, &error).into()),
        }
    }

    async fn reconcile(
        &self,
        opened: Option<&Opened>,
        token: Option<&Token>,
        candidates: &Candidates,
    ) -> Result<bool, CliError> {
        let world = &self.world;
        let disk = self.disk().await?;
        let (spec, survey) = look(world, &init_args(&self.args), &self.settings).await?;
        let id = self.plan_id(if opened.is_some() { "follow" } else { "begin" })?;
        let (plan, staged) = plan_reconcile(Request {
            id: &id,
            spec: &spec,
            survey,
            disk: &disk,
            opened,
            datastore: &self.connected.place,
            keep: None,
            reset: None,
            token,
            now: world.now(),
            entropy: &world.entropy,
            keys: &world.keys,
        })
        .map_err(|error| {
            let differing = opened.and_then(|it| differing(&compare(&it.bundle, &disk)));
            refused(error, differing)
        })?;
        self.apply(&plan, &staged, candidates).await
    }

    pub(super) async fn disk(&self) -> Result<Disk, CliError> {
        let server = self.settings.data_dir.join("server");
        Ok(Disk::look(&self.world.host, &server).await?)
    }

    /// Every token at hand, read anew: an operator may have put another one in its file.
    pub(super) async fn candidates(&self) -> Result<Candidates, CliError> {
        candidates(&self.world.host, &self.args.endpoint, &self.settings).await
    }

    /// The bootstrap rows.
    pub(super) async fn records(&self) -> Result<Vec<Record>, CliError> {
        let asked = tokio::time::timeout(PATIENCE, self.connected.store.list(KEY_PREFIX));
        match asked.await {
            Ok(records) => records.map_err(reached),
            Err(_) => Err(CliError::message(format!(
                "{} does not answer within {} s",
                self.connected.place,
                PATIENCE.as_secs()
            ))),
        }
    }

    /// The bootstrap rows' names and revisions.
    pub(super) async fn rows(&self) -> Result<Rows, CliError> {
        Ok(rows_of(&self.records().await?))
    }

    /// The name of a plan that a server makes by itself, and mends by itself.
    pub(super) fn plan_id(&self, purpose: &str) -> Result<PlanId, CliError> {
        let purpose = format!("{OWN}{purpose}");
        Ok(plan_id(self.world.now(), &purpose, &self.world.entropy)?)
    }

    /// Carries a plan out, and takes it back where it fails half-way. Answers whether it had
    /// anything to do.
    ///
    /// # Errors
    ///
    /// When it fails; what cannot be taken back either is mended by the next call.
    pub(super) async fn apply(
        &self,
        plan: &Plan,
        staged: &[Staged],
        candidates: &Candidates,
    ) -> Result<bool, CliError> {
        let done = self.carry_out(plan, staged, candidates).await;
        done.map_err(|error| self.with_place(error))
    }

    async fn carry_out(
        &self,
        plan: &Plan,
        staged: &[Staged],
        candidates: &Candidates,
    ) -> Result<bool, CliError> {
        if plan.steps.is_empty() {
            return Ok(false);
        }
        self.mend().await?;
        let locked = lock(&self.state)?;
        refuse_unfinished(&self.state)?;
        locked.drop_unbegun()?;
        // Who reads its leaves is told of them, by the keeper.
        self.hooks.foretold(&services(plan))?;
        stage(&locked, &plan.id, staged)?;
        let passphrases = passphrases(candidates);
        let recorded = self.records.of(Need::Urgent);
        let executor = self.executor(&locked, &passphrases, &recorded);
        match executor.apply(plan).await {
            Ok(Outcome::Finished { .. }) => {
                // Old plans that stay are in nobody's way.
                let _ = locked.prune(self.world.now());
                let fields = vec![
                    ("plan", plan.id.to_string()),
                    ("what", plan.title.clone()),
                    ("journal", locked.path().display().to_string()),
                ];
                tell("a plan was carried out", fields);
                Ok(true)
            }
            Ok(_) => Err(CliError::message(format!("{} is not done yet", plan.id))),
            Err(error) => {
                if error.aftermath() == Aftermath::Interrupted {
                    let _ = take_back(&executor, &plan.id).await;
                } else {
                    locked.drop_staging(&plan.id)?;
                }
                Err(failed(error))
            }
        }
    }

    /// Goes on with what a server of before was killed at, or takes it back.
    ///
    /// # Errors
    ///
    /// When neither can be done, or a person's plan was interrupted.
    pub(super) async fn mend(&self) -> Result<(), CliError> {
        let mended = self.finish_or_take_back().await;
        mended.map_err(|error| self.with_place(error))
    }

    /// A server's plans lie beside those of people: the way out has to say where.
    fn with_place(&self, error: CliError) -> CliError {
        let state = self.state.path().display();
        let hint = error.hint.map(|hint| match hint == INTERRUPTED {
            true => format!(
                "run `kubepki resume --state-dir {state}` to go on or `kubepki undo --state-dir \
                 {state}` to take it back"
            ),
            false => hint,
        });
        CliError { hint, ..error }
    }

    async fn finish_or_take_back(&self) -> Result<(), CliError> {
        let Some(past) = unfinished(&self.state)? else {
            return refuse_unfinished(&self.state);
        };
        let whose = past.undoes.as_ref().unwrap_or(&past.id);
        if !is_own(whose) || self.state.holder()?.is_some() {
            return refuse_unfinished(&self.state);
        }
        let candidates = self.candidates().await?;
        let locked = lock(&self.state)?;
        let passphrases = passphrases(&candidates);
        let recorded = self.records.of(Need::Urgent);
        let executor = self.executor(&locked, &passphrases, &recorded);
        let resumed = match self.is_outrun(&past.id).await? {
            true => None,
            false => Some(executor.resume(&past.id).await),
        };
        let done = match resumed {
            Some(Ok(_)) => "finished",
            Some(Err(error)) if past.undoes.is_some() => return Err(failed(error)),
            _ => {
                take_back(&executor, &past.id).await?;
                "taken back"
            }
        };
        let fields = vec![("plan", past.id.to_string()), ("now", done.to_owned())];
        tell("a plan was interrupted when the server ended", fields);
        Ok(())
    }

    /// The log's troubles are no reason not to follow the cluster.
    fn executor<'a>(
        &'a self,
        locked: &'a Locked,
        passphrases: &'a [Passphrase],
        recorded: &'a Recorded<'a>,
    ) -> Executor<'a> {
        Executor {
            observer: recorded,
            cluster: Some(self.connected.cluster(passphrases)),
            ..self.world.executor(locked)
        }
    }
}

/// How the names of a server's own plans begin, after the time.
const OWN: &str = "serve-";

/// Whether a server made the plan by itself.
pub fn is_own(id: &PlanId) -> bool {
    is_of(id, "")
}

/// Whether a server made it for that purpose.
pub fn is_of(id: &PlanId, purpose: &str) -> bool {
    let own = id.without_moment();
    own.and_then(|name| name.strip_prefix(OWN))
        .is_some_and(|name| name.starts_with(purpose))
}

async fn take_back(executor: &Executor<'_>, id: &PlanId) -> Result<(), CliError> {
    let undo = executor.undo(id).await.map_err(failed)?;
    executor.apply(&undo).await.map(drop).map_err(failed)
}

fn passphrases(candidates: &Candidates) -> Vec<Passphrase> {
    candidates.iter().map(|it| it.passphrase.clone()).collect()
}

fn rows_of(records: &[Record]) -> Rows {
    let row = |record: &Record| (record.key.clone(), record.revision);
    records.iter().map(row).collect()
}

fn token(path: &std::path::Path) -> Result<Token, CliError> {
    let text = named(path)?;
    Token::parse(text.trim())
        .map_err(|error| CliError::usage(format!("--token-file {}: {error}", path.display())))
}
