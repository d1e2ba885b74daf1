//! The Kubernetes API of an RKE cluster, asked as the administrator whose kubeconfig lies on the
//! operator's machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kubepki::apply::CallError;
use kubepki::edge::Clock;
use kubepki::host::Host;
use kubepki::machine::ClusterApi;
use pki::Certificate;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::api_route::ApiRoute;
use crate::kubernetes::{Kubernetes, KubernetesError};

/// Asks with whatever the kubeconfig holds at that moment: a rotation rewrites it on its way.
#[derive(Debug)]
pub struct RkeApi<'a> {
    /// Where the kubeconfig lies.
    host: &'a dyn Host,
    kubeconfig: PathBuf,
    clock: &'a dyn Clock,
    route: Arc<ApiRoute>,
}

/// Where RKE keeps its state in the cluster (`cluster/state.go`).
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
/// The object's name, and the name of its only entry.
const STATE: &str = "full-cluster-state";

/// How often a Secret that somebody else changes meanwhile is read and written again.
const TRIES: u32 = 5;
/// How many pods are deleted at once.
const AT_ONCE: usize = 10;

impl<'a> RkeApi<'a> {
    /// The cluster that the kubeconfig at `kubeconfig` leads to, by `route`; nothing is asked yet.
    pub fn new(
        host: &'a dyn Host,
        kubeconfig: PathBuf,
        clock: &'a dyn Clock,
        route: Arc<ApiRoute>,
    ) -> Self {
        Self {
            host,
            kubeconfig,
            clock,
            route,
        }
    }

    /// The server's version: `v1.30.5`.
    ///
    /// # Errors
    ///
    /// When the kubeconfig cannot be used, or the API does not answer.
    pub async fn version(&self) -> Result<String, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: String,
        }
        let version: Version = self
            .connect()
            .await?
            .get("/version")
            .await
            .map_err(failed)?;
        Ok(version.git_version)
    }

    /// The state that the cluster keeps: from the Secret, or the ConfigMap of RKE before 1.6.0.
    /// `None` if it keeps none.
    ///
    /// # Errors
    ///
    /// As [`Self::version`]; and when the Secret's content is not base64.
    pub async fn saved_state(&self) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        #[derive(Deserialize)]
        struct Data {
            #[serde(default)]
            data: BTreeMap<String, String>,
        }
        let kubernetes = self.connect().await?;
        let secret = absent_if_404(kubernetes.get::<Data>(&format!("{SECRETS}/{STATE}")).await)?;
        if let Some(text) = secret.and_then(|mut secret| secret.data.remove(STATE)) {
            let text = Zeroizing::new(text);
            let state = STANDARD
                .decode(text.as_bytes())
                .map_err(|error| CallError {
                    message: format!("the Secret kube-system/{STATE} does not hold base64"),
                    not_done: true,
                    source: Some(error.into()),
                })?;
            return Ok(Some(state.into()));
        }
        let map = absent_if_404(
            kubernetes
                .get::<Data>(&format!("{CONFIG_MAPS}/{STATE}"))
                .await,
        )?;
        let text = map.and_then(|mut map| map.data.remove(STATE));
        Ok(text.map(|text| text.into_bytes().into()))
    }

    /// The Secrets of lasting service-account tokens whose `ca.crt` lacks `authority`, as
    /// `namespace/name`. kube-controller-manager renews them from its `--root-ca-file`.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub async fn stale_authorities(
        &self,
        authority: &Certificate,
    ) -> Result<Vec<String>, CallError> {
        #[derive(Deserialize)]
        struct Tokens {
            items: Vec<Token>,
        }
        #[derive(Deserialize)]
        struct Token {
            metadata: Metadata,
            #[serde(default)]
            data: BTreeMap<String, String>,
        }
        let path = "/api/v1/secrets?fieldSelector=type%3Dkubernetes.io%2Fservice-account-token";
        let tokens: Tokens = self.connect().await?.get(path).await.map_err(failed)?;
        let holds = |token: &Token| {
            let bundle = token
                .data
                .get("ca.crt")
                .and_then(|it| STANDARD.decode(it).ok());
            let bundle = Certificate::all_from_pem(&bundle.unwrap_or_default());
            bundle.is_ok_and(|bundle| bundle.iter().any(|it| it.der() == authority.der()))
        };
        let stale = tokens.items.iter().filter(|token| !holds(token));
        Ok(stale.map(|token| token.metadata.to_string()).collect())
    }

    async fn connect(&self) -> Result<Kubernetes, CallError> {
        let place = self.kubeconfig.display();
        let unusable = |detail: &str, source: Box<dyn std::error::Error + Send + Sync>| CallError {
            message: format!("the kubeconfig {place} {detail}"),
            not_done: true,
            source: Some(source),
        };
        let entry = self.host.read(&self.kubeconfig).await;
        let entry = entry.map_err(|error| unusable("cannot be read", error.into()))?;
        let bytes = entry.as_ref().and_then(|entry| entry.bytes());
        let bytes = bytes.ok_or_else(|| CallError {
            message: format!("there is no kubeconfig {place}"),
            not_done: true,
            source: None,
        })?;
        Kubernetes::by_route(bytes, self.clock.now(), Arc::clone(&self.route))
            .map_err(|error| unusable("leads nowhere", error.into()))
    }
}

