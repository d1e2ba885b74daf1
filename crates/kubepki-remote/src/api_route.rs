//! The way to the Kubernetes API of an RKE cluster, which often only the hosts themselves have.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kubepki::machine::{Machine as _, Stream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::docker::Cause;
use crate::machine::{Notice, Notify, RemoteMachine, SshReach};
use crate::ssh::Session;

/// How long a direct connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// The roads to the API: the one that RKE takes, then the SSH connections of hosts.
///
/// RKE dials directly, or through the bastion where cluster.yml names one, and has no second way.
/// The road that led there once is taken again.
pub struct ApiRoute {
    bastion: Option<Bastion>,
    hosts: Vec<Arc<RemoteMachine>>,
    notify: Notify,
    taken: Mutex<Option<Road>>,
}

struct Bastion {
    reach: SshReach,
    session: tokio::sync::Mutex<Option<Session>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    Direct,
    Bastion,
    /// Through the host of this number.
    Host(usize),
}

/// No road leads to the API; the text says what befell on each.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {target}{}", failures.concat())]
pub struct NoRoute {
    /// `address:port`.
    target: String,
    /// `; directly: connection refused`.
    failures: Vec<String>,
}

impl fmt::Debug for ApiRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiRoute")
            .field("bastion", &self.bastion.as_ref().map(|it| &it.reach))
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl ApiRoute {
    /// Through `bastion`, or directly where there is none; else through one of `hosts`, which
    /// should be those of the control plane. `notify` hears when a host is the road.
    pub fn new(bastion: Option<SshReach>, hosts: Vec<Arc<RemoteMachine>>, notify: Notify) -> Self {
        let bastion = bastion.map(|reach| Bastion {
            reach,
            session: tokio::sync::Mutex::default(),
        });
        Self {
            bastion,
            hosts,
            notify,
            taken: Mutex::default(),
        }
    }

    /// Directly, and no other way.
    pub fn direct() -> Self {
        Self::new(None, Vec::new(), Arc::new(|_, _| ()))
    }

    /// Connects to the API at `host`, a name or bare address.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, NoRoute> {
        let known = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Vec::new();
        for road in self.roads(host, known) {
            match self.take(road, host, port).await {
                Ok(stream) => {
                    if known != Some(road) {
                        self.settle(road, &address(host, port), &failures);
                    }
                    return Ok(stream);
                }
                Err(error) => {
                    let error = kubepki::error_chain(&*error);
                    failures.push(format!("; {}: {error}", self.name(road)));
                }
            }
        }
        Err(NoRoute {
            target: address(host, port),
            failures,
        })
    }

    /// All roads, best first.
    fn roads(&self, host: &str, known: Option<Road>) -> Vec<Road> {
        let mut hosts: Vec<usize> = (0..self.hosts.len()).collect();
        // Whoever serves it is there for certain.
        hosts.sort_by_key(|number| !self.is_at(*number, host));
        let first = match &self.bastion {
            Some(_) => Road::Bastion,
            None => Road::Direct,
        };
        let mut roads = vec![first];
        roads.extend(hosts.into_iter().map(Road::Host));
        roads.sort_by_key(|road| known != Some(*road));
        roads
    }

    async fn take(&self, road: Road, host: &str, port: u16) -> Result<Box<dyn Stream>, Cause> {
        match road {
            Road::Direct => {
                let connected = timeout(PATIENCE, TcpStream::connect((host, port))).await;
                let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
                let stream = connected.map_err(late)??;
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Road::Bastion => {
                let session = self.session().await?;
                Ok(Box::new(session.open_tcp(host, port).await?))
            }
            Road::Host(number) => {
                let machine = self.hosts.get(number).ok_or("there is no such host")?;
                // Its own address may be one that only others reach it by.
                let address = match self.is_at(number, host) {
                    true => address("127.0.0.1", port),
                    false => address(host, port),
                };
                Ok(machine.dial(&address).await?)
            }
        }
    }

    /// The bastion's connection, made anew if it has ended.
    async fn session(&self) -> Result<Session, Cause> {
        let bastion = self.bastion.as_ref().ok_or("there is no bastion")?;
        let mut present = bastion.session.lock().await;
        if let Some(session) = &*present
            && !session.is_closed()
        {
            return Ok(session.clone());
        }
        let SshReach {
            endpoint,
            host_keys,
            timeouts,
        } = &bastion.reach;
        let fresh = Session::connect(endpoint, host_keys, *timeouts).await?;
        for news in fresh.accepted() {
            let news = news.to_string();
            (self.notify)(&endpoint.address, &Notice::Connected { news: &news });
        }
        *present = Some(fresh.clone());
        Ok(fresh)
    }

    /// Remembers the road, and says it if nobody would expect it.
    fn settle(&self, road: Road, target: &str, failures: &[String]) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(road);
        let Road::Host(number) = road else { return };
        let Some(machine) = self.hosts.get(number) else {
            return;
        };
        let why = failures.first().map_or("", String::as_str);
        let why = why.trim_start_matches("; ");
        (self.notify)(machine.name(), &Notice::ApiByHost { target, why });
    }

    fn name(&self, road: Road) -> String {
        match road {
            Road::Direct => "directly".to_owned(),
            Road::Bastion => "through the bastion".to_owned(),
            Road::Host(number) => {
                let host = self.hosts.get(number).map_or("", |it| it.name());
                format!("through the SSH connection of {host}")
            }
        }
    }

    fn is_at(&self, number: usize, host: &str) -> bool {
        self.hosts.get(number).is_some_and(|it| it.name() == host)
    }
}

fn address(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{HostSpec, LocalReach, RemoteMachines};

    #[test]
    fn the_known_road_comes_first_then_the_usual_one_then_whoever_serves() {
        let spec = |name: &str| HostSpec {
            name: name.to_owned(),
            docker_socket: String::new(),
            prefix_path: "/".to_owned(),
            relabel: false,
            images: Vec::new(),
            reach: Arc::new(LocalReach::default()),
        };
        let names = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let machines = RemoteMachines::new(names.map(spec), 1, Arc::new(|_, _| ()));
        let hosts = names.iter().filter_map(|it| machines.get(it)).collect();
        let route = ApiRoute::new(None, hosts, Arc::new(|_, _| ()));
        let [first, second, third] = [0, 1, 2].map(Road::Host);
        assert_eq!(
            route.roads("10.0.0.2", None),
            [Road::Direct, second, first, third]
        );
        assert_eq!(
            route.roads("api.example.com", Some(third)),
            [third, Road::Direct, first, second]
        );
    }

    #[test]
    fn addresses_of_version_six_have_brackets() {
        assert_eq!(address("10.0.0.1", 6443), "10.0.0.1:6443");
        assert_eq!(address("fd00::1", 6443), "[fd00::1]:6443");
        let url = "https://[fd00::1]/version".parse().unwrap();
        assert_eq!(crate::exchange::target(&url), ("fd00::1", 443));
    }
}
