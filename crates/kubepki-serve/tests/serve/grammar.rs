//! The whole grammar of tokens (reference section 5.1), from the text that a node is given to what
//! the server makes of its header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubepki::init::Passwd;
use kubepki::token::{Form, Token, TokenError, read_token};
use kubepki_serve::access::{Offered, Users, basic, identify};
use kubepki_serve::node::Strictness::Strict;
use kubepki_serve::status::Refusal;
use kubepki_serve::token::Claim;
use pki::UnixTime;
use proptest::prelude::*;

use crate::common::serve;

/// What K3s makes of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parsed {
    Password(String, String, String),
    Bootstrap(String, String),
}

/// The algorithm of section 5.1, word by word, and K3s's messages.
fn as_k3s(text: &str) -> Result<Parsed, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("token must not be empty");
    }
    let whole = match (text.starts_with("K10"), is_bootstrap(text)) {
        (true, _) => text.to_owned(),
        (false, true) => format!("K10::{text}"),
        (false, false) => format!("K10:::{text}"),
    };
    let long = &whole["K10".len()..];
    let (hash, rest) = match long.find("::") {
        Some(at) => (&long[..at], &long[at + 2..]),
        None => ("", long),
    };
    if !matches!(hash.len(), 0 | 64) {
        return Err("invalid token CA hash length");
    }
    if is_bootstrap(rest) {
        return Ok(Parsed::Bootstrap(hash.to_owned(), rest.to_owned()));
    }
    match rest.find(':') {
        Some(at) if at + 1 < rest.len() => {
            let (user, password) = (&rest[..at], &rest[at + 1..]);
            let [hash, user, password] = [hash, user, password].map(str::to_owned);
            Ok(Parsed::Password(hash, user, password))
        }
        _ => Err("invalid token format"),
    }
}

fn is_bootstrap(text: &str) -> bool {
    let bytes = text.as_bytes();
    let fits = |(at, byte): (usize, &u8)| match at {
        6 => *byte == b'.',
        _ => byte.is_ascii_lowercase() || byte.is_ascii_digit(),
    };
    bytes.len() == 23 && bytes.iter().enumerate().all(fits)
}

/// Text that may break something: colons, dots, blanks, what looks like a token, any language.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(":".to_owned()),
        Just("::".to_owned()),
        Just(".".to_owned()),
        Just(" ".to_owned()),
        Just("K10".to_owned()),
        Just("server".to_owned()),
        Just("node".to_owned()),
        Just("abc123".to_owned()),
        Just("0123456789abcdef".to_owned()),
        Just("\u{e4}\u{202e}\u{1f511}\u{4e2d}".to_owned()),
        "[a-z0-9]{1,24}",
        "\\PC{1,8}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|it| it.concat())
}

fn texts() -> impl Strategy<Value = String> {
    let hash = prop_oneof![
        Just(String::new()),
        "[0-9a-f]{64}",
        "[0-9A-F]{64}",
        "[0-9a-f]{63}",
        "[0-9a-f]{65}",
        Just("\u{e4}".repeat(32)),
        Just("\u{e4}".repeat(64)),
    ];
    let user = prop_oneof![
        Just("server:".to_owned()),
        Just("node:".to_owned()),
        Just(":".to_owned()),
        Just(String::new()),
        "\\PC{0,4}:",
    ];
    let credential = prop_oneof![
        (user, pieces()).prop_map(|(user, rest)| user + &rest),
        "[a-z0-9]{6}\\.[a-z0-9]{16}",
        "[a-z0-9]{5,7}\\.[a-zA-Z0-9]{15,17}",
        "[a-z0-9]{6}\\.[a-z0-9]{32}",
    ];
    let full = (hash, credential).prop_map(|(hash, rest)| format!("K10{hash}::{rest}"));
    let bootstrap = "[a-z0-9]{6}\\.[a-z0-9]{16}";
    prop_oneof![
        4 => full,
        2 => pieces(),
        1 => bootstrap,
        1 => pieces().prop_map(|it| format!("K10{it}")),
        1 => pieces().prop_map(|it| format!(" {it}\r\n")),
    ]
}

