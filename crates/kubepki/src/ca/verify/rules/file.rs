//! Files as files: there, whole, of a size and an age that K3s can live with.

use pki::pem;

use super::{Severity, finding};
use crate::bootstrap::Field;
use crate::ca::verify::context::Context;
use crate::ca::verify::{Finding, Stamps};

/// Beyond this etcd refuses to store the whole: its requests end at 1.5 MiB, and the bootstrap
/// data are base64 twice.
const MOST_BYTES: usize = 800 * 1024;

/// K3s dies on files that many seconds newer than the datastore (K3s `pkg/cluster/bootstrap.go`).
const NEWER_BY: i64 = 3;

/// Each of the eleven files is there.
pub(super) fn missing(context: &Context<'_>, found: &mut Vec<Finding>) {
    let rotatable = Field::ALL.into_iter().filter(|field| field.is_rotatable());
    for field in rotatable.filter(|field| context.staged(*field).is_none()) {
        let path = field.under(&context.question.places.new);
        let is_empty = context.question.new.content(field).is_some();
        let what = if is_empty {
            "is empty"
        } else {
            "is not staged"
        };
        found.push(if context.effective(field).is_none() {
            let otherwise = match field {
                Field::ServiceKey => "K3s would make a key of its own",
                _ => "K3s would make a self-signed CA of its own, over what lies there",
            };
            finding(
                Severity::Broken,
                if is_empty { "empty" } else { "missing" },
                field,
                format!("{what}, and there is none in force: {otherwise}"),
            )
            .mend(format!("put it at {}", path.display()))
        } else {
            finding(
                Severity::Warning,
                if is_empty { "empty" } else { "missing" },
                field,
                format!("{what}: the one in force stays"),
            )
        });
    }
}

/// What `rotate-ca` never replaces.
pub(super) fn not_taken(context: &Context<'_>, found: &mut Vec<Finding>) {
    if context.question.old.is_none() {
        return;
    }
    for field in Field::ALL.into_iter().filter(|field| !field.is_rotatable()) {
        if context.question.new.content(field).is_some() {
            let message = "is not taken over: each server keeps its own";
            found.push(finding(Severity::Note, "not-taken", field, message));
        }
    }
}

/// The datastore can hold it.
pub(super) fn size(context: &Context<'_>, found: &mut Vec<Finding>) {
    let sizes = Field::ALL.map(|field| (field, context.effective(field).map_or(0, <[u8]>::len)));
    let whole: usize = sizes.iter().map(|(_, size)| size).sum();
    if whole <= MOST_BYTES {
        return;
    }
    if let Some((field, size)) = sizes.into_iter().max_by_key(|(_, size)| *size) {
        let message = format!(
            "has {size} bytes, and the set {whole}: encrypted it would not fit into etcd, which \
             takes 1.5 MiB"
        );
        found.push(finding(Severity::Broken, "too-large", field, message));
    }
}

/// The text is what it looks like.
pub(super) fn pem(context: &Context<'_>, found: &mut Vec<Finding>) {
    let rotatable = Field::ALL.into_iter().filter(|field| field.is_rotatable());
    for (field, content) in rotatable.filter_map(|field| Some((field, context.staged(field)?))) {
        if content.windows(2).any(|two| two == b"\r\n") {
            let message = "has Windows line ends (CRLF); tokens pin the bytes of a server CA's \
                           file, and copies that are converted later have another hash";
            found.push(
                finding(Severity::Warning, "crlf", field, message)
                    .mend("convert it: sed -i 's/\\r$//'"),
            );
        }
        let blocks = pem::blocks(content);
        let begun = content
            .windows(b"-----BEGIN ".len())
            .filter(|window| window == b"-----BEGIN ")
            .count();
        if begun > blocks.len() {
            let message = format!(
                "begins {begun} PEM blocks, and only {} can be read: the others are damaged, cut \
                 off or do not begin a line",
                blocks.len()
            );
            found.push(finding(Severity::Broken, "damaged-block", field, message));
        }
        if field.is_secret() {
            continue;
        }
        for block in &blocks {
            if block.label.ends_with("PRIVATE KEY") {
                let message = "holds a private key: this file is handed to everybody who asks \
                               (/cacerts)";
                found.push(
                    finding(Severity::Broken, "key-in-certificate-file", field, message)
                        .mend("take the key out; it belongs into the .key file alone"),
                );
            } else if block.label != "CERTIFICATE" || !block.headers.is_empty() {
                let message = format!(
                    "holds a block {:?}{} that K3s skips",
                    block.label,
                    if block.headers.is_empty() {
                        ""
                    } else {
                        " with headers"
                    }
                );
                found.push(finding(Severity::Warning, "skipped-block", field, message));
            }
        }
    }
}

/// K3s does not find the files on disk newer than the datastore.
pub(super) fn stamps(context: &Context<'_>, found: &mut Vec<Finding>) {
    let (Some(old), Stamps::AsStaged) = (context.question.old, context.question.stamps) else {
        return;
    };
    for (field, file) in &context.question.new.files {
        let Some(present) = old.files.get(field) else {
            continue;
        };
        let older = present.stamp.seconds.saturating_sub(file.stamp.seconds);
        if context.staged(*field).is_none() || file.content == present.content || older < NEWER_BY {
            continue;
        }
        let path = field.under(&context.question.places.new);
        let message = format!(
            "is {older} s older than the file that it replaces; K3s's rotate-ca stores that time, \
             and the next start dies: \"newer than datastore and could cause a cluster outage\""
        );
        found.push(
            finding(Severity::Broken, "older-than-disk", *field, message)
                .mend(format!("touch {}", path.display())),
        );
    }
}
