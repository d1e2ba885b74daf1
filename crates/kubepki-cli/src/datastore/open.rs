//! From flags, configuration or data directory to an open datastore.

use kubepki::host::Host;

use super::{Access, Connected, DatastoreArgs};
use crate::error::CliError;
use crate::k3s::Settings;

/// Opens the datastore that the arguments name, else K3s's configuration, else what the data
/// directory holds.
///
/// # Errors
///
/// When there is none, it cannot be reached, or it can only be read and `access` is to write.
pub async fn open(
    _host: &dyn Host,
    _args: &DatastoreArgs,
    _settings: &Settings,
    _access: Access,
) -> Result<Connected, CliError> {
    Err(CliError::message("no datastore can be opened yet"))
}
