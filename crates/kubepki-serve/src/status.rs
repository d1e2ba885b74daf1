//! Refusals as K3s words them: Kubernetes `Status` objects in Go's JSON.

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
            Self::Unavailable(_) => 503,
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
            Self::Unavailable(_) => "ServiceUnavailable",
        }
    }

    /// What the client is told.
    pub fn message(&self) -> String {
        match self {
            Self::Bad(why) | Self::ForbiddenFor(why) | Self::Unavailable(why) => why.clone(),
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

    proptest! {
        #[test]
        fn any_message_stays_one_json_string(message in "\\PC{0,80}") {
            let answer = Refusal::Bad(message.clone()).answer();
            let read: Value = serde_json::from_slice(&answer.body).unwrap();
            prop_assert_eq!(read.get("message").and_then(Value::as_str), Some(message.as_str()));
        }
    }
}
