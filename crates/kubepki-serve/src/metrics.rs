//! What is counted, in Prometheus' text form.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use pki::UnixTime;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::route::{Endpoint, LeafKind};
use crate::status::{Answer, Refusal};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    path: &'static str,
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

/// K3s's labels for `k3s_certificate_expiration_seconds` (reference section 8.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Expiring {
    subject: String,
    usages: String,
}

/// Counters of a server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Path, Counter>,
    issued: Family<Kind, Counter>,
    refused: Family<Code, Counter>,
    connections: Gauge,
    expiring: Family<Expiring, Gauge<f64, AtomicU64>>,
    /// When each ends: the seconds are counted when somebody asks.
    ends: Mutex<Vec<(Expiring, UnixTime)>>,
    take_ups: Counter,
    parts: Family<PartLabel, Gauge>,
    renewed: Counter,
    ignored_secrets: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<Path, Counter>::default();
        let issued = Family::<Kind, Counter>::default();
        let refused = Family::<Code, Counter>::default();
        let connections = Gauge::default();
        let expiring = Family::<Expiring, Gauge<f64, AtomicU64>>::default();
        registry.register("kubepki_requests", "Requests answered", requests.clone());
        registry.register(
            "kubepki_certificates_issued",
            "Certificates issued",
            issued.clone(),
        );
        registry.register(
            "kubepki_requests_refused",
            "Requests refused",
            refused.clone(),
        );
        registry.register(
            "kubepki_connections",
            "Connections open",
            connections.clone(),
        );
        registry.register_with_unit(
            "k3s_certificate_expiration",
            "Seconds until a certificate ends",
            Unit::Seconds,
            expiring.clone(),
        );
        let parts = Family::<PartLabel, Gauge>::default();
        registry.register(
            "kubepki_part_state",
            "How a part does: 0 fine, 1 needs a look, 2 nothing is issued",
            parts.clone(),
        );
        let renewed = Counter::default();
        registry.register(
            "kubepki_leaves_renewed",
            "Leaves of this node renewed since the start",
            renewed.clone(),
        );
        let ignored_secrets = Counter::default();
        registry.register(
            "kubepki_bootstrap_secrets_ignored",
            "Times that a Secret of a bootstrap token could not be read",
            ignored_secrets.clone(),
        );
        let take_ups = Counter::default();
        registry.register(
            "kubepki_take_ups",
            "Times that other CAs were taken up",
            take_ups.clone(),
        );
        Self {
            take_ups,
            registry,
            requests,
            issued,
            refused,
            connections,
            expiring,
            ends: Mutex::default(),
            parts,
            renewed,
            ignored_secrets,
        }
    }
}

impl Metrics {
    /// A request was answered. Paths that are not ours share one label, so that strangers cannot
    /// make new ones.
    pub fn answered(&self, path: &str, code: u16) {
        let path = Endpoint::of(path).map_or("other", Endpoint::path);
        let code = u32::from(code);
        self.requests.get_or_create(&Path { path, code }).inc();
    }

    /// A certificate was issued.
    pub fn issued(&self, kind: LeafKind) {
        let path = Endpoint::Leaf(kind).path();
        self.issued.get_or_create(&Kind { path }).inc();
    }

    /// A request was refused.
    pub fn refused(&self, code: u16) {
        let code = u32::from(code);
        self.refused.get_or_create(&Code { code }).inc();
    }

    /// Other CAs were taken up.
    pub fn taken_up(&self) {
        self.take_ups.inc();
    }

    /// Somebody showed a bootstrap token of Kubernetes whose Secret cannot be read.
    pub fn ignored_secret(&self) {
        self.ignored_secrets.inc();
    }

    /// A connection came; it is counted until the answer is dropped.
    pub fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// The certificates of the node, in place of those of before: subject, K3s's word for what it
    /// is for, when it ends. How long that is, is counted whenever somebody asks.
    pub fn certificates(&self, all: impl IntoIterator<Item = (String, String, UnixTime)>) {
        let labelled = all
            .into_iter()
            .map(|(subject, usages, end)| (Expiring { subject, usages }, end));
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = labelled.collect();
    }

    /// How a part does.
    pub fn part(&self, part: &'static str, number: i64) {
        self.parts.get_or_create(&PartLabel { part }).set(number);
    }

    /// So many leaves of the node were renewed.
    pub fn renewed(&self, leaves: usize) {
        self.renewed
            .inc_by(u64::try_from(leaves).unwrap_or(u64::MAX));
    }

    /// The text, at that time.
    ///
    /// # Errors
    ///
    /// 500 when it cannot be made.
    pub fn render(&self, now: UnixTime) -> Result<Answer, Refusal> {
        let mut text = String::new();
        // Held to the end: whoever asks at the same time would find half of them.
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        self.expiring.clear();
        for (labels, end) in ends.iter() {
            let seconds = float(end.since(now));
            self.expiring.get_or_create(labels).set(seconds);
        }
        encode(&mut text, &self.registry)
            .map_err(|_| Refusal::Internal("metrics cannot be written".to_owned()))?;
        let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        Ok(Answer::ok(form, text))
    }
}

/// Seconds as a float, which holds the whole ones of 285 million years.
fn float(seconds: i64) -> f64 {
    const PART: i64 = 1_000_000_000;
    // Every part fits: the largest number of seconds has nineteen digits.
    let of = |part: i64| f64::from(i32::try_from(part).unwrap_or_default());
    let billions = seconds / PART;
    of(billions / 1000) * 1e12 + of(billions % 1000) * 1e9 + of(seconds % PART)
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_century_is_told_as_it_is() {
        for (seconds, expected) in [
            (0, 0.0),
            (-5, -5.0),
            (2_147_483_647, 2_147_483_647.0),
            (3_155_760_000, 3_155_760_000.0),
            (-9_007_199_254_740_991, -9_007_199_254_740_991.0),
        ] {
            assert!((float(seconds) - expected).abs() < 0.5, "{seconds}");
        }
        assert!(float(i64::MAX) > 9.2e18);
    }
}
