//! What is wrong with a `cluster.yml`.

use std::fmt;

/// A configuration that RKE, or we, cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where RKE finds it.
    pub stage: Stage,
    /// Line of the file, from 1, if one is to blame.
    pub line: Option<usize>,
    /// `nodes[0].role`; empty for the whole.
    pub place: String,
    /// What is wrong: RKE's words where it has any.
    pub message: String,
    /// What to do about it.
    pub advice: Option<&'static str>,
}

/// The part of RKE's start that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the text.
    Parse,
    /// Looking at the values.
    Validate,
}

impl ConfigError {
    /// The line that RKE ends with: `Failed to validate cluster: …`.
    pub fn rke_text(&self) -> String {
        let stage = match self.stage {
            Stage::Parse => "Failed to parse cluster file",
            Stage::Validate => "Failed to validate cluster",
        };
        match (self.stage, self.line) {
            (Stage::Parse, Some(line)) => format!("{stage}: line {line}: {}", self.message),
            _ => format!("{stage}: {}", self.message),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: ")?,
            None if !self.message.starts_with(&self.place) => write!(f, "{}: ", self.place)?,
            None => {}
        }
        f.write_str(&self.message)?;
        match self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}
