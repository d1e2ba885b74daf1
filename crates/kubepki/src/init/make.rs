//! What has to exist before the plan can name it: CAs, service-account keys, passwords.

use pki::{
    Authority, Certificate, DAY, Digest, KeyAlgorithm, Name, PrivateKey, Serial, UnixTime, Validity,
};
use zeroize::Zeroizing;

use super::{InitError, NODE, Passwd, Request, SERVER, Token};

/// A CA's lifetime in seconds.
const AUTHORITY_LIFETIME: i64 = 3650 * DAY;
/// Seconds that notBefore lies back, for clocks that are behind.
const BACKDATE: i64 = 3_600;
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

/// The passwords of servers and agents, with the passwd file that holds them.
///
/// What the tree has stays: its passwd file first, then its tokens. Flags must agree with it.
pub(super) fn passwords(request: &Request<'_>, own: Digest) -> Result<Passwd, InitError> {
    let survey = request.survey;
    let given = pinned(request.token, "--token", own)?;
    let given_agent = pinned(request.agent_token, "--agent-token", own)?;
    let mut passwd = survey.passwd.clone();
    let lying = |token: &Option<Token>| {
        token
            .as_ref()
            .and_then(|token| token.password().ok())
            .cloned()
    };
    // K3s of old knew `node` alone; its password was the servers' too.
    let known = || passwd.password(NODE.0).cloned();
    let server = match given.or_else(|| lying(&survey.token)).or_else(known) {
        Some(password) => password,
        None => random_hex::<PASSWORD_BYTES>(request, "token")?,
    };
    passwd.ensure(SERVER, &server);
    agree(request, &passwd, SERVER.0, request.token, "--token")?;
    let server = passwd.password(SERVER.0).cloned().unwrap_or(server);
    let agent = given_agent
        .or_else(|| lying(&survey.agent_token))
        .unwrap_or(server);
    passwd.ensure(NODE, &agent);
    agree(
        request,
        &passwd,
        NODE.0,
        request.agent_token,
        "--agent-token",
    )?;
    Ok(passwd)
}

/// The password of a token that was given, held to its CA hash.
fn pinned(
    token: Option<&Token>,
    flag: &'static str,
    own: Digest,
) -> Result<Option<Zeroizing<String>>, InitError> {
    let Some(token) = token else { return Ok(None) };
    let password = token
        .password()
        .map_err(|source| InitError::Token { flag, source })?;
    match token.authority() {
        Some(pinned) if pinned != own.to_string() => Err(InitError::OtherAuthority {
            pinned: pinned.to_owned(),
            own: own.to_string(),
        }),
        _ => Ok(Some(password.clone())),
    }
}

fn agree(
    request: &Request<'_>,
    passwd: &Passwd,
    user: &'static str,
    token: Option<&Token>,
    flag: &'static str,
) -> Result<(), InitError> {
    let given = token.and_then(|token| token.password().ok());
    if given.is_none() || given == passwd.password(user) {
        return Ok(());
    }
    let path = request.survey.inventory.site.server().join("cred/passwd");
    Err(InitError::OtherPassword { path, user, flag })
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
