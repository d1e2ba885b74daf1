//! The one container that we make: the host's lock, and the hand that moves files there.

use std::collections::HashMap;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RestartContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use hyper::body::Bytes;
use kubepki::host::Output;
use pki::UnixTime;
use zeroize::Zeroizing;

use super::{DockerError, Engine, clock};

/// The lock's name: a host has at most one container of a name.
pub const LOCK_NAME: &str = "kubepki";

/// The label that says whose it is.
pub const OWNER_LABEL: &str = "io.kubepki.plan";

/// How often, and how soon, one looks again for a container that is just being made.
const LOCK_LOOKS: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// What the helper sees of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The folder on the host: `<prefix>/etc/kubernetes`.
    pub host: String,
    /// Where the container sees it: `/etc/kubernetes`.
    pub container: String,
    /// Whether SELinux's label is made shared (`:z`), as RKE does before Kubernetes 1.22.
    pub relabel: bool,
}

/// A helper container, by name or id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper(String);

impl Helper {
    /// The one that is the host's lock.
    pub(crate) fn lock() -> Self {
        Self(LOCK_NAME.to_owned())
    }
}

impl Engine {
    /// Takes the host's lock for `owner`: makes the container [`LOCK_NAME`], which Docker makes
    /// once only. What the same owner left behind is taken over.
    ///
    /// # Errors
    ///
    /// [`DockerError::Hindered`] with the other owner's name.
    pub async fn lock(&self, owner: &str, image: &str, bind: &Bind) -> Result<Helper, DockerError> {
        let helper = Helper::lock();
        for _ in 0..LOCK_LOOKS {
            match self.create(Some(LOCK_NAME), owner, image, bind).await {
                Ok(_) => return Ok(helper),
                Err(DockerError::Refused { status: 409, .. }) => {}
                Err(error) => return Err(error),
            }
            match self.lock_owner().await? {
                Some(found) if found.owner.as_deref() == Some(owner) => {
                    // What a killed program started there must not go on beside us.
                    match self.stop(&helper).await {
                        Err(error) if error.is_leftover() => self.remove(&helper).await?,
                        stopped => return stopped.map(|()| helper),
                    }
                }
                Some(found) => return Err(DockerError::Hindered(found.refusal())),
                // Docker gives the name away before the container can be looked at.
                None => tokio::time::sleep(LOCK_PAUSE).await,
            }
        }
        Err(DockerError::Hindered(format!(
            "Docker holds back the name {LOCK_NAME}, but shows no container of that name: try \
             again, or restart Docker on the host"
        )))
    }

    /// Gives the host's lock back if `owner` has it.
    ///
    /// # Errors
    ///
    /// When Docker cannot be asked.
    pub async fn unlock(&self, owner: &str) -> Result<(), DockerError> {
        match self.is_locked_by(owner).await? {
            true => self.remove(&Helper::lock()).await,
            false => Ok(()),
        }
    }

    /// Whether `owner` has the host's lock.
    pub(crate) async fn is_locked_by(&self, owner: &str) -> Result<bool, DockerError> {
        let Some(found) = self.inspect(LOCK_NAME).await? else {
            return Ok(false);
        };
        let labels = found.config.and_then(|it| it.labels).unwrap_or_default();
        Ok(labels.get(OWNER_LABEL).is_some_and(|it| it == owner))
    }

    async fn lock_owner(&self) -> Result<Option<Holder>, DockerError> {
        let Some(found) = self.inspect(LOCK_NAME).await? else {
            return Ok(None);
        };
        let labels = found.config.and_then(|it| it.labels).unwrap_or_default();
        let info = self
            .client
            .info()
            .await
            .map_err(self.failed("ask Docker for its time"))?;
        let now = info.system_time.as_deref().and_then(clock::parse);
        let since = found.created.as_deref().and_then(clock::parse);
        Ok(Some(Holder {
            owner: labels.get(OWNER_LABEL).cloned(),
            since: found.created.unwrap_or_default(),
            seconds: now.zip(since).map(|(now, since)| now.0.since(since.0)),
        }))
    }

