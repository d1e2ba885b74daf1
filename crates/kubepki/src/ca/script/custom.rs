//! `generate-custom-ca-certs.sh`.

use std::path::Path;

use pki::{Authority, Certificate, KeyAlgorithm, PrivateKey};
use zeroize::Zeroizing;

use super::{Files, Surroundings, Transcript, named, pem};
use crate::ca::outer::Outer;
use crate::ca::pool::file;
use crate::ca::profile::{Algorithms, CA_DAYS, cannot_make};
use crate::ca::{CaError, CaName, Make, SERVICE_KEY, service_key_file};
use crate::host::Host;

/// Makes the eleven files in `<data-dir>/server/tls` for K3s's first start, and what stands above
/// them, from what lies there: `root-ca.pem` and `.key`, `intermediate-ca.pem` and `.key`,
/// `service.key`.
///
/// # Errors
///
/// [`CaError`] when something that lies there cannot be used, or K3s has been started on that
/// directory; then nothing was written. What the script stops at is no error but an exit code.
pub async fn generate_custom(
    host: &dyn Host,
    around: &Surroundings,
    make: &Make<'_>,
) -> Result<Transcript, CaError> {
    let tls = around.data_dir.join("server/tls");
    refuse_started(host, &around.data_dir).await?;
    let given = Given::read(host, &tls).await?;
    let mut transcript = Transcript::begin();
    let mut files = Files::new(host, tls.clone());

    let additional = if given.service.is_some() {
        "additional "
    } else {
        ""
    };
    transcript.say(format!(
        "Generating {additional}Kubernetes service account issuer RSA key"
    ));
    let mut keys = Keys::make(&given, make)?;
    let (mut service, _) =
        service_key_file(&keys.service, given.service.as_deref().map(Vec::as_slice))?;
    if given.service.is_none() {
        // The script's empty line.
        service.push(b'\n');
    }
    files.key("service.key", &service);

    let Some(root) = root(around, make, &given, &mut keys, &mut files, &mut transcript)? else {
        files.write().await?;
        return Ok(transcript.abort(
            "Cannot generate intermediate certificate without root certificate private key",
        ));
    };
    let Some(signer) = intermediate(
        around,
        make,
        &given,
        root,
        &mut keys,
        &mut files,
        &mut transcript,
    )?
    else {
        files.write().await?;
        return Ok(transcript.abort(
            "Cannot generate leaf certificates without intermediate certificate private key",
        ));
    };
    five(
        around,
        make,
        &signer,
        &keys.five,
        &mut files,
        &mut transcript,
    )?;
    files.write().await?;
    finish(host, around, &tls, &mut transcript).await?;
    Ok(transcript)
}

/// The five CAs.
fn five(
    around: &Surroundings,
    make: &Make<'_>,
    signer: &Signer,
    keys: &[PrivateKey],
    files: &mut Files<'_>,
    transcript: &mut Transcript,
) -> Result<(), CaError> {
    for (ca, key) in CaName::ALL.into_iter().zip(keys) {
        let stem = format!("{}-{}-ca", around.product, ca.flat());
        transcript.say(format!(
            "Generating {stem} leaf certificate authority EC key and certificate"
        ));
        let own = make.sign(
            &signer.authority,
            &named(make, &stem)?,
            key.spki_der(),
            None,
            CA_DAYS,
        )?;
        let own = own.to_pem().into_bytes();
        let label = ca.label();
        files.key(format!("{label}-ca.key"), &pem(key, &stem)?);
        files.certificate(format!("{label}-ca.pem"), &own);
        files.certificate(
            format!("{label}-ca.crt"),
            &[own, signer.chain.clone()].concat(),
        );
    }
    Ok(())
}

/// What lies in the directory.
struct Given {
    root: Option<Zeroizing<Vec<u8>>>,
    root_key: Option<Zeroizing<Vec<u8>>>,
    intermediate: Option<Zeroizing<Vec<u8>>>,
    intermediate_key: Option<Zeroizing<Vec<u8>>>,
    service: Option<Zeroizing<Vec<u8>>>,
}

