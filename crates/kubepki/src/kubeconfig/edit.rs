//! A user's certificate and key replaced in the text of a kubeconfig.

use std::ops::Range;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::ScalarStyle;
use pki::{Certificate, PrivateKey};
use zeroize::Zeroizing;

use super::parse::{entry, read};
use super::{Cluster, Kubeconfig, KubeconfigError, Placement, User};
use crate::yaml::{Content, Document, Node, own};

/// The file with `user`'s inlined certificate and key replaced, and with `authority` (PEM) also
/// the inlined trust bundle of the cluster at which the user logs in.
///
/// Only the text of these values changes; comments, order, quoting, line ends and all else stay
/// byte for byte. Before it is handed out, the new text is read again and compared with the old.
///
/// # Errors
///
/// Refuses, naming line and reason: no such user; values that are paths or absent; values that
/// come through an alias or merge key, or whose anchor is used elsewhere; a user of several
/// clusters with different trust bundles when `authority` is given; a certificate and key that do
/// not belong together.
pub fn replace_user(
    bytes: &[u8],
    user: &str,
    certificate_chain: &str,
    key: &str,
    authority: Option<&str>,
) -> Result<Zeroizing<Vec<u8>>, KubeconfigError> {
    check_material(certificate_chain, key, authority)?;
    let document = Document::parse(bytes)?;
    let config = read(&document)?;
    let found = config
        .user(user)
        .ok_or_else(|| KubeconfigError::UnknownUser {
            user: user.to_owned(),
            known: config.users.iter().map(|user| user.name.clone()).collect(),
        })?;
    check_inline(found)?;
    let place = Place {
        document: &document,
        list: "users",
        inner: "user",
        name: user,
    };
    let mut edits = vec![
        place.edit("client-certificate-data", certificate_chain)?,
        place.edit("client-key-data", key)?,
    ];
    if let Some(authority) = authority {
        for cluster in authority_clusters(&config, user)? {
            let place = Place {
                document: &document,
                list: "clusters",
                inner: "cluster",
                name: &cluster.name,
            };
            edits.push(place.edit("certificate-authority-data", authority)?);
        }
    }
    edits.sort_by_key(|edit| edit.range.start);
    let text = splice(document.text, &edits)?;
    prove(&document, &text, &edits)?;
    Ok(text)
}

fn check_material(
    certificate_chain: &str,
    key: &str,
    authority: Option<&str>,
) -> Result<(), KubeconfigError> {
    let bad = |what| move |source| KubeconfigError::Material { what, source };
    let chain =
        Certificate::all_from_pem(certificate_chain.as_bytes()).map_err(bad("certificate"))?;
    let key = PrivateKey::from_pem(key.as_bytes()).map_err(bad("private key"))?;
    if let Some(authority) = authority {
        Certificate::all_from_pem(authority.as_bytes()).map_err(bad("certificate authority"))?;
    }
    match chain.first() {
        Some(leaf) if leaf.spki_der() != key.spki_der() => Err(KubeconfigError::Material {
            what: "private key",
            source: pki::Error::KeyMismatch {
                subject: leaf.subject().to_string(),
                certificate_spki: leaf.spki_sha256().to_string(),
                key_spki: key.spki_sha256().to_string(),
            },
        }),
        _ => Ok(()),
    }
}

fn check_inline(user: &User) -> Result<(), KubeconfigError> {
    let not_inline = |field, found: String| KubeconfigError::NotInline {
        line: user.line,
        field,
        owner: user.name.clone(),
        found,
    };
    let elsewhere = |path: &std::path::Path| {
        format!(
            "it is in the file {}; renew that file instead",
            path.display()
        )
    };
    match &user.certificate {
        Some(Placement::Inline(_)) => {}
        Some(Placement::File(path)) => {
            return Err(not_inline("client-certificate-data", elsewhere(path)));
        }
        None => {
            let found = match user.other_credentials.as_slice() {
                [] => "it has no certificate at all".to_owned(),
                others => format!("it logs in by {}", others.join(", ")),
            };
            return Err(not_inline("client-certificate-data", found));
        }
    }
    match &user.key {
        Some(super::KeyPlacement::Inline(_)) => Ok(()),
        Some(super::KeyPlacement::File(path)) => {
            Err(not_inline("client-key-data", elsewhere(path)))
        }
        None => Err(not_inline("client-key-data", "it has no key".to_owned())),
    }
}

