//! CAs and passphrases that the operator brings.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::ca::{Outer, Pool};
use kubepki::host::Host;
use pki::{Certificate, KeyAlgorithm, UnixTime};
use zeroize::Zeroizing;

use super::refused;
use crate::error::CliError;

/// A root or intermediate that is there already.
#[derive(Clone, Debug, Default, Args)]
pub struct OuterArgs {
    /// An existing root's certificate.
    #[arg(long, value_name = "FILE")]
    pub root_cert: Option<PathBuf>,
    /// Its key; not needed where an intermediate is given.
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// An existing intermediate's certificate, and those between it and the root.
    #[arg(long, value_name = "FILE", requires = "intermediate_key")]
    pub intermediate_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "intermediate_cert")]
    pub intermediate_key: Option<PathBuf>,
    /// A file with the passphrase of keys that are given encrypted; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub key_passphrase_file: Option<PathBuf>,
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, Args)]
pub struct AlgorithmArgs {
    /// Keys of roots and intermediates: p256, p384, p521, rsa2048, rsa3072, rsa4096.
    #[arg(long, value_name = "ALGORITHM", default_value_t = KeyAlgorithm::P256, value_parser = algorithm)]
    pub algorithm: KeyAlgorithm,
    /// Keys of the five CAs.
    #[arg(long, value_name = "ALGORITHM", default_value_t = KeyAlgorithm::P256, value_parser = algorithm)]
    pub ca_algorithm: KeyAlgorithm,
}

/// What can be a CA's.
pub(super) fn algorithm(text: &str) -> Result<KeyAlgorithm, String> {
    let algorithm: KeyAlgorithm = text.parse().map_err(|error| format!("{error}"))?;
    let algorithms = kubepki::ca::Algorithms {
        outer: algorithm,
        authorities: algorithm,
    };
    match algorithms.check() {
        Ok(_) => Ok(algorithm),
        Err(error) => Err(error.to_string()),
    }
}

impl From<AlgorithmArgs> for kubepki::ca::Algorithms {
    fn from(args: AlgorithmArgs) -> Self {
        Self {
            outer: args.algorithm,
            authorities: args.ca_algorithm,
        }
    }
}

impl OuterArgs {
    /// What the five CAs will stand under.
    ///
    /// # Errors
    ///
    /// When files are missing, cannot be read or do not belong together.
    pub async fn outer(&self, host: &dyn Host, now: UnixTime) -> Result<Outer, CliError> {
        let passphrase = passphrase(self.key_passphrase_file.as_deref())?;
        let passphrase = passphrase.as_ref().map(|it| it.as_slice());
        let read = async |pool: &mut Pool, path: &Option<PathBuf>| match path {
            Some(path) => pool.read(host, path, passphrase).await.map_err(refused),
            None => Ok(()),
        };
        let mut pool = Pool::default();
        read(&mut pool, &self.root_cert).await?;
        if let Some(path) = &self.intermediate_cert {
            let mut signer = Pool::default();
            read(&mut signer, &self.intermediate_cert).await?;
            read(&mut signer, &self.intermediate_key).await?;
            let own = keyed(&signer, path)?;
            let authority = joined(&signer, &own, path)?;
            pool.certificates.extend(signer.certificates);
            let above = pool.above(&own, now).map_err(refused)?;
            return Ok(Outer::Intermediate {
                signer: authority,
                above,
            });
        }
        match (&self.root_cert, &self.root_key) {
            (None, None) => Ok(Outer::New),
            (Some(path), Some(_)) => {
                read(&mut pool, &self.root_key).await?;
                let own = keyed(&pool, path)?;
                Ok(Outer::Root(joined(&pool, &own, path)?))
            }
            (Some(_), None) => Err(CliError::usage(
                "nothing can be signed under a root without its key: give --root-key, or an \
                 intermediate with --intermediate-cert and --intermediate-key; for a CA that only \
                 takes requests there is `kubepki ca request`",
            )),
            (None, Some(_)) => Err(CliError::usage("--root-key needs --root-cert too")),
        }
    }
}

/// The certificate whose key is among those given.
fn keyed(pool: &Pool, path: &Path) -> Result<Certificate, CliError> {
    let found = pool
        .certificates
        .iter()
        .find(|it| pool.key_of(it).is_some());
    found.cloned().ok_or_else(|| {
        CliError::refused(format!(
            "the key that was given belongs to no certificate of {}: they are swapped, or one of \
             them is another CA's",
            path.display()
        ))
    })
}

fn joined(pool: &Pool, own: &Certificate, path: &Path) -> Result<pki::Authority, CliError> {
    match pool.authority(own) {
        Some(Ok(authority)) => Ok(authority),
        Some(Err(error)) => Err(CliError::refused(format!("{}: {error}", path.display()))),
        None => Err(CliError::refused(format!(
            "{}: its key is missing",
            path.display()
        ))),
    }
}

/// A passphrase from a file or standard input, without the line end.
///
/// # Errors
///
/// When it cannot be read or is empty.
pub fn passphrase(path: Option<&Path>) -> Result<Option<Zeroizing<Vec<u8>>>, CliError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        }
    };
    read.map_err(|error| CliError::message(format!("cannot read {}: {error}", path.display())))?;
    while bytes.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(CliError::usage(format!(
            "{} holds no passphrase",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

/// Longer than any passphrase.
const LIMIT: u64 = 4096;
