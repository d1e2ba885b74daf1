//! What has to exist before the plan can name it: CAs, service-account keys, passwords.

use pki::{
    Authority, BACKDATE, Certificate, DAY, Digest, KeyAlgorithm, Name, PrivateKey, Serial,
    UnixTime, Validity,
};
use zeroize::Zeroizing;

use super::{InitError, NODE, Passwd, Request, SERVER};
use crate::token::Token;

/// A CA's lifetime in seconds.
const AUTHORITY_LIFETIME: i64 = 3650 * DAY;
/// Random bytes of a new password, and of the pre-shared key.
const PASSWORD_BYTES: usize = 16;
const PSK_BYTES: usize = 48;

/// A CA as K3s makes it: ten years, P-256 unless the key is there already, `name@<unix seconds>`.
pub(super) fn authority(
    request: &Request<'_>,
    name: &str,
    key: Option<PrivateKey>,
) -> Result<Authority, InitError> {
    let failed = |source| InitError::Make {
        what: name.to_owned(),
        source,
    };
    let key = match key {
        Some(key) => key,
        None => request.keys.generate(KeyAlgorithm::P256).map_err(failed)?,
    };
    let subject = Name::new(&[], &format!("{name}@{}", request.now.as_secs())).map_err(failed)?;
    let serial = Serial::random(|bytes| request.entropy.fill(bytes)).map_err(failed)?;
    let not_before = request.now.plus(-BACKDATE);
    let validity = Validity {
        not_before,
        not_after: not_before.plus(AUTHORITY_LIFETIME),
    };
    Authority::self_signed(&subject, key, serial, validity).map_err(failed)
}

/// New service-account keys: one RSA key of 2048 bits, PKCS#1.
pub(super) fn service_key(request: &Request<'_>) -> Result<PrivateKey, InitError> {
    let key = request.keys.generate(KeyAlgorithm::Rsa(2048));
    key.map_err(|source| InitError::Make {
        what: "service.key".to_owned(),
        source,
    })
}

/// A key's PEM as bytes.
pub(super) fn pem(key: &PrivateKey, what: &str) -> Result<Zeroizing<Vec<u8>>, InitError> {
    let failed = |source| InitError::Make {
        what: what.to_owned(),
        source,
    };
    let text = key.to_pem().map_err(failed)?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

/// `cred/ipsec.psk`: lower-case hex and a line end.
pub(super) fn pre_shared_key(request: &Request<'_>) -> Result<Zeroizing<Vec<u8>>, InitError> {
    let mut text = random_hex::<PSK_BYTES>(request, "ipsec.psk")?;
    text.push('\n');
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

/// The passwords of servers and agents, as the passwd file that holds them.
///
/// What the tree has stays: its passwd file first, then its tokens. Flags must agree with it.
pub(super) fn passwords(request: &Request<'_>, own: Digest) -> Result<Passwd, InitError> {
    let survey = request.survey;
    let mut passwd = survey.passwd.clone();
    let known = |user: &str, token: &Option<Token>| {
        let lying = || Some(token.as_ref()?.password().ok()?.clone());
        passwd.password(user).cloned().or_else(lying)
    };
    // K3s of old knew `node` alone; its password was the servers' too.
    let server = known(SERVER.0, &survey.token).or_else(|| passwd.password(NODE.0).cloned());
    let agent = known(NODE.0, &survey.agent_token);
    let server = match agreed(request, request.token, "--token", server, own)? {
        Some(password) => password,
        None => random_hex::<PASSWORD_BYTES>(request, "token")?,
    };
    let agent = agreed(request, request.agent_token, "--agent-token", agent, own)?;
    passwd.ensure(SERVER, &server);
    passwd.ensure(NODE, agent.as_ref().unwrap_or(&server));
    Ok(passwd)
}

/// The password that a flag gives, held to its CA hash and to what the tree has.
fn agreed(
    request: &Request<'_>,
    given: Option<&Token>,
    flag: &'static str,
    known: Option<Zeroizing<String>>,
    own: Digest,
) -> Result<Option<Zeroizing<String>>, InitError> {
    let Some(token) = given else {
        return Ok(known);
    };
    let password = token
        .password()
        .map_err(|source| InitError::Token { flag, source })?;
    if let Some(pinned) = token.authority()
        && pinned != own.to_string()
    {
        let (pinned, own) = (pinned.to_owned(), own.to_string());
        return Err(InitError::OtherAuthority { pinned, own });
    }
    match known {
        Some(known) if known != *password => {
            let path = request.survey.inventory.site.server();
            Err(InitError::OtherPassword { path, flag })
        }
        _ => Ok(Some(password.clone())),
    }
}

fn random_hex<const N: usize>(
    request: &Request<'_>,
    what: &str,
) -> Result<Zeroizing<String>, InitError> {
    let mut bytes = Zeroizing::new([0; N]);
    let filled = request.entropy.fill(bytes.as_mut_slice());
    filled.map_err(|source| InitError::Make {
        what: what.to_owned(),
        source,
    })?;
    Ok(Zeroizing::new(pki::hex(bytes.as_slice())))
}

/// When a CA ends so soon that its leaves will be cut short.
pub(super) fn ends_early(ca: &Certificate, now: UnixTime, lifetime: i64) -> Option<UnixTime> {
    let end = ca.validity().not_after;
    (end < now.plus(lifetime - BACKDATE)).then_some(end)
}
