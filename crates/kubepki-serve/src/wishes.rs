//! What a client says of the answer that it would like: another form of a refusal, part of a
//! file, a file only if it is new. K3s leaves all that to Go's and Kubernetes' libraries.

use hyper::HeaderMap;
use hyper::header::{
    ACCEPT, ACCEPT_RANGES, CONTENT_RANGE, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, RETRY_AFTER,
};
use pki::UnixTime;

use crate::date;
use crate::status::{Answer, JSON, in_protobuf, in_yaml};

/// YAML, as Kubernetes names it.
const YAML: &str = "application/yaml";
/// Protobuf, as Kubernetes names it.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The headers that say so, as far as they are there.
#[derive(Debug, Default)]
pub struct Wishes {
    accept: Option<HeaderValue>,
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    modified_since: Option<HeaderValue>,
    unmodified_since: Option<HeaderValue>,
}

impl Wishes {
    /// Those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let own = |name: HeaderName| headers.get(name).cloned();
        Self {
            accept: own(ACCEPT),
            range: own(RANGE),
            if_range: own(IF_RANGE),
            modified_since: own(IF_MODIFIED_SINCE),
            unmodified_since: own(IF_UNMODIFIED_SINCE),
        }
    }

    /// The answer as they ask for it, and the headers that belong to that.
    pub fn meet(&self, answer: Answer) -> (Answer, Vec<(HeaderName, HeaderValue)>) {
        match answer.modified {
            Some(modified) if answer.code == 200 => self.of_file(answer, modified),
            _ if answer.code >= 400 => self.of_refusal(answer),
            _ => (answer, Vec::new()),
        }
    }

    fn of_refusal(&self, mut answer: Answer) -> (Answer, Vec<(HeaderName, HeaderValue)>) {
        let mut headers = Vec::new();
        if answer.code == 429 {
            headers.push((RETRY_AFTER, HeaderValue::from_static("1")));
        }
        let accept = self.accept.as_ref().and_then(|it| it.to_str().ok());
        // Whoever takes nothing that we can write gets JSON, as from Kubernetes.
        let form = match accept.map_or(JSON, preferred) {
            YAML => in_yaml(&answer.body).map(|body| (YAML, body)),
            PROTOBUF => in_protobuf(&answer.body).map(|body| (PROTOBUF, body)),
            _ => None,
        };
        if let (JSON, Some((content_type, body))) = (answer.content_type, form) {
            answer.content_type = content_type;
            answer.body = body;
        }
        (answer, headers)
    }

    /// Conditions and a range (RFC 9110 sections 13 and 14). Of several ranges nobody needs more
    /// than the whole file, which a server may send instead.
    fn of_file(
        &self,
        mut answer: Answer,
        modified: UnixTime,
    ) -> (Answer, Vec<(HeaderName, HeaderValue)>) {
        let mut headers = vec![(ACCEPT_RANGES, HeaderValue::from_static("bytes"))];
        let emptied = |code| Answer {
            code,
            content_type: "",
            body: Vec::new(),
            modified: Some(modified),
        };
        if date(self.unmodified_since.as_ref()).is_some_and(|since| modified > since) {
            return (emptied(412), Vec::new());
        }
        if date(self.modified_since.as_ref()).is_some_and(|since| modified <= since) {
            return (emptied(304), Vec::new());
        }
        let same = match &self.if_range {
            Some(own) => date(Some(own)) == Some(modified),
            None => true,
        };
        let whole = answer.body.len();
        let asked = self.range.as_ref().filter(|_| same);
        let Some(part) = asked.and_then(|it| range(it.to_str().ok()?, whole)) else {
            return (answer, headers);
        };
        let (code, content_range) = match part {
            Some((first, last)) => {
                answer.body = answer.body.get(first..=last).unwrap_or_default().to_vec();
                (206, format!("bytes {first}-{last}/{whole}"))
            }
            None => {
                answer = emptied(416);
                (416, format!("bytes */{whole}"))
            }
        };
        answer.code = code;
        if let Ok(value) = HeaderValue::from_str(&content_range) {
            headers.push((CONTENT_RANGE, value));
        }
        (answer, headers)
    }
}

