//! How rows are written down: each says only what is not as usual.

use pki::Purpose;

use super::{CommonName, Kind, LeafSpec, Row, SanRule, Side, Since};

impl Row {
    /// A row of servers of every release, without oddities.
    pub(super) const fn new(
        id: &'static str,
        path: &'static str,
        kind: Kind,
        summary: &'static str,
    ) -> Self {
        let (side, since) = (Side::Server, Since::ALWAYS);
        Self {
            id,
            summary,
            side,
            path,
            kind,
            since,
            until: None,
            depends_on: None,
            because: None,
        }
    }

    /// On the other kind of node.
    pub(super) const fn on(mut self, side: Side) -> Self {
        self.side = side;
        self
    }

    /// From these releases on.
    pub(super) const fn since(mut self, since: Since) -> Self {
        self.since = since;
        self
    }

    /// No more from these releases on.
    pub(super) const fn until(mut self, until: Since) -> Self {
        self.until = Some(until);
        self
    }

    /// Missing without fault under this setting.
    pub(super) const fn depends_on(mut self, setting: &'static str) -> Self {
        self.depends_on = Some(setting);
        self
    }

    /// Why it is odd.
    pub(super) const fn because(mut self, reason: &'static str) -> Self {
        self.because = Some(reason);
        self
    }
}

impl LeafSpec {
    /// Each `O`.
    pub(super) const fn in_groups(mut self, organizations: &'static [&'static str]) -> Self {
        self.organizations = organizations;
        self
    }

    /// What older releases called it, without any `O`.
    pub(super) const fn formerly(mut self, common_name: &'static str) -> Self {
        self.formerly = Some(common_name);
        self
    }

    /// Subject alternative names.
    pub(super) const fn with_names(mut self, sans: &'static [SanRule]) -> Self {
        self.sans = sans;
        self
    }
}

/// A client of what trusts `authority`.
pub(super) const fn client(authority: &'static str, common_name: CommonName) -> LeafSpec {
    leaf(authority, common_name, &[Purpose::ClientAuth])
}

/// A server.
pub(super) const fn serving(authority: &'static str, common_name: CommonName) -> LeafSpec {
    leaf(authority, common_name, &[Purpose::ServerAuth])
}

/// A server that is a client of its kind, too.
pub(super) const fn peer(authority: &'static str, common_name: CommonName) -> LeafSpec {
    leaf(
        authority,
        common_name,
        &[Purpose::ServerAuth, Purpose::ClientAuth],
    )
}

const fn leaf(
    authority: &'static str,
    common_name: CommonName,
    purposes: &'static [Purpose],
) -> LeafSpec {
    LeafSpec {
        authority,
        organizations: &[],
        common_name,
        purposes,
        sans: &[],
        formerly: None,
    }
}

/// A server's kubeconfig that points to the files of `leaf`.
pub(super) const fn reference(
    path: &'static str,
    summary: &'static str,
    leaf: &'static str,
) -> Row {
    Row::new(
        path,
        path,
        Kind::Kubeconfig {
            leaf,
            authority: "tls/server-ca.crt",
        },
        summary,
    )
}

/// An agent's kubeconfig that points to the files of `leaf`.
pub(super) const fn agent_reference(
    path: &'static str,
    summary: &'static str,
    leaf: &'static str,
) -> Row {
    Row::new(
        path,
        path,
        Kind::Kubeconfig {
            leaf,
            authority: "server-ca.crt",
        },
        summary,
    )
    .on(Side::Agent)
}
