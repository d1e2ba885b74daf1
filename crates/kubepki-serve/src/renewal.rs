//! Renewal while it serves: the listener's certificate, swapped for new connections.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kubepki::edge::{Entropy, KeySource};
use kubepki::state::StateDir;

use crate::health::{Part, State};
use crate::issuance::Entered;
use crate::listener::{PortError, Wanted, prepare};
use crate::service::{Line, Loaded, Service};
use crate::tls::Listened;
use crate::tree::{Tree, TreeError};

/// Between two looks, as K3s (reference section 8.1).
pub const EVERY: Duration = Duration::from_secs(6 * 3600);
/// After a failure.
pub const AGAIN: Duration = Duration::from_secs(300);

/// Between two looks at the files on the disk.
pub const RELOAD: Duration = Duration::from_secs(30);

/// CAs, passwords and keys on the disk, where they are not those in force. Whether they are the
/// cluster's is for the caller to ask, before it puts them [in force](put_in_force).
///
/// # Errors
///
/// Files that do not fit, as in the middle of a rotation: the next look finds them whole.
pub fn changed(service: &Service) -> Result<Option<Tree>, TreeError> {
    let Ok(present) = service.loaded() else {
        return Ok(None);
    };
    let old = &present.tree;
    let tree = Tree::load(&old.directory, service.strictness)?;
    Ok((!old.is_same_as(&tree)).then_some(tree))
}

/// Takes up CAs, passwords and keys that are the cluster's and were put on the disk. Answers
/// whether there was anything new.
///
/// # Errors
///
/// As [`changed`]: then nothing changes.
pub fn reload(service: &Service) -> Result<bool, TreeError> {
    Ok(changed(service)?.is_some_and(|tree| put_in_force(service, tree)))
}

/// Issues and trusts by `tree` from now on. Requests that are being answered end with what they
/// began with. Call [`look`] afterwards: the listener's certificate has to follow a new CA.
pub fn put_in_force(service: &Service, tree: Tree) -> bool {
    let mut key = [0; 32];
    if service.entropy.fill(&mut key).is_err() {
        return false;
    }
    let hash = pki::sha256(&tree.server.bytes);
    let loaded = Loaded::new(tree, &service.settings, &key);
    if let Ok(mut held) = service.tree.write() {
        *held = Arc::new(loaded);
    }
    (service.journal)(&Line {
        message: "CAs or passwords were changed on the disk and are in force",
        fields: vec![("server_ca_sha256", hash.to_string())],
    });
    true
}

/// A pause of `about` that long: up to a tenth more or less, so that servers which were started
/// together do not renew together.
pub fn jittered(about: Duration, entropy: &dyn Entropy) -> Duration {
    let mut bytes = [0; 2];
    // Without random bytes the pause is the shortest.
    let _ = entropy.fill(&mut bytes);
    let fifth = about / 5;
    let part = fifth.saturating_mul(u32::from(u16::from_be_bytes(bytes))) / u32::from(u16::MAX);
    about.saturating_sub(about / 10).saturating_add(part)
}

/// Looks at the listener's certificate; serves what is in its file from now on, after it was
/// renewed where it was due. Connections that are open go on. For `plans` see [`Wanted::plans`].
///
/// # Errors
///
/// [`PortError`]: then what was served is served on, or what lies in its file where that could only
/// not be recorded. [`PortError::AtWork`] asks for another look soon.
pub fn look(
    service: &Service,
    listened: &Arc<Listened>,
    keys: &dyn KeySource,
    plans: &[StateDir],
) -> Result<Option<&'static str>, PortError> {
    // After a panic elsewhere there is nothing to renew.
    let Ok(loaded) = service.loaded() else {
        return Ok(None);
    };
    // Whoever looks at the same time would write over what this one learns.
    let hand = service.names.hand.lock();
    let _held = hand.unwrap_or_else(PoisonError::into_inner);
    // Of all servers, so that each can stand in for the others.
    let mut sans = service.settings.sans.clone();
    let others = service.cluster.sans().into_iter();
    for san in others.chain(service.names.learnt()) {
        if !sans.contains(&san) {
            sans.push(san);
        }
    }
    let wanted = Wanted {
        sans: &sans,
        lifetime: service.leaf_lifetime,
        window: service.leaf_window,
        now: service.clock.now(),
        entropy: service.entropy.as_ref(),
        keys,
        records: service.own.as_ref(),
        is_sure: true,
        plans,
    };
    // Somebody is putting CAs in place, file by file: what the former CA signs now would overwrite
    // the listener's certificate that comes with them. One that ends soon cannot wait for that.
    let is_behind = loaded.tree.is_behind() || service.health.is_troubled(Part::Files);
    if is_behind
        && listened
            .remaining(wanted.now)
            .is_some_and(|left| left > service.leaf_window / 2)
    {
        return Ok(None);
    }
    let port = prepare(&loaded.tree, &wanted)?;
    if port.entered == Some(Entered::Now) {
        service.note(Part::Log, State::Fine);
    }
    if let Some(error) = &port.unrecorded {
        service.note(Part::Log, State::Warning(error.reason.clone()));
    }
    let why = (!listened.serves(port.leaf.der())).then(|| {
        port.issued
            .unwrap_or("somebody put another one in its file")
    });
    if let Some(why) = why {
        // Said when it is so.
        listened.swap(port.certified);
        service.names.shows(&port.leaf);
        let message = "new connections get another certificate";
        let fields = vec![
            ("because", why.to_owned()),
            ("serial", port.leaf.serial().to_string()),
            ("not_after", port.leaf.validity().not_after.to_string()),
        ];
        (service.journal)(&Line { message, fields });
    }
    match port.unrecorded {
        Some(error) => Err(PortError::Unrecorded(error)),
        None => Ok(why),
    }
}

#[cfg(test)]
mod tests {
    use kubepki::edge::SystemEntropy;

    use super::*;

    #[test]
    fn pauses_differ_by_a_tenth() {
        let pauses: Vec<_> = (0..50).map(|_| jittered(EVERY, &SystemEntropy)).collect();
        let (least, most) = (EVERY * 9 / 10, EVERY * 11 / 10);
        assert!(pauses.iter().all(|it| (least..=most).contains(it)));
        assert!(pauses.iter().any(|it| *it != pauses[0]));
    }
}
