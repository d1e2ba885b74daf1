//! Service-account keys: the keys in `tls/service.key` that sign the tokens of pods.
//!
//! ```text
//! service.key -> KeyFile: which key signs, which verify, which K3s does not see   (keys)
//! KeyFile     -> the file with a new key first, or without some                   (keys)
//! the file    -> Plan: datastore, service.key, service.current.key                (change)
//! what is known of a key's tokens -> whether it may go                            (alive)
//! ```
//!
//! The first private key signs. Every key verifies, as far as Kubernetes sees it: its reader takes
//! RSA keys in PKCS#1 and PKCS#8 and elliptic ones in SEC1, and passes over the rest without a
//! word (client-go `keyutil.ParsePublicKeysPEM`; reference section 3.4).

mod alive;
mod change;
mod keys;

pub use alive::{Doubt, Evidence, LegacyToken, LegacyTokenError, demoted, doubts, legacy_tokens};
pub use change::{ChangeError, ServiceKeyChange, plan_change, staged};
pub use keys::{Current, KeyFile, KeyFileError, KeyId, ServiceKey, Standing, current};
