//! The containers and images that a host has.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, RestartContainerOptionsBuilder,
};
use kubepki::machine::ContainerState;

use super::{DockerError, Engine, clock};

/// How often a restart is tried, as RKE does.
pub const RESTART_TRIES: u32 = 3;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

impl Engine {
    /// What is known of the container `name`, but never its environment; `None` if there is none.
    ///
    /// # Errors
    ///
    /// When Docker cannot be asked.
    pub async fn container(&self, name: &str) -> Result<Option<ContainerState>, DockerError> {
        let Some(found) = self.inspect(name).await? else {
            return Ok(None);
        };
        state(found).map(Some).ok_or_else(|| DockerError::Strange {
            action: format!("inspect container {name}"),
            problem: "it does not say when the container was started".to_owned(),
        })
    }

    pub(super) async fn inspect(
        &self,
        name: &str,
    ) -> Result<Option<ContainerInspectResponse>, DockerError> {
        let asked = self.client.inspect_container(name, None).await;
        match asked.map_err(self.failed(format!("inspect container {name}"))) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all containers, running or not, sorted, with the image that each was made
    /// from.
    ///
    /// # Errors
    ///
    /// When Docker cannot be asked.
    pub async fn containers(&self) -> Result<Vec<(String, String)>, DockerError> {
        let options = ListContainersOptions {
            all: true,
            ..ListContainersOptions::default()
        };
        let listed = self.client.list_containers(Some(options)).await;
        let mut containers: Vec<(String, String)> = listed
            .map_err(self.failed("list containers"))?
            .into_iter()
            .flat_map(|it| {
                let image = it.image.unwrap_or_default();
                let names = it.names.unwrap_or_default();
                names.into_iter().map(move |name| {
                    let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
                    (name, image.clone())
                })
            })
            .collect();
        containers.sort();
        Ok(containers)
    }

    /// The tags of the images that the host has, sorted.
    ///
    /// # Errors
    ///
    /// When Docker cannot be asked.
    pub async fn images(&self) -> Result<Vec<String>, DockerError> {
        let listed = self.client.list_images(None::<ListImagesOptions>).await;
        let mut tags: Vec<String> = listed
            .map_err(self.failed("list images"))?
            .into_iter()
            .flat_map(|it| it.repo_tags)
            .filter(|tag| tag != "<none>:<none>")
            .collect();
        tags.sort();
        Ok(tags)
    }

    /// Restarts the container `name`: it gets `grace` to stop, then it is killed. `before` hears
    /// the number of each try, and why the one before it failed.
    ///
    /// # Errors
    ///
    /// The last try's. A container that does not exist is not tried again.
    pub async fn restart(
        &self,
        name: &str,
        grace: Duration,
        before: impl Fn(u32, Option<&DockerError>) + Send,
    ) -> Result<(), DockerError> {
        // Docker counts whole seconds; less grace than was asked for would kill too early.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = RestartContainerOptionsBuilder::new()
            .t(i32::try_from(seconds).unwrap_or(i32::MAX))
            .build();
        let client = self.patient(grace);
        let mut last = None;
        for number in 1..=RESTART_TRIES {
            before(number, last.as_ref());
            if number > 1 {
                tokio::time::sleep(PAUSE).await;
            }
            let asked = client.restart_container(name, Some(options.clone())).await;
            match asked.map_err(self.failed(format!("restart container {name}"))) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => return Err(error),
                Err(error @ DockerError::Unreachable(_)) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(self.with_leftover(name, error).await),
            None => Err(DockerError::Hindered(format!("{name} was not restarted"))),
        }
    }

    /// The error, and how to clear away what is in the container's way, if it is its own former
    /// life: a Docker that is killed while it stops or starts a container may leave one that no
    /// start gets past.
    async fn with_leftover(&self, name: &str, error: DockerError) -> DockerError {
        let is_leftover = error.is_leftover();
        match error {
            DockerError::Refused {
                action, message, ..
            } if is_leftover => {
                let found = self.inspect(name).await.ok().flatten();
                let id = found.and_then(|it| it.id);
                DockerError::Leftover {
                    action,
                    message,
                    id: id.unwrap_or_else(|| name.to_owned()),
                }
            }
            error => error,
        }
    }
}

fn state(found: ContainerInspectResponse) -> Option<ContainerState> {
    let state = found.state?;
    let config = found.config.unwrap_or_default();
    let arguments = found.path.into_iter().chain(found.args.unwrap_or_default());
    Some(ContainerState {
        running: state.running.unwrap_or(false),
        started: clock::parse(&state.started_at?)?,
        image: config.image.or(found.image).unwrap_or_default(),
        arguments: arguments.collect(),
    })
}
