//! `PUT /v1-k3s/cert/cacerts` and `PUT /v1-k3s/token`: the plans of `rotate-ca` and
//! `token rotate`, carried out by the server that is asked.

use std::sync::Arc;

use async_trait::async_trait;
use kubepki::bootstrap::Bundle;
use kubepki::ca::rotate::{Request, Restarts, RotateError, Tokens, Way, plan_rotate_ca};
use kubepki::ca::verify::{Intent, Places, Question, Stamps, Verdict, verify};
use kubepki::init::Staged;
use kubepki::plan::{Plan, Target};
use kubepki::token::{Head, Known, NewPassword, Rotation, Rule, ServerFiles, Token, plan_rotation};
use kubepki_serve::cluster::{Control, Undone};
use kubepki_serve::health::{Part, State};
use kubepki_serve::node::Strictness;
use kubepki_serve::service::Loaded;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::start::init_args;
use super::take_up::{TakeUp, behind};
use super::{TakeUpMode, tell};
use crate::command::reconcile::look;
use crate::error::CliError;

/// What a caller wants, and where it hears of it.
pub(super) struct Order {
    what: What,
    /// What was in force when its caller proved who it is.
    admitted: Arc<Loaded>,
    done: oneshot::Sender<Result<(), Undone>>,
}

enum What {
    Authorities {
        body: Zeroizing<Vec<u8>>,
        force: bool,
    },
    Token(Zeroizing<String>),
}

/// Hands orders on. A caller that hangs up leaves no plan half done.
pub(super) struct Hands(mpsc::Sender<Order>);

impl Hands {
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (sender, orders) = mpsc::channel(4);
        (Self(sender), orders)
    }

    async fn order(&self, what: What, admitted: &Arc<Loaded>) -> Result<(), Undone> {
        let gone = |()| Undone::Failed("the server is stopping".to_owned());
        let (done, answer) = oneshot::channel();
        let order = Order {
            what,
            admitted: Arc::clone(admitted),
            done,
        };
        self.0.send(order).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}

#[async_trait]
impl Control for Hands {
    async fn put_authorities(
        &self,
        body: Zeroizing<Vec<u8>>,
        force: bool,
        admitted: &Arc<Loaded>,
    ) -> Result<(), Undone> {
        let what = What::Authorities { body, force };
        self.order(what, admitted).await
    }

    async fn put_token(
        &self,
        new: Zeroizing<String>,
        admitted: &Arc<Loaded>,
    ) -> Result<(), Undone> {
        self.order(What::Token(new), admitted).await
    }
}

impl TakeUp {
    pub(super) async fn carry_out(&mut self, order: Order) {
        // What others changed a moment ago comes first.
        self.tick().await;
        // A renewal that has begun ends first: both change leaves.
        let turn = Arc::clone(&self.turn);
        let held = turn.lock().await;
        let done = match self.refuse_overtaken(&order.admitted) {
            Err(undone) => Err(undone),
            Ok(()) => {
                let done = match &order.what {
                    What::Authorities { body, force } => self.authorities(body, *force).await,
                    What::Token(new) => self.token(new).await,
                };
                done.map_err(|error| {
                    Undone::Failed(match error.hint {
                        Some(hint) => format!("{}; {hint}", error.message),
                        None => error.message,
                    })
                })
            }
        };
        drop(held);
        if done.is_err() {
            // What came of it is seen before anything is issued again.
            self.tick().await;
        }
        // The caller may be gone; the log has what was done.
        let _ = order.done.send(done);
    }
}

impl TakeUp {
    /// Whoever had a key or a password of before must not change what came after.
    fn refuse_overtaken(&self, admitted: &Arc<Loaded>) -> Result<(), Undone> {
        let loaded = self.service.loaded();
        match loaded.is_ok_and(|loaded| Arc::ptr_eq(&loaded, admitted)) {
            true => Ok(()),
            false => Err(Undone::Overtaken),
        }
    }
}

/// K3s's own verdict, which `force` overrides.
fn heed(verdict: &Verdict, force: bool) -> Result<(), CliError> {
    if verdict.k3s_accepts() {
        return Ok(());
    }
    let words = verdict.k3s_message();
    if !force {
        return Err(CliError::refused(format!(
            "failed to validate new CA certificates and keys: {words}"
        )));
    }
    let fields = vec![("reason", words)];
    tell(
        "validation errors are ignored, as the caller wants it",
        fields,
    );
    Ok(())
}

/// Files follow at the next start.
fn only_in_the_datastore(plan: &mut Plan, staged: &mut Vec<Staged>) {
    plan.steps
        .retain(|step| matches!(step.target, Target::DatastoreKey { .. }));
    plan.leaves.clear();
    staged.retain(|it| it.name == kubepki::bootstrap::STAGED_NAME);
}

