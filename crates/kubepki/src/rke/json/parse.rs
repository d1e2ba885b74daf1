//! Reading JSON (RFC 8259) with the place of what is wrong.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::Json;

/// How deep values may be nested; a state file needs ten.
const DEPTH: usize = 200;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {detail}")]
pub struct JsonError {
    /// From 1.
    pub line: usize,
    /// Characters from 1.
    pub column: usize,
    /// What is wrong; never a part of the text, which may be a key.
    pub detail: String,
}

/// Reads one value that fills the whole of `bytes`.
///
/// As in Go, the last of several equal keys counts, and half of a surrogate pair becomes U+FFFD.
///
/// # Errors
///
/// What RFC 8259 does not allow, text that is not UTF-8, and nesting over 200 levels.
pub fn parse(bytes: &[u8]) -> Result<Json, JsonError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| at(bytes, error.valid_up_to(), "not UTF-8".to_owned()))?;
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let value = parser.value()?;
    parser.blank();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.error("more text after the end of the value".to_owned())),
    }
}

fn at(bytes: &[u8], offset: usize, detail: String) -> JsonError {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n');
    let last = before
        .get(start.map_or(0, |feed| feed + 1)..)
        .unwrap_or(&[]);
    // Every byte that does not continue a character begins one.
    let column = last.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
    JsonError {
        line,
        column,
        detail,
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, detail: String) -> JsonError {
        at(self.text.as_bytes(), self.at, detail)
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expected(&self, what: &str) -> JsonError {
        match self.rest().chars().next() {
            None => self.error(format!("the text ends where {what} is expected")),
            Some(found) => self.error(format!("{found:?} where {what} is expected")),
        }
    }

    fn value(&mut self) -> Result<Json, JsonError> {
        self.blank();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, JsonError> {
        if !self.rest().starts_with(word) {
            return Err(self.error(format!("not a value; did you mean {word}?")));
        }
        self.at += word.len();
        Ok(value)
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Json, JsonError>,
    ) -> Result<Json, JsonError> {
        if self.depth == DEPTH {
            return Err(self.error(format!("nested deeper than {DEPTH} levels")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Json, JsonError> {
        let mut items = Vec::new();
        self.blank();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value()?);
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.expected("',' or ']'")),
            }
        }
        self.at += 1;
        Ok(Json::List(items))
    }

    fn object(&mut self) -> Result<Json, JsonError> {
        let mut pairs: Vec<(String, Json)> = Vec::new();
        let mut places = BTreeMap::new();
        self.blank();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(pairs));
        }
        loop {
            self.blank();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in quotes"));
            }
            let key = String::clone(&*self.string()?);
            self.blank();
            if self.peek() != Some(b':') {
                return Err(self.expected("':'"));
            }
            self.at += 1;
            let value = self.value()?;
            match places.get(&key).and_then(|place| pairs.get_mut(*place)) {
                Some((_, earlier)) => *earlier = value,
                None => {
                    places.insert(key.clone(), pairs.len());
                    pairs.push((key, value));
                }
            }
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.expected("',' or '}'")),
            }
        }
        self.at += 1;
        Ok(Json::Object(pairs))
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.expected("a digit")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        Ok(Json::Number(digits.to_owned()))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        self.digits();
        Ok(())
    }

    /// The text in quotes at this place, in a buffer that never grows.
    fn string(&mut self) -> Result<Zeroizing<String>, JsonError> {
        let start = self.at + 1;
        let end = self.closing_quote()?;
        let raw = self.text.get(start..end).unwrap_or_default();
        // No escape is shorter than what it stands for.
        let mut text = Zeroizing::new(String::with_capacity(raw.len()));
        self.at = start;
        while self.at < end {
            let raw = self.text.get(self.at..end).unwrap_or_default();
            let plain = raw.find('\\').unwrap_or(raw.len());
            text.push_str(raw.get(..plain).unwrap_or_default());
            self.at += plain;
            if self.at < end {
                text.push(self.escape()?);
            }
        }
        self.at = end + 1;
        Ok(text)
    }

    fn closing_quote(&self) -> Result<usize, JsonError> {
        let bytes = self.text.as_bytes();
        let mut place = self.at + 1;
        loop {
            match bytes.get(place) {
                None => {
                    return Err(
                        self.error("the text in quotes that begins here does not end".to_owned())
                    );
                }
                Some(b'"') => return Ok(place),
                Some(b'\\') => place += 2,
                Some(0..=0x1f) => {
                    let detail = "a control character inside quotes; write it as an escape";
                    return Err(at(bytes, place, detail.to_owned()));
                }
                Some(_) => place += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let kind = self.text.as_bytes().get(self.at + 1).copied();
        let plain = match kind {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.error("no such escape".to_owned())),
        };
        self.at += 2;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        let first = self.unit(self.at)?;
        self.at += 6;
        if !(0xd800..0xe000).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let paired = first < 0xdc00 && self.rest().starts_with("\\u");
        if let Some(second) = paired.then(|| self.unit(self.at)).transpose()?
            && (0xdc00..0xe000).contains(&second)
        {
            self.at += 6;
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    /// The number of the `\uXXXX` at `place`.
    fn unit(&self, place: usize) -> Result<u32, JsonError> {
        self.text
            .get(place + 2..place + 6)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("\\u needs four hexadecimal digits".to_owned()))
    }
}
