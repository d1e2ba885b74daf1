//! The lock of a host, and what is cleared away there.

use std::path::Path;

use kubepki::host::{Host, HostError};
use kubepki::plan::PlanId;

use super::Notice;
use super::files::{BASE, Desk, Files, SCRIPT_PATIENCE};
use super::set::{SETS, under};
use crate::docker::{DockerError, Helper, one_line};

/// Waits for the lock of the script that puts sets in place, then removes what was staged and is in
/// nobody's hands: a script that comes later finds nothing to put in place. `$1` is where sets lie.
const SWEEP: &str = r#"cd "$1" 2>/dev/null || exit 0
if command -v flock >/dev/null; then exec 9>>lock && flock 9; fi
rm -rf ./*/*.new-* ./*/*.part"#;

/// Removes the kept sets of plan `$2`, which are called by it and the numbers of its steps.
const FORGET: &str = r#"cd "$1" 2>/dev/null || exit 0
if command -v flock >/dev/null; then exec 9>>lock && flock 9; fi
for set in ./"$2"-*; do
    case ${set#"./$2-"} in
    *[!0-9]* | '') ;;
    *) rm -rf "$set" || exit 1 ;;
    esac
done"#;

/// RKE's containers, those with a shell in their image first.
const COMPONENTS: [&str; 9] = [
    "kubelet",
    "kube-proxy",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "etcd",
    "nginx-proxy",
    "service-sidekick",
    "etcd-rolling-snapshots",
];

impl Desk<'_> {
    /// Takes the lock and, where files go through Docker, starts its container.
    pub(super) async fn lock(&self, owner: &str) -> Result<Helper, HostError> {
        let bind = self.bind();
        let engine = self.engine;
        if let Files::Direct(host) = self.files {
            let image = self.any_image().await?;
            let taken = engine.lock(owner, &image, &bind).await;
            let taken = taken.map_err(|error| self.failed(error))?;
            // A script that a killed program has started may still be at it. Those in the helper
            // container end when the lock is taken over.
            self.sweep_directly(host.as_ref()).await?;
            return Ok(taken);
        }
        let images = self.images().await?;
        let mut without = Vec::new();
        for image in &images {
            let take = || engine.lock(owner, image, &bind);
            let helper = take().await.map_err(|error| self.failed(error))?;
            let mut started = engine.start(&helper).await;
            if started.as_ref().is_err_and(DockerError::is_leftover) {
                // Nothing is in the way of a container that is new.
                let removed = engine.remove(&helper).await;
                removed.map_err(|error| self.failed(error))?;
                take().await.map_err(|error| self.failed(error))?;
                started = engine.start(&helper).await;
            }
            match started {
                Ok(()) => {
                    (self.notify)(&self.spec.name, &Notice::FilesByDocker { image });
                    return Ok(helper);
                }
                Err(DockerError::Refused { message, .. }) if lacks_shell(&message) => {
                    let removed = engine.remove(&helper).await;
                    removed.map_err(|error| self.failed(error))?;
                    without.push(image.as_str());
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        let reason = if without.is_empty() {
            "it has no image at all".to_owned()
        } else {
            format!("these have no `sh`: {}", without.join(", "))
        };
        Err(self.hindered(format!(
            "no image on this host can move files ({reason}): pull system_images.cert_downloader \
             or alpine there, or connect as root"
        )))
    }

    pub(super) async fn unlock(&self, owner: &str) -> Result<(), HostError> {
        let ours = self.engine.is_locked_by(owner).await;
        if ours.map_err(|error| self.failed(error))? {
            // What cannot be removed now is removed with the next deployment.
            let _ = self.sweep().await;
        }
        let done = self.engine.unlock(owner).await;
        done.map_err(|error| self.failed(error))
    }

    /// Removes what killed programs have staged, which nobody comes back to.
    async fn sweep(&self) -> Result<(), HostError> {
        match self.files {
            Files::Direct(host) => self.sweep_directly(host.as_ref()).await?,
            Files::Docker => {
                let helper = Helper::lock();
                let failed = |error| self.failed(error);
                self.engine.start(&helper).await.map_err(failed)?;
                let argv = shell(SWEEP, &Path::new(BASE).join(SETS));
                self.engine.run(&helper, argv).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn sweep_directly(&self, host: &dyn Host) -> Result<(), HostError> {
        let sets = under(self.prefix, Path::new(BASE)).join(SETS);
        host.run(&shell(SWEEP, &sets), SCRIPT_PATIENCE).await?;
        Ok(())
    }

    /// Removes what is kept of a plan's deployments.
    pub(super) async fn forget(&self, plan: &PlanId) -> Result<(), HostError> {
        let command = |sets: &Path| {
            let mut command = shell(FORGET, sets);
            command.push(plan.to_string());
            command
        };
        let ended = match self.files {
            Files::Direct(host) => {
                let sets = under(self.prefix, Path::new(BASE)).join(SETS);
                host.run(&command(&sets), SCRIPT_PATIENCE).await?
            }
            Files::Docker => {
                let helper = Helper::lock();
                let failed = |error| self.failed(error);
                self.engine.start(&helper).await.map_err(failed)?;
                let command = command(&Path::new(BASE).join(SETS));
                self.engine.run(&helper, command).await.map_err(failed)?
            }
        };
        if ended.code == Some(0) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        Err(self.hindered(format!(
            "cannot remove what is kept of plan {plan}: {}",
            one_line(&said)
        )))
    }

    /// Images to try, best first: the configured ones, RKE's tools, those of its components.
    async fn images(&self) -> Result<Vec<String>, HostError> {
        let (present, used) = tokio::join!(self.engine.images(), self.engine.containers());
        let present = present.map_err(|error| self.failed(error))?;
        let used = used.map_err(|error| self.failed(error))?;
        let mut images: Vec<String> = Vec::new();
        let mut add = |image: &String| {
            if !images.contains(image) {
                images.push(image.clone());
            }
        };
        self.spec
            .images
            .iter()
            .filter(|it| present.contains(it))
            .for_each(&mut add);
        let is_tools = |it: &&String| {
            let name = it.rsplit_once(':').map_or(it.as_str(), |(name, _)| name);
            name.ends_with("rancher/rke-tools")
        };
        present.iter().rev().filter(is_tools).for_each(&mut add);
        let ours = |it: &&(String, String)| COMPONENTS.contains(&it.0.as_str());
        used.iter().filter(ours).for_each(|(_, image)| add(image));
        Ok(images)
    }

    /// An image to make a container from that is never started.
    pub(super) async fn any_image(&self) -> Result<String, HostError> {
        let mut images = self.images().await?;
        if images.is_empty() {
            images = self
                .engine
                .images()
                .await
                .map_err(|error| self.failed(error))?;
        }
        images.into_iter().next().ok_or_else(|| {
            self.hindered(
                "its Docker has no image to make a container from: is this a node of the cluster?"
                    .to_owned(),
            )
        })
    }
}

fn shell(script: &str, sets: &Path) -> Vec<String> {
    let words = ["sh", "-c", script, "kubepki"].map(str::to_owned);
    words
        .into_iter()
        .chain([sets.display().to_string()])
        .collect()
}

fn lacks_shell(message: &str) -> bool {
    message.contains("executable file not found") || message.contains("no such file or directory")
}