impl Given {
    async fn read(host: &dyn Host, tls: &Path) -> Result<Self, CaError> {
        Ok(Self {
            root: file(host, &tls.join("root-ca.pem")).await?,
            root_key: file(host, &tls.join("root-ca.key")).await?,
            intermediate: file(host, &tls.join("intermediate-ca.pem")).await?,
            intermediate_key: file(host, &tls.join("intermediate-ca.key")).await?,
            service: file(host, &tls.join("service.key")).await?,
        })
    }
}

/// Every key that will be needed, made side by side.
struct Keys {
    service: PrivateKey,
    root: Option<PrivateKey>,
    intermediate: Option<PrivateKey>,
    five: Vec<PrivateKey>,
}

impl Keys {
    fn make(given: &Given, make: &Make<'_>) -> Result<Self, CaError> {
        let makes_root = given.root.is_none();
        let root_signs = makes_root || given.root_key.is_some();
        let makes_intermediate = given.intermediate.is_none() && root_signs;
        let mut wanted = vec![SERVICE_KEY];
        let outer = usize::from(makes_root) + usize::from(makes_intermediate);
        wanted.extend(std::iter::repeat_n(Algorithms::SCRIPT.outer, outer));
        wanted.extend([KeyAlgorithm::P256; CaName::ALL.len()]);
        let mut keys = make.generate(&wanted)?.into_iter();
        let service = keys.next().ok_or_else(|| CaError::Make {
            what: "service.key".to_owned(),
            source: pki::Error::Crypto {
                what: "generate a key",
            },
        })?;
        Ok(Self {
            service,
            root: makes_root.then(|| keys.next()).flatten(),
            intermediate: makes_intermediate.then(|| keys.next()).flatten(),
            five: keys.collect(),
        })
    }
}

/// The root's file, and the root with its key where that is there.
struct Root {
    text: Vec<u8>,
    certificates: Vec<Certificate>,
    authority: Option<Authority>,
}

/// `None` when an intermediate is needed and nothing can sign it.
fn root(
    around: &Surroundings,
    make: &Make<'_>,
    given: &Given,
    keys: &mut Keys,
    files: &mut Files<'_>,
    transcript: &mut Transcript,
) -> Result<Option<Root>, CaError> {
    let root = match (&given.root, keys.root.take()) {
        (Some(text), _) => {
            transcript.say("Using existing root certificate");
            let certificates = certificates("root-ca.pem", text)?;
            let wanted = given.intermediate.is_none();
            let key = given.root_key.as_ref().filter(|_| wanted);
            let authority = match key {
                Some(key) => Some(joined("root-ca", &certificates, key)?),
                None => None,
            };
            if let Some(key) = &given.root_key {
                // It is not rewritten, only closed to others.
                files.key("root-ca.key", key);
            }
            Root {
                text: text.to_vec(),
                certificates,
                authority,
            }
        }
        (None, key) => {
            transcript.say("Generating root certificate authority RSA key and certificate");
            let key = key.ok_or_else(no_key)?;
            let name = named(make, &format!("{}-root-ca", around.product))?;
            let authority = make.root(&name, key)?;
            let text = authority.certificate().to_pem().into_bytes();
            files.key("root-ca.key", &pem(authority.key(), "root-ca.key")?);
            files.certificate("root-ca.pem", &text);
            Root {
                text,
                certificates: vec![authority.certificate().clone()],
                authority: Some(authority),
            }
        }
    };
    files.certificate("root-ca.crt", &root.text);
    let stuck = given.intermediate.is_none() && root.authority.is_none();
    Ok((!stuck).then_some(root))
}

/// Who signs the five, and the certificates that follow theirs.
struct Signer {
    authority: Authority,
    chain: Vec<u8>,
}

