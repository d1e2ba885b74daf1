//! `ca request` and `ca import`.

use std::path::{Path, PathBuf};

use clap::Args;
use kubepki::bootstrap::{Bundle, Field, read_directory};
use kubepki::ca::{
    CaName, ImportRequest, Places, Pool, certificates_in, check_places, csr_name,
    read_request_keys, refuse_live, request as make_requests,
};
use kubepki::host::{EntryKind, Host as _};
use pki::KeyAlgorithm;
use zeroize::Zeroizing;

use super::{absolute, data_dirs, finish, make, refused};
use crate::args::SiteArgs;
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// `ca request`.
#[derive(Clone, Debug, Args)]
pub struct RequestArgs {
    /// A new directory for five requests (*.csr) and the keys that belong to them.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Keys of the five CAs: p256, p384, p521, rsa2048, rsa3072, rsa4096.
    #[arg(
        long,
        value_name = "ALGORITHM",
        default_value_t = KeyAlgorithm::P256,
        value_parser = super::given::algorithm
    )]
    pub ca_algorithm: KeyAlgorithm,
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `ca import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// What came back, and the certificates of the CAs above, up to the root: PEM, DER or PKCS#7.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The directory that `ca request` made.
    #[arg(long, value_name = "DIR")]
    pub request: PathBuf,
    /// A new directory for the set; its `tls/` is for K3s's first start or for `rotate-ca`.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A `service.key` that is in use already [default: that of the data directory].
    #[arg(long, value_name = "FILE")]
    pub service_key: Option<PathBuf>,
    /// Have the CAs in force vouch for the company's root, so that nobody is shut out.
    #[arg(long)]
    pub cross_sign: bool,
    /// With --cross-sign: a file or directory with the keys of the roots in force; the CAs' own
    /// keys, which are on the server, will do.
    #[arg(long, value_name = "PATH", requires = "cross_sign")]
    pub keys: Vec<PathBuf>,
    /// A file with the passphrase of those keys; `-` for standard input.
    #[arg(long, value_name = "FILE", requires = "keys")]
    pub key_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub site: SiteArgs,
}

pub(super) async fn request(args: &RequestArgs, world: &World) -> Result<Exit, CliError> {
    super::stage::refuse_old(args.site.k3s_version.as_deref(), None)?;
    let out = absolute(&args.out)?;
    for data_dir in data_dirs(world, &args.site).await? {
        refuse_live(&out, &data_dir).map_err(refused)?;
    }
    let requests = make_requests(args.ca_algorithm, &make(world)).map_err(refused)?;
    requests.write(&out).map_err(refused)?;
    let mut text = String::from("Requests for the five CAs:\n");
    for (ca, requested) in &requests.five {
        let path = out.join(csr_name(*ca));
        text.push_str(&format!(
            "  {}  {}\n",
            path.display(),
            requested.request.subject()
        ));
    }
    text.push_str(
        "Each asks for a CA's basic constraints and key usage, without a path length. Have them \
         signed as subordinate CAs, with both TLS purposes or none (extended key usage).\n",
    );
    text.push_str(&format!(
        "The keys beside them stay here. Next: kubepki ca import --request {} --out DIR FILE…\n",
        out.display()
    ));
    output::data(&text)?;
    Ok(Exit::Fine)
}

pub(super) async fn import(args: &ImportArgs, world: &World) -> Result<Exit, CliError> {
    super::stage::refuse_old(args.site.k3s_version.as_deref(), None)?;
    let data_dirs = data_dirs(world, &args.site).await?;
    let out = absolute(&args.out)?;
    let places = Places {
        out: &out,
        offline: None,
        data_dirs: &data_dirs,
        keep_on_node: false,
        passphrase: None,
    };
    check_places(&places).map_err(refused)?;
    let mut answers = Vec::new();
    for path in &args.files {
        let bytes = read(world, path).await?;
        answers.extend(certificates_in(path, &bytes).map_err(refused)?);
    }
    let keys = read_request_keys(&world.host, &args.request)
        .await
        .map_err(refused)?;
    let live = live(args, world, &data_dirs).await?;
    let set = kubepki::ca::import(ImportRequest {
        keys,
        answers,
        live: live.as_ref(),
        make: make(world),
        cross: cross(args, world).await?,
    })
    .map_err(refused)?;
    let next = match live {
        Some(_) => format!("Next: kubepki rotate-ca --path {}", out.display()),
        None => format!(
            "Next: copy {}/tls to <DATA-DIR>/server/tls of the first server, before K3s's first \
             start.",
            out.display()
        ),
    };
    finish(&set, &places, &next)
}

async fn cross(args: &ImportArgs, world: &World) -> Result<Option<Pool>, CliError> {
    if !args.cross_sign {
        return Ok(None);
    }
    let secret = super::given::passphrase(args.key_passphrase_file.as_deref())?;
    let secret = secret.as_ref().map(|it| it.as_slice());
    let mut pool = Pool::default();
    for path in &args.keys {
        pool.read(&world.host, path, secret)
            .await
            .map_err(refused)?;
    }
    Ok(Some(pool))
}

/// The CAs in force, if the data directory has any; `--service-key` goes before its own.
async fn live(
    args: &ImportArgs,
    world: &World,
    data_dirs: &[PathBuf],
) -> Result<Option<Bundle>, CliError> {
    let mut live = Bundle::default();
    if let Some(data_dir) = data_dirs.last() {
        live = read_directory(&world.host, &data_dir.join("server")).await?;
    }
    let has_cas = CaName::ALL
        .into_iter()
        .any(|ca| live.files.contains_key(&ca.field()));
    if let Some(path) = &args.service_key {
        let content = read(world, path).await?;
        let stamp = kubepki::bootstrap::Stamp::at(world.now());
        let file = kubepki::bootstrap::SharedFile { stamp, content };
        live.files.insert(Field::ServiceKey, file);
    }
    Ok((has_cas || args.service_key.is_some()).then_some(live))
}

/// A file that was named.
pub(super) async fn read(world: &World, path: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let entry = world.host.read(&absolute_link(path)?).await?;
    match entry.map(|entry| entry.kind) {
        Some(EntryKind::File(bytes)) => Ok(bytes),
        Some(_) => Err(CliError::usage(format!("{} is not a file", path.display()))),
        None => Err(CliError::usage(format!(
            "{} does not exist",
            path.display()
        ))),
    }
}

/// Links in a path that was named are followed.
fn absolute_link(path: &Path) -> Result<PathBuf, CliError> {
    Ok(crate::world::resolved(&absolute(path)?))
}
