//! JSON that is written back as Go writes it.
//!
//! The state file holds private keys and keys of newer releases, so it is kept as a tree of its
//! own: text is wiped when dropped, numbers stay as they were written, and unknown keys stay in
//! their place.

mod parse;
mod write;

use std::fmt;

use zeroize::Zeroizing;

pub use parse::{JsonError, parse};

/// A JSON value; an object's keys keep their order.
#[derive(Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as written.
    Number(String),
    /// Text; it may be a private key.
    Text(Zeroizing<String>),
    /// `[…]`.
    List(Vec<Json>),
    /// `{…}`.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Text.
    pub fn text(text: &str) -> Self {
        Self::Text(Zeroizing::new(text.to_owned()))
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The value of `key`; `None` when absent, when null, and in what is no object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let pairs = self.pairs()?;
        let (_, value) = pairs.iter().find(|(name, _)| name == key)?;
        (*value != Self::Null).then_some(value)
    }

    /// The text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn items(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// Keys and values in order, if it is an object.
    pub fn pairs(&self) -> Option<&[(String, Self)]> {
        match self {
            Self::Object(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// Indented by two spaces, as `json.MarshalIndent(…, "", "  ")`: no LF at the end, `<`, `>`,
    /// `&`, U+2028 and U+2029 escaped.
    pub fn pretty(&self) -> Zeroizing<Vec<u8>> {
        write::write(self, true)
    }

    /// On one line, as `json.Marshal`.
    pub fn compact(&self) -> Zeroizing<Vec<u8>> {
        write::write(self, false)
    }

    /// Sets `key` where it is, or else before the first key that `order` has after it, or else at
    /// the end. What is no object becomes one.
    pub(super) fn set(&mut self, key: &str, value: Self, order: &[&str]) {
        if !matches!(self, Self::Object(_)) {
            *self = Self::Object(Vec::new());
        }
        let Self::Object(pairs) = self else { return };
        if let Some((_, present)) = pairs.iter_mut().find(|(name, _)| name == key) {
            *present = value;
            return;
        }
        let rank = |name: &str| order.iter().position(|known| *known == name);
        let wanted = rank(key);
        let at = pairs
            .iter()
            .position(|(name, _)| wanted.is_some() && rank(name) > wanted)
            .unwrap_or(pairs.len());
        pairs.insert(at, (key.to_owned(), value));
    }

    /// Changes the value of `key`, made an empty object where it is absent or null.
    pub(super) fn edit(&mut self, key: &str, order: &[&str], change: impl FnOnce(&mut Self)) {
        let present = match self {
            Self::Object(pairs) => pairs.iter_mut().find(|(name, _)| name == key),
            _ => None,
        };
        let mut value = match present {
            Some((_, value)) => std::mem::replace(value, Self::Null),
            None => Self::Null,
        };
        if value == Self::Null {
            value = Self::Object(Vec::new());
        }
        change(&mut value);
        self.set(key, value, order);
    }

    /// Removes `key`.
    pub(super) fn remove(&mut self, key: &str) -> Option<Self> {
        let Self::Object(pairs) = self else {
            return None;
        };
        let at = pairs.iter().position(|(name, _)| name == key)?;
        Some(pairs.remove(at).1)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}
