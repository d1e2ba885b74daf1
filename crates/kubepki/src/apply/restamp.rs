//! What a datastore or a server is given: bytes that exist, or bootstrap data of before with new
//! times.
//!
//! K3s refuses to start when a file on disk differs from the datastore and is three seconds newer
//! than the time that the datastore gives it. So what is taken back is never the old value: it is
//! opened, its files get the present time, and it is sealed again.

use std::path::Path;

use zeroize::Zeroizing;

use super::failure::MakeError;
use super::leaves::Workshop;
use super::render::copied;
use crate::bootstrap::{Bundle, Passphrase, SealError, Stamp, is_lock, open, seal};
use crate::datastore::Record;
use crate::plan::{Content, PlanId, Target};
use crate::token::Token;

/// The bytes of `content` as `target` is given them. `present` is the row that they replace.
pub(super) async fn ready(
    workshop: &Workshop<'_>,
    content: &Content,
    target: &Target,
    present: Option<&Record>,
) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    let bytes = match content {
        Content::Text(text) => return Ok(text.clone().into_bytes().into()),
        content => copied(workshop, content).await?,
    };
    let Content::Restamped { plan, step, .. } = content else {
        return Ok(bytes);
    };
    match target {
        Target::DatastoreKey { key } => {
            let kept = Kept {
                plan,
                step: *step,
                key,
            };
            reseal(workshop, &kept, &bytes, present).await
        }
        _ => Ok(body(workshop, bytes)),
    }
}

/// A value in the backups, and where it was.
struct Kept<'a> {
    plan: &'a PlanId,
    step: u32,
    key: &'a str,
}

impl Kept<'_> {
    fn place(&self) -> String {
        let Self { plan, step, key } = self;
        format!("the former value of {key} (step {step} of plan {plan})")
    }
}

async fn reseal(
    workshop: &Workshop<'_>,
    kept: &Kept<'_>,
    value: &[u8],
    present: Option<&Record>,
) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| MakeError::Bootstrap {
        place: kept.place(),
        source,
    };
    if is_lock(value) {
        return Err(unusable(SealError::Lock.into()));
    }
    let fitting = passphrases(workshop, kept.plan).await?;
    let mut fitting = fitting.into_iter().filter(|it| it.key_name() == kept.key);
    let passphrase = fitting.next().ok_or_else(|| MakeError::NoPassphrase {
        place: kept.place(),
    })?;
    let opened = open(value, &passphrase).map_err(|error| unusable(error.into()))?;
    let bundle = Bundle::parse(&opened).map_err(|error| unusable(error.into()))?;
    let plaintext = match bundle.legacy {
        // K3s before 1.22 knows no times, and could not read them.
        true => opened,
        false => {
            let present = present
                .and_then(|record| open(&record.value, &passphrase).ok())
                .and_then(|opened| Bundle::parse(&opened).ok());
            let now = Stamp::at(workshop.now);
            restamped(bundle, now, present.as_ref()).to_json()
        }
    };
    let sealed = seal(&plaintext, &passphrase, workshop.entropy);
    sealed
        .map(Zeroizing::new)
        .map_err(|error| unusable(error.into()))
}

/// Gives every file the time `now`, or that of the row which is replaced if that is later: the
/// files on disk may have been made from that row.
fn restamped(bundle: Bundle, now: Stamp, present: Option<&Bundle>) -> Bundle {
    let mut bundle = bundle.restamped(now);
    let Some(present) = present else {
        return bundle;
    };
    for (field, file) in &mut bundle.files {
        if let Some(other) = present.files.get(field) {
            file.stamp = file.stamp.max(other.stamp);
        }
    }
    for (name, file) in &mut bundle.others {
        if let Some(other) = present.others.get(name) {
            file.stamp = file.stamp.max(other.stamp);
        }
    }
    bundle
}

/// What a call sends: CAs get the present time; anything else (a new token) stays as it is.
fn body(workshop: &Workshop<'_>, bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    match Bundle::parse(&bytes) {
        Ok(bundle) if !bundle.legacy && !bundle.files.is_empty() => {
            bundle.restamped(Stamp::at(workshop.now)).to_json()
        }
        _ => bytes,
    }
}

