//! Refusals as K3s words them: Kubernetes `Status` objects in Go's JSON.

use kubepki::report::yaml::to_yaml;
use serde_json::{Value, json};

/// An answer to one request, before it becomes HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status code.
    pub code: u16,
    /// `Content-Type`; empty for an answer without a body.
    pub content_type: &'static str,
    /// The body. Legacy mode puts a private key in it.
    pub body: Vec<u8>,
    /// `Last-Modified`, where K3s serves a file.
    pub modified: Option<pki::UnixTime>,
}

/// What Go's sniffer says of PEM and of short texts.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// What K3s says itself of CA files.
pub const PLAIN: &str = "text/plain";
/// JSON.
pub const JSON: &str = "application/json";

impl Answer {
    /// 200 with a body.
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            code: 200,
            content_type,
            body: body.into(),
            modified: None,
        }
    }

    /// 200 with JSON and a line end, as Go's encoder leaves it.
    pub fn json(value: &Value) -> Self {
        Self::ok(JSON, format!("{}\n", escaped(&value.to_string())))
    }

    /// 101: the connection goes on as something else.
    pub fn going_on() -> Self {
        Self {
            code: 101,
            ..Self::empty()
        }
    }

    /// 200 without a body.
    pub fn done() -> Self {
        Self {
            code: 200,
            ..Self::empty()
        }
    }

    /// 204.
    pub fn empty() -> Self {
        Self {
            code: 204,
            content_type: "",
            body: Vec::new(),
            modified: None,
        }
    }
}

/// Why a request got no answer. The message goes to the client: it never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400.
    Bad(String),
    /// 401: credentials that prove nothing.
    NotAuthorized,
    /// 401 as kube-apiserver says it of a path that K3s hands on to it.
    Unauthorized,
    /// 403: no credentials, or another role's.
    Forbidden,
    /// 403 with a reason.
    ForbiddenFor(String),
    /// 405 for that path.
    Method(String),
    /// 413: that many bytes are taken at most.
    TooLarge(usize),
    /// 408: the body did not come in time.
    TooSlow,
    /// 429.
    TooMany,
    /// 500 with the reason.
    Internal(String),
    /// 503 with the reason.
    Unavailable(String),
    /// 503 as K3s says it of a path that kube-apiserver would answer.
    NoApiServer,
}

impl Refusal {
    /// HTTP's status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::NotAuthorized | Self::Unauthorized => 401,
            Self::Forbidden | Self::ForbiddenFor(_) => 403,
            Self::Method(_) => 405,
            Self::TooSlow => 408,
            Self::TooLarge(_) => 413,
            Self::TooMany => 429,
            Self::Internal(_) => 500,
            Self::Unavailable(_) | Self::NoApiServer => 503,
        }
    }

    /// Kubernetes' word for it.
    fn reason(&self) -> &'static str {
        match self {
            Self::Bad(_) => "BadRequest",
            Self::NotAuthorized | Self::Unauthorized => "Unauthorized",
            Self::Forbidden | Self::ForbiddenFor(_) => "Forbidden",
            Self::Method(_) => "MethodNotAllowed",
            Self::TooSlow => "Timeout",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::TooMany => "TooManyRequests",
            Self::Internal(_) => "InternalError",
            Self::Unavailable(_) | Self::NoApiServer => "ServiceUnavailable",
        }
    }

    /// What the client is told.
    pub fn message(&self) -> String {
        match self {
            Self::Bad(why) | Self::ForbiddenFor(why) | Self::Unavailable(why) => why.clone(),
            Self::NoApiServer => "apiserver disabled".to_owned(),
            Self::NotAuthorized => "not authorized".to_owned(),
            Self::Unauthorized => "Unauthorized".to_owned(),
            Self::Forbidden => "forbidden".to_owned(),
            Self::Method(_) => {
                "the server does not allow this method on the requested resource".to_owned()
            }
            Self::TooSlow => "the request's body did not come in time".to_owned(),
            Self::TooLarge(limit) => {
                format!("the request's body is too large: {limit} bytes are taken at most")
            }
            Self::TooMany => "too many requests at a time, try again later".to_owned(),
            Self::Internal(why) => format!("Internal error occurred: {why}"),
        }
    }

    /// The `Status` object, octet for octet as K3s writes it.
    pub fn answer(&self) -> Answer {
        let mut status = json!({ "kind": "Status" });
        if *self == Self::Unauthorized {
            put(&mut status, "apiVersion", "v1".into());
        }
        put(&mut status, "metadata", json!({}));
        put(&mut status, "status", "Failure".into());
        put(&mut status, "message", self.message().into());
        put(&mut status, "reason", self.reason().into());
        let details = match self {
            Self::Internal(why) => Some(json!({ "causes": [{ "message": why }] })),
            Self::Method(path) => Some(json!({
                "name": path,
                "causes": [{
                    "reason": "UnexpectedServerResponse",
                    "message": "method not allowed",
                }],
            })),
            _ => None,
        };
        if let Some(details) = details {
            put(&mut status, "details", details);
        }
        put(&mut status, "code", self.code().into());
        Answer {
            code: self.code(),
            content_type: JSON,
            body: escaped(&format!("{status:#}")).into_bytes(),
            modified: None,
        }
    }
}

