//! YAML as a tree that remembers where every value stands in the text.
//!
//! Kubeconfigs and K3s's configuration are edited and quoted by place, so a deserializer that
//! only hands out values is not enough. JSON is read by the same code: it is a subset of YAML 1.2.
//! Anchors are kept as references and never expanded, so a small file cannot become a large tree.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Span, options};
use zeroize::Zeroize;

/// The largest text that is read, in bytes. Kubeconfigs of hundreds of clusters stay below it.
pub(crate) const LIMIT: usize = 8 << 20;

/// How many mappings a look-up goes through by merge keys. Real files need two.
const MERGES: usize = 64;

/// What is wrong with a text, and on which line (from 1; 0 where no line is to blame).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct YamlError {
    pub(crate) line: usize,
    pub(crate) detail: String,
}

/// One parsed document.
pub(crate) struct Document<'a> {
    pub(crate) text: &'a str,
    pub(crate) root: Rc<Node<'a>>,
    anchors: BTreeMap<usize, Rc<Node<'a>>>,
    aliased: BTreeSet<usize>,
}

/// A value and its place.
pub(crate) struct Node<'a> {
    /// From 1.
    pub(crate) line: usize,
    /// Bytes of a scalar in the text, quotes included; a collection's is its opening only.
    pub(crate) span: Range<usize>,
    /// The anchor that it carries; 0 for none.
    pub(crate) anchor: usize,
    /// A tag other than `!!str`, as written.
    pub(crate) tag: Option<String>,
    pub(crate) content: Content<'a>,
}

/// What a value is.
pub(crate) enum Content<'a> {
    Scalar(Text<'a>, ScalarStyle),
    List(Vec<Rc<Node<'a>>>),
    Map(Vec<(Rc<Node<'a>>, Rc<Node<'a>>)>),
    /// A reference to an anchor.
    Alias(usize),
}

/// A scalar's text, wiped when it was copied out of the input: it may be a key.
pub(crate) struct Text<'a>(Cow<'a, str>);

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            text.zeroize();
        }
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}", self.kind(), self.line)
    }
}

impl<'a> Node<'a> {
    /// What stands for a mapping that is not written.
    pub(crate) fn empty_map(line: usize) -> Self {
        let content = Content::Map(Vec::new());
        Self {
            line,
            span: 0..0,
            anchor: 0,
            tag: None,
            content,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar(..) if self.is_null() => "nothing",
            Content::Scalar(..) => "text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
            Content::Alias(_) => "an alias",
        }
    }