impl TakeUp {
    async fn authorities(&mut self, body: &[u8], force: bool) -> Result<(), CliError> {
        let new = Bundle::parse(body).map_err(|error| CliError::failed(&error))?;
        let commons = &self.commons;
        let (_, opened, candidates) = commons.opened().await?;
        let (world, disk) = (&commons.world, commons.disk().await?);
        let (spec, survey) = look(world, &init_args(&commons.args), &commons.settings).await?;
        let (now, id) = (world.now(), commons.plan_id("rotate-ca")?);
        let verdict = verify(&Question {
            old: Some(&disk.bundle),
            new: &new,
            now,
            on_date: now,
            release: survey.inventory.release,
            intent: Intent::Ordinary,
            stamps: Stamps::Now,
            places: Places {
                old: disk.server.clone(),
                new: disk.server.join("rotate-ca"),
            },
        });
        heed(&verdict, force)?;
        let compatible = self.service.strictness == Strictness::K3sCompatible;
        let planned = plan_rotate_ca(Request {
            id: &id,
            verdict: &verdict,
            staged: &new,
            way: Way::Direct {
                opened: &opened,
                datastore: &commons.connected.place,
            },
            disk: &disk,
            spec: &spec,
            survey,
            intent: Intent::Ordinary,
            force: force || compatible,
            fleet: None,
            tokens: Tokens::Stay,
            exposures: &[],
            copies: &[],
            restarts: Restarts::live(),
            now,
            entropy: &world.entropy,
            keys: &world.keys,
        });
        let (mut plan, mut staged) = match planned {
            Ok(planned) => planned,
            // K3s writes the same once more.
            Err(RotateError::Same) => return Ok(()),
            Err(error) => return Err(CliError::refused(kubepki::error_chain(&error))),
        };
        if self.mode == TakeUpMode::Restart {
            only_in_the_datastore(&mut plan, &mut staged);
        }
        self.service.cluster.changing(true);
        let applied = commons.apply(&plan, &staged, &candidates).await;
        let state = match (&applied, self.mode) {
            // It may have been taken back, or not: the next look tells.
            (Err(error), _) => State::Down(format!(
                "a change of the cluster's CAs failed, and which are in force is not known: {}",
                error.message
            )),
            (Ok(_), TakeUpMode::Live) => self.in_force().await,
            (Ok(_), TakeUpMode::Restart) => self.ask_for_restart().await,
        };
        self.service.note(Part::Cluster, state);
        self.service.cluster.changing(false);
        applied.map(drop)
    }

    async fn token(&mut self, new: &Zeroizing<String>) -> Result<(), CliError> {
        let commons = &self.commons;
        let (_, opened, candidates) = commons.opened().await?;
        let world = &commons.world;
        let (_, survey) = look(world, &init_args(&commons.args), &commons.settings).await?;
        let inventory = &survey.inventory;
        let server = inventory.site.server();
        let files = ServerFiles::read(&world.host, &server).await;
        let files = files.map_err(|error| CliError::failed(&error))?;
        let rule = Rule::of_tree(inventory);
        let authority = files
            .authority()
            .map_err(|error| CliError::failed(&error))?;
        let known =
            Known::of(authority, rule, world.now()).map_err(|error| CliError::failed(&error))?;
        let password = match new.is_empty() {
            true => {
                NewPassword::random(&world.entropy).map_err(|error| CliError::failed(&error))?
            }
            false => {
                let token = Token::parse(new).map_err(|error| CliError::failed(&error))?;
                NewPassword::of(&token, known.present())
                    .map_err(|error| CliError::failed(&error))?
            }
        };
        let id = commons.plan_id("token")?;
        let planned = plan_rotation(&Rotation {
            head: Head {
                id: &id,
                node: &self.service.settings.node_name,
                root: &inventory.site.data_dir,
                datastore: Some(&commons.connected.place),
                now: world.now(),
            },
            files: &files,
            opened: &opened,
            new: &password,
            rule,
            edits: &[],
            live: true,
            entropy: &world.entropy,
        });
        let (plan, staged) = planned.map_err(|error| CliError::failed(&error))?;
        commons.apply(&plan, &staged, &candidates).await?;
        let state = self.in_force().await;
        self.service.note(Part::Cluster, state);
        Ok(())
    }

    /// What was just written here is in force here, unless somebody else wrote besides: then the
    /// next look takes that up.
    async fn in_force(&mut self) -> State {
        if let Err(why) = self.put_in_force() {
            return State::Down(why);
        }
        match self.commons.same().await {
            Ok(Some(rows)) => {
                self.taken.rows = rows;
                self.service.cluster.heard();
                State::Fine
            }
            Ok(None) => State::Down(
                "the datastore holds CAs or users that are not in force here yet".to_owned(),
            ),
            // The next look tells.
            Err(error) => State::Down(behind(error)),
        }
    }
}
