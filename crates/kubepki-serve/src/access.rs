//! Who a caller is, and what it may ask for. Pure.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubepki::init::Passwd;
use pki::verify::{Options, verify};
use pki::{Certificate, Purpose, UnixTime};
use zeroize::Zeroizing;

use crate::issuance::Credential;
use crate::route::Endpoint;
use crate::status::Refusal;

/// The group of agents.
pub const AGENT: &str = "k3s:agent";
/// The group of servers.
pub const SERVER: &str = "k3s:server";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// The group of bootstrap tokens.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// The group that K3s gives its bootstrap tokens beside it.
pub const DEFAULT_NODE_TOKEN: &str = "system:bootstrappers:k3s:default-node-token";
const NODE_PREFIX: &str = "system:node:";

/// A caller that has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// How it proved that.
    pub credential: Credential,
}

impl Identity {
    /// The node that the caller is, by a certificate of its kubelet.
    pub fn node(&self) -> Option<&str> {
        let by_certificate = self.credential == Credential::Certificate;
        let name = self.user.strip_prefix(NODE_PREFIX)?;
        (by_certificate && self.is_in(NODES) && !name.is_empty()).then_some(name)
    }

    /// Whether it holds the servers' token.
    pub fn is_server(&self) -> bool {
        self.is_in(SERVER)
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// What a caller offered as proof.
#[derive(Default)]
pub struct Offered<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a [u8]>,
    /// The TLS client certificate, leaf first, whose key the caller has proved to hold.
    pub certificates: &'a [Vec<u8>],
}

/// The passwords of `cred/passwd`, kept as keyed digests.
pub struct Users {
    key: aws_lc_rs::hmac::Key,
    rows: Vec<User>,
}

struct User {
    name: String,
    groups: Vec<String>,
    is_random: bool,
    tag: aws_lc_rs::hmac::Tag,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({} rows)", self.rows.len())
    }
}

impl Users {
    /// The users of a passwd file. `key` is random and lives as long as the process.
    pub fn new(passwd: &Passwd, key: &[u8; 32]) -> Self {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
        let rows = passwd.users().into_iter().filter_map(|name| {
            Some(User {
                name: name.to_owned(),
                groups: passwd.groups(name),
                is_random: is_random(passwd.password(name)?),
                tag: aws_lc_rs::hmac::sign(&key, passwd.password(name)?.as_bytes()),
            })
        });
        let rows = rows.collect();
        Self { key, rows }
    }

    /// The user of that name and password. Looks at every row, whatever the first ones say, and
    /// compares digests, so that the time tells neither names nor passwords.
    fn find(&self, name: &str, password: &[u8]) -> Option<&User> {
        self.rows.iter().fold(None, |found, row| {
            let same = aws_lc_rs::hmac::verify(&self.key, password, row.tag.as_ref()).is_ok();
            (same && row.name == name).then_some(row).or(found)
        })
    }
}

/// User and password of a Basic `Authorization` header (RFC 7617).
pub fn basic(header: &[u8]) -> Option<(String, Zeroizing<String>)> {
    let (scheme, value) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(value.trim_ascii()).ok()?);
    let (user, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some((user.to_owned(), Zeroizing::new(password.to_owned())))
}

/// A caller, and how it proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it is.
    pub identity: Identity,
    /// Whether nobody could have guessed that: a certificate, or a password of 128 random bits.
    pub is_beyond_guessing: bool,
}

/// Who the caller is.
///
/// A certificate goes before a password, as with K3s; one that is not of this cluster does no
/// harm beside a good password.
///
/// # Errors
///
/// [`Refusal::Forbidden`] without any credentials, [`Refusal::NotAuthorized`] with none that
/// holds.
pub fn identify(
    offered: &Offered<'_>,
    users: &Users,
    client_authorities: &[Certificate],
    now: UnixTime,
) -> Result<Known, Refusal> {
    if let Some(identity) = by_certificate(offered.certificates, client_authorities, now) {
        return Ok(Known {
            identity,
            is_beyond_guessing: true,
        });
    }
    match offered.authorization {
        None if offered.certificates.is_empty() => Err(Refusal::Forbidden),
        None => Err(Refusal::NotAuthorized),
        Some(header) => {
            let (name, password) = basic(header).ok_or(Refusal::NotAuthorized)?;
            let user = users.find(&name, password.as_bytes());
            let user = user.ok_or(Refusal::NotAuthorized)?;
            Ok(Known {
                identity: Identity {
                    user: name,
                    groups: user.groups.clone(),
                    credential: Credential::Token,
                },
                is_beyond_guessing: user.is_random,
            })
        }
    }
}

/// Whether a password looks like K3s's own: 32 hex digits or more, with at least eight different
/// ones, which a person's choice has not by chance.
pub(crate) fn is_random(password: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let mut different: Vec<u8> = password.bytes().collect();
    different.sort_unstable();
    different.dedup();
    password.len() >= 32 && password.bytes().all(hex) && different.len() >= 8
}

