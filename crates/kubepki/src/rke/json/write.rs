//! JSON as Go's encoder writes it.

use zeroize::Zeroizing;

use super::Json;

/// The bytes, in a buffer that never grows: one that moved would leave a copy of a key behind.
pub(super) fn write(value: &Json, pretty: bool) -> Zeroizing<Vec<u8>> {
    let mut length = Length(0);
    put(value, pretty.then_some(0), &mut length);
    let mut out = Zeroizing::new(Vec::with_capacity(length.0));
    put(value, pretty.then_some(0), &mut *out);
    out
}

trait Sink {
    fn put(&mut self, text: &str);
}

struct Length(usize);

impl Sink for Length {
    fn put(&mut self, text: &str) {
        self.0 += text.len();
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

/// `depth` is the number of indents; `None` writes on one line.
fn put(value: &Json, depth: Option<usize>, out: &mut impl Sink) {
    match value {
        Json::Null => out.put("null"),
        Json::Bool(true) => out.put("true"),
        Json::Bool(false) => out.put("false"),
        Json::Number(digits) => out.put(digits),
        Json::Text(text) => quoted(text, out),
        Json::List(items) if items.is_empty() => out.put("[]"),
        Json::List(items) => {
            let deeper = depth.map(|depth| depth + 1);
            for (index, item) in items.iter().enumerate() {
                out.put(if index == 0 { "[" } else { "," });
                line(deeper, out);
                put(item, deeper, out);
            }
            line(depth, out);
            out.put("]");
        }
        Json::Object(pairs) if pairs.is_empty() => out.put("{}"),
        Json::Object(pairs) => {
            let deeper = depth.map(|depth| depth + 1);
            for (index, (key, item)) in pairs.iter().enumerate() {
                out.put(if index == 0 { "{" } else { "," });
                line(deeper, out);
                quoted(key, out);
                out.put(if depth.is_some() { ": " } else { ":" });
                put(item, deeper, out);
            }
            line(depth, out);
            out.put("}");
        }
    }
}

fn line(depth: Option<usize>, out: &mut impl Sink) {
    if let Some(depth) = depth {
        out.put("\n");
        for _ in 0..depth {
            out.put("  ");
        }
    }
}

fn quoted(text: &str, out: &mut impl Sink) {
    out.put("\"");
    let mut rest = text;
    while let Some((at, special)) = rest.char_indices().find(|(_, c)| must_escape(*c)) {
        let (plain, tail) = rest.split_at(at);
        out.put(plain);
        escape(special, out);
        rest = tail.get(special.len_utf8()..).unwrap_or_default();
    }
    out.put(rest);
    out.put("\"");
}

fn must_escape(c: char) -> bool {
    c < ' ' || matches!(c, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

fn escape(c: char, out: &mut impl Sink) {
    match c {
        '"' => out.put("\\\""),
        '\\' => out.put("\\\\"),
        '\n' => out.put("\\n"),
        '\r' => out.put("\\r"),
        '\t' => out.put("\\t"),
        // Go writes these two so since 1.22, which RKE 1.6 was built with.
        '\u{8}' => out.put("\\b"),
        '\u{c}' => out.put("\\f"),
        other => out.put(&format!("\\u{:04x}", u32::from(other))),
    }
}
