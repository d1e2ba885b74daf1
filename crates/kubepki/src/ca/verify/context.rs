//! Both sets side by side, each file read once.

use std::path::PathBuf;

use pki::verify::{Options, verify};
use pki::{Certificate, Purpose};

use super::{Change, Continuity, Question};
use crate::bootstrap::Field;
use crate::catalogue::{K3S, Kind};

/// A question with its certificates read.
pub(super) struct Context<'a> {
    pub(super) question: &'a Question<'a>,
    /// The five CAs in K3s's order.
    pub(super) views: Vec<View>,
}

/// A CA in both sets.
pub(super) struct View {
    pub(super) field: Field,
    pub(super) key_field: Field,
    /// Whether the staged set has the certificates, or the key.
    pub(super) staged: bool,
    pub(super) key_staged: bool,
    /// The certificates in force.
    pub(super) old: Result<Vec<Certificate>, Fault>,
    /// Those that will be.
    pub(super) new: Result<Vec<Certificate>, Fault>,
}

/// A file of certificates that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is none.
    Missing,
    /// No certificate in it, or a malformed one.
    Unreadable(pki::Error),
}

impl View {
    /// What will be in force; empty where nothing can be read.
    pub(super) fn new_certificates(&self) -> &[Certificate] {
        self.new.as_deref().unwrap_or_default()
    }

    /// What is in force; empty where nothing can be read.
    pub(super) fn old_certificates(&self) -> &[Certificate] {
        self.old.as_deref().unwrap_or_default()
    }

    /// Whether another issuing CA, or another bundle, comes.
    pub(super) fn changes(&self) -> bool {
        self.staged && (self.old.is_err() || self.old != self.new)
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(question: &'a Question<'a>) -> Self {
        let mut context = Self {
            question,
            views: Vec::new(),
        };
        context.views = Field::AUTHORITIES
            .into_iter()
            .map(|(field, key_field)| View {
                field,
                key_field,
                staged: context.staged(field).is_some(),
                key_staged: context.staged(key_field).is_some(),
                old: read(question.old.and_then(|old| old.content(field))),
                new: read(context.effective(field)),
            })
            .collect();
        context
    }

    /// The staged file, which K3s overlooks when it is empty.
    pub(super) fn staged(&self, field: Field) -> Option<&'a [u8]> {
        let content = self.question.new.content(field)?;
        (field.is_rotatable() && !content.is_empty()).then_some(content)
    }

    /// The file that will be in force.
    pub(super) fn effective(&self, field: Field) -> Option<&'a [u8]> {
        let old = || self.question.old.and_then(|old| old.content(field));
        self.staged(field).or_else(old)
    }

    /// Where the file that will be in force lies now.
    pub(super) fn path(&self, field: Field) -> PathBuf {
        let places = &self.question.places;
        field.under(match self.staged(field) {
            Some(_) => &places.new,
            None => &places.old,
        })
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        let change = |view: &View| Change {
            field: view.field,
            continuity: self.continuity(view),
            subject: view
                .new_certificates()
                .first()
                .map(|it| it.subject().to_string()),
            root: own_root(view.new_certificates(), self.question)
                .map(|it| it.subject().to_string()),
        };
        self.views.iter().map(change).collect()
    }

    pub(super) fn continuity(&self, view: &View) -> Continuity {
        if !view.changes() && !view.key_staged || self.is_same(view) {
            return Continuity::Unchanged;
        }
        let old = view.old_certificates();
        if old.is_empty() {
            return Continuity::First;
        }
        let Some((first, others)) = view.new_certificates().split_first() else {
            return Continuity::NewRoot;
        };
        let (roots, intermediates) = split(old);
        let between: Vec<Certificate> = intermediates
            .into_iter()
            .chain(others.iter().filter(|it| !it.is_self_issued()).cloned())
            .collect();
        let options = Options::at(self.question.now).purposes(&[Purpose::Any]);
        if verify(first, &between, &roots, &options).is_err() {
            return Continuity::NewRoot;
        }
        let trusted = |root: &Certificate| {
            roots.iter().any(|old| {
                old.spki_der() == root.spki_der() && old.subject().der() == root.subject().der()
            })
        };
        match own_root(view.new_certificates(), self.question) {
            Some(root) if !trusted(root) => Continuity::CrossSigned,
            _ => Continuity::SameRoot,
        }
    }

    fn is_same(&self, view: &View) -> bool {
        let old = |field| self.question.old.and_then(|old| old.content(field));
        self.effective(view.field) == old(view.field)
            && self.effective(view.key_field) == old(view.key_field)
    }
}

/// Self-signed certificates, and the others.
pub(super) fn split(bundle: &[Certificate]) -> (Vec<Certificate>, Vec<Certificate>) {
    bundle
        .iter()
        .cloned()
        .partition(Certificate::is_self_issued)
}

/// The self-signed root that a bundle's first certificate leads to inside the bundle. Of several,
/// the one that stands first in the file is meant.
pub(super) fn own_root<'a>(
    bundle: &'a [Certificate],
    question: &Question<'_>,
) -> Option<&'a Certificate> {
    let first = bundle.first()?;
    let (roots, intermediates) = split(bundle);
    // Expired ones are another rule's.
    let at = first
        .validity()
        .not_before
        .max(question.now.min(first.validity().not_after));
    let options = Options::at(at).purposes(&[Purpose::Any]);
    let paths = verify(first, &intermediates, &roots, &options).ok()?;
    let reached: Vec<&Certificate> = paths.iter().filter_map(pki::verify::Path::root).collect();
    bundle.iter().find(|it| reached.contains(it))
}

/// What K3s lets the CA `field` sign.
pub(super) fn purposes(field: Field) -> Vec<Purpose> {
    let authority = K3S
        .rows
        .iter()
        .find(|row| row.is_authority() && row.file() == field.path());
    let Some(authority) = authority else {
        return Vec::new();
    };
    let mut wanted: Vec<Purpose> = Vec::new();
    for row in K3S.rows {
        let signs: &[Purpose] = match &row.kind {
            Kind::Leaf(leaf) if leaf.authority == authority.id => leaf.purposes,
            Kind::Listener { authority: id } if *id == authority.id => &[Purpose::ServerAuth],
            _ => &[],
        };
        for purpose in signs {
            if !wanted.contains(purpose) {
                wanted.push(purpose.clone());
            }
        }
    }
    wanted
}

fn read(content: Option<&[u8]>) -> Result<Vec<Certificate>, Fault> {
    let content = content.ok_or(Fault::Missing)?;
    Certificate::all_from_pem(content).map_err(Fault::Unreadable)
}
