//! Every certificate of the chosen services, as `k3s certificate check` sees it.

use std::path::Path;

use pki::{KeyUsage, Purpose, UnixTime};

use super::DropinError;
use super::layout::Layout;
use super::log::{Level, Line};
use super::moment::Moment;
use super::read::follow;
use crate::catalogue::{Flavour, Service, Side};
use crate::host::Host;

/// The window of K3s from May 2025 on, in days.
pub const WINDOW_DAYS: i64 = 120;

/// What K3s says about a certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not within the window.
    Ok,
    /// Ends within the window.
    Warning,
    /// Has ended.
    Expired,
    /// Has not begun.
    NotYetValid,
}

impl Status {
    /// K3s's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Expired => "EXPIRED",
            Self::NotYetValid => "NOT YET VALID",
        }
    }

    /// To the nanosecond: a certificate is valid through its last second's first instant.
    fn of(certificate: &pki::Certificate, now: Moment, window_days: i64) -> Self {
        let validity = certificate.validity();
        let day: i128 = 24 * 3_600 * 1_000_000_000;
        let left = now.until(validity.not_after);
        match () {
            () if now.until(validity.not_before) > 0 => Self::NotYetValid,
            () if left < 0 => Self::Expired,
            () if i128::from(left) < i128::from(window_days) * day => Self::Warning,
            () => Self::Ok,
        }
    }
}

/// One certificate of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateLine {
    /// The file's name without its directory.
    pub filename: String,
    /// The subject's CN, empty when it has none.
    pub subject: String,
    /// The issuer's CN, empty when it has none.
    pub issuer: String,
    /// `CertSign`, `ServerAuth`, `ClientAuth`, or `Unknown` alone.
    pub usages: Vec<&'static str>,
    /// Its end; its beginning while it is not yet valid.
    pub expiry: UnixTime,
    /// Nanoseconds until its end, negative after it.
    pub residual: i64,
    /// What to think of it.
    pub status: Status,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// In the order of services, files, and certificates in a file.
    pub certificates: Vec<CertificateLine>,
    /// How many days before the end K3s warns.
    pub window_days: i64,
    /// Files that were passed over, for `--debug`: keys, and what is missing or damaged.
    pub skipped: Vec<Line>,
}

/// Reads every file of `services` and lists each certificate in it, leaf and chain.
///
/// Like K3s it never fails: what is missing, unreadable or damaged is passed over.
pub async fn check(
    host: &dyn Host,
    flavour: &Flavour,
    layout: &Layout,
    services: &[&Service],
    now: Moment,
    window_days: i64,
) -> CheckReport {
    let mut report = CheckReport {
        certificates: Vec::new(),
        window_days,
        skipped: Vec::new(),
    };
    // K3s's own list: no release is subtracted, since what does not exist is passed over.
    for (side, path) in services
        .iter()
        .flat_map(|service| flavour.files_of(service, None))
    {
        match certificates(host, layout, side, &path).await {
            Ok(certificates) => report.certificates.extend(
                certificates
                    .iter()
                    .map(|certificate| line(&path, certificate, now, window_days)),
            ),
            Err(reason) => report.skipped.push(Line::new(Level::Debug, reason)),
        }
    }
    report
}

/// Go's rule: one damaged certificate spoils the whole file.
async fn certificates(
    host: &dyn Host,
    layout: &Layout,
    side: Side,
    path: &Path,
) -> Result<Vec<pki::Certificate>, String> {
    let shown = layout.shown(side, path);
    let found = follow(host, &layout.real(side, path)).await;
    let entry = match found {
        Ok(Some((_, entry))) => entry,
        Ok(None) => return Err(DropinError::missing("open", &shown).to_string()),
        Err(error) => return Err(DropinError::file("open", &shown, &error).to_string()),
    };
    let Some(bytes) = entry.bytes() else {
        return Err(format!("read {}: is a directory", shown.display()));
    };
    pki::Certificate::all_from_pem(bytes).map_err(|error| {
        let reason = match error {
            pki::Error::NoPemBlock { .. } => {
                "data does not contain any valid RSA or ECDSA certificates".to_owned()
            }
            error => error.to_string(),
        };
        format!("error reading {}: {reason}", shown.display())
    })
}

fn line(
    path: &Path,
    certificate: &pki::Certificate,
    now: Moment,
    window_days: i64,
) -> CertificateLine {
    let status = Status::of(certificate, now, window_days);
    let validity = certificate.validity();
    let name = |name: &pki::Name| name.common_name().unwrap_or_default().to_owned();
    CertificateLine {
        filename: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        usages: usages(certificate),
        expiry: match status {
            Status::NotYetValid => validity.not_before,
            _ => validity.not_after,
        },
        residual: now.until(validity.not_after),
        status,
    }
}

fn usages(certificate: &pki::Certificate) -> Vec<&'static str> {
    let signs = certificate
        .key_usage()
        .is_some_and(|usage| usage.has(KeyUsage::KEY_CERT_SIGN));
    let purposes = certificate
        .purposes()
        .iter()
        .filter_map(|purpose| match purpose {
            Purpose::ServerAuth => Some("ServerAuth"),
            Purpose::ClientAuth => Some("ClientAuth"),
            _ => None,
        });
    let usages: Vec<_> = signs
        .then_some("CertSign")
        .into_iter()
        .chain(purposes)
        .collect();
    if usages.is_empty() {
        vec!["Unknown"]
    } else {
        usages
    }
}