/// The clusters whose trust bundle is replaced: all of the user's, if they trust the same.
fn authority_clusters<'c>(
    config: &'c Kubeconfig,
    user: &str,
) -> Result<Vec<&'c Cluster>, KubeconfigError> {
    let clusters = config.clusters_of(user);
    let Some(first) = clusters.first() else {
        return Err(KubeconfigError::AuthorityUnclear {
            reason: format!(
                "no context joins the user {user:?} to a cluster, so there is no \
                 certificate-authority-data to replace"
            ),
        });
    };
    for cluster in &clusters {
        let found = match &cluster.authority {
            Some(Placement::Inline(_)) => None,
            Some(Placement::File(path)) => Some(format!(
                "it is in the file {}; replace that file instead",
                path.display()
            )),
            None if cluster.insecure_skip_tls_verify => {
                Some("the server is not verified (insecure-skip-tls-verify)".to_owned())
            }
            None => Some("the system's trust store is used".to_owned()),
        };
        if let Some(found) = found {
            return Err(KubeconfigError::NotInline {
                line: cluster.line,
                field: "certificate-authority-data",
                owner: cluster.name.clone(),
                found,
            });
        }
        if cluster.authority != first.authority {
            return Err(KubeconfigError::AuthorityUnclear {
                reason: format!(
                    "the user {user:?} logs in at {:?} (line {}) and {:?} (line {}), which trust \
                     different authorities; split the file by cluster first",
                    first.name, first.line, cluster.name, cluster.line
                ),
            });
        }
    }
    Ok(clusters)
}

/// A value that changes.
struct Edit {
    /// The node whose text changes, by the start of its span.
    node: usize,
    range: Range<usize>,
    /// What is put into the text there.
    text: Zeroizing<String>,
    /// What is read from it, line ends aside.
    value: Zeroizing<String>,
    field: &'static str,
    line: usize,
}

/// An entry of one of the three lists.
struct Place<'d, 'a> {
    document: &'d Document<'a>,
    list: &'static str,
    inner: &'static str,
    name: &'d str,
}

impl Place<'_, '_> {
    fn edit(&self, field: &'static str, pem: &str) -> Result<Edit, KubeconfigError> {
        let refuse = |line, reason: String| KubeconfigError::NotEditable {
            line,
            field,
            reason,
        };
        let document = self.document;
        let mut node = step(document, &document.root, self.list, field)?;
        if let Some(entry) = entry(document, self.list, self.name)? {
            check_own(document, entry, field)?;
            node = step(document, entry, self.inner, field)?;
        }
        let node = step(document, node, field, field)?;
        let Content::Scalar(_, style) = &node.content else {
            return Err(refuse(node.line, format!("it is {}", node.kind())));
        };
        if let Some(tag) = &node.tag {
            return Err(refuse(node.line, format!("it has the tag {tag:?}")));
        }
        let value = Zeroizing::new(STANDARD.encode(pem));
        let (range, text) = replacement(document.text, node, *style, &value);
        Ok(Edit {
            node: node.span.start,
            range,
            text,
            value,
            field,
            line: node.line,
        })
    }
}

/// The value of `key`, which must be written right there and nowhere else.
fn step<'n, 'a>(
    document: &'n Document<'a>,
    node: &'n Rc<Node<'a>>,
    key: &str,
    field: &'static str,
) -> Result<&'n Rc<Node<'a>>, KubeconfigError> {
    let found = match &node.content {
        Content::Map(pairs) => own(pairs, key),
        _ => None,
    };
    let Some(found) = found else {
        return Err(KubeconfigError::NotEditable {
            line: node.line,
            field,
            reason: format!("{key} comes through an alias or merge key"),
        });
    };
    check_own(document, found, field)?;
    Ok(found)
}

fn check_own(
    document: &Document<'_>,
    node: &Node<'_>,
    field: &'static str,
) -> Result<(), KubeconfigError> {
    let reason = if matches!(node.content, Content::Alias(_)) {
        "it comes through an alias"
    } else if node.anchor != 0 && document.is_shared(node) {
        "other parts of the file refer to it by its anchor"
    } else {
        return Ok(());
    };
    Err(KubeconfigError::NotEditable {
        line: node.line,
        field,
        reason: reason.to_owned(),
    })
}

/// Which bytes are replaced by what, in the style that is there.
fn replacement(
    source: &str,
    node: &Node<'_>,
    style: ScalarStyle,
    value: &str,
) -> (Range<usize>, Zeroizing<String>) {
    let span = node.span.clone();
    match style {
        ScalarStyle::SingleQuoted => (span, Zeroizing::new(format!("'{value}'"))),
        ScalarStyle::DoubleQuoted => (span, Zeroizing::new(format!("\"{value}\""))),
        ScalarStyle::Literal | ScalarStyle::Folded => {
            let old = source.get(span.clone()).unwrap_or_default();
            // Blank lines before the content and whatever follows it stay.
            let lead = old.len() - old.trim_start().len();
            let lead = if old.get(..lead).is_some_and(|it| it.contains('\n')) {
                lead
            } else {
                0
            };
            let start = span.start + lead;
            let end = span.start + old.trim_end().len();
            let old = source.get(start..end).unwrap_or_default();
            (start..end, wrapped(source, start, old, style, value))
        }
        ScalarStyle::Plain => (span, Zeroizing::new(value.to_owned())),
    }
}

