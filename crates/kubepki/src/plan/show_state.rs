//! Changes of RKE's state file in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::show::{certificate_in_words, key_in_words, subject};
use super::show_hosts::line;
use super::{Content, Plan, StateEdit, StateEntry};
use crate::rke::catalogue::{Per, row_of};

/// What a change of the state file puts where.
pub(super) fn edit(text: &mut String, plan: &Plan, edit: &StateEdit) {
    match edit {
        StateEdit::Desire {
            entries,
            removed,
            config,
        } => {
            wanted(text, plan, entries);
            if !removed.is_empty() {
                let names: Vec<&str> = removed.iter().map(String::as_str).collect();
                line(text, "gone:", &entries_in_words(&names));
            }
            if config.is_some() {
                line(text, "wanted:", "the configuration of cluster.yml");
            }
        }
        StateEdit::Promote { entries, config } => {
            let names: Vec<&str> = entries.iter().map(String::as_str).collect();
            let mut words = entries_in_words(&names);
            if *config {
                let and = if words.is_empty() { "" } else { ", and " };
                let _ = write!(words, "{and}the configuration");
            }
            line(text, "proven:", &words);
        }
    }
}

/// The entries that are wanted, by what they get, and the leaves among them by what they are.
fn wanted(text: &mut String, plan: &Plan, entries: &BTreeMap<String, StateEntry>) {
    let mut forms: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut signed: BTreeMap<String, usize> = BTreeMap::new();
    for (name, entry) in entries {
        let leaf = entry.certificate.as_ref().and_then(|it| match it {
            Content::LeafCertificate(id) | Content::BareCertificate(id) => plan.leaves.get(id),
            _ => None,
        });
        if let Some(leaf) = leaf {
            let words = match &leaf.certificate {
                Some(certificate) => format!(
                    "until {}, from {}, {} each",
                    certificate.not_after,
                    subject(&certificate.issuer.certificate).unwrap_or_default(),
                    key_in_words(leaf)
                ),
                None => certificate_in_words(leaf),
            };
            let count = signed.entry(words).or_default();
            *count = count.saturating_add(1);
        }
        let form = match (&entry.certificate, &entry.key, &entry.config) {
            (Some(Content::Text(pem)), key, _) => authority(pem, key.is_some()),
            (Some(_), Some(_), _) => "certificate and key".to_owned(),
            (Some(_), None, _) => "certificate, the key stays".to_owned(),
            (None, Some(_), _) => "key".to_owned(),
            (None, None, _) => "kubeconfig".to_owned(),
        };
        forms.entry(form).or_default().push(name);
    }
    for (form, names) in forms {
        line(
            text,
            "wanted:",
            &format!("{form}: {}", entries_in_words(&names)),
        );
    }
    for (words, count) in signed {
        line(text, "leaves:", &format!("{count} {words}"));
    }
}

/// What a CA's entry gets: whose certificates, and whether its key changes.
fn authority(pem: &str, key: bool) -> String {
    let count = pem.matches("-----BEGIN CERTIFICATE-----").count();
    let what = match count {
        1 => "certificate".to_owned(),
        count => format!("bundle of {count} certificates"),
    };
    match key {
        true => format!("{what} and key"),
        false => format!("{what}, the key stays"),
    }
}

/// Entries by name; those of single nodes by kind and number, once they are many.
pub(super) fn entries_in_words(names: &[&str]) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut of_nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        match row_of(name).filter(|row| row.per != Per::Cluster) {
            Some(row) => of_nodes.entry(row.id).or_default().push(name),
            None => words.push((*name).to_owned()),
        }
    }
    for (row, names) in of_nodes {
        match names.len() {
            0..=3 => words.extend(names.into_iter().map(str::to_owned)),
            count => words.push(format!("{row} of {count} nodes")),
        }
    }
    words.join(", ")
}
