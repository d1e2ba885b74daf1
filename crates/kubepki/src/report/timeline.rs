//! What ends first, when, and what prevents it.

use std::collections::BTreeMap;
use std::fmt::Write;

use pki::{Certificate, DAY, Purpose, UnixTime};
use serde::Serialize;

use super::{SCHEMA, text};
use crate::catalogue::{Kind, Row, Side};
use crate::check::Question;
use crate::inventory::{Facts, Inventory, Role};

/// A tree's future, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The version of this shape: that of reports.
    pub schema: u32,
    /// The data directory.
    pub data_dir: String,
    /// The moment from which it is looked at.
    pub at: String,
    /// What happens if nobody does anything, the first first.
    pub events: Vec<Event>,
    /// Seconds since 1970 of [`Self::at`].
    #[serde(skip)]
    now: UnixTime,
}

/// Something that happens at one moment, for one reason, to any number of certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    pub at: String,
    /// Seconds until then; negative when it has happened.
    pub in_seconds: i64,
    /// What kind.
    pub kind: EventKind,
    /// Rows of the catalogue whose certificates it happens to.
    pub rows: Vec<&'static str>,
    /// What happens, in words.
    pub what: String,
    /// What follows from it.
    pub consequence: String,
    /// What prevents that, or makes use of it.
    pub prevents: String,
    /// Seconds since 1970 of [`Self::at`].
    #[serde(skip)]
    moment: UnixTime,
}

/// What can happen to a certificate by the passing of time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// From now on a start of K3s renews the leaf.
    LeafWindow,
    /// The leaf ends.
    LeafEnd,
    /// From now on the CA should be rotated.
    AuthorityWindow,
    /// The CA that signs ends.
    AuthorityEnd,
    /// An outer CA ends: a root, an intermediate, a cross-certificate, an old CA.
    OuterEnd,
}

/// What belongs together in one event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    moment: UnixTime,
    kind: EventKind,
    /// An agent renews its leaves by other rules.
    agent: bool,
}

/// What a group is made of.
#[derive(Default)]
struct Members {
    rows: Vec<&'static Row>,
    /// Outer CAs have no row of their own.
    names: Vec<String>,
}

/// What is to come, judged from the files alone.
pub fn timeline(question: &Question<'_>) -> Timeline {
    let inventory = question.inventory;
    let mut groups: BTreeMap<Group, Members> = BTreeMap::new();
    let mut add = |moment, kind, row: &'static Row, name: Option<String>| {
        let leaf = matches!(kind, EventKind::LeafWindow | EventKind::LeafEnd);
        let agent = leaf && row.side == Side::Agent;
        let group = Group {
            moment,
            kind,
            agent,
        };
        let members = groups.entry(group).or_default();
        if !members.rows.iter().any(|seen| seen.id == row.id) {
            members.rows.push(row);
        }
        members.names.extend(name);
    };
    for observed in &inventory.rows {
        let row = observed.row;
        for leaf in leaves_of(observed.row, &observed.file) {
            let end = leaf.validity().not_after;
            let opens = end.plus(-question.policy.window);
            add(opens, EventKind::LeafWindow, row, None);
            add(end, EventKind::LeafEnd, row, None);
        }
        if !is_authority(row, inventory.site.role) {
            continue;
        }
        for (position, certificate) in observed.file.certificates().iter().enumerate() {
            let end = certificate.validity().not_after;
            if position == 0 {
                let opens = end.plus(-question.authority_window);
                add(opens, EventKind::AuthorityWindow, row, None);
                add(end, EventKind::AuthorityEnd, row, None);
            } else {
                let name = outer_name(certificate);
                add(end, EventKind::OuterEnd, row, Some(name));
            }
        }
    }
    let events = groups
        .into_iter()
        .map(|(group, members)| event(question, group, &members))
        .collect();
    Timeline {
        schema: SCHEMA,
        data_dir: inventory.site.data_dir.display().to_string(),
        at: question.now.to_string(),
        events,
        now: question.now,
    }
}

fn outer_name(certificate: &Certificate) -> String {
    match certificate.is_self_issued() {
        true => format!("the root {}", certificate.subject()),
        false => format!("{} (by {})", certificate.subject(), certificate.issuer()),
    }
}

fn is_authority(row: &Row, role: Role) -> bool {
    match row.kind {
        Kind::Authority { .. } => role == Role::Server,
        Kind::CopyOf { .. } => role == Role::AgentOnly,
        _ => false,
    }
}

fn leaves_of<'a>(
    row: &Row,
    file: &'a crate::inventory::Observed,
) -> impl Iterator<Item = &'a Certificate> {
    let own = match row.kind {
        Kind::Leaf(_) | Kind::Listener { .. } => file.first_certificate(),
        _ => None,
    };
    let inlined = match file.present().map(|present| &present.facts) {
        Some(Facts::Kubeconfig(facts)) => facts.users.as_slice(),
        _ => &[],
    };
    own.into_iter()
        .chain(inlined.iter().filter_map(|user| user.certificates.first()))
}

fn event(question: &Question<'_>, group: Group, members: &Members) -> Event {
    let words = words(question, &group, members);
    Event {
        at: group.moment.to_string(),
        in_seconds: group.moment.since(question.now),
        kind: group.kind,
        rows: members.rows.iter().map(|row| row.id).collect(),
        what: words.what,
        consequence: words.consequence,
        prevents: words.prevents,
        moment: group.moment,
    }
}

struct Words {
    what: String,
    consequence: String,
    prevents: String,
}

