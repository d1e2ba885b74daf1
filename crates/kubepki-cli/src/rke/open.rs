//! A cluster's files, read.

use std::path::{Path, PathBuf};

use kubepki::host::{Entry, EntryKind, Host};
use kubepki::rke::config::{ClusterConfig, ConfigError};
use kubepki::rke::rotate::Site;
use kubepki::rke::state::{Files, State};
use kubepki::state::StateDir;

use crate::args::SiteArgs;
use crate::error::CliError;
use crate::world::{World, resolved};

/// An RKE cluster as its files on the operator's machine tell.
pub struct RkeCluster {
    /// Its files, spelt as RKE spells them.
    pub files: Files,
    /// Where they lie, and what they are now.
    pub site: Site,
    /// cluster.yml.
    pub config: ClusterConfig,
    /// The state file; `None` if there is none.
    pub state: Option<State>,
    /// Where plans are kept.
    pub state_dir: StateDir,
    /// `--state-dir`, if it was given.
    kept: Option<PathBuf>,
}

impl RkeCluster {
    /// Reads cluster.yml and the state file beside it.
    ///
    /// # Errors
    ///
    /// RKE's words for a missing or wrong cluster.yml; and for a state file that cannot be
    /// understood. One that is missing is none: see [`Self::state`].
    pub async fn open(world: &World, config: &Path, args: &SiteArgs) -> Result<Self, CliError> {
        let (mut cluster, entry) = Self::files(world, config, args)
            .await
            .map_err(CliError::of_cluster)?;
        cluster.state = match &entry {
            None => None,
            Some(entry) => Some(parsed_state(&cluster.site.state, entry)?),
        };
        Ok(cluster)
    }

    /// The same where the state file may be damaged. Whether there is one that can be read comes
    /// along.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], but for the state file's content.
    pub async fn open_damaged(
        world: &World,
        config: &Path,
        args: &SiteArgs,
    ) -> Result<(Self, Option<Result<(), CliError>>), CliError> {
        let (mut cluster, entry) = Self::files(world, config, args)
            .await
            .map_err(CliError::of_cluster)?;
        let Some(entry) = entry else {
            return Ok((cluster, None));
        };
        let read = parsed_state(&cluster.site.state, &entry);
        let read = read.map(|state| cluster.state = Some(state));
        Ok((cluster, Some(read)))
    }

    /// Without a look into the state file.
    async fn files(
        world: &World,
        config: &Path,
        args: &SiteArgs,
    ) -> Result<(Self, Option<Entry>), CliError> {
        let files = Files::of(config);
        let absolute = std::path::absolute(config)?;
        let text = match read(world, &absolute).await? {
            Some(text) => text,
            None => {
                // In Go's words, which RKE's users search for.
                return Err(CliError::message(format!(
                    "Failed to resolve cluster file: can not find cluster configuration file: \
                     open {}: no such file or directory",
                    absolute.display()
                )));
            }
        };
        let text = std::str::from_utf8(&text).map_err(|error| {
            CliError::message(format!("{} is not UTF-8: {error}", config.display()))
        })?;
        let parsed = ClusterConfig::parse(text).map_err(|error| at(config, &error))?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        let root = resolved(directory);
        let (site, entry) = Site::open(&world.host, root, &files).await?;
        let state_dir = match &args.state_dir {
            Some(path) => StateDir::new(path.clone()),
            // Beside cluster.yml also where the state file itself lies elsewhere.
            None => {
                StateDir::of_rke_state(&site.root.join(files.state.file_name().unwrap_or_default()))
            }
        };
        let cluster = Self {
            files,
            site,
            config: parsed,
            state: None,
            state_dir,
            kept: args.state_dir.clone(),
        };
        Ok((cluster, entry))
    }

    /// What names this cluster and its plans on a command line, with a blank before it; empty where
    /// both are found anyway.
    pub fn flags(&self) -> String {
        let kept = self.kept.as_deref();
        let kept = kept.map(|it| format!(" --state-dir {}", quoted(&it.display().to_string())));
        self.flag() + &kept.unwrap_or_default()
    }

    fn flag(&self) -> String {
        match self.files.config.to_str() {
            Some("cluster.yml") => String::new(),
            _ => format!(
                " --cluster {}",
                quoted(&self.files.config.display().to_string())
            ),
        }
    }