/// A `Status` object in JSON as the same in YAML; `None` where it is none.
pub(crate) fn in_yaml(json: &[u8]) -> Option<Vec<u8>> {
    let status: Value = serde_json::from_slice(json).ok()?;
    Some(to_yaml(&status, 0).ok()?.into_bytes())
}

/// The same in Kubernetes' protobuf: four octets of magic, then `runtime.Unknown` around
/// `meta.v1.Status`, with every text written whether it is empty or not, as gogo does.
pub(crate) fn in_protobuf(json: &[u8]) -> Option<Vec<u8>> {
    let status: Value = serde_json::from_slice(json).ok()?;
    let text = |of: &Value, name: &str| -> Vec<u8> {
        let own = of.get(name).and_then(Value::as_str);
        own.unwrap_or_default().as_bytes().to_vec()
    };
    let no_list = [field(1, b""), field(2, b""), field(3, b"")].concat();
    let mut raw = field(1, &no_list);
    for (number, name) in [(2, "status"), (3, "message"), (4, "reason")] {
        raw.extend(field(number, &text(&status, name)));
    }
    if let Some(details) = status.get("details") {
        let mut inner = field(1, &text(details, "name"));
        inner.extend([field(2, b""), field(3, b"")].concat());
        let causes = details.get("causes").and_then(Value::as_array);
        for cause in causes.into_iter().flatten() {
            let parts = [
                field(1, &text(cause, "reason")),
                field(2, &text(cause, "message")),
                field(3, b""),
            ];
            inner.extend(field(4, &parts.concat()));
        }
        // No seconds to wait (a varint), and no UID.
        inner.extend([&[0x28, 0][..], &field(6, b"")].concat());
        raw.extend(field(5, &inner));
    }
    raw.push(0x30);
    raw.extend(varint(status.get("code")?.as_u64()?));
    let kind = [
        field(1, &text(&status, "apiVersion")),
        field(2, &text(&status, "kind")),
    ];
    let parts = [
        b"k8s\0".to_vec(),
        field(1, &kind.concat()),
        field(2, &raw),
        field(3, b""),
        field(4, b""),
    ];
    Some(parts.concat())
}

/// A field of octets.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    bytes.extend(varint(u64::try_from(content.len()).unwrap_or_default()));
    bytes.extend_from_slice(content);
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn put(status: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = status {
        members.insert(name.to_owned(), value);
    }
}

/// As Go's encoder escapes: `<`, `>`, `&` and the line separators of Unicode. None of them can
/// stand outside a JSON string.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            _ => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_stand_in_the_recorded_order() {
        let text = |refusal: Refusal| String::from_utf8(refusal.answer().body).unwrap();
        assert_eq!(
            text(Refusal::Forbidden),
            "{\n  \"kind\": \"Status\",\n  \"metadata\": {},\n  \"status\": \"Failure\",\n  \
             \"message\": \"forbidden\",\n  \"reason\": \"Forbidden\",\n  \"code\": 403\n}"
        );
        let bad_ip = Refusal::Internal("invalid node IP address <nil>".to_owned());
        assert!(text(bad_ip).contains(r"address \u003cnil\u003e"));
    }

    #[test]
    fn the_other_forms_say_the_same() {
        let json = Refusal::Method("/x".to_owned()).answer().body;
        let yaml = String::from_utf8(in_yaml(&json).unwrap()).unwrap();
        for line in ["kind: \"Status\"", "code: 405", "  name: \"/x\""] {
            assert!(yaml.lines().any(|it| it == line), "{yaml}");
        }
        let proto = in_protobuf(&Refusal::Forbidden.answer().body).unwrap();
        let raw = b"\x0a\x06\x0a\0\x12\0\x1a\0\x12\x07Failure\x1a\x09forbidden\x22\x09Forbidden\x30\x93\x03";
        let mut expected = b"k8s\0\x0a\x0a\x0a\0\x12\x06Status\x12".to_vec();
        expected.push(u8::try_from(raw.len()).unwrap());
        expected.extend_from_slice(raw);
        expected.extend_from_slice(b"\x1a\0\x22\0");
        assert_eq!(proto, expected);
        assert_eq!(in_protobuf(b"pong"), None);
    }

    proptest! {
        #[test]
        fn any_message_stays_one_json_string(message in "\\PC{0,80}") {
            let answer = Refusal::Bad(message.clone()).answer();
            let read: Value = serde_json::from_slice(&answer.body).unwrap();
            prop_assert_eq!(read.get("message").and_then(Value::as_str), Some(message.as_str()));
        }
    }
}
