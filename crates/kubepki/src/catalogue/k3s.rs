//! K3s: rows only (K3s `pkg/daemons/control/deps/deps.go`, `pkg/util/services`).

use pki::Purpose::{ClientAuth, ServerAuth};

use super::CommonName::{Literal as Named, NodeNamed};
use super::Kind::{
    AdminKubeconfig, Authority, CopyOf, CurrentServiceAccountKey, FirstOf, Key, Kubeconfig, Leaf,
    Listener, Plain, Secret, ServiceAccountKeys, TokenAlias,
};
use super::SanRule::{
    KubernetesService, Literal, LiteralSince, NodeAddresses, NodeName, ServerNames,
};
use super::Side::{Admin, Agent, Server};
use super::{Flavour, Kind, LeafSpec, Release, Row, Service, Since};

/// K3s from 1.21 on.
pub static K3S: Flavour = Flavour {
    name: "k3s",
    rows: ROWS,
    services: SERVICES,
};

/// `rotate-ca`, outer CAs, `*.nochain.crt`, `service.current.key` (February 2023).
const OUTER_AUTHORITIES: Since = Since(&[
    Release {
        minor: 26,
        patch: 2,
    },
    Release {
        minor: 25,
        patch: 7,
    },
    Release {
        minor: 24,
        patch: 11,
    },
    Release {
        minor: 23,
        patch: 17,
    },
]);
/// The supervisor's own identity (June 2023).
const SUPERVISOR: Since = Since(&[
    Release {
        minor: 27,
        patch: 3,
    },
    Release {
        minor: 26,
        patch: 6,
    },
    Release {
        minor: 25,
        patch: 11,
    },
    Release {
        minor: 24,
        patch: 15,
    },
]);
/// kine can serve TLS on its socket with etcd's certificates (April 2024).
const KINE_SOCKET: Since = Since(&[
    Release {
        minor: 30,
        patch: 0,
    },
    Release {
        minor: 29,
        patch: 4,
    },
    Release {
        minor: 28,
        patch: 9,
    },
    Release {
        minor: 27,
        patch: 13,
    },
]);
/// Serving certificates of scheduler and controller manager (May 2025), as the window of 120
/// days.
const COMPONENT_SERVING: Since = Since(&[
    Release {
        minor: 33,
        patch: 1,
    },
    Release {
        minor: 32,
        patch: 5,
    },
    Release {
        minor: 31,
        patch: 9,
    },
    Release {
        minor: 30,
        patch: 13,
    },
]);
/// Certificates beside the shared keys of kube-proxy and the k3s controller are deleted at
/// every start (June 2025).
const SHARED_CERTIFICATES_GONE: Since = Since(&[
    Release {
        minor: 33,
        patch: 2,
    },
    Release {
        minor: 32,
        patch: 6,
    },
    Release {
        minor: 31,
        patch: 10,
    },
    Release {
        minor: 30,
        patch: 14,
    },
]);

const MASTERS: &[&str] = &["system:masters"];
const SHARED_KEY: &str = "K3s keeps this key to answer agents that send no certificate request";
const MASTERS_BYPASS: &str = "system:masters bypasses RBAC and cannot be taken away by it";

/// A row without oddities: every row below says only how it differs.
const ROW: Row = Row {
    id: "",
    summary: "",
    side: Server,
    path: "",
    kind: Plain,
    since: Since::ALWAYS,
    until: None,
    depends_on: None,
    because: None,
};

const CLIENT: LeafSpec = LeafSpec {
    authority: "client-ca",
    organizations: &[],
    common_name: Named(""),
    purposes: &[ClientAuth],
    sans: &[],
};

const SERVING: LeafSpec = LeafSpec {
    authority: "server-ca",
    organizations: &[],
    common_name: Named(""),
    purposes: &[ServerAuth],
    sans: &[],
};

const COMPONENT_SANS: &[super::SanRule] =
    &[Literal("localhost"), Literal("127.0.0.1"), Literal("::1")];

