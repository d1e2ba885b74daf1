//! Whether tokens of a key can still be alive.
//!
//! A pod's token lives for an hour and is renewed by the kubelet; the API server takes it for a
//! year for the sake of old clients (`--service-account-extend-token-expiration`). A token in a
//! Secret of the type `kubernetes.io/service-account-token` never ends.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pki::{DAY, UnixTime};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KeyFile, KeyId};
use crate::apply::{Standing, history};
use crate::plan::{PlanId, Target};
use crate::state::{StateDir, StateError};

/// Seconds for which a pod's token may be accepted: a year, extended.
const BOUND: i64 = 365 * DAY;

/// A token in a Secret, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyToken {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
    /// The key that signed it, as its header says; old ones do not say.
    pub key: Option<KeyId>,
}

/// What is known of a key's tokens.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Now.
    pub now: UnixTime,
    /// Since when it has signed nothing, if that is known.
    pub demoted: Option<UnixTime>,
    /// Every token in a Secret of the cluster, if they were looked at.
    pub legacy: Option<&'a [LegacyToken]>,
}

/// Why tokens of a key may still be alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nobody knows when it signed last.
    AgeUnknown,
    /// Pods' tokens of it may be accepted until then.
    Bound {
        /// When the last one ends.
        until: UnixTime,
    },
    /// Secrets were not looked at.
    LegacyUnknown,
    /// A Secret holds a token of it.
    Legacy {
        /// Namespace and name.
        secret: String,
    },
    /// A Secret holds a token that does not tell its key.
    LegacyWithoutKey {
        /// Namespace and name.
        secret: String,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgeUnknown => f.write_str(
                "it is not known since when it signs no more; say how long with --older-than",
            ),
            Self::Bound { until } => write!(
                f,
                "pods' tokens that it signed are accepted until {until} (an hour, extended to a \
                 year)"
            ),
            Self::LegacyUnknown => f.write_str(
                "tokens in Secrets never end, and they were not looked at; give them with \
                 --secrets FILE (kubectl get secrets -A --field-selector \
                 type=kubernetes.io/service-account-token -o json)",
            ),
            Self::Legacy { secret } => {
                write!(
                    f,
                    "the Secret {secret} holds a token of it, which never ends"
                )
            }
            Self::LegacyWithoutKey { secret } => write!(
                f,
                "the Secret {secret} holds a token that does not tell its key, and never ends"
            ),
        }
    }
}

/// Why the key `id` should not go. Nothing is left out for kindness: tokens that were asked for
/// with a longer life than a year (`kubectl create token --duration`) cannot be seen at all.
pub fn doubts(id: &KeyId, evidence: &Evidence<'_>) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    match evidence.demoted {
        None => doubts.push(Doubt::AgeUnknown),
        Some(demoted) => {
            let until = demoted.plus(BOUND);
            if until > evidence.now {
                doubts.push(Doubt::Bound { until });
            }
        }
    }
    let Some(legacy) = evidence.legacy else {
        doubts.push(Doubt::LegacyUnknown);
        return doubts;
    };
    for token in legacy {
        let secret = format!("{}/{}", token.namespace, token.name);
        match &token.key {
            Some(key) if key == id => doubts.push(Doubt::Legacy { secret }),
            Some(_) => {}
            None => doubts.push(Doubt::LegacyWithoutKey { secret }),
        }
    }
    doubts
}

/// Since when the key `id` signs no more, as far as the plans of this node tell: the last one
/// that replaced a `service.key` at `path` in which that key was the signer.
///
/// # Errors
///
/// When the state directory cannot be read.
pub fn demoted(state: &StateDir, path: &Path, id: &KeyId) -> Result<Option<UnixTime>, StateError> {
    let mut latest = None;
    for past in history(state)? {
        if past.standing != Standing::Finished || past.undone_by.is_some() {
            continue;
        }
        if replaced_signer(state, &past.id, path)?.as_ref() == Some(id) {
            latest = latest.max(past.last);
        }
    }
    Ok(latest)
}

/// The signer of the `service.key` that a plan replaced.
fn replaced_signer(
    state: &StateDir,
    plan: &PlanId,
    path: &Path,
) -> Result<Option<KeyId>, StateError> {
    let steps = state.load_plan(plan)?.steps;
    let step = steps
        .into_iter()
        .find(|step| matches!(&step.target, Target::File { path: touched, .. } if touched == path));
    let Some(step) = step else {
        return Ok(None);
    };
    let kept = state.read_backup(plan, step.number)?;
    let file = kept.and_then(|bytes| KeyFile::parse(&bytes).ok());
    Ok(file.and_then(|file| file.signer().and_then(|key| key.id.clone())))
}

