//! Servers in turn, and again for as long as what is wrong may pass.

use std::cell::Cell;
use std::time::Duration;

use kubepki::edge::Entropy as _;
use kubepki_remote::SupervisorError;
use pki::Digest;
use tokio::time::Instant;

use super::obtain::{Asking, Kept, Obtained, obtain};
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// A server that did not give what it was asked for.
pub struct Failure {
    /// How that would end the command.
    pub error: CliError,
    /// What may be otherwise in a moment; and how long the server asks to be left alone.
    passing: Option<Option<Duration>>,
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self {
            error,
            passing: None,
        }
    }
}

impl Failure {
    /// How a call's failure ends the command. Nothing was changed by then, but for the password.
    pub fn of(error: &SupervisorError) -> Self {
        let exit = match error {
            SupervisorError::Url { .. } | SupervisorError::Token { .. } => Exit::Usage,
            // Busy, starting, or in trouble itself: nobody refused anything.
            SupervisorError::NodeRefused {
                status: 429 | 500..,
                ..
            } => Exit::Failed,
            SupervisorError::OtherAuthority { .. }
            | SupervisorError::OtherKeys { .. }
            | SupervisorError::OtherIssuer { .. }
            | SupervisorError::OtherThanFirst { .. }
            | SupervisorError::Unproven { .. }
            | SupervisorError::Unpinned { .. }
            | SupervisorError::NodeRefused { .. } => Exit::Refused,
            _ => Exit::Failed,
        };
        Self {
            error: CliError {
                exit,
                ..CliError::failed(error)
            },
            passing: error.passing(),
        }
    }
}

/// The first server that gives everything. Those that are away or busy are asked again while
/// `--patience` lasts, and certificates that were given by then are kept.
pub async fn in_turn(asking: &Asking<'_>) -> Result<Obtained, CliError> {
    let patience = Duration::from_secs(asking.args.patience);
    let began = Instant::now();
    let (mut kept, held) = (Kept::default(), Cell::new(None));
    let mut servers: Vec<&str> = asking.args.servers.iter().map(String::as_str).collect();
    let mut pause = FIRST_PAUSE;
    let mut refused = None;
    loop {
        let (mut again, mut left_alone, mut last) = (Vec::new(), None, None);
        for (index, server) in servers.iter().enumerate() {
            let failure = match attempt(asking, server, &mut kept, &held).await {
                Ok(obtained) => return Ok(obtained),
                Err(failure) => failure,
            };
            if failure.error.exit == Exit::Usage {
                return Err(failure.error);
            }
            if index + 1 < servers.len() {
                tell(&failure.error, "the next server is tried");
            }
            match failure.passing {
                Some(asked) => {
                    again.push(*server);
                    let asked = asked.unwrap_or_default();
                    left_alone = Some(left_alone.unwrap_or(asked).min(asked));
                    last = Some(failure.error);
                }
                // What a server that knows has said is the better answer in the end.
                None => refused = Some(failure.error),
            }
        }
        let wait = wait(pause, left_alone, jitter(asking.world)?);
        pause = LONGEST_PAUSE.min(pause * 2);
        let last = match last {
            Some(last) if began.elapsed().saturating_add(wait) <= patience => last,
            last => {
                let nothing = || CliError::usage("--server names no server");
                return Err(refused.or(last).unwrap_or_else(nothing));
            }
        };
        tell(&last, "it is asked again");
        tokio::time::sleep(wait).await;
        servers = again;
    }
}

/// Before the second round; each further one comes after twice the time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// As often as K3s's own agents ask (reference section 6.1).
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait: `pause` at most and half of it at least, by chance, so that a thousand nodes
/// do not come back together; and no less than the server asked for.
fn wait(pause: Duration, left_alone: Option<Duration>, chance: u8) -> Duration {
    let half = pause / 2;
    let wait = half + half * u32::from(chance) / 255;
    let asked = left_alone.unwrap_or_default();
    asked.saturating_add(if asked.is_zero() { wait } else { wait / 4 })
}

fn jitter(world: &World) -> Result<u8, CliError> {
    let mut byte = [0; 1];
    world.entropy.fill(&mut byte)?;
    let [byte] = byte;
    Ok(byte)
}

async fn attempt(
    asking: &Asking<'_>,
    server: &str,
    kept: &mut Kept,
    held: &Cell<Option<Digest>>,
) -> Result<Obtained, Failure> {
    let login = asking.login;
    let connection = login.connect(server, asking.world, held.get()).await;
    let connection = connection.map_err(|error| login.failure(&error))?;
    if let Some(seen) = connection.seen().filter(|it| !it.pinned) {
        output::talk(&format!(
            "Note: {server} is trusted on first use; its CA has the hash {}",
            seen.hash
        ));
        // The token is not handed to one CA after the other.
        held.set(Some(seen.hash));
    }
    obtain(asking, &connection, kept).await
}

/// A failure that is not the last word.
fn tell(error: &CliError, what_now: &str) {
    output::talk(&format!("Note: {}; {what_now}", error.message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_asks_for_is_waited_and_chance_is_within_bounds() {
        let second = Duration::from_secs(1);
        assert_eq!(wait(second, None, 0), second / 2);
        assert_eq!(wait(second, None, 255), second);
        for chance in [0, 77, 255] {
            let asked = wait(second, Some(9 * second), chance);
            assert!(asked >= 9 * second && asked < 10 * second, "{asked:?}");
        }
    }
}