fn words(question: &Question<'_>, group: &Group, members: &Members) -> Words {
    let rows = members.rows.as_slice();
    let site = &question.inventory.site;
    let restart = match (site.role, site.has_k3s) {
        (Role::AgentOnly, true) => "systemctl restart k3s-agent",
        (Role::AgentOnly, false) => "kubepki node renew",
        (Role::Server, _) => "systemctl restart k3s",
    };
    let rotate = "rotate the CA before (kubepki ca stage, then kubepki rotate-ca)";
    let agent = group.agent;
    match group.kind {
        EventKind::LeafWindow => Words {
            what: format!("{} can be renewed", counted(rows.len(), "leaf", "leaves")),
            consequence: match agent {
                true if site.has_k3s => {
                    "every start of the agent renews these anyway, at any time".to_owned()
                }
                true => "from here on, `kubepki node renew` renews them".to_owned(),
                false => format!(
                    "from here on, {} days ahead of the end, a start of K3s renews them",
                    question.policy.window / DAY
                ),
            },
            prevents: match question.inventory.site.role {
                Role::Server => format!("kubepki renew, or {restart}"),
                Role::AgentOnly => restart.to_owned(),
            },
        },
        EventKind::LeafEnd => Words {
            what: format!("{} end", counted(rows.len(), "leaf", "leaves")),
            consequence: leaf_consequence(rows),
            prevents: match agent {
                true => format!("{restart} before"),
                false => format!(
                    "kubepki renew before; or {restart} between {} and then",
                    group.moment.plus(-question.policy.window)
                ),
            },
        },
        EventKind::AuthorityWindow => Words {
            what: format!("{} should be rotated", counted(rows.len(), "CA", "CAs")),
            consequence: format!(
                "no start, loop or renewal ever touches a CA; {} days are left for a rotation",
                question.authority_window / DAY
            ),
            prevents: rotate.to_owned(),
        },
        EventKind::AuthorityEnd => Words {
            what: format!("{} end", counted(rows.len(), "CA", "CAs")),
            consequence: authority_consequence(question.inventory, rows),
            prevents: rotate.to_owned(),
        },
        EventKind::OuterEnd => Words {
            what: format!(
                "{} end",
                counted(distinct(&members.names).len(), "outer CA", "outer CAs")
            ),
            consequence: outer_consequence(members),
            prevents: format!(
                "give every client the present bundle before; if it is the only root, {rotate}"
            ),
        },
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// Who is refused, by the rows' own summaries.
fn leaf_consequence(rows: &[&'static Row]) -> String {
    let serves = |row: &&&'static Row| match &row.kind {
        Kind::Leaf(spec) => spec.purposes.contains(&Purpose::ServerAuth),
        Kind::Listener { .. } => true,
        _ => false,
    };
    let names = |rows: Vec<&&'static Row>| {
        let mut names: Vec<&str> = Vec::new();
        for row in rows {
            if !names.contains(&row.summary) {
                names.push(row.summary);
            }
        }
        names.join("; ")
    };
    let (servers, clients): (Vec<_>, Vec<_>) = rows.iter().partition(serves);
    let mut parts = Vec::new();
    if !clients.is_empty() {
        parts.push(format!("no longer let in: {}", names(clients)));
    }
    if !servers.is_empty() {
        parts.push(format!("no longer trusted by clients: {}", names(servers)));
    }
    parts.join(". ")
}

fn authority_consequence(inventory: &Inventory, rows: &[&'static Row]) -> String {
    let signs: Vec<&str> = rows
        .iter()
        .filter_map(|row| match row.kind {
            Kind::Authority { signs, .. } => Some(signs),
            Kind::CopyOf { authority } => match inventory.flavour.row(authority)?.kind {
                Kind::Authority { signs, .. } => Some(signs),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let mut text = format!(
        "every certificate of {} is refused, however new; K3s goes on issuing them",
        signs.join(", ")
    );
    if rows.iter().any(|row| row.id == "client-ca") {
        text.push_str("; kubelets can no longer reach the API server");
    }
    if rows.iter().any(|row| row.id == "server-ca") {
        text.push_str("; no node can join");
    }
    text
}

fn distinct(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// K3s's components are Go programs and take every certificate of their bundle for an anchor.
fn outer_consequence(members: &Members) -> String {
    let mut text = format!(
        "{}: Kubernetes goes on with the CA that signs; clients that hold only these, and OpenSSL \
         where no other path to a root is left, fail",
        distinct(&members.names).join("; ")
    );
    if members.rows.iter().any(|row| row.id == "server-ca") {
        text.push_str("; the hash in join tokens can change");
    }
    text
}

/// The timeline in a paragraph for each event.
pub fn render(timeline: &Timeline) -> String {
    let mut out = format!(
        "{}, from {}\n",
        text::printable(&timeline.data_dir),
        timeline.at
    );
    if timeline.events.is_empty() {
        out.push_str("no certificate here ends\n");
    }
    for event in &timeline.events {
        let left = match event.in_seconds < 0 {
            true => format!("{} ago", text::period(event.in_seconds.saturating_neg())),
            false => format!("in {}", text::period(event.in_seconds)),
        };
        let _ = writeln!(
            out,
            "{} ({left}): {}",
            event.at,
            text::printable(&event.what)
        );
        for (label, text) in [
            ("which: ", event.rows.join(", ")),
            ("means: ", event.consequence.clone()),
            (advice(event, timeline.now), event.prevents.clone()),
        ] {
            let line = format!("  {label}  {}", text::printable(&text));
            let _ = writeln!(out, "{}", text::wrapped(&line, "           "));
        }
    }
    out
}

/// What the advice of an event is called.
fn advice(event: &Event, now: UnixTime) -> &'static str {
    match event.kind {
        EventKind::LeafWindow => "how:   ",
        _ if event.moment < now => "mend:  ",
        _ => "avoid: ",
    }
}