fn users(password: &str) -> Users {
    let quoted = format!("\"{}\"", password.replace('"', "\"\""));
    let rows = format!("{quoted},server,server,k3s:server\n{quoted},node,node,k3s:agent\n");
    Users::new(&Passwd::parse(&rows).unwrap(), &[7; 32])
}

fn asks(header: &[u8], users: &Users) -> Result<String, Refusal> {
    let offered = Offered {
        authorization: Some(header),
        certificates: &[],
    };
    identify(&offered, users, &[], UnixTime::from_secs(0)).map(|it| it.identity.user)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What K3s takes we take, as the same; what it refuses we refuse in its words; and what a
    /// token logs in with is what the server finds in the header.
    #[test]
    fn tokens_mean_what_they_mean_to_k3s(text in texts()) {
        let is_ours = text.trim().starts_with("K10P");
        let parsed = Token::parse(&text);
        prop_assert_eq!(
            read_token(text.as_bytes()).is_ok(),
            parsed.is_ok() && !text.starts_with('\u{feff}')
        );
        match (as_k3s(&text), parsed) {
            // Pin sets, which K3s refuses.
            (_, parsed) if is_ours => drop(parsed),
            (Err(message), Err(error)) => {
                prop_assert!(error.to_string().starts_with(message), "{} {}", error, message);
            }
            (Ok(Parsed::Bootstrap(hash, credential)), Ok(token)) => {
                prop_assert_eq!(token.authority().unwrap_or_default(), &hash);
                prop_assert!(matches!(token.form(), Form::Bootstrap | Form::FullBootstrap));
                let header = token.authorization("node");
                prop_assert_eq!(header.as_str(), format!("Bearer {credential}"));
                prop_assert!(Claim::read(header.as_bytes()).is_some());
                prop_assert!(basic(header.as_bytes()).is_none());
                // A password of that shape is none (reference section 5.5).
                prop_assert!(token.password().is_err());
                let refused = asks(header.as_bytes(), &users(&credential));
                prop_assert_eq!(refused, Err(Refusal::NotAuthorized));
            }
            (Ok(Parsed::Password(hash, user, password)), Ok(token)) => {
                prop_assert_eq!(token.authority().unwrap_or_default(), &hash);
                prop_assert_eq!(token.user(), &user);
                prop_assert_eq!(token.is_pinned(), !hash.is_empty());
                let users = users(&password);
                for user in ["server", "node"] {
                    let header = token.authorization(user);
                    let (name, sent) = basic(header.as_bytes()).unwrap();
                    prop_assert_eq!((name.as_str(), sent.as_str()), (user, password.as_str()));
                    prop_assert_eq!(asks(header.as_bytes(), &users), Ok(user.to_owned()));
                }
                let nobody = token.authorization("nobody");
                prop_assert!(asks(nobody.as_bytes(), &users).is_err());
                // What it is written as again is the same token.
                prop_assert_eq!(Token::parse(&token.to_text()), Ok(token));
            }
            (expected, found) => prop_assert!(false, "{:?} {:?}", expected, found),
        }
    }

    /// Whatever stands in a header is answered, and logs nobody in who does not know the password.
    #[test]
    fn headers_of_every_kind_are_answered(
        scheme in prop_oneof![
            Just("Basic "), Just("basic\t"), Just("Bearer "), Just("BEARER "), Just("Digest "),
            Just(""), Just("Basic"), Just("Bearer"),
        ],
        value in prop_oneof![
            texts().prop_map(String::into_bytes),
            texts().prop_map(|it| STANDARD.encode(it).into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..80),
        ],
    ) {
        let header = [scheme.as_bytes(), &value].concat();
        let secret = "the-password-that-nobody-guesses";
        prop_assert_eq!(asks(&header, &users(secret)), Err(Refusal::NotAuthorized));
        if let Some(claim) = Claim::read(&header) {
            let text = format!("{claim:?}");
            prop_assert!(text.contains(".***"), "{}", text);
        }
    }

    /// Control characters would break the files and headers that tokens stand in: K3s takes them,
    /// we do not.
    #[test]
    fn control_characters_are_refused(
        before in "[a-z]{1,8}",
        control in proptest::char::ranges(vec!['\u{0}'..='\u{1f}', '\u{7f}'..='\u{9f}'].into()),
        after in "[a-z]{1,8}",
    ) {
        let hash = "0".repeat(64);
        for text in [
            format!("{before}{control}{after}"),
            format!("K10{hash}::server:{before}{control}{after}"),
        ] {
            prop_assert_eq!(Token::parse(&text), Err(TokenError::ControlCharacter));
        }
    }
}

