//! The fifteen files that servers share.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file of the bootstrap data (K3s `pkg/daemons/config/types.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `tls/client-ca.crt`.
    ClientCa,
    /// `tls/client-ca.key`.
    ClientCaKey,
    /// `tls/etcd/peer-ca.crt`.
    EtcdPeerCa,
    /// `tls/etcd/peer-ca.key`.
    EtcdPeerCaKey,
    /// `tls/etcd/server-ca.crt`.
    EtcdServerCa,
    /// `tls/etcd/server-ca.key`.
    EtcdServerCaKey,
    /// `cred/encryption-config.json`, with secrets encryption only.
    EncryptionConfig,
    /// `cred/encryption-state.json`, likewise.
    EncryptionHash,
    /// `cred/ipsec.psk`.
    IpsecKey,
    /// `cred/passwd`.
    PasswdFile,
    /// `tls/request-header-ca.crt`.
    RequestHeaderCa,
    /// `tls/request-header-ca.key`.
    RequestHeaderCaKey,
    /// `tls/server-ca.crt`.
    ServerCa,
    /// `tls/server-ca.key`.
    ServerCaKey,
    /// `tls/service.key`.
    ServiceKey,
}

impl Field {
    /// Every field, in the order of their names.
    pub const ALL: [Self; 15] = [
        Self::ClientCa,
        Self::ClientCaKey,
        Self::EtcdPeerCa,
        Self::EtcdPeerCaKey,
        Self::EtcdServerCa,
        Self::EtcdServerCaKey,
        Self::EncryptionConfig,
        Self::EncryptionHash,
        Self::IpsecKey,
        Self::PasswdFile,
        Self::RequestHeaderCa,
        Self::RequestHeaderCaKey,
        Self::ServerCa,
        Self::ServerCaKey,
        Self::ServiceKey,
    ];

    /// The five CAs, each with its key's field, in K3s's order of validation.
    pub const AUTHORITIES: [(Self, Self); 5] = [
        (Self::EtcdServerCa, Self::EtcdServerCaKey),
        (Self::EtcdPeerCa, Self::EtcdPeerCaKey),
        (Self::ServerCa, Self::ServerCaKey),
        (Self::ClientCa, Self::ClientCaKey),
        (Self::RequestHeaderCa, Self::RequestHeaderCaKey),
    ];

    /// Its name in the bootstrap data.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientCa => "ClientCA",
            Self::ClientCaKey => "ClientCAKey",
            Self::EtcdPeerCa => "ETCDPeerCA",
            Self::EtcdPeerCaKey => "ETCDPeerCAKey",
            Self::EtcdServerCa => "ETCDServerCA",
            Self::EtcdServerCaKey => "ETCDServerCAKey",
            Self::EncryptionConfig => "EncryptionConfig",
            Self::EncryptionHash => "EncryptionHash",
            Self::IpsecKey => "IPSECKey",
            Self::PasswdFile => "PasswdFile",
            Self::RequestHeaderCa => "RequestHeaderCA",
            Self::RequestHeaderCaKey => "RequestHeaderCAKey",
            Self::ServerCa => "ServerCA",
            Self::ServerCaKey => "ServerCAKey",
            Self::ServiceKey => "ServiceKey",
        }
    }

    /// The field of that name; `None` for one that this program does not know.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Its path under `<data-dir>/server`.
    pub fn path(self) -> &'static Path {
        Path::new(match self {
            Self::ClientCa => "tls/client-ca.crt",
            Self::ClientCaKey => "tls/client-ca.key",
            Self::EtcdPeerCa => "tls/etcd/peer-ca.crt",
            Self::EtcdPeerCaKey => "tls/etcd/peer-ca.key",
            Self::EtcdServerCa => "tls/etcd/server-ca.crt",
            Self::EtcdServerCaKey => "tls/etcd/server-ca.key",
            Self::EncryptionConfig => "cred/encryption-config.json",
            Self::EncryptionHash => "cred/encryption-state.json",
            Self::IpsecKey => "cred/ipsec.psk",
            Self::PasswdFile => "cred/passwd",
            Self::RequestHeaderCa => "tls/request-header-ca.crt",
            Self::RequestHeaderCaKey => "tls/request-header-ca.key",
            Self::ServerCa => "tls/server-ca.crt",
            Self::ServerCaKey => "tls/server-ca.key",
            Self::ServiceKey => "tls/service.key",
        })
    }

    /// Its place under a server directory, or under any directory that holds `tls/`.
    pub fn under(self, directory: &Path) -> PathBuf {
        directory.join(self.path())
    }

    /// Whether `rotate-ca` may replace it; the others always stay the server's own.
    pub fn is_rotatable(self) -> bool {
        !matches!(
            self,
            Self::PasswdFile | Self::IpsecKey | Self::EncryptionConfig | Self::EncryptionHash
        )
    }

    /// Whether it holds something secret.
    pub fn is_secret(self) -> bool {
        !matches!(
            self,
            Self::ClientCa
                | Self::EtcdPeerCa
                | Self::EtcdServerCa
                | Self::RequestHeaderCa
                | Self::ServerCa
        )
    }

    /// Whether only some servers have it: those started with `--secrets-encryption`.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::EncryptionConfig | Self::EncryptionHash)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_lead_back_to_their_field() {
        for field in Field::ALL {
            assert_eq!(Field::named(field.name()), Some(field));
            let same_path = Field::ALL.iter().filter(|it| it.path() == field.path());
            assert_eq!(same_path.count(), 1, "{field}");
        }
        assert!(Field::ALL.is_sorted_by_key(|field| field.name()));
        let rotatable = Field::ALL.iter().filter(|field| field.is_rotatable());
        assert_eq!(rotatable.count(), 11);
    }
}
