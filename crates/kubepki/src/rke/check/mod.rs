//! Whether state, hosts and what is served agree, and what is due.
//!
//! ```text
//! cluster.rkestate   what should be                           (state)
//! host files         what components read when they start     (hosts)
//! containers         what was started before its files        (hosts)
//! served             what is in force                         (hosts)
//! cluster.yml        what the next `rke up` would change      (state)
//! ```
//!
//! A finding's path is `cluster.rkestate:kube-ca` for an entry and
//! `10.0.0.1:/etc/kubernetes/ssl/kube-ca.pem` for a host's file.

mod hosts;
mod report;
mod state;

use std::path::PathBuf;

use pki::UnixTime;

use super::survey::Survey;
use super::{ClusterConfig, State};
use crate::check::Severity;

pub use report::report;

/// What is asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The state file's name, for paths of findings: `cluster.rkestate`.
    pub name: &'a str,
    /// The directory of `cluster.yml`.
    pub root: &'a PathBuf,
    /// The state file.
    pub state: &'a State,
    /// `cluster.yml`.
    pub config: &'a ClusterConfig,
    /// The hosts; `None` when nobody was asked.
    pub survey: Option<&'a Survey>,
    /// The moment that is asked about.
    pub now: UnixTime,
    /// Seconds before the end from which a leaf is due.
    pub window: i64,
    /// The same for a CA: [`crate::check::AUTHORITY_WINDOW`].
    pub authority_window: i64,
}

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The rule's name: stable, for machines.
    pub rule: &'static str,
    /// Where.
    pub path: String,
    /// The entry, if it is about one.
    pub entry: Option<String>,
    /// The certificate's subject, if it is about one.
    pub subject: Option<String>,
    /// What, with its evidence.
    pub message: String,
    /// What to type, or to do.
    pub mends: Option<String>,
}

impl Finding {
    fn new(severity: Severity, rule: &'static str, path: String, message: String) -> Self {
        Self {
            severity,
            rule,
            path,
            entry: None,
            subject: None,
            message,
            mends: None,
        }
    }

    fn entry(self, entry: &str) -> Self {
        Self {
            entry: Some(entry.to_owned()),
            ..self
        }
    }

    fn subject(self, certificate: &pki::Certificate) -> Self {
        Self {
            subject: Some(certificate.subject().to_string()),
            ..self
        }
    }

    fn mend(self, command: impl Into<String>) -> Self {
        Self {
            mends: Some(command.into()),
            ..self
        }
    }
}

/// Runs every rule; worst first, then state before hosts, each in its own order.
pub fn check(question: &Question<'_>) -> Vec<Finding> {
    let mut findings = state::check(question);
    if let Some(survey) = question.survey {
        findings.extend(hosts::check(question, survey));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}