const ROWS: &[Row] = &[
    // Authorities.
    Row {
        id: "client-ca",
        summary: "signs the certificates of Kubernetes clients",
        path: "tls/client-ca",
        kind: Authority {
            common_name: "k3s-client-ca",
            signs: "Kubernetes clients",
        },
        ..ROW
    },
    Row {
        id: "server-ca",
        summary: "signs the certificates of Kubernetes servers; join tokens pin its root",
        path: "tls/server-ca",
        kind: Authority {
            common_name: "k3s-server-ca",
            signs: "Kubernetes servers",
        },
        ..ROW
    },
    Row {
        id: "request-header-ca",
        summary: "signs the API server's certificate towards aggregated API servers",
        path: "tls/request-header-ca",
        kind: Authority {
            common_name: "k3s-request-header-ca",
            signs: "API aggregation",
        },
        ..ROW
    },
    Row {
        id: "etcd-server-ca",
        summary: "signs etcd's server and client certificates",
        path: "tls/etcd/server-ca",
        kind: Authority {
            common_name: "etcd-server-ca",
            signs: "etcd servers and clients",
        },
        because: Some("K3s names it without its prefix; it exists with other datastores too"),
        ..ROW
    },
    Row {
        id: "etcd-peer-ca",
        summary: "signs the certificates between etcd members",
        path: "tls/etcd/peer-ca",
        kind: Authority {
            common_name: "etcd-peer-ca",
            signs: "etcd members",
        },
        because: Some("K3s names it without its prefix; it exists with other datastores too"),
        ..ROW
    },
    Row {
        id: "client-ca.nochain",
        summary: "the client CA alone, for the controller manager's signers",
        path: "tls/client-ca.nochain.crt",
        kind: FirstOf {
            authority: "client-ca",
        },
        since: OUTER_AUTHORITIES,
        ..ROW
    },
    Row {
        id: "server-ca.nochain",
        summary: "the server CA alone, for the controller manager's signers",
        path: "tls/server-ca.nochain.crt",
        kind: FirstOf {
            authority: "server-ca",
        },
        since: OUTER_AUTHORITIES,
        ..ROW
    },
    // Client certificates of the server.
    Row {
        id: "client-admin",
        summary: "the administrator",
        path: "tls/client-admin",
        kind: Leaf(LeafSpec {
            organizations: MASTERS,
            common_name: Named("system:admin"),
            ..CLIENT
        }),
        because: Some(MASTERS_BYPASS),
        ..ROW
    },
    Row {
        id: "client-supervisor",
        summary: "K3s's own controllers",
        path: "tls/client-supervisor",
        kind: Leaf(LeafSpec {
            organizations: MASTERS,
            common_name: Named("system:k3s-supervisor"),
            ..CLIENT
        }),
        since: SUPERVISOR,
        because: Some(MASTERS_BYPASS),
        ..ROW
    },
    Row {
        id: "client-controller",
        summary: "the controller manager towards the API server",
        path: "tls/client-controller",
        kind: Leaf(LeafSpec {
            common_name: Named("system:kube-controller-manager"),
            ..CLIENT
        }),
        ..ROW
    },
    Row {
        id: "client-scheduler",
        summary: "the scheduler towards the API server",
        path: "tls/client-scheduler",
        kind: Leaf(LeafSpec {
            common_name: Named("system:kube-scheduler"),
            ..CLIENT
        }),
        ..ROW
    },
    Row {
        id: "client-kube-apiserver",
        summary: "the API server towards kubelets",
        path: "tls/client-kube-apiserver",
        kind: Leaf(LeafSpec {
            organizations: MASTERS,
            common_name: Named("system:apiserver"),
            ..CLIENT
        }),
        because: Some(MASTERS_BYPASS),
        ..ROW
    },
    Row {
        id: "client-k3s-cloud-controller",
        summary: "the cloud controller towards the API server",
        path: "tls/client-k3s-cloud-controller",
        kind: Leaf(LeafSpec {
            common_name: Named("k3s-cloud-controller-manager"),
            ..CLIENT
        }),
        ..ROW
    },
    Row {
        id: "client-kube-proxy",
        summary: "kube-proxy, shared by agents that send no request",
        path: "tls/client-kube-proxy",
        kind: Leaf(LeafSpec {
            common_name: Named("system:kube-proxy"),
            ..CLIENT
        }),
        until: Some(SHARED_CERTIFICATES_GONE),
        because: Some(SHARED_KEY),
        ..ROW
    },
    Row {
        id: "client-k3s-controller",
        summary: "the k3s controller, shared by agents that send no request",
        path: "tls/client-k3s-controller",
        kind: Leaf(LeafSpec {
            common_name: Named("system:k3s-controller"),
            ..CLIENT
        }),
        until: Some(SHARED_CERTIFICATES_GONE),
        because: Some(SHARED_KEY),
        ..ROW
    },
    // Serving certificates of the server.
    Row {
        id: "serving-kube-apiserver",
        summary: "the API server",
        path: "tls/serving-kube-apiserver",
        kind: Leaf(LeafSpec {
            common_name: Named("kube-apiserver"),
            sans: &[KubernetesService, ServerNames],
            ..SERVING
        }),
        ..ROW
    },
    Row {
        id: "kube-scheduler",
        summary: "the scheduler's own port",
        path: "tls/kube-scheduler/kube-scheduler",
        kind: Leaf(LeafSpec {
            common_name: Named("kube-scheduler"),
            sans: COMPONENT_SANS,
            ..SERVING
        }),
        since: COMPONENT_SERVING,
        ..ROW
    },
    Row {
        id: "kube-controller-manager",
        summary: "the controller manager's own port",
        path: "tls/kube-controller-manager/kube-controller-manager",
        kind: Leaf(LeafSpec {
            common_name: Named("kube-controller-manager"),
            sans: COMPONENT_SANS,
            ..SERVING
        }),
        since: COMPONENT_SERVING,
        ..ROW
    },
    // Keys that sign for agents without a request of their own.
    Row {
        id: "client-kubelet.key",
        summary: "kubelet client key, shared by agents that send no request",
        path: "tls/client-kubelet.key",
        kind: Key,
        because: Some(SHARED_KEY),
        ..ROW
    },
    Row {
        id: "serving-kubelet.key",
        summary: "kubelet serving key, shared by agents that send no request",
        path: "tls/serving-kubelet.key",
        kind: Key,
        because: Some(SHARED_KEY),
        ..ROW
    },
    Row {
        id: "client-kube-proxy.key",
        summary: "kube-proxy key, shared by agents that send no request",
        path: "tls/client-kube-proxy.key",
        kind: Key,
        since: SHARED_CERTIFICATES_GONE,
        because: Some(SHARED_KEY),
        ..ROW
    },
    Row {
        id: "client-k3s-controller.key",
        summary: "k3s controller key, shared by agents that send no request",
        path: "tls/client-k3s-controller.key",
        kind: Key,
        since: SHARED_CERTIFICATES_GONE,
        because: Some(SHARED_KEY),
        ..ROW
    },
    Row {
        id: "client-auth-proxy",
        summary: "the API server towards aggregated API servers",
        path: "tls/client-auth-proxy",
        kind: Leaf(LeafSpec {
            authority: "request-header-ca",
            common_name: Named("system:auth-proxy"),
            ..CLIENT
        }),
        ..ROW
    },
    // etcd.
    Row {
        id: "etcd-client",
        summary: "the API server and K3s towards etcd",
        path: "tls/etcd/client",
        kind: Leaf(LeafSpec {
            authority: "etcd-server-ca",
            common_name: Named("etcd-client"),
            ..CLIENT
        }),
        ..ROW
    },
    Row {
        id: "etcd-server-client",
        summary: "etcd's client port, and kine's when it uses TLS",
        path: "tls/etcd/server-client",
        kind: Leaf(LeafSpec {
            authority: "etcd-server-ca",
            organizations: &[],
            common_name: Named("etcd-server"),
            purposes: &[ServerAuth, ClientAuth],
            sans: &[LiteralSince("kine.sock", KINE_SOCKET), ServerNames],
        }),
        depends_on: Some("--disable-etcd leaves it out"),
        because: Some("etcd's gateway connects to its own port with its server certificate"),
        ..ROW
    },
    Row {
        id: "etcd-peer-server-client",
        summary: "etcd members towards each other",
        path: "tls/etcd/peer-server-client",
        kind: Leaf(LeafSpec {
            authority: "etcd-peer-ca",
            organizations: &[],
            common_name: Named("etcd-peer"),
            purposes: &[ServerAuth, ClientAuth],
            sans: &[LiteralSince("kine.sock", KINE_SOCKET), ServerNames],
        }),
        because: Some("a member is server and client with one certificate"),
        ..ROW
    },
    // Service accounts.
    Row {
        id: "service.key",
        summary: "service-account keys: the first signs tokens, all verify them",
        path: "tls/service.key",
        kind: ServiceAccountKeys,
        ..ROW
    },
    Row {
        id: "service.current.key",
        summary: "the service-account key that signs",
        path: "tls/service.current.key",
        kind: CurrentServiceAccountKey,
        since: OUTER_AUTHORITIES,
        ..ROW
    },
    Row {
        id: "dynamic-listener",
        summary: "K3s's port 6443: supervisor and API server front",
        path: "tls/dynamic-cert.json",
        kind: Listener {
            authority: "server-ca",
        },
        because: Some("`k3s certificate check` does not show it"),
        ..ROW
    },
    // Kubeconfigs by reference.
    reference(
        "cred/admin.kubeconfig",
        "the administrator, for K3s itself",
        "client-admin",
    ),
    Row {
        since: SUPERVISOR,
        ..reference(
            "cred/supervisor.kubeconfig",
            "K3s's own controllers",
            "client-supervisor",
        )
    },
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
    Row {
        id: "passwd",
        summary: "the passwords that server and agent tokens carry",
        path: "cred/passwd",
        kind: Secret,
        ..ROW
    },
    Row {
        id: "ipsec.psk",
        summary: "pre-shared key of encrypted networking and the embedded registry",
        path: "cred/ipsec.psk",
        kind: Secret,
        ..ROW
    },
    Row {
        id: "token",
        summary: "the token that servers join with",
        path: "token",
        kind: Secret,
        ..ROW
    },
    Row {
        id: "node-token",
        summary: "the same token, under its old name",
        path: "node-token",
        kind: TokenAlias,
        ..ROW
    },
    Row {
        id: "agent-token",
        summary: "the token that agents join with",
        path: "agent-token",
        kind: TokenAlias,
        since: Since(&[Release {
            minor: 22,
            patch: 0,
        }]),
        ..ROW
    },
    Row {
        id: "egress-selector-config",
        summary: "how the API server reaches nodes",
        path: "etc/egress-selector-config.yaml",
        kind: Plain,
        since: Since(&[Release {
            minor: 22,
            patch: 0,
        }]),
        ..ROW
    },
    Row {
        id: "cloud-config",
        summary: "settings of the cloud controller",
        path: "etc/cloud-config.yaml",
        kind: Plain,
        since: Since(&[Release {
            minor: 22,
            patch: 0,
        }]),
        ..ROW
    },
    Row {
        id: "encryption-config",
        summary: "keys that encrypt Secrets in the datastore",
        path: "cred/encryption-config.json",
        kind: Secret,
        depends_on: Some("only with --secrets-encryption"),
        ..ROW
    },
    Row {
        id: "encryption-state",
        summary: "how far a rotation of those keys has come",
        path: "cred/encryption-state.json",
        kind: Secret,
        depends_on: Some("only with --secrets-encryption"),
        ..ROW
    },
    // Agents.
    Row {
        id: "agent/client-ca",
        summary: "what the kubelet accepts clients by",
        side: Agent,
        path: "client-ca.crt",
        kind: CopyOf {
            authority: "client-ca",
        },
        ..ROW
    },
    Row {
        id: "agent/server-ca",
        summary: "what the node's components trust servers by",
        side: Agent,
        path: "server-ca.crt",
        kind: CopyOf {
            authority: "server-ca",
        },
        ..ROW
    },
    Row {
        id: "agent/client-kubelet",
        summary: "the node's kubelet towards the API server",
        side: Agent,
        path: "client-kubelet",
        kind: Leaf(LeafSpec {
            organizations: &["system:nodes"],
            common_name: NodeNamed("system:node:"),
            ..CLIENT
        }),
        because: Some("the node authorizer knows the node by this name"),
        ..ROW
    },
    Row {
        id: "agent/serving-kubelet",
        summary: "the node's kubelet port",
        side: Agent,
        path: "serving-kubelet",
        kind: Leaf(LeafSpec {
            common_name: NodeNamed(""),
            sans: &[
                NodeName,
                Literal("localhost"),
                Literal("127.0.0.1"),
                Literal("::1"),
                NodeAddresses,
            ],
            ..SERVING
        }),
        ..ROW
    },
    Row {
        id: "agent/client-kube-proxy",
        summary: "the node's kube-proxy towards the API server",
        side: Agent,
        path: "client-kube-proxy",
        kind: Leaf(LeafSpec {
            common_name: Named("system:kube-proxy"),
            ..CLIENT
        }),
        ..ROW
    },
    Row {
        id: "agent/client-k3s-controller",
        summary: "the node's k3s controller towards the API server",
        side: Agent,
        path: "client-k3s-controller",
        kind: Leaf(LeafSpec {
            common_name: Named("system:k3s-controller"),
            ..CLIENT
        }),
        ..ROW
    },
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
    Row {
        id: "admin-kubeconfig",
        summary: "the administrator, for people",
        side: Admin,
        path: "k3s.yaml",
        kind: AdminKubeconfig {
            leaf: "client-admin",
            authority: "server-ca",
        },
        because: Some(MASTERS_BYPASS),
        ..ROW
    },
];