    /// A scalar's text; `None` for collections, aliases and null.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(text, _) if !self.is_null() => Some(&text.0),
            _ => None,
        }
    }

    /// An absent value: written as nothing, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        match &self.content {
            Content::Scalar(text, ScalarStyle::Plain) => {
                self.span.is_empty() || matches!(&*text.0, "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }
}

impl<'a> Document<'a> {
    /// Reads the only document of `bytes`; a byte order mark is skipped.
    ///
    /// # Errors
    ///
    /// Text over [`LIMIT`], not UTF-8, not YAML, with a second document or a key given twice.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, YamlError> {
        Self::read(bytes, Builder::default())
    }

    /// The same where a key may be given again, as Go's yaml.v2 reads it when it is not strict:
    /// the last one counts.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`] otherwise.
    pub(crate) fn parse_as_go(bytes: &'a [u8]) -> Result<Self, YamlError> {
        let builder = Builder {
            repeats: true,
            ..Builder::default()
        };
        Self::read(bytes, builder)
    }

    fn read(bytes: &'a [u8], mut builder: Builder<'a>) -> Result<Self, YamlError> {
        let nowhere = |detail: String| YamlError { line: 0, detail };
        if bytes.len() > LIMIT {
            return Err(nowhere(format!(
                "{} bytes; at most {LIMIT} are read",
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            YamlError {
                line,
                detail: "not UTF-8".to_owned(),
            }
        })?;
        let settings =
            options! { emit_comments: false, flow_nesting_limit: 64, block_nesting_limit: 64 };
        for next in Parser::new_from_str_with_options(text, settings) {
            let (event, span) = next.map_err(|error| YamlError {
                line: error.marker().line(),
                detail: error.kind().to_string(),
            })?;
            builder.take(event, &span)?;
        }
        let Builder {
            root,
            anchors,
            aliased,
            ..
        } = builder;
        let root = root.ok_or_else(|| nowhere("empty".to_owned()))?;
        Ok(Self {
            text,
            root,
            anchors,
            aliased,
        })
    }

    /// The node itself, or what an alias stands for.
    pub(crate) fn resolve<'n>(&'n self, node: &'n Rc<Node<'a>>) -> &'n Rc<Node<'a>> {
        // An anchor's node is never itself an alias, so one step is enough.
        match &node.content {
            Content::Alias(id) => self.anchors.get(id).unwrap_or(node),
            _ => node,
        }
    }

    /// The value of `key` in the mapping `node`, through aliases and merge keys (`<<`), as Go's
    /// YAML reader finds it.
    pub(crate) fn get<'n>(&'n self, node: &'n Rc<Node<'a>>, key: &str) -> Option<&'n Rc<Node<'a>>> {
        let mut budget = MERGES;
        self.get_within(node, key, &mut budget)
    }

    /// `budget` counts the mappings that may still be looked into: merge keys that name each other
    /// many times over would otherwise multiply.
    fn get_within<'n>(
        &'n self,
        node: &'n Rc<Node<'a>>,
        key: &str,
        budget: &mut usize,
    ) -> Option<&'n Rc<Node<'a>>> {
        *budget = budget.checked_sub(1)?;
        let Content::Map(pairs) = &self.resolve(node).content else {
            return None;
        };
        if let Some(value) = own(pairs, key) {
            return Some(self.resolve(value));
        }
        let merged = self.resolve(own(pairs, "<<")?);
        match &merged.content {
            Content::List(items) => items
                .iter()
                .find_map(|item| self.get_within(item, key, budget)),
            _ => self.get_within(merged, key, budget),
        }
    }

    /// The items of the list `key` in the mapping `node`; none if it is absent or null.
    pub(crate) fn items<'n>(
        &'n self,
        node: &'n Rc<Node<'a>>,
        key: &str,
    ) -> Result<&'n [Rc<Node<'a>>], YamlError> {
        match self.get(node, key) {
            None => Ok(&[]),
            Some(list) if list.is_null() => Ok(&[]),
            Some(list) => match &list.content {
                Content::List(items) => Ok(items),
                _ => Err(YamlError {
                    line: list.line,
                    detail: format!("{key} is {}, not a list", list.kind()),
                }),
            },
        }
    }

    /// The text of `key` in the mapping `node` with its node; `None` if absent or null.
    pub(crate) fn text_of<'n>(
        &'n self,
        node: &'n Rc<Node<'a>>,
        key: &str,
    ) -> Result<Option<(&'n str, &'n Node<'a>)>, YamlError> {
        match self.get(node, key) {
            None => Ok(None),
            Some(value) if value.is_null() => Ok(None),
            Some(value) => match value.text() {
                Some(text) => Ok(Some((text, value))),
                None => Err(YamlError {
                    line: value.line,
                    detail: format!("{key} is {}, not text", value.kind()),
                }),
            },
        }
    }

    /// Whether something else in the document refers to this node's anchor.
    pub(crate) fn is_shared(&self, node: &Node<'a>) -> bool {
        self.aliased.contains(&node.anchor)
    }
}

/// The value of `key` in a mapping's own pairs: the last, where keys are given again.
pub(crate) fn own<'n, 'a>(
    pairs: &'n [(Rc<Node<'a>>, Rc<Node<'a>>)],
    key: &str,
) -> Option<&'n Rc<Node<'a>>> {
    pairs
        .iter()
        .rfind(|(name, _)| name.text() == Some(key))
        .map(|(_, value)| value)
}