/// `None` when the intermediate's key is missing.
fn intermediate(
    around: &Surroundings,
    make: &Make<'_>,
    given: &Given,
    root: Root,
    keys: &mut Keys,
    files: &mut Files<'_>,
    transcript: &mut Transcript,
) -> Result<Option<Signer>, CaError> {
    let (text, authority) = match (&given.intermediate, root.authority) {
        (Some(text), _) => {
            transcript.say("Using existing intermediate certificate");
            let chain = [text.to_vec(), root.text.clone()].concat();
            files.certificate("intermediate-ca.crt", &chain);
            let Some(key) = &given.intermediate_key else {
                return Ok(None);
            };
            files.key("intermediate-ca.key", key);
            let certificates = certificates("intermediate-ca.pem", text)?;
            let signer = joined("intermediate-ca", &certificates, key)?;
            let above = certificates.into_iter().skip(1).chain(root.certificates);
            let outer = Outer::Intermediate {
                signer,
                above: above.collect(),
            };
            outer.check(make.now)?;
            let Outer::Intermediate { signer, .. } = outer else {
                return Err(no_key());
            };
            return Ok(Some(Signer {
                authority: signer,
                chain,
            }));
        }
        (None, Some(root)) => {
            transcript.say("Generating intermediate certificate authority RSA key and certificate");
            let outer = Outer::Root(root);
            outer.check(make.now)?;
            let Outer::Root(root) = outer else {
                return Err(no_key());
            };
            let key = keys.intermediate.take().ok_or_else(no_key)?;
            let name = named(make, &format!("{}-intermediate-ca", around.product))?;
            let authority = make.below(&root, &name, key)?;
            (authority.certificate().to_pem().into_bytes(), authority)
        }
        (None, None) => return Ok(None),
    };
    files.key(
        "intermediate-ca.key",
        &pem(authority.key(), "intermediate-ca.key")?,
    );
    files.certificate("intermediate-ca.pem", &text);
    let chain = [text, root.text].concat();
    files.certificate("intermediate-ca.crt", &chain);
    Ok(Some(Signer { authority, chain }))
}

fn no_key() -> CaError {
    CaError::Make {
        what: "a CA".to_owned(),
        source: pki::Error::Crypto {
            what: "generate a key",
        },
    }
}

fn certificates(name: &str, text: &[u8]) -> Result<Vec<Certificate>, CaError> {
    Certificate::all_from_pem(text).map_err(|source| CaError::File {
        path: name.into(),
        source,
    })
}

fn joined(name: &str, certificates: &[Certificate], key: &[u8]) -> Result<Authority, CaError> {
    let unusable = |source| CaError::File {
        path: format!("{name}.key").into(),
        source,
    };
    let key = PrivateKey::from_pem(key).map_err(unusable)?;
    let Some(first) = certificates.first() else {
        return Err(no_key());
    };
    Authority::new(first.clone(), key).map_err(cannot_make(&format!("CAs under {name}.pem")))
}

/// K3s lives with the CAs that lie there: overwriting them here would take the cluster apart.
async fn refuse_started(host: &dyn Host, data_dir: &Path) -> Result<(), CaError> {
    let server = data_dir.join("server");
    for trace in ["cred", "db", "token", "tls/serving-kube-apiserver.crt"] {
        if host.read(&server.join(trace)).await?.is_some() {
            return Err(CaError::Place {
                path: server.join("tls"),
                problem: format!(
                    "belongs to a cluster ({trace} lies there), whose CAs must not be \
                     overwritten: set DATA_DIR to a directory of its own and put \
                     server/tls/service.key, and root-ca and intermediate-ca where the same root \
                     is to stay, in it first; or use `kubepki ca stage`"
                ),
            });
        }
    }
    Ok(())
}

/// What the script says at the end.
async fn finish(
    host: &dyn Host,
    around: &Surroundings,
    tls: &Path,
    transcript: &mut Transcript,
) -> Result<(), CaError> {
    let server = around.data_dir.join("server");
    transcript.say("");
    transcript.say(format!(
        "CA certificate generation complete. Required files are now present in: {}",
        tls.display()
    ));
    transcript.say(
        "For security purposes, you should make a secure copy of the following files and remove \
         them from cluster members:",
    );
    for name in host.list(tls).await?.unwrap_or_default() {
        if name.starts_with("root-ca.") || name.starts_with("intermediate-ca.") {
            transcript.say(format!("\t {}", tls.join(name).display()));
        }
    }
    if !around.is_usual() {
        transcript.say("");
        transcript.say("To update certificates on an existing cluster, you may now run:");
        transcript.say(format!(
            "    k3s certificate rotate-ca --path={}",
            server.display()
        ));
    }
    Ok(())
}