/// A block scalar's lines: as wide as they were if there were several.
fn wrapped(
    source: &str,
    start: usize,
    old: &str,
    style: ScalarStyle,
    value: &str,
) -> Zeroizing<String> {
    let first = old.lines().next().unwrap_or_default();
    // Folding would turn line ends into spaces, which no base64 reader accepts.
    if style == ScalarStyle::Folded || old.lines().count() < 2 || first.is_empty() {
        return Zeroizing::new(value.to_owned());
    }
    let before = source.get(..start).unwrap_or_default();
    let indent = before.rsplit('\n').next().unwrap_or_default();
    let end = if old.contains("\r\n") { "\r\n" } else { "\n" };
    let lines = value.len().div_ceil(first.len());
    let mut text = Zeroizing::new(String::with_capacity(
        value.len() + lines * (indent.len() + end.len()),
    ));
    let mut rest = value;
    while let Some((line, tail)) = rest.split_at_checked(first.len()) {
        text.push_str(line);
        rest = tail;
        if !rest.is_empty() {
            text.push_str(end);
            text.push_str(indent);
        }
    }
    text.push_str(rest);
    text
}

fn splice(source: &str, edits: &[Edit]) -> Result<Zeroizing<Vec<u8>>, KubeconfigError> {
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    // Room from the start: growing would leave copies of keys behind.
    let mut text = Zeroizing::new(Vec::with_capacity(source.len() + added));
    let mut at = 0;
    for edit in edits {
        let kept = source
            .get(at..edit.range.start)
            .ok_or_else(|| KubeconfigError::Unproven {
                line: edit.line,
                detail: format!("the place of {} overlaps another", edit.field),
            })?;
        text.extend_from_slice(kept.as_bytes());
        text.extend_from_slice(edit.text.as_bytes());
        at = edit.range.end;
    }
    text.extend_from_slice(source.get(at..).unwrap_or_default().as_bytes());
    Ok(text)
}

/// Reads the new text and compares it with the old: equal but for the edits.
fn prove(before: &Document<'_>, text: &[u8], edits: &[Edit]) -> Result<(), KubeconfigError> {
    let after = Document::parse(text).map_err(|error| KubeconfigError::Unproven {
        line: error.line,
        detail: error.detail,
    })?;
    let mut seen = 0;
    compare(&before.root, &after.root, edits, &mut seen)?;
    if seen != edits.len() {
        return Err(KubeconfigError::Unproven {
            line: 0,
            detail: format!("{seen} of {} values were found again", edits.len()),
        });
    }
    Ok(())
}

fn compare(
    before: &Node<'_>,
    after: &Node<'_>,
    edits: &[Edit],
    seen: &mut usize,
) -> Result<(), KubeconfigError> {
    let differs = |detail: String| KubeconfigError::Unproven {
        line: after.line,
        detail,
    };
    if before.anchor != after.anchor || before.tag != after.tag {
        return Err(differs("an anchor or tag moved".to_owned()));
    }
    match (&before.content, &after.content) {
        (Content::Scalar(_, old_style), Content::Scalar(_, new_style))
            if old_style == new_style =>
        {
            let (old, new) = (before.text(), after.text());
            match edits.iter().find(|edit| edit.node == before.span.start) {
                Some(edit) => {
                    *seen += 1;
                    let unwrapped = new
                        .unwrap_or_default()
                        .bytes()
                        .filter(|byte| *byte != b'\n');
                    if unwrapped.eq(edit.value.bytes()) {
                        return Ok(());
                    }
                    Err(differs(format!("{} reads differently", edit.field)))
                }
                None if old == new => Ok(()),
                None => Err(differs("a value that should stay changed".to_owned())),
            }
        }
        (Content::List(old), Content::List(new)) if old.len() == new.len() => old
            .iter()
            .zip(new)
            .try_for_each(|(old, new)| compare(old, new, edits, seen)),
        (Content::Map(old), Content::Map(new)) if old.len() == new.len() => {
            old.iter().zip(new).try_for_each(|(old, new)| {
                compare(&old.0, &new.0, edits, seen)?;
                compare(&old.1, &new.1, edits, seen)
            })
        }
        (Content::Alias(old), Content::Alias(new)) if old == new => Ok(()),
        _ => Err(differs("the structure changed".to_owned())),
    }
}
