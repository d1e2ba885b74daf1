//! A node's files: looked at, and what is to become of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kubepki::agent::{Node, NodeFile, kubeconfigs, plan_files, wanted};
use kubepki::edge::Entropy as _;
use kubepki::host::{Attributes, Entry, EntryKind, Host as _};
use kubepki::init::Staged;
use kubepki::k3s::{Places, discover};
use kubepki::plan::Plan;
use kubepki::token::Head;
use zeroize::Zeroizing;

use super::obtain::Obtained;
use super::{DEFAULT_DATA_DIR, NodeArgs, agent_directory};
use crate::error::CliError;
use crate::output;
use crate::world::{World, resolved};

/// What lies in `agent/`.
pub struct Files {
    /// It.
    pub directory: PathBuf,
    /// Where the node's password is kept.
    pub password_file: PathBuf,
    present: BTreeMap<String, Entry>,
}

impl Files {
    /// Looks at a node's files.
    ///
    /// # Errors
    ///
    /// When one cannot be read, or is a link or directory.
    pub async fn open(world: &World, args: &NodeArgs) -> Result<Self, CliError> {
        if args.data_dir.to_str().is_none() {
            return Err(CliError::usage(
                "--data-dir must be text: its path stands in kubeconfigs",
            ));
        }
        let directory = agent_directory(&args.data_dir);
        let password_file = match &args.node_password_file {
            Some(named) => named.clone(),
            None if args.data_dir == Path::new(DEFAULT_DATA_DIR) => PASSWORD.into(),
            None => password_file(&directory, is_k3s_own(world, &args.data_dir).await),
        };
        let mut names = vec!["client-ca.crt".to_owned(), "server-ca.crt".to_owned()];
        if let Ok(anybody) = Node::new("x", Vec::new()) {
            for it in wanted(&anybody) {
                names.extend(["crt", "key"].map(|end| format!("{}.{end}", it.row.path)));
            }
        }
        let configs = kubeconfigs(&directory, "");
        let configs = configs.iter().filter_map(|(path, _)| path.file_name());
        names.extend(configs.map(|it| it.to_string_lossy().into_owned()));
        let mut present = BTreeMap::new();
        for name in names {
            let path = directory.join(&name);
            match world.host.read(&path).await? {
                None => {}
                Some(entry) if matches!(entry.kind, EntryKind::File(_)) => {
                    present.insert(name, entry);
                }
                Some(_) => {
                    return Err(CliError::refused(format!(
                        "{} is a link or directory, not a file: nothing was changed",
                        path.display()
                    )));
                }
            }
        }
        Ok(Self {
            directory,
            password_file,
            present,
        })
    }

    /// The bytes of a file that is there.
    pub fn read(&self, name: &str) -> Option<&[u8]> {
        self.present.get(name)?.bytes()
    }

    /// The plan that puts what differs in place, keys before their certificates.
    pub fn plan(&self, head: &Head<'_>, title: String, obtained: &Obtained) -> (Plan, Vec<Staged>) {
        let files = obtained.files.iter().map(|file| NodeFile {
            name: &file.name,
            present: self.present.get(&file.name),
            bytes: file.bytes.clone(),
            reason: &file.reason,
        });
        plan_files(head, title, &self.directory, files.collect())
    }
}

/// Where K3s's agents keep the node's password.
const PASSWORD: &str = "/etc/rancher/node/password";

/// Where the password of a node lies whose files are in `directory`, not at K3s's usual place.
///
/// K3s's agents have one place for it on a machine, wherever their data lies (reference section
/// 1.6), but for rootless ones. A copied tree must not be given the machine's own password: only
/// K3s's data directory counts as a node of this machine.
fn password_file(directory: &Path, is_k3s_own: bool) -> PathBuf {
    match is_k3s_own {
        true => PASSWORD.into(),
        false => directory.join(PASSWORD.trim_start_matches('/')),
    }
}

/// Whether K3s's configuration or unit on this machine names that data directory, and it runs as
/// root.
async fn is_k3s_own(world: &World, data_dir: &Path) -> bool {
    match discover(&world.host, &Places::default()).await {
        Ok(config) => {
            resolved(&config.data_dir.value) == resolved(data_dir)
                && rustix::process::geteuid().is_root()
        }
        Err(error) => {
            output::talk(&format!(
                "Note: K3s's configuration cannot be read, so this data directory is taken for \
                 none of K3s's: {}",
                kubepki::error_chain(&error)
            ));
            false
        }
    }
}

/// The node's password, if it has one.
pub async fn present_password(
    world: &World,
    path: &Path,
) -> Result<Option<Zeroizing<String>>, CliError> {
    let Some(entry) = world.host.read(path).await? else {
        return Ok(None);
    };
    let text = entry.bytes().and_then(|it| str::from_utf8(it).ok());
    let text = text.map(str::trim).unwrap_or_default();
    let speakable = text.bytes().all(|byte| byte.is_ascii_graphic());
    match speakable && !text.is_empty() {
        true => Ok(Some(Zeroizing::new(text.to_owned()))),
        false => Err(CliError::refused(format!(
            "{} holds no password: put it back from a copy, or remove it and the Secret \
             <node>.node-password.k3s in kube-system, and a new one is made",
            path.display()
        ))),
    }
}

/// The node's password: it proves later that the name is this node's, so it is made once and is
/// on the disk before it is sent for the first time.
pub async fn node_password(world: &World, path: &Path) -> Result<Zeroizing<String>, CliError> {
    if let Some(present) = present_password(world, path).await? {
        return Ok(present);
    }
    let mut bytes = Zeroizing::new([0; 16]);
    world.entropy.fill(bytes.as_mut())?;
    let text = Zeroizing::new(pki::hex(bytes.as_ref()));
    if let Some(parent) = path.parent() {
        make_directory(world, parent, 0o755).await?;
    }
    let line = format!("{}\n", text.as_str()).into_bytes();
    let entry = Entry {
        kind: EntryKind::File(Zeroizing::new(line)),
        attributes: Attributes::new(0o600),
    };
    world.host.put(path, &entry).await?;
    Ok(text)
}

/// Makes a directory and those above it, where they are absent; others are left as they are.
pub async fn make_directory(world: &World, path: &Path, mode: u32) -> Result<(), CliError> {
    let mut absent: Vec<&Path> = path
        .ancestors()
        .filter(|it| !it.as_os_str().is_empty() && !it.is_dir())
        .collect();
    while let Some(next) = absent.pop() {
        let mode = if next == path { mode } else { 0o755 };
        let entry = Entry {
            kind: EntryKind::Directory,
            attributes: Attributes::new(mode),
        };
        world.host.put(next, &entry).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_this_machine_has_one_password_wherever_its_data_lies() {
        let agent = Path::new("/srv/k3s/agent");
        assert_eq!(password_file(agent, true), Path::new(PASSWORD));
        let below = Path::new("/srv/k3s/agent/etc/rancher/node/password");
        assert_eq!(password_file(agent, false), below);
    }
}
