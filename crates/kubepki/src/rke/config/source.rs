//! One way to ask a `cluster.yml` and a state file's `rkeConfig` for the same values.

use std::rc::Rc;

use granit_parser::ScalarStyle;

use super::error::{ConfigError, Stage};
use crate::rke::{Json, Secret};
use crate::yaml::{Content, Document, Node};

/// A value with the way to it. Keys are given as `cluster.yml` spells them.
#[derive(Clone)]
pub(super) struct Value<'n> {
    from: From<'n>,
    place: String,
}

#[derive(Clone, Copy)]
enum From<'n> {
    Yaml(&'n Document<'n>, &'n Rc<Node<'n>>),
    Json(&'n Json),
}

impl<'n> Value<'n> {
    pub(super) fn yaml(document: &'n Document<'n>) -> Self {
        Self {
            from: From::Yaml(document, document.resolve(&document.root)),
            place: String::new(),
        }
    }

    pub(super) fn json(value: &'n Json) -> Self {
        Self {
            from: From::Json(value),
            place: "rkeConfig".to_owned(),
        }
    }

    /// Where it is, for people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Its line, in YAML.
    pub(super) fn line(&self) -> Option<usize> {
        match self.from {
            From::Yaml(_, node) => Some(node.line),
            From::Json(_) => None,
        }
    }

    /// The value of `key`; `None` when absent or null.
    ///
    /// # Errors
    ///
    /// When this is no mapping.
    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        let below = |from, key: &str| Self {
            from,
            place: match self.place.is_empty() {
                true => key.to_owned(),
                false => format!("{}.{key}", self.place),
            },
        };
        match self.from {
            From::Yaml(document, node) => match node.content {
                Content::Map(_) => Ok(document
                    .get(node, key)
                    .filter(|value| !value.is_null())
                    .map(|value| below(From::Yaml(document, value), key))),
                _ => Err(self.wrong("a mapping")),
            },
            From::Json(value @ Json::Object(_)) => {
                let key = json_spelling(key);
                Ok(value.get(&key).map(|value| below(From::Json(value), &key)))
            }
            From::Json(_) => Err(self.wrong("an object")),
        }
    }

    /// The value at the end of a path; `None` when something on it is absent.
    pub(super) fn at(&self, path: &[&str]) -> Result<Option<Self>, ConfigError> {
        let mut value = self.clone();
        for key in path {
            match value.get(key)? {
                Some(next) => value = next,
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }

    /// The items of the list `key`; none when it is absent.
    pub(super) fn list(&self, path: &[&str]) -> Result<Vec<Self>, ConfigError> {
        let Some(list) = self.at(path)? else {
            return Ok(Vec::new());
        };
        let item = |index: usize, from| Self {
            from,
            place: format!("{}[{index}]", list.place),
        };
        match list.from {
            From::Yaml(document, node) => match &node.content {
                Content::List(items) => Ok(items
                    .iter()
                    .enumerate()
                    .map(|(at, node)| item(at, From::Yaml(document, document.resolve(node))))
                    .collect()),
                _ => Err(list.wrong("a list")),
            },
            From::Json(Json::List(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(at, value)| item(at, From::Json(value)))
                .collect()),
            From::Json(_) => Err(list.wrong("a list")),
        }
    }

    /// The texts of a list.
    pub(super) fn texts(&self, path: &[&str]) -> Result<Vec<String>, ConfigError> {
        let items = self.list(path)?;
        items.iter().map(Self::text).collect()
    }

    /// The text at the end of a path; empty where it is absent, as in Go.
    pub(super) fn text_at(&self, path: &[&str]) -> Result<String, ConfigError> {
        self.at(path)?
            .map_or_else(|| Ok(String::new()), |value| value.text())
    }

    /// The same, `None` where it is empty.
    pub(super) fn some_text(&self, path: &[&str]) -> Result<Option<String>, ConfigError> {
        Ok(Some(self.text_at(path)?).filter(|text| !text.is_empty()))
    }

    /// The same for what must not be shown.
    pub(super) fn some_secret(&self, path: &[&str]) -> Result<Option<Secret>, ConfigError> {
        let Some(value) = self.at(path)? else {
            return Ok(None);
        };
        let text = Secret::from(value.str()?);
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Every text in the values of a mapping, lists of texts among them.
    pub(super) fn leaves(&self) -> Vec<&'n str> {
        let mut found = Vec::new();
        match self.from {
            From::Yaml(document, node) => {
                if let Content::Map(pairs) = &node.content {
                    for (_, value) in pairs {
                        let value = document.resolve(value);
                        match &value.content {
                            Content::List(items) => {
                                let items = items.iter().map(|item| document.resolve(item));
                                found.extend(items.filter_map(|item| item.text()));
                            }
                            _ => found.extend(value.text()),
                        }
                    }
                }
            }
            From::Json(value) => {
                for (_, value) in value.pairs().unwrap_or_default() {
                    let items = value.items().unwrap_or(std::slice::from_ref(value));
                    found.extend(items.iter().filter_map(Json::as_text));
                }
            }
        }
        found
    }

    /// True or false at the end of a path; false where it is absent.
    pub(super) fn flag(&self, path: &[&str]) -> Result<bool, ConfigError> {
        let Some(value) = self.at(path)? else {
            return Ok(false);
        };
        let found = match value.from {
            From::Json(Json::Bool(flag)) => Some(*flag),
            From::Json(_) => None,
            From::Yaml(_, node) => plain(node).and_then(yaml_flag),
        };
        found.ok_or_else(|| value.wrong("true or false"))
    }

    /// A number of 32 bits at the end of a path; 0 where it is absent.
    pub(super) fn number(&self, path: &[&str]) -> Result<u32, ConfigError> {
        let Some(value) = self.at(path)? else {
            return Ok(0);
        };
        let found = match value.from {
            From::Json(Json::Number(digits)) => digits.parse().ok(),
            From::Json(_) => None,
            From::Yaml(_, node) => plain(node).and_then(yaml_number),
        };
        found.ok_or_else(|| value.wrong("a number of 32 bits"))
    }

    /// Whether it is this text.
    pub(super) fn is_text(&self, text: &str) -> bool {
        self.str().is_ok_and(|found| found == text)
    }

    fn text(&self) -> Result<String, ConfigError> {
        self.str().map(str::to_owned)
    }

    /// Any scalar is text to Go's YAML reader, `22` too.
    fn str(&self) -> Result<&'n str, ConfigError> {
        match self.from {
            From::Yaml(_, node) if node.is_null() => Ok(""),
            From::Yaml(_, node) => node.text().ok_or_else(|| self.wrong("text")),
            From::Json(Json::Null) => Ok(""),
            From::Json(Json::Text(text)) => Ok(text),
            From::Json(_) => Err(self.wrong("text")),
        }
    }

    fn wrong(&self, wanted: &str) -> ConfigError {
        let found = match self.from {
            From::Yaml(_, node) => node.kind(),
            From::Json(value) => value.kind(),
        };
        let place = match self.place.is_empty() {
            true => "the file",
            false => &self.place,
        };
        ConfigError {
            stage: Stage::Parse,
            line: self.line(),
            place: self.place.clone(),
            message: format!("{place} is {found}, not {wanted}"),
            advice: None,
        }
    }
}

