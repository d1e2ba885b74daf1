//! Every file of a K3s node: rows only.

use super::super::CommonName::{Literal as Named, NodeNamed};
use super::super::Kind::{
    AdminKubeconfig, Authority, CopyOf, CurrentServiceAccountKey, FirstOf, Key, Leaf, Listener,
    Plain, Secret, ServiceAccountKeys, TokenAlias,
};
use super::super::SanRule::{
    self, KubernetesService, Literal, LiteralSince, NodeAddresses, NodeName, ServerNames,
};
use super::super::Side::{Admin, Agent};
use super::super::row::{agent_reference, client, peer, reference, serving};
use super::super::{Release, Row, Since};
use super::{
    COMPONENT_SERVING, KINE_SOCKET, OUTER_AUTHORITIES, SHARED_CERTIFICATES_GONE, SUPERVISOR,
};

const MASTERS: &[&str] = &["system:masters"];
const SHARED_KEY: &str = "K3s keeps this key to answer agents that send no certificate request";
const MASTERS_BYPASS: &str = "system:masters bypasses RBAC and cannot be taken away by it";
const NO_PREFIX: &str = "K3s names it without its prefix; it exists with other datastores too";

const COMPONENT_SANS: &[SanRule] = &[Literal("localhost"), Literal("127.0.0.1"), Literal("::1")];

