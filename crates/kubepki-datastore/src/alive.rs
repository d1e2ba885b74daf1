//! Whether a server lives behind a datastore.

use std::time::Duration;

use kubepki::datastore::{Archive, DatastoreError};

/// How often the newest revision is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whether the newest revision of the datastore moves within `wait`.
///
/// An API server renews leases every few seconds, so a revision that stands still for 12 seconds
/// means that none is at work. It is a proof of life only: a server that is stopped this moment
/// has written before, and one that hangs does not write.
///
/// # Errors
///
/// [`DatastoreError`] when the revision cannot be read.
pub async fn is_moving(store: &dyn Archive, wait: Duration) -> Result<bool, DatastoreError> {
    let first = store.newest_revision().await?;
    let mut left = wait;
    while !left.is_zero() {
        let pause = left.min(INTERVAL);
        tokio::time::sleep(pause).await;
        left -= pause;
        if store.newest_revision().await? != first {
            return Ok(true);
        }
    }
    Ok(false)
}