    /// Makes a helper without starting it. What lies behind its bind can be read and written as
    /// archives all the same.
    pub(crate) async fn create(
        &self,
        name: Option<&str>,
        owner: &str,
        image: &str,
        bind: &Bind,
    ) -> Result<Helper, DockerError> {
        let options = name.map(|name| CreateContainerOptionsBuilder::new().name(name).build());
        let made = self
            .client
            .create_container(options, body(owner, image, bind))
            .await;
        let action = format!("make the helper container from image {image}");
        Ok(Helper(made.map_err(self.failed(action))?.id))
    }

    /// Removes the helpers of `owner` that were made before `before` by Docker's clock.
    ///
    /// # Errors
    ///
    /// When Docker cannot be asked, or keeps one.
    pub async fn remove_helpers(&self, owner: &str, before: UnixTime) -> Result<(), DockerError> {
        let label = vec![format!("{OWNER_LABEL}={owner}")];
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("label".to_owned(), label)]))
            .build();
        let listed = self.client.list_containers(Some(options)).await;
        let listed = listed.map_err(self.failed("list helper containers"))?;
        let old = |made: Option<i64>| made.is_some_and(|it| UnixTime::from_secs(it) < before);
        let listed = listed.into_iter().filter(|it| old(it.created));
        for helper in listed.filter_map(|it| it.id).map(Helper) {
            self.remove(&helper).await?;
        }
        Ok(())
    }

    /// Starts a helper. One that runs already is success.
    pub(crate) async fn start(&self, helper: &Helper) -> Result<(), DockerError> {
        let started = self.client.start_container(&helper.0, None).await;
        started.map_err(self.failed("start the helper container"))
    }

    /// Ends every process of a helper.
    async fn stop(&self, helper: &Helper) -> Result<(), DockerError> {
        let running = self
            .container(&helper.0)
            .await?
            .is_some_and(|it| it.running);
        if !running {
            return Ok(());
        }
        let options = RestartContainerOptionsBuilder::new().t(0).build();
        let restarted = self
            .client
            .restart_container(&helper.0, Some(options))
            .await;
        restarted.map_err(self.failed("restart the helper container"))
    }

    /// Removes a helper, running or not. One that is gone is success.
    pub(crate) async fn remove(&self, helper: &Helper) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let removed = self.client.remove_container(&helper.0, Some(options)).await;
        match removed.map_err(self.failed("remove the helper container")) {
            // 409: its removal is under way.
            Err(DockerError::Refused {
                status: 404 | 409, ..
            })
            | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Unpacks a tar archive in the folder `at` that the helper sees.
    pub(crate) async fn upload(
        &self,
        helper: &Helper,
        at: &str,
        archive: Zeroizing<Vec<u8>>,
    ) -> Result<(), DockerError> {
        let options = UploadToContainerOptionsBuilder::new().path(at).build();
        // As a stream: of a body in one piece the client library writes a line for debugging.
        let bytes = Bytes::from_owner(archive);
        let body = bollard::body_stream(futures_util::stream::once(async move { bytes }));
        let done = self
            .client
            .upload_to_container(&helper.0, Some(options), body)
            .await;
        done.map_err(self.failed(format!("write files below {at}")))
    }

    /// What lies at `at`, as a tar archive; `None` if nothing does. More than `limit` bytes are
    /// an error.
    pub(crate) async fn download(
        &self,
        helper: &Helper,
        at: &str,
        limit: usize,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, DockerError> {
        let action = || format!("read {at}");
        let options = DownloadFromContainerOptionsBuilder::new().path(at).build();
        let mut parts = Box::pin(
            self.client
                .download_from_container(&helper.0, Some(options)),
        );
        let mut archive = Zeroizing::new(Vec::new());
        while let Some(part) = parts.next().await {
            let part = match part.map_err(self.failed(action())) {
                Ok(part) => part,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            if archive.len() + part.len() > limit {
                return Err(DockerError::Hindered(format!(
                    "{at} holds more than {limit} bytes, which no directory of certificates does: \
                     move away what does not belong there"
                )));
            }
            grow(&mut archive, part.len());
            archive.extend_from_slice(&part);
        }
        Ok(Some(archive))
    }

    /// Runs a command in a running helper and waits. Arguments can be seen by everybody who may
    /// use this Docker: no secrets.
    pub(crate) async fn run(
        &self,
        helper: &Helper,
        argv: Vec<String>,
    ) -> Result<Output, DockerError> {
        const ACTION: &str = "run a command in the helper container";
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("0:0".to_owned()),
            cmd: Some(argv),
            ..CreateExecOptions::default()
        };
        let made = self.client.create_exec(&helper.0, options).await;
        let id = made.map_err(self.failed(ACTION))?.id;
        let started = self.client.start_exec(&id, None::<StartExecOptions>).await;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { mut output, .. } =
            started.map_err(self.failed(ACTION))?
        {
            while let Some(part) = output.next().await {
                match part.map_err(self.failed(ACTION))? {
                    LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                    other => stdout.extend_from_slice(&other.into_bytes()),
                }
            }
        }
        let ended = self
            .client
            .inspect_exec(&id)
            .await
            .map_err(self.failed(ACTION))?;
        Ok(Output {
            code: ended.exit_code.and_then(|code| i32::try_from(code).ok()),
            stdout,
            stderr,
        })
    }
}

/// Who has a host's lock.
struct Holder {
    owner: Option<String>,
    since: String,
    seconds: Option<i64>,
}

impl Holder {
    fn refusal(&self) -> String {
        let Some(owner) = &self.owner else {
            return format!(
                "there is a container {LOCK_NAME} that this program did not make; that name is the \
                 host's lock: rename or remove it"
            );
        };
        let age = match self.seconds {
            Some(seconds) => format!("{} min {} s ago", seconds / 60, seconds % 60),
            None => "at a time unknown".to_owned(),
        };
        format!(
            "state directory {owner} (see its file `owner`) holds this host's lock, taken {age} ({}). If its program still runs, let \
             it end; if it was interrupted, run `resume` or `undo` where it ran; if it is lost for \
             good, remove the container {LOCK_NAME} on the host",
            self.since
        )
    }
}

fn body(owner: &str, image: &str, bind: &Bind) -> ContainerCreateBody {
    let texts = |texts: &[&str]| Some(texts.iter().map(|it| (*it).to_owned()).collect());
    let suffix = if bind.relabel { ":z" } else { "" };
    let host = HostConfig {
        binds: Some(vec![format!("{}:{}{suffix}", bind.host, bind.container)]),
        network_mode: Some("none".to_owned()),
        privileged: Some(false),
        readonly_rootfs: Some(true),
        cap_drop: texts(&["ALL"]),
        // Files belong to root or to etcd's user; hard links to others' files need the second.
        cap_add: texts(&["DAC_OVERRIDE", "FOWNER"]),
        // Where SELinux rules, a container may touch /etc/kubernetes only without a label of its
        // own: RKE's privileged ones have none either.
        security_opt: texts(&["no-new-privileges", "label=disable"]),
        userns_mode: Some("host".to_owned()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some("0:0".to_owned()),
        entrypoint: texts(&["sh"]),
        // A shell that waits for input which never comes: it lives until it is removed.
        cmd: Some(Vec::new()),
        open_stdin: Some(true),
        // As its first process a shell is deaf to anything gentler: Docker, when it ends or comes
        // back, would wait its ten seconds.
        stop_signal: Some("SIGKILL".to_owned()),
        tty: Some(false),
        working_dir: Some("/".to_owned()),
        healthcheck: Some(HealthConfig {
            test: texts(&["NONE"]),
            ..HealthConfig::default()
        }),
        labels: Some(HashMap::from([(OWNER_LABEL.to_owned(), owner.to_owned())])),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// Makes room for `more` bytes. A buffer that moves leaves its bytes behind: they are wiped.
fn grow(buffer: &mut Zeroizing<Vec<u8>>, more: usize) {
    if buffer.capacity() - buffer.len() < more {
        let mut larger = Zeroizing::new(Vec::with_capacity((buffer.len() + more) * 2));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
}
