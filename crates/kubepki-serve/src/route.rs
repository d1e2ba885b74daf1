//! Which path is what.

use kubepki::catalogue::{K3S, LeafSpec};

use crate::access::{AGENT, BOOTSTRAPPERS, NODES, SERVER};

/// What can be asked for (reference section 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/cacerts`: the server CA's file, for anybody.
    CaCerts,
    /// `/ping`.
    Ping,
    /// `/healthz`: the process answers.
    Healthz,
    /// `/metrics`.
    Metrics,
    /// `/v1-k3s/client-ca.crt`.
    ClientCa,
    /// `/v1-k3s/server-ca.crt`.
    ServerCa,
    /// One of the four that sign.
    Leaf(LeafKind),
    /// `/v1-k3s/config`.
    Config,
    /// `/v1-k3s/apiservers`.
    ApiServers,
    /// `/readyz`: whether it issues, and the names of the parts that somebody should look at.
    ReadyzOpen,
    /// `/v1-k3s/readyz`: the same with the reasons.
    Readyz,
    /// `/v1-k3s/server-bootstrap`.
    ServerBootstrap,
    /// `/v1-k3s/cert/cacerts`.
    PutCaCerts,
    /// `/v1-k3s/token`.
    PutToken,
    /// `/v1-k3s/connect`, a websocket.
    Connect,
}

/// Which certificate a node asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafKind {
    /// The kubelet's port.
    ServingKubelet,
    /// The kubelet towards the API server.
    ClientKubelet,
    /// kube-proxy towards the API server.
    ClientKubeProxy,
    /// K3s's controller on the node towards the API server.
    ClientController,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::CaCerts,
        Self::Ping,
        Self::Healthz,
        Self::Metrics,
        Self::ClientCa,
        Self::ServerCa,
        Self::Leaf(LeafKind::ServingKubelet),
        Self::Leaf(LeafKind::ClientKubelet),
        Self::Leaf(LeafKind::ClientKubeProxy),
        Self::Leaf(LeafKind::ClientController),
        Self::Config,
        Self::ApiServers,
        Self::ReadyzOpen,
        Self::Readyz,
        Self::ServerBootstrap,
        Self::PutCaCerts,
        Self::PutToken,
        Self::Connect,
    ];

    /// The endpoint at `path`, which is taken as it is: no decoding, no dots resolved.
    pub fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.path() == path)
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Self::CaCerts => "/cacerts",
            Self::Ping => "/ping",
            Self::Healthz => "/healthz",
            Self::Metrics => "/metrics",
            Self::ClientCa => "/v1-k3s/client-ca.crt",
            Self::ServerCa => "/v1-k3s/server-ca.crt",
            Self::Leaf(LeafKind::ServingKubelet) => "/v1-k3s/serving-kubelet.crt",
            Self::Leaf(LeafKind::ClientKubelet) => "/v1-k3s/client-kubelet.crt",
            Self::Leaf(LeafKind::ClientKubeProxy) => "/v1-k3s/client-kube-proxy.crt",
            Self::Leaf(LeafKind::ClientController) => "/v1-k3s/client-k3s-controller.crt",
            Self::Config => "/v1-k3s/config",
            Self::ApiServers => "/v1-k3s/apiservers",
            Self::ReadyzOpen => "/readyz",
            Self::Readyz => "/v1-k3s/readyz",
            Self::ServerBootstrap => "/v1-k3s/server-bootstrap",
            Self::PutCaCerts => "/v1-k3s/cert/cacerts",
            Self::PutToken => "/v1-k3s/token",
            Self::Connect => "/v1-k3s/connect",
        }
    }

    /// Who may; empty for everybody.
    pub fn groups(self) -> &'static [&'static str] {
        match self {
            Self::CaCerts | Self::Ping | Self::Healthz | Self::ReadyzOpen | Self::Metrics => &[],
            Self::ServerBootstrap | Self::PutCaCerts | Self::PutToken => &[SERVER],
            Self::Connect => &[NODES],
            _ => &[AGENT, NODES, BOOTSTRAPPERS],
        }
    }

    /// Whether agents may.
    pub fn is_for_agents(self) -> bool {
        self.groups().contains(&AGENT)
    }
}

impl LeafKind {
    /// The catalogue's profile; `None` never, as a test holds.
    pub fn profile(self) -> Option<&'static LeafSpec> {
        let id = match self {
            Self::ServingKubelet => "agent/serving-kubelet",
            Self::ClientKubelet => "agent/client-kubelet",
            Self::ClientKubeProxy => "agent/client-kube-proxy",
            Self::ClientController => "agent/client-k3s-controller",
        };
        K3S.row(id)?.leaf()
    }

    /// The key in `tls/` that K3s shares with agents that send no request.
    pub fn shared_key(self) -> &'static str {
        match self {
            Self::ServingKubelet => "serving-kubelet.key",
            Self::ClientKubelet => "client-kubelet.key",
            Self::ClientKubeProxy => "client-kube-proxy.key",
            Self::ClientController => "client-k3s-controller.key",
        }
    }

    /// Whether the certificate names the node, so that K3s asks for name and password.
    pub fn names_node(self) -> bool {
        matches!(self, Self::ServingKubelet | Self::ClientKubelet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_they_are() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::of(endpoint.path()), Some(endpoint));
            assert_eq!(Endpoint::of(&format!("{}/", endpoint.path())), None);
            assert_eq!(Endpoint::of(&endpoint.path().to_uppercase()), None);
        }
        for odd in [
            "",
            "/",
            "//ping",
            "/./ping",
            "/v1-k3s/../ping",
            "/%70ing",
            "*",
        ] {
            assert_eq!(Endpoint::of(odd), None, "{odd}");
        }
    }

    #[test]
    fn every_leaf_has_a_profile() {
        for endpoint in Endpoint::ALL {
            if let Endpoint::Leaf(kind) = endpoint {
                assert!(kind.profile().is_some());
            }
        }
    }
}