const fn reference(path: &'static str, summary: &'static str, leaf: &'static str) -> Row {
    let kind = Kubeconfig {
        leaf,
        authority: "tls/server-ca.crt",
    };
    Row {
        id: path,
        summary,
        path,
        kind,
        ..ROW
    }
}

const fn agent_reference(path: &'static str, summary: &'static str, leaf: &'static str) -> Row {
    let kind: Kind = Kubeconfig {
        leaf,
        authority: "server-ca.crt",
    };
    Row {
        id: path,
        summary,
        side: Agent,
        path,
        kind,
        ..ROW
    }
}

const SERVICES: &[Service] = &[
    Service {
        name: "api-server",
        side: Server,
        rows: &["client-kube-apiserver", "serving-kube-apiserver"],
    },
    Service {
        name: "admin",
        side: Server,
        rows: &["client-admin"],
    },
    Service {
        name: "auth-proxy",
        side: Server,
        rows: &["client-auth-proxy"],
    },
    Service {
        name: "cloud-controller",
        side: Server,
        rows: &["client-k3s-cloud-controller"],
    },
    Service {
        name: "controller-manager",
        side: Server,
        rows: &["client-controller", "kube-controller-manager"],
    },
    Service {
        name: "etcd",
        side: Server,
        rows: &[
            "etcd-client",
            "etcd-server-client",
            "etcd-peer-server-client",
        ],
    },
    Service {
        name: "scheduler",
        side: Server,
        rows: &["client-scheduler", "kube-scheduler"],
    },
    Service {
        name: "supervisor",
        side: Server,
        rows: &["client-supervisor"],
    },
    Service {
        name: "k3s-server",
        side: Server,
        rows: &["dynamic-listener"],
    },
    Service {
        name: "kube-proxy",
        side: Agent,
        rows: &[
            "client-kube-proxy",
            "client-kube-proxy.key",
            "agent/client-kube-proxy",
        ],
    },
    Service {
        name: "kubelet",
        side: Agent,
        rows: &[
            "client-kubelet.key",
            "serving-kubelet.key",
            "agent/client-kubelet",
            "agent/serving-kubelet",
        ],
    },
    Service {
        name: "k3s-controller",
        side: Agent,
        rows: &[
            "client-k3s-controller",
            "client-k3s-controller.key",
            "agent/client-k3s-controller",
        ],
    },
];