    /// What mends a finding, as the library says it of any cluster, with this one's flags.
    pub fn mended(&self, mends: &str) -> String {
        let flags = self.flags();
        match flags.contains("--cluster") {
            true => mends.replace(ANY_CLUSTER, &flags),
            false => mends.replace(ANY_CLUSTER, &format!("{ANY_CLUSTER}{flags}")),
        }
    }

    /// A text whose commands, which stand in backquotes, find this cluster and its plans again.
    pub fn spelled(&self, text: &str) -> String {
        spelled(text, &self.flag(), &self.flags())
    }

    /// An error whose hint and message name the commands so that they find this cluster again.
    pub fn named(&self, error: CliError) -> CliError {
        let error = error.of_cluster();
        CliError {
            message: self.spelled(&error.message),
            hint: error.hint.map(|hint| self.spelled(&hint)),
            ..error
        }
    }

    /// The state, which a rotation starts from.
    ///
    /// # Errors
    ///
    /// RKE's words, and the way out, when there is none.
    pub fn state(&self) -> Result<&State, CliError> {
        self.state.as_ref().ok_or_else(|| {
            self.named(CliError::message(format!(
                "Failed to rotate certificates: can't find old certificates: there is no state file \
                 {}",
                self.site.state.display()
            ))
            .hint(
                "its name follows from cluster.yml's; if it is lost, `kubepki state pull` \
                 fetches the cluster's copy, and `kubepki state rebuild` makes one from a \
                 control-plane host",
            ))
        })
    }
}

/// How the library's findings name a cluster.
const ANY_CLUSTER: &str = " --cluster cluster.yml";

/// `flag` names the cluster, `flags` its plans too; both with a blank before them.
fn spelled(text: &str, flag: &str, flags: &str) -> String {
    let parts = text.split('`').enumerate().map(|(number, part)| {
        let command = part.strip_prefix("kubepki ").filter(|_| number % 2 == 1);
        let added = match command.and_then(|it| it.split_whitespace().next()) {
            // RKE's own command line.
            None | Some("rke") => "",
            Some(_) if reads_only(part) => flag,
            Some(_) => flags,
        };
        let named = ["--cluster", "--state-dir"];
        match named.iter().any(|it| part.contains(it)) {
            true => part.to_owned(),
            false => format!("{part}{added}"),
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

/// Commands that know no plans, and so no place for them.
fn reads_only(command: &str) -> bool {
    const THESE: [&str; 4] = [
        "kubepki generate-csr",
        "kubepki custom-certs status",
        "kubepki custom-certs verify",
        "kubepki state show",
    ];
    THESE.iter().any(|it| command.starts_with(it))
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |it: char| it.is_alphanumeric() || "/._-+,:@%=".contains(it);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

async fn read(world: &World, path: &Path) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, CliError> {
    // What the operator names may be a link, as RKE follows it.
    let entry = world.host.read(&resolved(path)).await?;
    match entry.map(|entry| entry.kind) {
        Some(EntryKind::File(bytes)) => Ok(Some(bytes)),
        None => Ok(None),
        Some(_) => Err(CliError::message(format!("{} is no file", path.display()))),
    }
}

fn at(config: &Path, error: &ConfigError) -> CliError {
    let error = kubepki::error_chain(error);
    CliError::message(format!("{}: {error}", config.display()))
}

fn parsed_state(path: &Path, entry: &Entry) -> Result<State, CliError> {
    let bytes = entry
        .bytes()
        .ok_or_else(|| CliError::message(format!("{} is no file", path.display())))?;
    State::parse(bytes).map_err(|error| {
        let error = kubepki::error_chain(&error);
        CliError::message(format!("{}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_find_the_cluster_again() {
        let with = |text: &str| spelled(text, " --cluster b.yml", " --cluster b.yml --state-dir d");
        assert_eq!(
            with("run `kubepki resume` or `kubepki undo`"),
            "run `kubepki resume --cluster b.yml --state-dir d` or \
             `kubepki undo --cluster b.yml --state-dir d`"
        );
        assert_eq!(
            with("`kubepki state show`"),
            "`kubepki state show --cluster b.yml`"
        );
        // Neither twice nor where it is no flag.
        for same in [
            "`kubepki resume --cluster b.yml --state-dir d`",
            "`kubepki rke cert generate-csr`",
            "kubepki resume and `rke up`",
            "`kubepki resume",
        ] {
            let once = with(same);
            assert_eq!(with(&once), once);
        }
        assert_eq!(
            with("`kubepki rke cert rotate`"),
            "`kubepki rke cert rotate`"
        );
        assert_eq!(spelled("`kubepki undo`", "", ""), "`kubepki undo`");
    }
}