/// Every passphrase at hand: the executor's own, none at all (old clusters), and for each token or
/// passwd file that a step of `keeper` touches, what the file holds and what it held before. After
/// a rotation of the token the old one lies there and nowhere else.
async fn passphrases(
    workshop: &Workshop<'_>,
    keeper: &PlanId,
) -> Result<Vec<Passphrase>, MakeError> {
    let mut found = workshop.passphrases.to_vec();
    found.push(Passphrase::new(String::new()));
    let plan = match *keeper == workshop.plan.id {
        true => workshop.plan.clone(),
        false => workshop.state.load_plan(keeper)?,
    };
    for step in &plan.steps {
        let Target::File { path, .. } = &step.target else {
            continue;
        };
        let Some(read) = reader(path) else {
            continue;
        };
        if let Some(bytes) = workshop.state.read_backup(&plan.id, step.number)? {
            found.extend(read(&bytes));
        }
        let present = workshop.host.read(path).await?;
        if let Some(bytes) = present.as_ref().and_then(|entry| entry.bytes()) {
            found.extend(read(bytes));
        }
    }
    Ok(found)
}

type Reader = fn(&[u8]) -> Vec<Passphrase>;

/// How passphrases are found in a file of that name; `None` where there are none.
fn reader(path: &Path) -> Option<Reader> {
    match path.file_name()?.to_str()? {
        "token" | "server-token" | "node-token" => Some(in_token_file),
        "passwd" => Some(in_passwd),
        _ => None,
    }
}

/// The password of the token, and the token whole, with which K3s once sealed (reference section
/// 4.7).
fn in_token_file(bytes: &[u8]) -> Vec<Passphrase> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Vec::new();
    };
    let token = Token::parse(text).ok();
    let password = token.as_ref().and_then(|token| token.password().ok());
    let whole = Zeroizing::new(text.trim().to_owned());
    password
        .cloned()
        .into_iter()
        .chain([whole])
        .map(Passphrase::new)
        .collect()
}

/// The first field of each row. What is no passphrase does no harm: each is held to the digest in
/// the key's name.
fn in_passwd(bytes: &[u8]) -> Vec<Passphrase> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Vec::new();
    };
    let field = |line: &str| {
        let quoted = line
            .strip_prefix('"')
            .and_then(|rest| rest.split_once("\","));
        let field = match quoted {
            Some((field, _)) => field.replace("\"\"", "\""),
            None => line.split(',').next().unwrap_or_default().to_owned(),
        };
        Passphrase::new(field)
    };
    text.lines().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{Field, SharedFile};

    fn bundle(stamps: &[(Field, i64)]) -> Bundle {
        let files = stamps.iter().map(|(field, seconds)| {
            let stamp = Stamp {
                seconds: *seconds,
                nanoseconds: 0,
            };
            let content = field.name().as_bytes().to_vec().into();
            (*field, SharedFile { stamp, content })
        });
        Bundle {
            files: files.collect(),
            ..Bundle::default()
        }
    }

    #[test]
    fn a_file_gets_the_present_time_or_the_later_one_of_the_row_before() {
        let old = bundle(&[(Field::ServerCa, 10), (Field::ClientCa, 10)]);
        let present = bundle(&[(Field::ServerCa, 2_000), (Field::ClientCa, 20)]);
        let now = Stamp {
            seconds: 1_000,
            nanoseconds: 0,
        };
        let new = restamped(old, now, Some(&present));
        assert_eq!(new.files[&Field::ServerCa].stamp.seconds, 2_000);
        assert_eq!(new.files[&Field::ClientCa].stamp.seconds, 1_000);
        assert_eq!(new.content(Field::ClientCa), Some(&b"ClientCA"[..]));
    }

    #[test]
    fn passphrases_are_found_where_k3s_keeps_tokens() {
        let hash = "a".repeat(64);
        let token = format!("K10{hash}::server:secret\n");
        let expected = |text: &str| Passphrase::new(text.to_owned());
        assert_eq!(
            in_token_file(token.as_bytes()),
            [expected("secret"), expected(token.trim())]
        );
        assert_eq!(
            in_token_file(b"short"),
            [expected("short"), expected("short")]
        );
        assert_eq!(
            in_passwd(b"one,server,server,k3s:server\n\"t,\"\"wo\",node,node,k3s:agent\n"),
            [expected("one"), expected("t,\"wo")]
        );
        assert!(in_passwd(&[0xff]).is_empty() && in_token_file(&[0xff]).is_empty());
        assert!(reader(Path::new("/x/cred/passwd")).is_some());
        assert!(reader(Path::new("/x/server/token")).is_some());
        assert!(reader(Path::new("/x/tls/server-ca.crt")).is_none());
    }
}