/// Secrets that are not what `kubectl get secrets -o json` prints.
#[derive(Debug, thiserror::Error)]
pub enum LegacyTokenError {
    /// No JSON, or of another shape.
    #[error("it is not what `kubectl get secrets -A -o json` prints")]
    Json(#[source] serde_json::Error),
    /// JSON of something else.
    #[error("it holds {kind:?}, not a list of Secrets")]
    NoSecrets {
        /// Its `kind`.
        kind: String,
    },
}

/// The service-account tokens in what `kubectl get secrets -o json` prints: a list, or one
/// Secret. Secrets of other types are passed over.
///
/// # Errors
///
/// [`LegacyTokenError`], without any content.
pub fn legacy_tokens(json: &[u8]) -> Result<Vec<LegacyToken>, LegacyTokenError> {
    let top: Object = serde_json::from_slice(json).map_err(LegacyTokenError::Json)?;
    let secrets = match top.kind.as_str() {
        "List" | "SecretList" => top.items,
        "Secret" => vec![top],
        _ => return Err(LegacyTokenError::NoSecrets { kind: top.kind }),
    };
    let of_accounts = secrets
        .into_iter()
        .filter(|secret| secret.r#type == "kubernetes.io/service-account-token");
    Ok(of_accounts
        .map(|secret| {
            let token = secret.data.and_then(|data| data.token).map(Zeroizing::new);
            LegacyToken {
                namespace: secret.metadata.namespace,
                name: secret.metadata.name,
                key: token.and_then(|token| key_of(&token)),
            }
        })
        .collect())
}

/// The `kid` of a token in base64.
fn key_of(token: &str) -> Option<KeyId> {
    #[derive(Deserialize)]
    struct Header {
        kid: Option<String>,
    }
    let token = Zeroizing::new(STANDARD.decode(token).ok()?);
    let header = token.split(|byte| *byte == b'.').next()?;
    let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    header.kid.filter(|kid| !kid.is_empty()).map(KeyId)
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Object {
    kind: String,
    items: Vec<Object>,
    metadata: Metadata,
    r#type: String,
    data: Option<Data>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    token: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn token(key: Option<&str>) -> LegacyToken {
        LegacyToken {
            namespace: "kube-system".to_owned(),
            name: "old".to_owned(),
            key: key.map(|key| KeyId(key.to_owned())),
        }
    }

    #[test]
    fn a_key_goes_only_when_nothing_is_in_doubt() {
        let key = KeyId("a".to_owned());
        let of = |demoted, legacy| {
            let evidence = Evidence {
                now: NOW,
                demoted,
                legacy,
            };
            doubts(&key, &evidence)
        };
        let old = Some(NOW.plus(-366 * DAY));
        assert_eq!(of(old, Some(&[][..])), []);
        let other = [token(Some("b"))];
        assert_eq!(of(old, Some(&other[..])), []);
        assert_eq!(of(None, None), [Doubt::AgeUnknown, Doubt::LegacyUnknown]);
        let young = NOW.plus(-364 * DAY);
        let until = young.plus(365 * DAY);
        assert_eq!(of(Some(young), Some(&[][..])), [Doubt::Bound { until }]);
        let secret = || "kube-system/old".to_owned();
        let found = of(old, Some(&[token(Some("a")), token(None)][..]));
        let expected = [
            Doubt::Legacy { secret: secret() },
            Doubt::LegacyWithoutKey { secret: secret() },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn reads_what_kubectl_prints() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"abc"}"#);
        let jwt = STANDARD.encode(format!("{header}.e30.c2ln"));
        let secret = |kind: &str, token: &str| {
            format!(
                r#"{{"kind":"Secret","metadata":{{"namespace":"n","name":"s"}},
                     "type":"{kind}","data":{{"token":"{token}","ca.crt":"eA=="}}}}"#
            )
        };
        let ours = "kubernetes.io/service-account-token";
        let list = format!(
            r#"{{"kind":"List","items":[{},{},{}]}}"#,
            secret(ours, &jwt),
            secret("Opaque", &jwt),
            secret(ours, "bm90IGEgand0")
        );
        let found = legacy_tokens(list.as_bytes()).unwrap();
        let keys: Vec<_> = found
            .into_iter()
            .map(|it| it.key.map(|key| key.0))
            .collect();
        assert_eq!(keys, [Some("abc".to_owned()), None]);
        let one = legacy_tokens(secret(ours, &jwt).as_bytes()).unwrap();
        assert_eq!((one[0].namespace.as_str(), one.len()), ("n", 1));
        for wrong in [r#"{"kind":"PodList"}"#, "[]", "hunter2", ""] {
            let error = legacy_tokens(wrong.as_bytes()).unwrap_err();
            assert!(!crate::error_chain(&error).contains("hunter2"));
        }
    }
}