/// First and last octet of the one range that `text` asks for; `Some(None)` where the file has
/// no such octets, `None` where the header is to be ignored.
fn range(text: &str, whole: usize) -> Option<Option<(usize, usize)>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        // A number that is too large for us is too large for the file.
        digits.then(|| text.parse::<usize>().unwrap_or(usize::MAX))
    };
    let (first, last) = text.trim().strip_prefix("bytes=")?.trim().split_once('-')?;
    let end = whole.checked_sub(1);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => None,
        (Some(first), Some(last)) => {
            let end = end.filter(|end| first <= *end);
            Some(end.map(|end| (first, last.min(end))))
        }
        (Some(first), None) if last.is_empty() => {
            Some(end.filter(|end| first <= *end).map(|end| (first, end)))
        }
        (None, Some(length)) if first.is_empty() => {
            let end = end.filter(|_| length > 0);
            Some(end.map(|end| (whole.saturating_sub(length), end)))
        }
        _ => None,
    }
}

/// A header's date; one that cannot be read is as good as none.
fn date(value: Option<&HeaderValue>) -> Option<UnixTime> {
    date::read(value?.to_str().ok()?)
}

/// Which of our three forms an `Accept` header would rather have; JSON where it names none.
fn preferred(accept: &str) -> &'static str {
    let mut best = (0.0, JSON);
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default() {
            YAML => YAML,
            PROTOBUF => PROTOBUF,
            JSON | "application/*" | "*/*" => JSON,
            _ => continue,
        };
        let weight = parts.find_map(|it| it.strip_prefix("q="));
        let weight: f32 = weight.and_then(|it| it.parse().ok()).unwrap_or(1.0);
        if weight > best.0 {
            best = (weight, form);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (text, expected) in [
            ("bytes=0-9", Some(Some((0, 9)))),
            ("bytes=90-", Some(Some((90, 99)))),
            ("bytes=90-200", Some(Some((90, 99)))),
            ("bytes=-10", Some(Some((90, 99)))),
            ("bytes=-1000", Some(Some((0, 99)))),
            ("bytes=99999999999999999999-", Some(None)),
            ("bytes=100-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=9-0", None),
            ("bytes=0-1,5-6", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(range(text, 100), expected, "{text}");
        }
        assert_eq!(range("bytes=0-", 0), Some(None));
    }

    #[test]
    fn a_header_that_is_not_there_has_no_date() {
        let header = HeaderValue::from_static("Sun, 22 Nov 2026 06:48:38 GMT");
        assert_eq!(
            date(Some(&header)),
            Some(UnixTime::from_secs(1_795_330_118))
        );
        assert_eq!(date(None), None);
    }

    #[test]
    fn the_heaviest_form_wins_and_json_where_none_is_ours() {
        for (accept, form) in [
            ("", JSON),
            ("*/*", JSON),
            ("text/html", JSON),
            (YAML, YAML),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                PROTOBUF,
            ),
            ("application/json;q=0.5, application/yaml;q=0.8", YAML),
            ("application/yaml;q=0", JSON),
            ("text/html, application/yaml;q=nonsense", YAML),
        ] {
            assert_eq!(preferred(accept), form, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_wished_the_file_stays_itself(
            text in "(bytes=)?[0-9,-]{0,12}",
            since in "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT|\\PC{0,30}",
            whole in 0usize..40,
        ) {
            let body: Vec<u8> = (0u8..).take(whole).collect();
            let modified = UnixTime::from_secs(1_795_330_118);
            let header = |text: &str| HeaderValue::from_str(text).ok();
            let wishes = Wishes {
                range: header(&text),
                modified_since: header(&since),
                ..Wishes::default()
            };
            let file = Answer { modified: Some(modified), ..Answer::ok("text/plain", body.clone()) };
            let (answer, _) = wishes.meet(file);
            match answer.code {
                200 => prop_assert_eq!(answer.body, body),
                206 => prop_assert!(body.windows(answer.body.len()).any(|it| it == answer.body)),
                304 | 416 => prop_assert_eq!(answer.body, Vec::<u8>::new()),
                code => prop_assert!(false, "{}", code),
            }
        }
    }
}
