//! A file of flags in K3s's spelling of `config.yaml`, read whole: nothing is passed over.

use std::fmt;

use zeroize::Zeroizing;

use super::config::ConfigError;
use super::layer::as_k3s_reads;
use crate::yaml::{Content, Document};

/// One flag of a file.
pub struct FlagLine {
    /// Its long name, without dashes and without the `+` of lists that add.
    pub name: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its values as K3s reads them; secrets are among them.
    pub values: Vec<Zeroizing<String>>,
}

impl fmt::Debug for FlagLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlagLine({} at line {})", self.name, self.line)
    }
}

/// Reads a mapping of flag names to texts or lists of texts, in the order of the file.
///
/// # Errors
///
/// Text that is no such mapping, a flag that stands there twice: each with `path` and line.
pub fn flag_lines(path: &str, bytes: &[u8]) -> Result<Vec<FlagLine>, ConfigError> {
    let malformed = |line: usize, detail: String| ConfigError::Malformed {
        at: match line {
            0 => path.to_owned(),
            line => format!("{path}:{line}"),
        },
        detail,
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let document = match Document::parse(bytes) {
        Ok(document) => document,
        // Nothing but comments.
        Err(error) if error.line == 0 && error.detail == "empty" => return Ok(Vec::new()),
        Err(error) => return Err(malformed(error.line, error.detail)),
    };
    let root = &document.root;
    let Content::Map(pairs) = &root.content else {
        if root.is_null() {
            return Ok(Vec::new());
        }
        let detail = format!("{}, not a mapping of flags", root.kind());
        return Err(malformed(root.line, detail));
    };
    let mut found: Vec<FlagLine> = Vec::new();
    for (key, value) in pairs {
        let Some(name) = key.text() else {
            return Err(malformed(key.line, "a flag's name is text".to_owned()));
        };
        let name = name.strip_suffix('+').unwrap_or(name).to_owned();
        if let Some(before) = found.iter().find(|it| it.name == name) {
            let detail = format!("{name} stands in line {} already", before.line);
            return Err(malformed(key.line, detail));
        }
        let value = document.resolve(value);
        let items = match &value.content {
            Content::List(items) => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let mut values = Vec::new();
        for item in items {
            let item = document.resolve(item);
            let text = as_k3s_reads(item).ok_or_else(|| {
                malformed(item.line, format!("{name} is {}, not text", item.kind()))
            })?;
            values.push(Zeroizing::new(text));
        }
        found.push(FlagLine {
            name,
            line: key.line,
            values,
        });
    }
    Ok(found)
}
