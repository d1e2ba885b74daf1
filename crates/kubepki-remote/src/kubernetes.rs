//! Reading from the Kubernetes API what a CA rotation would break.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kubepki::fleet::{Fleet, Node};
use kubepki::kubeconfig::{Cluster, KeyPlacement, Kubeconfig, KubeconfigError, Placement, User};
use pki::{Certificate, PrivateKey, UnixTime};
use reqwest::{Client, Method, Url};
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_rustls::TlsConnector;

use crate::answer::{Answer, Unreadable, client};
use crate::api_route::ApiRoute;
use crate::exchange::{Question, exchange, target};
use crate::tls::{ClientIdentity, trusting};

/// The API server that a kubeconfig leads to, as its user.
pub struct Kubernetes {
    base: Url,
    way: Way,
}

/// How requests get there.
enum Way {
    /// Directly.
    Client(Client),
    /// However the cluster is reached.
    Route(Arc<ApiRoute>, TlsConnector),
}

/// The Kubernetes API could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig cannot be read.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    /// The kubeconfig lacks something that is needed here.
    #[error("the kubeconfig {problem}")]
    Unfit {
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate or key in it cannot be used.
    #[error("{what} in the kubeconfig cannot be used")]
    Material {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: pki::Error,
    },
    /// No connection, or an answer that cannot be read.
    #[error("cannot reach the Kubernetes API at {url}")]
    Unreachable {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer that says no.
    #[error("the Kubernetes API at {url} answered {status} to {method} {path}: {message}")]
    Refused {
        /// Its URL.
        url: String,
        /// `GET`.
        method: String,
        /// What was asked for.
        path: String,
        /// The status code.
        status: u16,
        /// What it said.
        message: String,
    },
}

impl Kubernetes {
    /// Prepares to ask the cluster of the current context, with certificates that the kubeconfig
    /// inlines (as K3s's `k3s.yaml` does).
    ///
    /// # Errors
    ///
    /// [`KubernetesError`] for a kubeconfig that does not lead anywhere; nothing is asked yet.
    pub fn from_kubeconfig(text: &[u8], now: UnixTime) -> Result<Self, KubernetesError> {
        let (base, tls) = prepare(text, now)?;
        let client = client(tls).map_err(|source| unreachable(&base, source))?;
        Ok(Self {
            base,
            way: Way::Client(client),
        })
    }

    /// The same, by whatever road leads there.
    ///
    /// # Errors
    ///
    /// Those of [`Self::from_kubeconfig`].
    pub fn by_route(
        text: &[u8],
        now: UnixTime,
        route: Arc<ApiRoute>,
    ) -> Result<Self, KubernetesError> {
        let (base, tls) = prepare(text, now)?;
        Ok(Self {
            base,
            way: Way::Route(route, TlsConnector::from(Arc::new(tls))),
        })
    }

    /// Nodes, pods and lasting service-account tokens.
    ///
    /// # Errors
    ///
    /// [`KubernetesError`] when the API does not answer, or not with that.
    pub async fn fleet(&self) -> Result<Fleet, KubernetesError> {
        let nodes: Items<NodeItem> = self.get("/api/v1/nodes").await?;
        let pods: Items<Named> = self.get("/api/v1/pods").await?;
        let secrets: Items<Named> = self
            .get("/api/v1/secrets?fieldSelector=type%3Dkubernetes.io%2Fservice-account-token")
            .await?;
        let mut counts = BTreeMap::new();
        for pod in pods.items {
            *counts.entry(pod.metadata.namespace).or_default() += 1;
        }
        let mut nodes: Vec<Node> = nodes.items.into_iter().map(NodeItem::into_node).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        let secret = |it: Named| format!("{}/{}", it.metadata.namespace, it.metadata.name);
        Ok(Fleet {
            nodes,
            pods: counts.into_iter().collect(),
            lasting_tokens: secrets.items.into_iter().map(secret).collect(),
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, KubernetesError> {
        let answer = self.ask(Method::GET, path, None).await?;
        serde_json::from_slice(&answer.body).map_err(|error| self.unreachable(error))
    }

    /// Sends a request, and returns the answer of a server that did it.
    ///
    /// # Errors
    ///
    /// [`KubernetesError::Unreachable`] and [`KubernetesError::Refused`].
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, KubernetesError> {
        let url = self
            .base
            .join(path)
            .map_err(|error| self.unreachable(error))?;
        let answer = match &self.way {
            Way::Client(client) => self.directly(client, method.clone(), url, body).await?,
            Way::Route(route, tls) => {
                let (host, port) = target(&url);
                let stream = route.dial(host, port).await;
                let stream = stream.map_err(|error| self.unreachable(error))?;
                let question = Question {
                    method: method.clone(),
                    url: &url,
                    body,
                };
                let answer = exchange(stream, tls, question).await;
                answer.map_err(|error| self.unreachable(error))?
            }
        };
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(KubernetesError::Refused {
            url: self.base.to_string(),
            method: method.to_string(),
            path: path.to_owned(),
            status: answer.status.as_u16(),
            message: answer.message(),
        })
    }

    async fn directly(
        &self,
        client: &Client,
        method: Method,
        url: Url,
        body: Option<String>,
    ) -> Result<Answer, KubernetesError> {
        let mut request = client
            .request(method, url)
            .header("accept", "application/json");
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error.without_url()))?;
        Answer::read(response).await.map_err(|error| match error {
            Unreadable::Broken(error) => self.unreachable(error.without_url()),
            Unreadable::TooLong => self.unreachable("the answer does not end"),
        })
    }

    fn unreachable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> KubernetesError {
        unreachable(&self.base, source)
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kubernetes({})", self.base)
    }
}

/// The server that a kubeconfig leads to, and what to show and believe there.
fn prepare(text: &[u8], now: UnixTime) -> Result<(Url, ClientConfig), KubernetesError> {
    let config = Kubeconfig::parse(text)?;
    let unfit = |problem: &str| KubernetesError::Unfit {
        problem: problem.to_owned(),
    };
    let current = config.current_context.as_deref();
    let context = config
        .contexts
        .iter()
        .find(|context| current == Some(context.name.as_str()))
        .ok_or_else(|| unfit("has no current context"))?;
    let cluster = context.cluster.as_deref().and_then(|it| config.cluster(it));
    let cluster = cluster.ok_or_else(|| unfit("names no cluster in its context"))?;
    let user = context.user.as_deref().and_then(|it| config.user(it));
    let user = user.ok_or_else(|| unfit("names no user in its context"))?;
    let base = server(cluster)?;
    let (chain, key) = identity(user)?;
    let identity = ClientIdentity {
        chain: &chain,
        key: &key,
    };
    let tls = trusting(&bundle(cluster)?, now, Some(identity));
    let tls = tls.map_err(|source| unreachable(&base, source))?;
    Ok((base, tls))
}

fn unreachable(
    url: &Url,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> KubernetesError {
    KubernetesError::Unreachable {
        url: url.to_string(),
        source: source.into(),
    }
}

fn server(cluster: &Cluster) -> Result<Url, KubernetesError> {
    let text = cluster.server.as_deref().unwrap_or_default();
    let url = text
        .parse()
        .ok()
        .filter(|url: &Url| url.scheme() == "https");
    url.ok_or_else(|| KubernetesError::Unfit {
        problem: format!("has no https:// URL for cluster {:?}", cluster.name),
    })
}

fn bundle(cluster: &Cluster) -> Result<Vec<Certificate>, KubernetesError> {
    match &cluster.authority {
        Some(Placement::Inline(pem)) => {
            Certificate::all_from_pem(pem).map_err(|source| KubernetesError::Material {
                what: "certificate-authority-data",
                source,
            })
        }
        _ => Err(KubernetesError::Unfit {
            problem: format!(
                "does not inline the CA of cluster {:?}; the system's trust is not used",
                cluster.name
            ),
        }),
    }
}

fn identity(user: &User) -> Result<(Vec<Certificate>, PrivateKey), KubernetesError> {
    let (Some(Placement::Inline(chain)), Some(KeyPlacement::Inline(key))) =
        (&user.certificate, &user.key)
    else {
        return Err(KubernetesError::Unfit {
            problem: format!(
                "does not inline certificate and key of user {:?}",
                user.name
            ),
        });
    };
    let material = |what| move |source| KubernetesError::Material { what, source };
    let chain = Certificate::all_from_pem(chain).map_err(material("client-certificate-data"))?;
    let key = PrivateKey::from_pem(key).map_err(material("client-key-data"))?;
    Ok((chain, key))
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct NodeItem {
    metadata: Metadata,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NodeStatus {
    addresses: Vec<Address>,
    conditions: Vec<Condition>,
    node_info: NodeInfo,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NodeInfo {
    kubelet_version: String,
}

/// K3s and kubeadm label their servers with one of these.
const SERVER_LABELS: [&str; 4] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
    "node-role.kubernetes.io/controlplane",
];

impl NodeItem {
    fn into_node(self) -> Node {
        let labels = &self.metadata.labels;
        let mut addresses = self.status.addresses;
        addresses.sort_by_key(|it| it.kind != "InternalIP");
        let ready = |it: &Condition| it.kind == "Ready" && it.status == "True";
        Node {
            is_server: SERVER_LABELS.iter().any(|it| labels.contains_key(*it)),
            is_ready: self.status.conditions.iter().any(ready),
            name: self.metadata.name,
            addresses: addresses.into_iter().map(|it| it.address).collect(),
            version: self.status.node_info.kubelet_version,
        }
    }
}