#[async_trait]
impl ClusterApi for RkeApi<'_> {
    async fn save_state(&self, state: &[u8]) -> Result<(), CallError> {
        let kubernetes = self.connect().await?;
        let data = json!({ STATE: STANDARD.encode(state) });
        let path = format!("{SECRETS}/{STATE}");
        for _ in 0..TRIES {
            let there = absent_if_404(kubernetes.get::<Value>(&path).await)?;
            let written = match there {
                Some(mut secret) => {
                    // With the resourceVersion that was read: a change in between is a conflict.
                    if let Some(secret) = secret.as_object_mut() {
                        secret.insert("data".to_owned(), data.clone());
                    }
                    let body = secret.to_string();
                    kubernetes.ask(Method::PUT, &path, Some(body)).await
                }
                None => {
                    let secret = json!({
                        "apiVersion": "v1",
                        "kind": "Secret",
                        "metadata": { "name": STATE, "namespace": "kube-system" },
                        "data": data,
                    });
                    let body = secret.to_string();
                    kubernetes.ask(Method::POST, SECRETS, Some(body)).await
                }
            };
            match written {
                // Somebody else was quicker: created, changed or deleted it.
                Err(KubernetesError::Refused {
                    status: 409 | 404, ..
                }) => {}
                Err(error) => return Err(failed(error)),
                Ok(_) => {
                    let path = format!("{CONFIG_MAPS}/{STATE}");
                    absent_if_404(kubernetes.ask(Method::DELETE, &path, None).await)?;
                    return Ok(());
                }
            }
        }
        Err(CallError::refused(format!(
            "the Secret kube-system/{STATE} was changed by somebody else {TRIES} times in a row"
        )))
    }

    async fn delete_pods(&self, selectors: &[String]) -> Result<Vec<String>, CallError> {
        #[derive(Deserialize)]
        struct Pods {
            // The items of an empty list may be null.
            items: Option<Vec<Pod>>,
        }
        #[derive(Deserialize)]
        struct Pod {
            metadata: Metadata,
        }
        let kubernetes = self.connect().await?;
        let mut pods: Vec<Metadata> = Vec::new();
        // All lists before the first deletion: when one fails, nothing was done.
        for selector in selectors {
            let selector = selector
                .replace('%', "%25")
                .replace('=', "%3D")
                .replace('/', "%2F");
            let path = format!("/api/v1/pods?labelSelector={selector}");
            let list: Pods = kubernetes.get(&path).await.map_err(failed)?;
            let items = list.items.unwrap_or_default();
            pods.extend(items.into_iter().map(|pod| pod.metadata));
        }
        let kubernetes = &kubernetes;
        let delete = |pod: Metadata| async move {
            let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
            absent_if_404(kubernetes.ask(Method::DELETE, &path, None).await)?;
            Ok(pod.to_string())
        };
        stream::iter(pods)
            .map(delete)
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

impl std::fmt::Display for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A thing that is not there is an answer, too.
fn absent_if_404<T>(answer: Result<T, KubernetesError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(KubernetesError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: KubernetesError) -> CallError {
    CallError {
        message: "the Kubernetes API did not do it".to_owned(),
        not_done: matches!(error, KubernetesError::Refused { .. }),
        source: Some(error.into()),
    }
}
