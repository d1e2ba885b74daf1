//! Writing bootstrap data, as steps of a plan and the ciphertext that they name.

use super::{Bundle, Opened, Passphrase, SealError, seal};
use crate::edge::Entropy;
use crate::init::Staged;
use crate::plan::{Action, Before, Content, Step, Target, TxnOperation};

/// Steps that write bootstrap data, and what has to be staged for them.
#[derive(Debug)]
pub struct Save {
    /// In order; their numbers are the plan's business.
    pub steps: Vec<Step>,
    /// The ciphertext.
    pub staged: Staged,
}

impl Save {
    /// Adds the steps at the end of a plan's, numbered on.
    pub fn append(self, steps: &mut Vec<Step>, staged: &mut Vec<Staged>) {
        steps.extend(self.steps);
        for (step, number) in steps.iter_mut().zip(1_u32..) {
            step.number = number;
        }
        staged.push(self.staged);
    }
}

/// What the ciphertext is called in a plan's staging directory.
pub const STAGED_NAME: &str = "bootstrap-data";

/// A bundle as the datastore keeps it.
///
/// # Errors
///
/// [`SealError::Crypto`] when random bytes or the cipher fail.
pub fn seal_bundle(
    bundle: &Bundle,
    passphrase: &Passphrase,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, SealError> {
    seal(&bundle.to_json(), passphrase, entropy)
}

/// Replaces the data of `opened` by `bundle`, under the same token. Former keys of that token go,
/// as they do when K3s writes.
///
/// # Errors
///
/// As [`seal_bundle`].
pub fn save(
    opened: &Opened,
    bundle: &Bundle,
    entropy: &dyn Entropy,
    reason: &str,
) -> Result<Save, SealError> {
    save_as(opened, &opened.owner, bundle, entropy, reason)
}

/// Replaces the data of `opened` by `bundle`, encrypted with `owner`: where that is another
/// token, its key is created and the former one deleted, as `k3s token rotate` does.
///
/// # Errors
///
/// As [`seal_bundle`].
pub fn save_as(
    opened: &Opened,
    owner: &Passphrase,
    bundle: &Bundle,
    entropy: &dyn Entropy,
    reason: &str,
) -> Result<Save, SealError> {
    let (content, staged) = sealed(bundle, owner, entropy)?;
    let key = owner.key_name();
    let record = &opened.record;
    let mut steps = Vec::new();
    let mut former: Vec<(&str, i64)> = Vec::new();
    if record.key == key {
        let operation = TxnOperation::Update(content);
        let before = Before::Revision(record.revision);
        steps.push(txn(key.clone(), before, operation, reason));
    } else {
        let operation = TxnOperation::Create(content);
        steps.push(txn(key.clone(), Before::Absent, operation, reason));
        former.push((&record.key, record.revision));
    }
    let superseded = opened.superseded.iter().filter(|it| it.key != key);
    former.extend(superseded.map(|it| (it.key.as_str(), it.revision)));
    for (former, revision) in former {
        let before = Before::Revision(revision);
        let reason = format!("the data lie under {key} now");
        let step = txn(former.to_owned(), before, TxnOperation::Delete, &reason);
        steps.push(step);
    }
    Ok(Save { steps, staged })
}

/// Creates the data of a cluster that has none yet.
///
/// # Errors
///
/// As [`seal_bundle`].
pub fn create(
    owner: &Passphrase,
    bundle: &Bundle,
    entropy: &dyn Entropy,
    reason: &str,
) -> Result<Save, SealError> {
    let (content, staged) = sealed(bundle, owner, entropy)?;
    let operation = TxnOperation::Create(content);
    let steps = vec![txn(owner.key_name(), Before::Absent, operation, reason)];
    Ok(Save { steps, staged })
}

fn sealed(
    bundle: &Bundle,
    owner: &Passphrase,
    entropy: &dyn Entropy,
) -> Result<(Content, Staged), SealError> {
    let bytes = seal_bundle(bundle, owner, entropy)?;
    let sha256 = pki::sha256(&bytes).to_string();
    let name = STAGED_NAME.to_owned();
    let staged = Staged {
        name: name.clone(),
        bytes: bytes.into(),
    };
    Ok((Content::Staged { name, sha256 }, staged))
}

fn txn(key: String, before: Before, operation: TxnOperation, reason: &str) -> Step {
    Step {
        number: 0,
        target: Target::DatastoreKey { key },
        before,
        action: Action::Txn { operation },
        reason: reason.to_owned(),
    }
}
