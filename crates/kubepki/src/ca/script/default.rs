//! `rotate-default-ca-certs.sh`.

use std::path::{Path, PathBuf};

use pki::{Authority, Certificate, KeyAlgorithm, PrivateKey};
use zeroize::Zeroizing;

use super::{Files, Surroundings, Transcript, pem};
use crate::ca::outer::faults_of;
use crate::ca::pool::file;
use crate::ca::profile::{ROOT_DAYS, cannot_make};
use crate::ca::{CaError, CaName, Make, SERVICE_KEY, refuse_live, service_key_file};
use crate::host::{EntryKind, Host};
use crate::token::{Token, authority_hash};

/// Makes new roots that the present default CAs vouch for, in `<data-dir>/server/rotate-ca/tls`.
///
/// # Errors
///
/// [`CaError`] when the CAs in force are not K3s's own kind or cannot be used; then nothing was
/// written. What the script stops at is no error but an exit code.
pub async fn rotate_default(
    host: &dyn Host,
    around: &Surroundings,
    make: &Make<'_>,
) -> Result<Transcript, CaError> {
    let server = around.data_dir.join("server");
    let staging = server.join("rotate-ca");
    refuse_live(&staging, &around.data_dir)?;
    let mut transcript = Transcript::begin();
    for ca in CaName::ALL {
        if file(host, &live(&server, ca, "crt")).await?.is_none() {
            let line = format!("Current {ca} CA cert does not exist; cannot continue");
            return Ok(transcript.abort(line));
        }
    }
    let tokens = Tokens::read(host, &server).await?;
    let service_path = server.join("tls/service.key");
    let previous = file(host, &service_path).await?;
    let previous = previous.ok_or_else(|| missing(&service_path))?;

    let mut wanted = vec![SERVICE_KEY];
    wanted.extend([KeyAlgorithm::P256; 2 * CaName::ALL.len()]);
    let mut keys = make.generate(&wanted)?.into_iter();
    let mut key = || keys.next().ok_or_else(no_key);
    let service = key()?;
    let mut files = Files::new(host, staging.join("tls"));
    let mut offline = Vec::new();
    let mut pinned = Vec::new();
    for ca in CaName::ALL {
        let old = Old::read(host, &server, ca, make).await?;
        let set = New::make(around, make, ca, &old, key()?, key()?)?;
        transcript.say(format!(
            "Generating {}-{}-root root and cross-signed certificate authority key and \
             certificates",
            around.product,
            ca.flat()
        ));
        transcript.say(format!(
            "Generating {}-{}-ca intermediate certificate authority key and certificates",
            around.product,
            ca.flat()
        ));
        let bundle = set.write(ca, &old, &mut files)?;
        if ca == CaName::Server {
            pinned = bundle;
        }
        offline.extend(["root-old", "root"].map(|it| format!("{}-{it}.key", ca.label())));
    }
    let (service, _) = service_key_file(&service, Some(&previous))?;
    files.key("service.key", &service);
    let hash = authority_hash(&pinned, make.now).map_err(cannot_make("the token"))?;
    finish(&staging, &tokens, hash, &offline, &mut transcript)?;
    files.write().await?;
    Ok(transcript)
}

fn live(server: &Path, ca: CaName, kind: &str) -> PathBuf {
    server.join("tls").join(format!("{}-ca.{kind}", ca.label()))
}

fn missing(path: &Path) -> CaError {
    CaError::Place {
        path: path.to_owned(),
        problem: "does not exist; cannot continue".to_owned(),
    }
}

fn no_key() -> CaError {
    CaError::Make {
        what: "a CA".to_owned(),
        source: pki::Error::Crypto {
            what: "generate a key",
        },
    }
}

/// The root in force and its key, as they lie there.
struct Old {
    authority: Authority,
    text: Vec<u8>,
    key_text: Zeroizing<Vec<u8>>,
}

impl Old {
    /// One certificate is its own root. Of several, the root is the self-signed one whose key
    /// stands second in the key file: there both this program and the script leave it, though at
    /// different places in the bundle.
    async fn read(
        host: &dyn Host,
        server: &Path,
        ca: CaName,
        make: &Make<'_>,
    ) -> Result<Self, CaError> {
        let (path, key_path) = (live(server, ca, "crt"), live(server, ca, "key"));
        let text = file(host, &path).await?.ok_or_else(|| missing(&path))?;
        let key_text = file(host, &key_path)
            .await?
            .ok_or_else(|| missing(&key_path))?;
        let certificates =
            Certificate::all_from_pem(&text).map_err(|source| CaError::File { path, source })?;
        let mut keys = PrivateKey::all_from_pem(&key_text)
            .map_err(|source| CaError::File {
                path: key_path,
                source,
            })?
            .into_iter();
        let single = certificates.len() == 1;
        let key = if single { keys.next() } else { keys.nth(1) };
        let root = key.as_ref().and_then(|key| {
            let is_root =
                |it: &&Certificate| it.is_self_issued() && it.spki_der() == key.spki_der();
            certificates.iter().find(is_root)
        });
        let (Some(key), Some(root)) = (&key, root) else {
            return Err(CaError::Live {
                ca,
                problem: "it is not one that K3s or this script made: its root's key does not lie \
                          beside it. `kubepki ca stage --cross-signed` takes any"
                    .to_owned(),
            });
        };
        let faults = faults_of(root, 2, make.now);
        if let Some(fault) = faults.first() {
            let problem = format!("its root {} {fault}", root.subject());
            return Err(CaError::Live { ca, problem });
        }
        let (text, key_text) = match single {
            true => (text.to_vec(), key_text),
            false => (root.to_pem().into_bytes(), pem(key, "an old key")?),
        };
        let key = crate::ca::create::clone_key(key)?;
        let authority = Authority::new(root.clone(), key).map_err(cannot_make(&format!(
            "the cross-certificate of the {ca} CA"
        )))?;
        Ok(Self {
            authority,
            text,
            key_text,
        })
    }
}