/// Each `O` is a group, the `CN` the user, as for the API server.
fn by_certificate(
    offered: &[Vec<u8>],
    authorities: &[Certificate],
    now: UnixTime,
) -> Option<Identity> {
    let read = offered.iter().map(|der| Certificate::from_der(der));
    let read: Vec<Certificate> = read.collect::<Result<_, _>>().ok()?;
    let (leaf, rest) = read.split_first()?;
    let options = Options::at(now).purposes(&[Purpose::ClientAuth]);
    verify(leaf, rest, authorities, &options).ok()?;
    let groups = leaf.subject().organizations();
    Some(Identity {
        user: leaf.subject().common_name()?.to_owned(),
        groups: groups.into_iter().map(str::to_owned).collect(),
        credential: Credential::Certificate,
    })
}

/// Whether `identity` may use `endpoint`.
///
/// # Errors
///
/// [`Refusal::Forbidden`] for another role.
pub fn may(identity: &Identity, endpoint: Endpoint) -> Result<(), Refusal> {
    let allowed = endpoint.groups();
    let is_allowed = allowed.iter().any(|group| identity.is_in(group));
    is_allowed.then_some(()).ok_or(Refusal::Forbidden)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn users() -> Users {
        let text = "s3cret,server,server,k3s:server\nagent:pw,node,node,\"k3s:agent,others\"\n";
        Users::new(&Passwd::parse(text).unwrap(), &[7; 32])
    }

    fn header(text: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    fn ask(header: &[u8]) -> Result<Identity, Refusal> {
        let offered = Offered {
            authorization: Some(header),
            certificates: &[],
        };
        let known = identify(&offered, &users(), &[], UnixTime::from_secs(0));
        known.map(|it| it.identity)
    }

    #[test]
    fn only_what_looks_random_is_beyond_guessing() {
        for (password, expected) in [
            ("8f0d6c1b7e2a4953c4d1e0f2a3b5968d", true),
            ("hunter2", false),
            ("00000000000000000000000000000000", false),
            ("fixture-token-0123456789abcdef01", false),
        ] {
            let users = Users::new(
                &Passwd::parse(&format!("{password},node,node,k3s:agent\n")).unwrap(),
                &[7; 32],
            );
            let header = header(&format!("node:{password}"));
            let offered = Offered {
                authorization: Some(&header),
                certificates: &[],
            };
            let known = identify(&offered, &users, &[], UnixTime::from_secs(0)).unwrap();
            assert_eq!(known.is_beyond_guessing, expected, "{password}");
        }
    }

    #[test]
    fn passwords_are_held_to_their_user() {
        assert_eq!(ask(&header("server:s3cret")).unwrap().groups, [SERVER]);
        let node = ask(&header("node:agent:pw")).unwrap();
        assert_eq!(node.groups, [AGENT, "others"]);
        for wrong in [
            "server:s3cre",
            "server:s3crett",
            "server:",
            "node:s3cret",
            ":s3cret",
            "Server:s3cret",
            "server:agent:pw",
            "nobody:s3cret",
        ] {
            assert_eq!(ask(&header(wrong)), Err(Refusal::NotAuthorized), "{wrong}");
        }
        for odd in [
            &b"Basic"[..],
            b"Basic ",
            b"Basic !!!",
            b"Bearer x",
            b"",
            b"\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(ask(odd), Err(Refusal::NotAuthorized), "{odd:?}");
        }
        let nothing = identify(&Offered::default(), &users(), &[], UnixTime::from_secs(0));
        assert_eq!(nothing, Err(Refusal::Forbidden));
    }

    #[test]
    fn a_token_is_no_node() {
        let mut identity = ask(&header("node:agent:pw")).unwrap();
        identity.user = "system:node:a".to_owned();
        identity.groups = vec![NODES.to_owned()];
        assert_eq!(identity.node(), None);
        identity.credential = Credential::Certificate;
        assert_eq!(identity.node(), Some("a"));
        identity.groups = vec!["other".to_owned()];
        assert_eq!(identity.node(), None);
    }

    #[test]
    fn each_role_has_its_endpoints() {
        let identity = |group: &str| Identity {
            user: "x".to_owned(),
            groups: vec![group.to_owned()],
            credential: Credential::Token,
        };
        let agents = [AGENT, NODES, BOOTSTRAPPERS];
        for endpoint in Endpoint::ALL {
            let open = endpoint.groups().is_empty();
            for group in agents {
                let is_node_at_connect = endpoint == Endpoint::Connect && group == NODES;
                let expected = endpoint.is_for_agents() || is_node_at_connect;
                assert_eq!(
                    may(&identity(group), endpoint).is_ok(),
                    expected,
                    "{endpoint:?}"
                );
            }
            let is_for_servers = !endpoint.is_for_agents() && endpoint != Endpoint::Connect;
            let expected = !open && is_for_servers;
            assert_eq!(
                may(&identity(SERVER), endpoint).is_ok(),
                expected,
                "{endpoint:?}"
            );
            assert!(may(&identity("system:masters"), endpoint).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_header_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(ask(&bytes), Err(Refusal::NotAuthorized));
        }

        #[test]
        fn any_pair_reads_back(user in "[^:]{0,12}", password in "\\PC{0,24}") {
            let (name, secret) = basic(&header(&format!("{user}:{password}"))).unwrap();
            prop_assert_eq!((name, secret.as_str()), (user, password.as_str()));
        }
    }
}
