//! K3s: data only (K3s `pkg/daemons/control/deps/deps.go`, `pkg/util/services`).

use super::Side::{Agent, Server};
use super::{Flavour, Release, Service, Since};

mod rows;

use rows::ROWS;

/// K3s from 1.21 on.
pub static K3S: Flavour = Flavour {
    name: "k3s",
    rows: ROWS,
    services: SERVICES,
};

/// `rotate-ca`, outer CAs, `*.nochain.crt`, `service.current.key` (February 2023).
const OUTER_AUTHORITIES: Since = Since(&[
    Release::of(26, 2),
    Release::of(25, 7),
    Release::of(24, 11),
    Release::of(23, 17),
]);
/// The supervisor's own identity (June 2023).
const SUPERVISOR: Since = Since(&[
    Release::of(27, 3),
    Release::of(26, 6),
    Release::of(25, 11),
    Release::of(24, 15),
]);
/// kine can serve TLS on its socket with etcd's certificates (April 2024).
const KINE_SOCKET: Since = Since(&[
    Release::of(30, 0),
    Release::of(29, 4),
    Release::of(28, 9),
    Release::of(27, 13),
]);
/// Serving certificates of scheduler and controller manager (May 2025), as the window of 120
/// days.
const COMPONENT_SERVING: Since = Since(&[
    Release::of(33, 1),
    Release::of(32, 5),
    Release::of(31, 9),
    Release::of(30, 13),
]);
/// Certificates beside the shared keys of kube-proxy and the k3s controller are deleted at
/// every start (June 2025).
const SHARED_CERTIFICATES_GONE: Since = Since(&[
    Release::of(33, 2),
    Release::of(32, 6),
    Release::of(31, 10),
    Release::of(30, 14),
]);

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
