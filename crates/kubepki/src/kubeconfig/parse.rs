//! From text to [`Kubeconfig`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Cluster, Context, KeyPlacement, Kubeconfig, KubeconfigError, Placement, User};
use crate::yaml::{Content, Document, Node};

pub(super) fn parse(bytes: &[u8]) -> Result<Kubeconfig, KubeconfigError> {
    let document = Document::parse(bytes)?;
    read(&document)
}

pub(super) fn read(document: &Document<'_>) -> Result<Kubeconfig, KubeconfigError> {
    let root = &document.root;
    if !matches!(root.content, Content::Map(_)) {
        return Err(malformed(
            root,
            format!("{} where a kubeconfig should be", root.kind()),
        ));
    }
    if let Some((kind, node)) = document.text_of(root, "kind")?
        && kind != "Config"
    {
        return Err(malformed(
            node,
            format!("kind is {kind:?}; a kubeconfig's is Config"),
        ));
    }
    Ok(Kubeconfig {
        current_context: text(document, root, "current-context")?.filter(|name| !name.is_empty()),
        clusters: entries(document, "clusters", "cluster", cluster)?,
        users: entries(document, "users", "user", user)?,
        contexts: entries(document, "contexts", "context", context)?,
    })
}

/// The entry of `list` with that name: itself and the mapping under `inner`.
pub(super) fn entry<'n, 'a>(
    document: &'n Document<'a>,
    list: &str,
    name: &str,
) -> Result<Option<&'n Rc<Node<'a>>>, KubeconfigError> {
    for item in document.items(&document.root, list)? {
        if document
            .text_of(item, "name")?
            .is_some_and(|(text, _)| text == name)
        {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// What one entry is read with: the document, its name, line and inner mapping.
type Reader<T> = fn(&Document<'_>, String, usize, &Rc<Node<'_>>) -> Result<T, KubeconfigError>;

fn entries<T>(
    document: &Document<'_>,
    list: &'static str,
    inner: &'static str,
    reader: Reader<T>,
) -> Result<Vec<T>, KubeconfigError> {
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for item in document.items(&document.root, list)? {
        let Some(name) = text(document, item, "name")? else {
            return Err(malformed(item, format!("an entry of {list} has no name")));
        };
        if !names.insert(name.clone()) {
            return Err(malformed(
                item,
                format!("{list} has a second entry named {name:?}"),
            ));
        }
        let body = match document.get(item, inner) {
            Some(body) if matches!(body.content, Content::Map(_)) => Rc::clone(body),
            Some(body) if !body.is_null() => {
                let detail = format!("{inner} is {}, not a mapping", body.kind());
                return Err(malformed(body, detail));
            }
            _ => Rc::new(Node::empty_map(item.line)),
        };
        found.push(reader(document, name, item.line, &body)?);
    }
    Ok(found)
}

fn cluster(
    document: &Document<'_>,
    name: String,
    line: usize,
    body: &Rc<Node<'_>>,
) -> Result<Cluster, KubeconfigError> {
    let inline = data(document, body, "certificate-authority-data", &name)?;
    let file = text(document, body, "certificate-authority")?;
    let insecure = document.text_of(body, "insecure-skip-tls-verify")?;
    Ok(Cluster {
        line,
        server: text(document, body, "server")?,
        authority: placement(inline, file),
        insecure_skip_tls_verify: insecure.is_some_and(|(value, _)| is_true(value)),
        tls_server_name: text(document, body, "tls-server-name")?,
        name,
    })
}

fn user(
    document: &Document<'_>,
    name: String,
    line: usize,
    body: &Rc<Node<'_>>,
) -> Result<User, KubeconfigError> {
    let certificate = data(document, body, "client-certificate-data", &name)?;
    let certificate = placement(certificate, text(document, body, "client-certificate")?);
    let key = match data(document, body, "client-key-data", &name)? {
        Some(bytes) => Some(KeyPlacement::Inline(bytes)),
        None => text(document, body, "client-key")?
            .filter(|path| !path.is_empty())
            .map(|path| KeyPlacement::File(PathBuf::from(path))),
    };
    let mut other_credentials = Vec::new();
    for field in ["token", "tokenFile", "exec", "auth-provider", "username"] {
        if document
            .get(body, field)
            .is_some_and(|value| !value.is_null() && value.text() != Some(""))
        {
            other_credentials.push(field);
        }
    }
    Ok(User {
        name,
        line,
        certificate,
        key,
        other_credentials,
    })
}

fn context(
    document: &Document<'_>,
    name: String,
    _line: usize,
    body: &Rc<Node<'_>>,
) -> Result<Context, KubeconfigError> {
    Ok(Context {
        name,
        cluster: text(document, body, "cluster")?,
        user: text(document, body, "user")?,
    })
}

fn placement(inline: Option<Zeroizing<Vec<u8>>>, file: Option<String>) -> Option<Placement> {
    match (inline, file.filter(|path| !path.is_empty())) {
        (Some(bytes), _) => Some(Placement::Inline(bytes.to_vec())),
        (None, Some(path)) => Some(Placement::File(PathBuf::from(path))),
        (None, None) => None,
    }
}

/// The decoded value of a `-data` field; `None` if absent, null or empty.
fn data(
    document: &Document<'_>,
    body: &Rc<Node<'_>>,
    field: &'static str,
    owner: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, KubeconfigError> {
    let Some((value, node)) = document.text_of(body, field)? else {
        return Ok(None);
    };
    if value.is_empty() {
        return Ok(None);
    }
    // Go's decoder skips line ends inside base64 and nothing else.
    let mut packed = Zeroizing::new(Vec::with_capacity(value.len()));
    packed.extend(value.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    let bytes = STANDARD
        .decode(&*packed)
        .map_err(|_| KubeconfigError::NotBase64 {
            line: node.line,
            field,
            owner: owner.to_owned(),
        })?;
    Ok(Some(Zeroizing::new(bytes)))
}

fn text(
    document: &Document<'_>,
    body: &Rc<Node<'_>>,
    key: &str,
) -> Result<Option<String>, KubeconfigError> {
    Ok(document
        .text_of(body, key)?
        .map(|(text, _)| text.to_owned()))
}

fn is_true(text: &str) -> bool {
    ["true", "yes", "on", "y"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

fn malformed(node: &Node<'_>, detail: String) -> KubeconfigError {
    KubeconfigError::Malformed {
        line: node.line,
        detail,
    }
}
