//! How the server does, part by part: what `/readyz`, `/v1-k3s/readyz` and the metrics say, and what stops issuing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use crate::service::{Line, Service};

/// What can be in order or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The cluster's datastore.
    Datastore,
    /// What servers share: CAs in the datastore that are not in force here.
    Cluster,
    /// The issuance log.
    Log,
    /// The head of the issuance log in the datastore.
    Head,
    /// This server's name, which another one may have too.
    Name,
    /// This machine's clock.
    Clock,
    /// A plan that somebody else began here.
    Plan,
    /// Files on this server's disk that are not the cluster's.
    Files,
    /// The CAs.
    Authorities,
    /// The node's own leaves.
    Leaves,
    /// Hooks and units that take renewed leaves up.
    Hooks,
}

impl Part {
    /// Its name in answers and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Datastore => "datastore",
            Self::Cluster => "cluster",
            Self::Log => "issuance-log",
            Self::Head => "issuance-log-head",
            Self::Name => "name",
            Self::Clock => "clock",
            Self::Plan => "plan",
            Self::Files => "files",
            Self::Authorities => "authorities",
            Self::Leaves => "leaves",
            Self::Hooks => "hooks",
        }
    }
}

/// How a part does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it should.
    Fine,
    /// It does, and somebody should look at it: why.
    Warning(String),
    /// It does not, and nothing is issued until it does: why.
    Down(String),
}

impl State {
    /// 0, 1, 2, for a gauge.
    pub fn number(&self) -> i64 {
        match self {
            Self::Fine => 0,
            Self::Warning(_) => 1,
            Self::Down(_) => 2,
        }
    }
}

/// How all parts do. A part that nobody has told about is fine.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<Part, State>>);

impl Health {
    /// Sets a part's state; answers whether it was another one before.
    pub fn set(&self, part: Part, state: State) -> bool {
        self.set_and(part, state, || ())
    }

    /// The same, and does `more` before anybody else sets one: what is told elsewhere stays what
    /// is held here.
    fn set_and(&self, part: Part, state: State, more: impl FnOnce()) -> bool {
        let Ok(mut all) = self.0.lock() else {
            return false;
        };
        more();
        let before = all.get(&part).cloned().unwrap_or(State::Fine);
        let is_new = before != state;
        all.insert(part, state);
        is_new
    }

    /// Every part that is not fine, in order.
    pub fn troubles(&self) -> Vec<(Part, State)> {
        let Ok(all) = self.0.lock() else {
            return Vec::new();
        };
        let troubled = all.iter().filter(|(_, state)| **state != State::Fine);
        troubled
            .map(|(part, state)| (*part, state.clone()))
            .collect()
    }

    /// Whether a part is not fine.
    pub fn is_troubled(&self, part: Part) -> bool {
        let all = self.0.lock();
        all.is_ok_and(|all| all.get(&part).is_some_and(|it| *it != State::Fine))
    }

    /// `ok` or `not ready`, and the parts that somebody should look at: for anybody, so without
    /// reasons, which hold names and paths.
    pub fn names(&self) -> String {
        self.text(|_| String::new())
    }

    /// `ok` or `not ready`, and a line for each part that is not fine, which ends with `reason`.
    fn text(&self, reason: impl Fn(&str) -> String) -> String {
        let troubles = self.troubles();
        let is_down = troubles.iter().any(|it| matches!(it.1, State::Down(_)));
        let mut text = if is_down { "not ready" } else { "ok" }.to_owned();
        for (part, state) in troubles {
            let (word, why) = match &state {
                State::Fine => continue,
                State::Warning(why) => ("warning", why),
                State::Down(why) => ("down", why),
            };
            text.push_str(&format!("\n{word}: {}{}", part.name(), reason(why)));
        }
        text
    }

    /// Why nothing may be issued now.
    pub fn why_not(&self) -> Option<String> {
        self.troubles()
            .into_iter()
            .find_map(|(part, state)| match state {
                State::Down(why) => Some(format!("{}: {why}", part.name())),
                _ => None,
            })
    }
}

impl fmt::Display for Health {
    /// `ok`, and a line for each part that somebody should look at.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|why| format!(": {why}")))
    }
}

impl Service {
    /// Notes how a part does, and says so when that is new.
    pub fn note(&self, part: Part, state: State) {
        let count = || self.metrics.part(part.name(), state.number());
        if !self.health.set_and(part, state.clone(), count) {
            return;
        }
        let (message, why) = match state {
            State::Fine => ("in order again", None),
            State::Warning(why) => ("needs a look", Some(why)),
            State::Down(why) => ("nothing is issued until this is mended", Some(why)),
        };
        let mut fields = vec![("part", part.name().to_owned())];
        fields.extend(why.map(|why| ("reason", why)));
        (self.journal)(&Line { message, fields });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_down_stops_issuing_and_what_warns_does_not() {
        let health = Health::default();
        assert_eq!(
            (health.to_string().as_str(), health.why_not()),
            ("ok", None)
        );
        assert!(health.set(Part::Authorities, State::Warning("ends soon".to_owned())));
        assert!(!health.set(Part::Authorities, State::Warning("ends soon".to_owned())));
        assert_eq!(health.to_string(), "ok\nwarning: authorities: ends soon");
        assert_eq!(health.why_not(), None);
        assert!(health.set(Part::Datastore, State::Down("away".to_owned())));
        assert_eq!(
            health.to_string(),
            "not ready\ndown: datastore: away\nwarning: authorities: ends soon"
        );
        assert_eq!(
            health.names(),
            "not ready\ndown: datastore\nwarning: authorities"
        );
        assert_eq!(health.why_not().as_deref(), Some("datastore: away"));
        assert!(health.set(Part::Datastore, State::Fine));
        assert!(!health.set(Part::Log, State::Fine));
        assert_eq!(health.why_not(), None);
    }
}