pub(super) const ROWS: &[Row] = &[
    // Authorities.
    Row::new(
        "client-ca",
        "tls/client-ca",
        Authority {
            common_name: "k3s-client-ca",
            signs: "Kubernetes clients",
        },
        "signs the certificates of Kubernetes clients",
    ),
    Row::new(
        "server-ca",
        "tls/server-ca",
        Authority {
            common_name: "k3s-server-ca",
            signs: "Kubernetes servers",
        },
        "signs the certificates of Kubernetes servers; join tokens pin its root",
    ),
    Row::new(
        "request-header-ca",
        "tls/request-header-ca",
        Authority {
            common_name: "k3s-request-header-ca",
            signs: "API aggregation",
        },
        "signs the API server's certificate towards aggregated API servers",
    ),
    Row::new(
        "etcd-server-ca",
        "tls/etcd/server-ca",
        Authority {
            common_name: "etcd-server-ca",
            signs: "etcd servers and clients",
        },
        "signs etcd's server and client certificates",
    )
    .because(NO_PREFIX),
    Row::new(
        "etcd-peer-ca",
        "tls/etcd/peer-ca",
        Authority {
            common_name: "etcd-peer-ca",
            signs: "etcd members",
        },
        "signs the certificates between etcd members",
    )
    .because(NO_PREFIX),
    Row::new(
        "client-ca.nochain",
        "tls/client-ca.nochain.crt",
        FirstOf {
            authority: "client-ca",
        },
        "the client CA alone, for the controller manager's signers",
    )
    .since(OUTER_AUTHORITIES),
    Row::new(
        "server-ca.nochain",
        "tls/server-ca.nochain.crt",
        FirstOf {
            authority: "server-ca",
        },
        "the server CA alone, for the controller manager's signers",
    )
    .since(OUTER_AUTHORITIES),
    // Client certificates of the server.
    Row::new(
        "client-admin",
        "tls/client-admin",
        Leaf(client("client-ca", Named("system:admin")).in_groups(MASTERS)),
        "the administrator",
    )
    .because(MASTERS_BYPASS),
    Row::new(
        "client-supervisor",
        "tls/client-supervisor",
        Leaf(client("client-ca", Named("system:k3s-supervisor")).in_groups(MASTERS)),
        "K3s's own controllers",
    )
    .since(SUPERVISOR)
    .because(MASTERS_BYPASS),
    Row::new(
        "client-controller",
        "tls/client-controller",
        Leaf(client("client-ca", Named("system:kube-controller-manager"))),
        "the controller manager towards the API server",
    ),
    Row::new(
        "client-scheduler",
        "tls/client-scheduler",
        Leaf(client("client-ca", Named("system:kube-scheduler"))),
        "the scheduler towards the API server",
    ),
    Row::new(
        "client-kube-apiserver",
        "tls/client-kube-apiserver",
        Leaf(
            client("client-ca", Named("system:apiserver"))
                .in_groups(MASTERS)
                .formerly("kube-apiserver"),
        ),
        "the API server towards kubelets",
    )
    .because(MASTERS_BYPASS),
    Row::new(
        "client-k3s-cloud-controller",
        "tls/client-k3s-cloud-controller",
        Leaf(client("client-ca", Named("k3s-cloud-controller-manager"))),
        "the cloud controller towards the API server",
    ),
    Row::new(
        "client-kube-proxy",
        "tls/client-kube-proxy",
        Leaf(client("client-ca", Named("system:kube-proxy"))),
        "kube-proxy, shared by agents that send no request",
    )
    .until(SHARED_CERTIFICATES_GONE)
    .because(SHARED_KEY),
    Row::new(
        "client-k3s-controller",
        "tls/client-k3s-controller",
        Leaf(client("client-ca", Named("system:k3s-controller"))),
        "the k3s controller, shared by agents that send no request",
    )
    .until(SHARED_CERTIFICATES_GONE)
    .because(SHARED_KEY),
    // Serving certificates of the server.
    Row::new(
        "serving-kube-apiserver",
        "tls/serving-kube-apiserver",
        Leaf(
            serving("server-ca", Named("kube-apiserver"))
                .with_names(&[KubernetesService, ServerNames]),
        ),
        "the API server",
    ),
    Row::new(
        "kube-scheduler",
        "tls/kube-scheduler/kube-scheduler",
        Leaf(serving("server-ca", Named("kube-scheduler")).with_names(COMPONENT_SANS)),
        "the scheduler's own port",
    )
    .since(COMPONENT_SERVING),
    Row::new(
        "kube-controller-manager",
        "tls/kube-controller-manager/kube-controller-manager",
        Leaf(serving("server-ca", Named("kube-controller-manager")).with_names(COMPONENT_SANS)),
        "the controller manager's own port",
    )
    .since(COMPONENT_SERVING),
    // Keys that sign for agents without a request of their own.
    Row::new(
        "client-kubelet.key",
        "tls/client-kubelet.key",
        Key,
        "kubelet client key, shared by agents that send no request",
    )
    .because(SHARED_KEY),
    Row::new(
        "serving-kubelet.key",
        "tls/serving-kubelet.key",
        Key,
        "kubelet serving key, shared by agents that send no request",
    )
    .because(SHARED_KEY),
    Row::new(
        "client-kube-proxy.key",
        "tls/client-kube-proxy.key",
        Key,
        "kube-proxy key, shared by agents that send no request",
    )
    .since(SHARED_CERTIFICATES_GONE)
    .because(SHARED_KEY),
    Row::new(
        "client-k3s-controller.key",
        "tls/client-k3s-controller.key",
        Key,
        "k3s controller key, shared by agents that send no request",
    )
    .since(SHARED_CERTIFICATES_GONE)
    .because(SHARED_KEY),
    Row::new(
        "client-auth-proxy",
        "tls/client-auth-proxy",
        Leaf(client("request-header-ca", Named("system:auth-proxy"))),
        "the API server towards aggregated API servers",
    ),
    // etcd.
    Row::new(
        "etcd-client",
        "tls/etcd/client",
        Leaf(client("etcd-server-ca", Named("etcd-client"))),
        "the API server and K3s towards etcd",
    ),
    Row::new(
        "etcd-server-client",
        "tls/etcd/server-client",
        Leaf(
            peer("etcd-server-ca", Named("etcd-server"))
                .with_names(&[LiteralSince("kine.sock", KINE_SOCKET), ServerNames]),
        ),
        "etcd's client port, and kine's when it uses TLS",
    )
    .depends_on("--disable-etcd leaves it out")
    .because("etcd's gateway connects to its own port with its server certificate"),
    Row::new(
        "etcd-peer-server-client",
        "tls/etcd/peer-server-client",
        Leaf(
            peer("etcd-peer-ca", Named("etcd-peer"))
                .with_names(&[LiteralSince("kine.sock", KINE_SOCKET), ServerNames]),
        ),
        "etcd members towards each other",
    )
    .because("a member is server and client with one certificate"),
    // Service accounts.
    Row::new(
        "service.key",
        "tls/service.key",
        ServiceAccountKeys,
        "service-account keys: the first signs tokens, all verify them",
    ),
    Row::new(
        "service.current.key",
        "tls/service.current.key",
        CurrentServiceAccountKey,
        "the service-account key that signs",
    )
    .since(OUTER_AUTHORITIES),
    Row::new(
        "dynamic-listener",
        "tls/dynamic-cert.json",
        Listener {
            authority: "server-ca",
        },
        "K3s's port 6443: supervisor and API server front",
    )
    .because("`k3s certificate check` does not show it"),
    // Kubeconfigs by reference.
    reference(
        "cred/admin.kubeconfig",
        "the administrator, for K3s itself",
        "client-admin",
    ),
    reference(
        "cred/supervisor.kubeconfig",
        "K3s's own controllers",
        "client-supervisor",
    )
    .since(SUPERVISOR),
    reference(
        "cred/controller.kubeconfig",
        "the controller manager",
        "client-controller",
    ),
    reference(
        "cred/scheduler.kubeconfig",
        "the scheduler",
        "client-scheduler",
    ),
    reference(
        "cred/api-server.kubeconfig",
        "the API server",
        "client-kube-apiserver",
    ),
    reference(
        "cred/cloud-controller.kubeconfig",
        "the cloud controller",
        "client-k3s-cloud-controller",
    ),
    // Secrets and settings.
    Row::new(
        "passwd",
        "cred/passwd",
        Secret,
        "the passwords that server and agent tokens carry",
    ),
    Row::new(
        "ipsec.psk",
        "cred/ipsec.psk",
        Secret,
        "pre-shared key of encrypted networking and the embedded registry",
    ),
    Row::new("token", "token", Secret, "the token that servers join with"),
    Row::new(
        "node-token",
        "node-token",
        TokenAlias,
        "the same token, under its old name",
    ),
    Row::new(
        "agent-token",
        "agent-token",
        TokenAlias,
        "the token that agents join with",
    )
    .since(Since(&[Release::of(22, 0)])),
    Row::new(
        "egress-selector-config",
        "etc/egress-selector-config.yaml",
        Plain,
        "how the API server reaches nodes",
    )
    .since(Since(&[Release::of(22, 0)])),
    Row::new(
        "cloud-config",
        "etc/cloud-config.yaml",
        Plain,
        "settings of the cloud controller",
    )
    .since(Since(&[Release::of(22, 0)])),
    Row::new(
        "encryption-config",
        "cred/encryption-config.json",
        Secret,
        "keys that encrypt Secrets in the datastore",
    )
    .depends_on("only with --secrets-encryption"),
    Row::new(
        "encryption-state",
        "cred/encryption-state.json",
        Secret,
        "how far a rotation of those keys has come",
    )
    .depends_on("only with --secrets-encryption"),
    // Agents.
    Row::new(
        "agent/client-ca",
        "client-ca.crt",
        CopyOf {
            authority: "client-ca",
        },
        "what the kubelet accepts clients by",
    )
    .on(Agent),
    Row::new(
        "agent/server-ca",
        "server-ca.crt",
        CopyOf {
            authority: "server-ca",
        },
        "what the node's components trust servers by",
    )
    .on(Agent),
    Row::new(
        "agent/client-kubelet",
        "client-kubelet",
        Leaf(client("client-ca", NodeNamed("system:node:")).in_groups(&["system:nodes"])),
        "the node's kubelet towards the API server",
    )
    .on(Agent)
    .because("the node authorizer knows the node by this name"),
    Row::new(
        "agent/serving-kubelet",
        "serving-kubelet",
        Leaf(serving("server-ca", NodeNamed("")).with_names(&[
            NodeName,
            Literal("localhost"),
            Literal("127.0.0.1"),
            Literal("::1"),
            NodeAddresses,
        ])),
        "the node's kubelet port",
    )
    .on(Agent),
    Row::new(
        "agent/client-kube-proxy",
        "client-kube-proxy",
        Leaf(client("client-ca", Named("system:kube-proxy"))),
        "the node's kube-proxy towards the API server",
    )
    .on(Agent),
    Row::new(
        "agent/client-k3s-controller",
        "client-k3s-controller",
        Leaf(client("client-ca", Named("system:k3s-controller"))),
        "the node's k3s controller towards the API server",
    )
    .on(Agent),
    agent_reference("kubelet.kubeconfig", "the kubelet", "agent/client-kubelet"),
    agent_reference(
        "kubeproxy.kubeconfig",
        "kube-proxy",
        "agent/client-kube-proxy",
    ),
    agent_reference(
        "k3scontroller.kubeconfig",
        "the k3s controller",
        "agent/client-k3s-controller",
    ),
    Row::new(
        "admin-kubeconfig",
        "k3s.yaml",
        AdminKubeconfig {
            leaf: "client-admin",
            authority: "server-ca",
        },
        "the administrator, for people",
    )
    .on(Admin)
    .because(MASTERS_BYPASS),
];