fn plain<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.content {
        Content::Scalar(_, ScalarStyle::Plain) => node.text(),
        _ => None,
    }
}

/// What yaml.v2 takes for true and false: the words of YAML 1.1.
fn yaml_flag(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(false)
        }
        _ => None,
    }
}

/// What yaml.v2 takes for a whole number: Go's forms, underscores allowed.
fn yaml_number(text: &str) -> Option<u32> {
    let digits = text.replace('_', "");
    let radix = |prefix: &str, radix| {
        let rest = digits.strip_prefix(prefix)?;
        u32::from_str_radix(rest, radix).ok()
    };
    radix("0x", 16)
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0o", 8))
        .or_else(|| radix("0", 8))
        .or_else(|| digits.parse().ok())
}

/// A key of `cluster.yml` as the state file spells it: `kube-api` is `kubeApi`.
fn json_spelling(key: &str) -> String {
    if key == "cacertificates" {
        return "caCertificates".to_owned();
    }
    let mut words = key.split(['_', '-']);
    let mut spelled = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        spelled.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        spelled.push_str(letters.as_str());
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelled_as_in_either_file() {
        for (yaml, json) in [
            ("nodes", "nodes"),
            ("internal_address", "internalAddress"),
            ("service_cluster_ip_range", "serviceClusterIpRange"),
            ("kube-api", "kubeApi"),
            ("generate_serving_certificate", "generateServingCertificate"),
            ("ssh_key_path", "sshKeyPath"),
            ("cacertificates", "caCertificates"),
        ] {
            assert_eq!(json_spelling(yaml), json);
        }
    }

    #[test]
    fn numbers_and_flags_are_those_of_yaml_1_1() {
        assert_eq!(yaml_number("1000"), Some(1000));
        assert_eq!(yaml_number("0x10"), Some(16));
        assert_eq!(yaml_number("010"), Some(8));
        assert_eq!(yaml_number("0"), Some(0));
        assert_eq!(yaml_number("1_000"), Some(1000));
        assert_eq!(yaml_number("-1"), None);
        assert_eq!(yaml_number("many"), None);
        assert_eq!(yaml_flag("yes"), Some(true));
        assert_eq!(yaml_flag("Off"), Some(false));
        assert_eq!(yaml_flag("tRue"), None);
    }
}
