//! The way back once servers were restarted: the former CAs issue again, and the roots that came
//! since stay trusted, for there are certificates under them.

use pki::{Certificate, UnixTime};

use crate::bootstrap::{Bundle, Field};
use crate::token::{Rule, hashes};

/// A former set that is to be put in force again.
#[derive(Clone, Debug)]
pub struct Back {
    /// The set: each CA's file as it was, and behind it the self-signed roots of today.
    pub set: Bundle,
    /// What is to be known of it.
    pub notes: Vec<String>,
}

/// Adds the roots that `present` trusts to the CA files of `former`.
///
/// The server CA's file stays as it was where another certificate in it would change the hash that
/// join tokens pin: a CA that stood alone is hashed as a file, and K3s finds no path from it in a
/// file with others (reference section 5.2).
pub fn way_back(former: &Bundle, present: &Bundle, rule: Rule, now: UnixTime) -> Back {
    let mut set = former.clone();
    let (mut widened, mut alone) = (Vec::new(), false);
    for (field, _) in Field::AUTHORITIES {
        let (Some(then), Some(today)) = (former.content(field), present.content(field)) else {
            continue;
        };
        let Some(file) = with_roots(then, today) else {
            continue;
        };
        let hash = |file: &[u8]| hashes(file, now).ok().map(|found| found.by(rule));
        if field == Field::ServerCa && hash(then) != hash(&file) {
            alone = true;
            continue;
        }
        if let Some(place) = set.files.get_mut(&field) {
            place.content = file.into();
            widened.push(field.path().display().to_string());
        }
    }
    let mut notes = Vec::new();
    if !widened.is_empty() {
        notes.push(format!(
            "the roots that came since stay trusted in {}: certificates under them are accepted \
             until their holders are restarted",
            widened.join(", ")
        ));
    }
    if alone {
        notes.push(format!(
            "{} goes back exactly as it was, for with a further root in it the join tokens would \
             change once more. Whoever has that file reaches servers that still run with the newer \
             CA only through a cross-certificate that they serve, and not at all where there is \
             none",
            Field::ServerCa.path().display()
        ));
    }
    if alone || !widened.is_empty() {
        notes.push(
            "who breaks: clients that were given the new root and nothing of the former CA \
             (kubeconfigs, pods and agents that joined by it alone) do not trust the former CA, \
             and nothing on a server can vouch for it; give them the former kubeconfig or CA file \
             before the first server is started with it"
                .to_owned(),
        );
    }
    Back { set, notes }
}

/// `then` with the self-signed certificates of `today` that it lacks; `None` if it lacks none, or
/// one of the files cannot be read.
fn with_roots(then: &[u8], today: &[u8]) -> Option<Vec<u8>> {
    let known = Certificate::all_from_pem(then).ok()?;
    let roots = Certificate::all_from_pem(today).ok()?;
    let is_new = |it: &Certificate| it.is_self_signed() && !known.contains(it);
    let new: Vec<String> = roots
        .iter()
        .filter(|it| is_new(it))
        .map(Certificate::to_pem)
        .collect();
    if new.is_empty() {
        return None;
    }
    let mut file = then.to_vec();
    if !file.ends_with(b"\n") {
        file.push(b'\n');
    }
    for pem in new {
        file.extend_from_slice(pem.as_bytes());
    }
    Some(file)
}
