//! What the tests of this folder share.

use std::path::Path;

use kubepki::bootstrap::{self, Bundle, Passphrase};
use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, Endpoint, Store, Tls, open};

/// The token of the fixtures.
pub(crate) const TOKEN: &str = "fixture-token-0123456789abcdef";
/// The datastore key that it names.
pub(crate) const KEY: &str = "/bootstrap/d0bdc7873da2";

pub(crate) fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned())
}

/// Decrypts and reads a value of the fixtures.
pub(crate) fn opened(value: &[u8]) -> Bundle {
    let json = bootstrap::open(value, &passphrase(TOKEN)).unwrap();
    Bundle::parse(&json).unwrap()
}

/// A store behind the text of an endpoint, without TLS files.
pub(crate) async fn store(
    endpoint: &str,
    server_dir: &Path,
    access: Access,
) -> Result<Box<dyn Store>, DatastoreError> {
    open(
        &Endpoint::parse(endpoint)?,
        &Tls::default(),
        server_dir,
        access,
    )
    .await
}
