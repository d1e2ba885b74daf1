//! What others have to learn of new CAs, as far as it can be seen from here.

use std::fmt::Write as _;
use std::time::Duration;

use kubepki::host::Host as _;
use kubepki::rke::{Half, State, names};

use super::Session;

/// How often the Secrets are looked at, and how long is waited in between: their controller looks
/// at the new bundle as soon as it has restarted.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Whether `ca.crt` of every service-account Secret holds the root that is in force now. `None`
/// where the state file does not tell it.
pub async fn secrets(session: &Session<'_>) -> Option<String> {
    let entry = session.world.host.read(&session.cluster.site.state).await;
    let entry = entry.ok().flatten()?;
    let state = State::parse(entry.bytes()?).ok()?;
    let root = state.entry(Half::Current, names::KUBE_CA)?;
    let root = root.certificate().ok().flatten()?;
    let mut look = 0;
    loop {
        look += 1;
        match session.api.stale_authorities(&root).await {
            Ok(stale) if stale.is_empty() => {
                return Some(
                    "Service-account Secrets: ca.crt holds the new root in all of them.".to_owned(),
                );
            }
            Ok(_) if look < LOOKS => tokio::time::sleep(PAUSE).await,
            Ok(stale) => {
                let mut text =
                    "Service-account Secrets whose ca.crt does not hold the new root yet:"
                        .to_owned();
                for secret in stale {
                    let _ = write!(text, "\n  {secret}");
                }
                text.push_str(
                    "\nkube-controller-manager renews them; look at its log if they stay so.",
                );
                return Some(text);
            }
            Err(error) => {
                return Some(format!(
                    "Note: ca.crt of service-account Secrets could not be looked at: {}",
                    kubepki::error_chain(&error)
                ));
            }
        }
    }
}