#[derive(Default)]
struct Builder<'a> {
    root: Option<Rc<Node<'a>>>,
    open: Vec<Open<'a>>,
    anchors: BTreeMap<usize, Rc<Node<'a>>>,
    aliased: BTreeSet<usize>,
    /// Whether keys may be given again.
    repeats: bool,
}

struct Open<'a> {
    node: Node<'a>,
    /// A mapping's key that waits for its value.
    key: Option<Rc<Node<'a>>>,
    keys: BTreeSet<String>,
}

impl<'a> Builder<'a> {
    fn take(&mut self, event: Event<'a>, span: &Span) -> Result<(), YamlError> {
        let line = span.start.line();
        let node = |anchor, tag: Option<String>, content| Node {
            line,
            span: span.byte_range().unwrap_or_default(),
            anchor,
            tag,
            content,
        };
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(YamlError {
                line,
                detail: "a second document starts here; one is expected".to_owned(),
            }),
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.filter(|tag| !tag.is_yaml_core_schema_tag("str"));
                let tag = tag.map(|tag| tag.to_string());
                self.close(node(anchor, tag, Content::Scalar(Text(text), style)))
            }
            Event::Alias(id) => {
                // A node that holds itself has no finished form.
                if self.open.iter().any(|open| open.node.anchor == id) {
                    return Err(YamlError {
                        line,
                        detail: "an alias inside its own anchor".to_owned(),
                    });
                }
                self.aliased.insert(id);
                self.close(node(0, None, Content::Alias(id)))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(node(
                    anchor,
                    tag.map(|t| t.to_string()),
                    Content::List(Vec::new()),
                ));
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(node(
                    anchor,
                    tag.map(|t| t.to_string()),
                    Content::Map(Vec::new()),
                ));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.close(open.node),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, node: Node<'a>) {
        self.open.push(Open {
            node,
            key: None,
            keys: BTreeSet::new(),
        });
    }

    /// Puts a finished node where it belongs.
    fn close(&mut self, node: Node<'a>) -> Result<(), YamlError> {
        let node = Rc::new(node);
        if node.anchor != 0 {
            self.anchors.insert(node.anchor, Rc::clone(&node));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.node.content {
            Content::List(items) => items.push(node),
            Content::Map(pairs) => match parent.key.take() {
                Some(key) => pairs.push((key, node)),
                None => {
                    if let Some(text) = node.text()
                        && !self.repeats
                        && !parent.keys.insert(text.to_owned())
                    {
                        return Err(YamlError {
                            line: node.line,
                            detail: format!("the key {text:?} is given a second time"),
                        });
                    }
                    parent.key = Some(node);
                }
            },
            Content::Scalar(..) | Content::Alias(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_keys_that_multiply_come_to_an_end() {
        let mut text = "m0: &m0 {x: 1}\n".to_owned();
        for level in 1..20 {
            let below = vec![format!("*m{}", level - 1); 50].join(", ");
            text += &format!("m{level}: &m{level} {{<<: [{below}]}}\n");
        }
        let document = Document::parse(text.as_bytes()).unwrap();
        let top = document.get(&document.root, "m19").unwrap();
        assert!(document.get(top, "absent").is_none());
        let first = document.get(&document.root, "m1").unwrap();
        assert_eq!(document.get(first, "x").unwrap().text(), Some("1"));
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let text = "[".repeat(100_000);
        assert_eq!(
            Document::parse(text.as_bytes())
                .map(|_| ())
                .unwrap_err()
                .line,
            1
        );
        let text = "- ".repeat(100_000);
        assert_eq!(
            Document::parse(text.as_bytes())
                .map(|_| ())
                .unwrap_err()
                .line,
            1
        );
    }
}