#[test]
fn every_row_of_the_table() {
    let hash = "0123456789abcdef".repeat(4);
    let upper = hash.to_uppercase();
    for (text, form) in [
        ("pw".to_owned(), Form::Password),
        ("a:b::c".to_owned(), Form::Password),
        ("abc123.0123456789abcdef".to_owned(), Form::Bootstrap),
        ("abc123.0123456789abcdeF".to_owned(), Form::Password),
        (format!("K10{hash}::server:pw"), Form::Full),
        (format!("K10{upper}::server:pw"), Form::Full),
        (format!("K10{hash}:::pw"), Form::Full),
        ("K10::server:pw".to_owned(), Form::WithoutHash),
        ("K10user:pw".to_owned(), Form::WithoutHash),
        (
            format!("K10{hash}::abc123.0123456789abcdef"),
            Form::FullBootstrap,
        ),
        ("K10::abc123.0123456789abcdef".to_owned(), Form::Bootstrap),
    ] {
        assert_eq!(Token::parse(&text).unwrap().form(), form, "{text}");
        assert!(as_k3s(&text).is_ok(), "{text}");
    }
    for (text, message) in [
        ("", "token must not be empty"),
        (" \r\n", "token must not be empty"),
        ("K10abc::server:pw", "invalid token CA hash length"),
        ("K10", "invalid token format"),
        ("K10::", "invalid token format"),
        ("K10::server:", "invalid token format"),
        ("K10server", "invalid token format"),
    ] {
        let error = Token::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text:?}: {error}");
        assert_eq!(as_k3s(text), Err(message));
    }
}

#[test]
fn megabytes_are_no_tokens_and_cost_nothing() {
    let megabyte = "a".repeat(1 << 20);
    let error = read_token(megabyte.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("1048576 bytes are no token"), "{error}");
    let server = serve(Strict);
    let folder = server.fixture.scratch("headers");
    std::fs::create_dir_all(&folder).unwrap();
    let hash = "0".repeat(64);
    for (number, value) in [
        format!("Bearer {megabyte}"),
        format!("Bearer abc123.{megabyte}"),
        format!("Basic {}", STANDARD.encode(format!("node:{megabyte}"))),
        format!(
            "Basic {}",
            STANDARD.encode(format!("K10{hash}::{megabyte}"))
        ),
    ]
    .iter()
    .enumerate()
    {
        let users = users("pw");
        assert_eq!(asks(value.as_bytes(), &users), Err(Refusal::NotAuthorized));
        assert!(Claim::read(value.as_bytes()).is_none());
        // The server cuts them off, and serves on.
        let file = folder.join(number.to_string());
        std::fs::write(&file, format!("Authorization: {value}\n")).unwrap();
        let authority = server.tls_file("server-ca.crt").display().to_string();
        let headers = format!("@{}", file.display());
        let url = format!("https://127.0.0.1:{}/v1-k3s/config", server.address.port());
        for version in ["--http1.1", "--http2"] {
            let words = ["-sS", version, "--cacert", &authority, "-H", &headers, "-w"];
            let more = ["%{http_code}", "-o", "/dev/null", "--max-time", "30", &url];
            let run = testkit::run("curl", &[&words[..], &more].concat(), b"");
            let code = String::from_utf8_lossy(&run.stdout).into_owned();
            assert!(["431", "000"].contains(&code.as_str()), "{version} {code}");
        }
        assert_eq!(server.curl("/ping", &[]).code, 200);
    }
    let said = server.said.lock().unwrap().join("\n");
    assert!(!said.contains("aaaaaaaa"), "a header was logged");
}