/// What one CA gets.
struct New {
    root: Authority,
    cross: Certificate,
    own: Certificate,
    key: PrivateKey,
}

impl New {
    fn make(
        around: &Surroundings,
        make: &Make<'_>,
        ca: CaName,
        old: &Old,
        root_key: PrivateKey,
        key: PrivateKey,
    ) -> Result<Self, CaError> {
        let taken = [old.authority.certificate()];
        let stem = format!("{}-{}", around.product, ca.flat());
        let root = make.root(&make.name(&format!("{stem}-root"), &taken)?, root_key)?;
        let own_name = make.name(&format!("{stem}-ca"), &taken)?;
        let new = root.certificate();
        let cross = make.sign(
            &old.authority,
            new.subject(),
            new.spki_der(),
            new.subject_key_identifier(),
            ROOT_DAYS,
        )?;
        let own = make.sign(&root, &own_name, key.spki_der(), None, ROOT_DAYS)?;
        Ok(Self {
            root,
            cross,
            own,
            key,
        })
    }

    /// The script's working files; gives back the bundle.
    fn write(&self, ca: CaName, old: &Old, files: &mut Files<'_>) -> Result<Vec<u8>, CaError> {
        let name = |what: &str| format!("{}-{what}", ca.label());
        let root_key = pem(self.root.key(), "a root's key")?;
        let mut both = pem(&self.key, "a CA's key")?;
        both.extend_from_slice(&root_key);
        let root = self.root.certificate().to_pem().into_bytes();
        let (cross, own) = (
            self.cross.to_pem().into_bytes(),
            self.own.to_pem().into_bytes(),
        );
        files.certificate(name("root-old.pem"), &old.text);
        files.key(name("root-old.key"), &old.key_text);
        files.key(name("root.key"), &root_key);
        files.certificate(name("root-ssigned.pem"), &root);
        files.certificate(name("root-xsigned.pem"), &cross);
        files.certificate(name("ca.pem"), &own);
        files.key(name("ca.key"), &both);
        // The cross-certificate first (reference section 13.2).
        let bundle = [own, cross, root, old.text.clone()].concat();
        files.certificate(name("ca.crt"), &bundle);
        Ok(bundle)
    }
}

/// What the cluster's nodes join with.
struct Tokens {
    server: Token,
    agent: Token,
}

impl Tokens {
    async fn read(host: &dyn Host, server: &Path) -> Result<Self, CaError> {
        let own = server.join("token");
        let agents = server.join("agent-token");
        let server = token(host, &own).await?.ok_or_else(|| missing(&own))?;
        // Usually a link to `token` by its absolute path, which in a copied tree is another's.
        let linked = matches!(
            host.read(&agents).await?.map(|entry| entry.kind),
            Some(EntryKind::Link(to)) if to.file_name() == own.file_name()
        );
        let agent = match linked {
            true => server.clone(),
            false => token(host, &agents)
                .await?
                .ok_or_else(|| missing(&agents))?,
        };
        Ok(Self { server, agent })
    }
}

async fn token(host: &dyn Host, path: &Path) -> Result<Option<Token>, CaError> {
    let Some(bytes) = file(host, path).await? else {
        return Ok(None);
    };
    let unusable = |problem: String| CaError::Place {
        path: path.to_owned(),
        problem,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("is no text".to_owned()))?;
    let token = Token::parse(text).map_err(|error| unusable(format!("is no token: {error}")))?;
    Ok(Some(token))
}

fn finish(
    staging: &Path,
    tokens: &Tokens,
    hash: pki::Digest,
    offline: &[String],
    transcript: &mut Transcript,
) -> Result<(), CaError> {
    let renewed = |token: &Token, user: &str| {
        let password = token.password().map_err(|error| CaError::Place {
            path: staging.with_file_name("token"),
            problem: format!("cannot be carried over: {error}"),
        })?;
        Ok::<_, CaError>(Token::new(hash, user, password.clone()).to_text())
    };
    let (server, agent) = (
        renewed(&tokens.server, "server")?,
        renewed(&tokens.agent, "node")?,
    );
    transcript.say("");
    transcript.say(format!(
        "Cross-signed CA certs and keys now available in {}",
        staging.display()
    ));
    transcript.say(format!("Updated server token:    {}", *server));
    transcript.say(format!("Updated agent token:     {}", *agent));
    transcript.say("");
    transcript.say("To update certificates, you may now run:");
    transcript.say(format!(
        "    k3s certificate rotate-ca --path={}",
        staging.display()
    ));
    transcript.say("");
    transcript.say(
        "Then move these files offline; K3s does not need them (the next run of this script \
         takes the roots' keys from the CAs' key files):",
    );
    for name in offline {
        transcript.say(format!("\t {}", staging.join("tls").join(name).display()));
    }
    Ok(())
}
