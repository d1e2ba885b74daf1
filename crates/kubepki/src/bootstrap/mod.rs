//! K3s's bootstrap data: what every server of a cluster shares, encrypted with the token in the
//! datastore (K3s `pkg/bootstrap`, `pkg/cluster`; reference section 4).
//!
//! ```text
//! Datastore::list --locate(tokens)--> Opened { record, bundle }     which key, which token
//! datastore value --open(passphrase)--> JSON --Bundle::parse--> Bundle: field -> content, time
//! Host --Disk::look--> Disk --compare(Bundle)--> Comparison --> Verdict    what K3s's start does
//! Bundle + Disk --plan_extract--> Plan + Staged           datastore -> disk
//! Opened + Bundle --save--> Save { steps, staged }        disk or staged set -> datastore
//! ```

mod audit;
mod bundle;
mod compare;
mod disk;
mod exposure;
mod extract;
mod field;
mod locate;
mod read;
mod restore;
mod save;
mod seal;
mod words;

pub use audit::{Audit, Flaw, audit};
pub use bundle::{Bundle, BundleError, SharedFile, Stamp};
pub use compare::{Comparison, Line, SKEW, Standing, Verdict, compare};
pub use disk::{Directory, Disk};
pub use exposure::{Exposure, still_open};
pub use extract::{Extraction, Files, extract_notes, files, plan_extract, staged_name};
pub use field::Field;
pub use locate::{Candidate, Candidates, Found, LocateError, Opened, locate};
pub use read::{ReadError, read_directory};
pub use restore::{Restoration, RestoreError, Source, damaged, plan_restore};
pub use save::{STAGED_NAME, Save, create, save, save_as, seal_bundle};
pub use seal::{KEY_PREFIX, Passphrase, SealError, is_lock, open, seal};
pub use words::{Seen, describe};
