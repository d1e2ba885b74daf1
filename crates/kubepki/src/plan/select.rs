//! Which rows a command means.

use pki::{Certificate, DAY, San, UnixTime};

use super::planner::Selection;
use crate::catalogue::{Flavour, Kind, Row, SanRule, Service, Side};
use crate::cluster::{self, Policy, WantError, Wishes, k3s_keeps, want};
use crate::inventory::{Facts, Found, Inventory, ObservedRow, Role};

/// A service that the flavour does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service {name} is not recognized; the services are {}", known.join(", "))]
pub struct UnknownService {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<&'static str>,
}

/// The services called `names`, each a name or several with commas; all that fit the node when
/// none is given.
///
/// # Errors
///
/// [`UnknownService`] with the list of the known ones.
pub fn services(
    flavour: &'static Flavour,
    role: Role,
    names: &[String],
) -> Result<Vec<&'static Service>, UnknownService> {
    let names: Vec<&str> = names
        .iter()
        .flat_map(|name| name.split(','))
        .map(str::trim)
        .filter(|n| !n.is_empty())
        .collect();
    if names.is_empty() {
        let fits = |service: &&Service| role == Role::Server || service.side == Side::Agent;
        return Ok(flavour.services.iter().filter(fits).collect());
    }
    names
        .into_iter()
        .map(|name| {
            flavour.service(name).ok_or_else(|| UnknownService {
                name: name.to_owned(),
                known: flavour
                    .services
                    .iter()
                    .map(|service| service.name)
                    .collect(),
            })
        })
        .collect()
}

/// Every row of `services` that this node has or should have.
pub fn requested(inventory: &Inventory, services: &[&'static Service]) -> Vec<Selection> {
    let mut selected: Vec<Selection> = Vec::new();
    for service in services {
        for id in service.rows {
            let Some(observed) = inventory.row(id) else {
                continue;
            };
            let wanted = !observed.file.is_absent() || expected(inventory, observed.row);
            // A shared key with its certificate beside it is the older row's business.
            let doubled = selected.iter().any(|other| {
                inventory
                    .row(other.row)
                    .is_some_and(|o| shares_key(o, observed))
            });
            if wanted && !doubled && !selected.iter().any(|other| other.row == *id) {
                let reason = format!("rotation of {} asked for", service.name);
                selected.push(Selection {
                    row: observed.row.id,
                    reason,
                });
            }
        }
    }
    selected
}

/// The rows that carry the servers' names and do not carry those that are wished for.
///
/// # Errors
///
/// [`WantError`] when what a leaf should say is not known.
pub fn renamed(
    inventory: &Inventory,
    wishes: &Wishes,
    policy: &Policy,
    now: UnixTime,
) -> Result<Vec<Selection>, WantError> {
    let carries_names = |row: &Row| match &row.kind {
        Kind::Leaf(spec) => spec.sans.contains(&SanRule::ServerNames),
        Kind::Listener { .. } => true,
        _ => false,
    };
    let mut selected = due(inventory, wishes, &policy.undated(), now)?.selected;
    selected.retain(|selection| {
        inventory
            .row(selection.row)
            .is_some_and(|o| carries_names(o.row))
    });
    Ok(selected)
}

fn shares_key(one: &ObservedRow, other: &ObservedRow) -> bool {
    one.key
        .as_ref()
        .is_some_and(|key| key.path == other.file.path)
}

fn expected(inventory: &Inventory, row: &Row) -> bool {
    row.depends_on.is_none() && inventory.release.expects(row)
}

/// What [`due`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// What has to be issued.
    pub selected: Vec<Selection>,
    /// What cannot be helped by issuing.
    pub notes: Vec<String>,
}

/// Every row that a start of K3s would make anew, and what K3s misses: files that cannot be
/// read, keys that do not match.
///
/// # Errors
///
/// [`WantError`] when what a leaf should say is not known.
pub fn due(
    inventory: &Inventory,
    wishes: &Wishes,
    policy: &Policy,
    now: UnixTime,
) -> Result<Due, WantError> {
    let mut due = Due::default();
    for observed in &inventory.rows {
        let Some(service) = inventory.flavour.service_of(observed.row) else {
            continue;
        };
        let Some(mut reason) = row_reason(inventory, observed, wishes, policy, now)? else {
            continue;
        };
        if let Some(note) = cannot_help(inventory, observed, policy, now) {
            // A new leaf would end no later, but may mend something else.
            match row_reason(inventory, observed, wishes, &policy.undated(), now)? {
                Some(other) => reason = other,
                None => {
                    let path = observed.file.path.display();
                    due.notes.push(format!("{path}: {reason}, but {note}"));
                    continue;
                }
            }
        }
        let reason = format!("{}: {reason}", service.name);
        due.selected.push(Selection {
            row: observed.row.id,
            reason,
        });
    }
    inlined_admin(inventory, policy, now, &mut due);
    due.notes.extend(clock_notes(inventory, now));
    Ok(due)
}

/// Why the files of a row should be made anew; `None` when they are fine.
fn row_reason(
    inventory: &Inventory,
    observed: &ObservedRow,
    wishes: &Wishes,
    policy: &Policy,
    now: UnixTime,
) -> Result<Option<String>, WantError> {
    if let Some(reason) = not_begun(inventory, observed, now) {
        return Ok(Some(reason));
    }
    Ok(match &observed.row.kind {
        Kind::Leaf(_) => leaf_reason(inventory, observed, wishes, policy, now)?,
        Kind::Key => key_reason(inventory, observed),
        Kind::Listener { authority } => {
            listener_reason(inventory, observed, authority, policy, now)
                .or_else(|| listener_names(inventory, wishes))
        }
        _ => None,
    })
}

/// A leaf that is not valid yet, by a CA that is: the clock went ahead when it was issued, and has
/// been set back since.
fn not_begun(inventory: &Inventory, observed: &ObservedRow, now: UnixTime) -> Option<String> {
    let leaf = observed.file.first_certificate().filter(|it| !it.is_ca())?;
    let begins = leaf.validity().not_before;
    let mut authorities = inventory.rows.iter().filter(|row| row.row.is_authority());
    let issuer = authorities.find_map(|row| {
        let authority = row.file.first_certificate()?;
        let own = leaf.authority_key_identifier() == authority.subject_key_identifier();
        own.then_some(authority)
    })?;
    let is_wrong = begins > now && issuer.validity().contains(now);
    is_wrong.then(|| format!("is not valid before {begins}"))
}

/// CAs that have not begun: the clock is wrong, and with it everything that is said of dates.
fn clock_notes(inventory: &Inventory, now: UnixTime) -> Vec<String> {
    let authorities = inventory
        .rows
        .iter()
        .filter(|observed| observed.row.is_authority());
    authorities
        .filter_map(|observed| {
            let begins = observed.file.first_certificate()?.validity().not_before;
            let path = observed.file.path.display();
            (begins > now).then(|| {
                format!(
                    "{path} is not valid before {begins}, and this machine's clock says {now}: \
                     set the clock"
                )
            })
        })
        .collect()
}

fn leaf_reason(
    inventory: &Inventory,
    observed: &ObservedRow,
    wishes: &Wishes,
    policy: &Policy,
    now: UnixTime,
) -> Result<Option<String>, WantError> {
    let Kind::Leaf(spec) = &observed.row.kind else {
        return Ok(None);
    };
    if observed.file.is_absent() {
        let missing = expected(inventory, observed.row);
        return Ok(missing.then(|| "is missing".to_owned()));
    }
    let Some(certificate) = observed.file.first_certificate() else {
        return Ok(Some("cannot be read as a certificate".to_owned()));
    };
    match observed.key.as_ref() {
        Some(key) if key.is_absent() => return Ok(Some("its key is missing".to_owned())),
        Some(key) => match key.keys().first() {
            None => return Ok(Some("its key cannot be read".to_owned())),
            Some(facts) if facts.spki != certificate.spki_sha256() => {
                return Ok(Some("its key is another certificate's".to_owned()));
            }
            Some(_) => {}
        },
        None => {}
    }
    let want = want(inventory, observed.row, spec, wishes)?;
    if let Some(reason) = carries_dropped(certificate.sans(), wishes)
        && !spec.sans.is_empty()
        && !want.sans.iter().any(|san| wishes.drop_sans.contains(san))
    {
        return Ok(Some(reason));
    }
    let authority = match inventory.site.role {
        Role::Server => inventory.authority(spec.authority).first(),
        // An agent has no CA but the copy that it trusts; the leaf's own chain names the rest.
        Role::AgentOnly => observed.file.certificates().get(1),
    };
    let authority = authority.unwrap_or(certificate);
    let leaf = cluster::Leaf {
        certificate,
        authority,
    };
    let mut reason = k3s_keeps(leaf, &want, now, policy.window).err();
    if inventory.site.role == Role::AgentOnly && authority == certificate {
        // Without any CA at hand nothing can be said of where it comes from.
        reason = reason.filter(|r| !matches!(r, cluster::Regenerates::OtherAuthority { .. }));
    }
    Ok(reason.map(|reason| reason.to_string()))
}

fn key_reason(inventory: &Inventory, observed: &ObservedRow) -> Option<String> {
    match &observed.file.found {
        Found::Absent => expected(inventory, observed.row).then(|| "is missing".to_owned()),
        Found::Present(present) => match &present.facts {
            Facts::Malformed(detail) => Some(format!("cannot be read: {detail}")),
            _ => None,
        },
        Found::Unreadable(_) => None,
    }
}

fn listener_reason(
    inventory: &Inventory,
    observed: &ObservedRow,
    authority: &str,
    policy: &Policy,
    now: UnixTime,
) -> Option<String> {
    if let Some(Facts::Malformed(detail)) = observed.file.present().map(|present| &present.facts) {
        return Some(format!("cannot be read: {detail}"));
    }
    let leaf = observed.file.first_certificate()?;
    let not_after = leaf.validity().not_after;
    if not_after < now {
        return Some(format!("expired {not_after}"));
    }
    if not_after.since(now) <= policy.window {
        return Some(format!(
            "ends {not_after}, inside the window of {} days",
            policy.window / DAY
        ));
    }
    let authority = inventory.authority(authority).first()?;
    (leaf.authority_key_identifier() != authority.subject_key_identifier())
        .then(|| format!("is from another CA than {}", authority.subject()))
}

/// Names that the listener should carry and does not, or carries and should not.
fn listener_names(inventory: &Inventory, wishes: &Wishes) -> Option<String> {
    let listener = inventory.listener()?;
    let leaf = listener.certificates.first()?;
    let missing: Vec<String> = wishes
        .add_sans
        .iter()
        .filter(|san| !leaf.sans().contains(san))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        return Some(format!("lacks the name {}", missing.join(", ")));
    }
    carries_dropped(leaf.sans(), wishes)
}

fn carries_dropped(sans: &[San], wishes: &Wishes) -> Option<String> {
    let dropped: Vec<String> = sans
        .iter()
        .filter(|san| wishes.drop_sans.contains(san))
        .map(ToString::to_string)
        .collect();
    (!dropped.is_empty()).then(|| format!("still carries the name {}", dropped.join(", ")))
}

/// Why a new leaf would end no later than this one: its CA ends too soon.
fn cannot_help(
    inventory: &Inventory,
    observed: &ObservedRow,
    policy: &Policy,
    now: UnixTime,
) -> Option<String> {
    let leaf = observed.file.first_certificate()?;
    ends_with_ca(inventory, observed.row, leaf, policy, now)
}

/// The same for a certificate that belongs to `row` wherever it lies.
fn ends_with_ca(
    inventory: &Inventory,
    row: &Row,
    leaf: &Certificate,
    policy: &Policy,
    now: UnixTime,
) -> Option<String> {
    let authority = match &row.kind {
        Kind::Leaf(spec) => spec.authority,
        Kind::Listener { authority } => authority,
        _ => return None,
    };
    let ca = inventory.authority(authority).first()?;
    let end = ca.validity().not_after;
    let same_key = leaf.authority_key_identifier() == ca.subject_key_identifier();
    let no_later = leaf.validity().not_after >= end && end.since(now) <= policy.window;
    (same_key && no_later && end >= now).then(|| {
        format!(
            "its CA {} ends {end}: rotate the CA (`kubepki ca stage`, then `kubepki rotate-ca`)",
            ca.subject()
        )
    })
}

/// The admin kubeconfig can inline an older leaf than the one on disk.
fn inlined_admin(inventory: &Inventory, policy: &Policy, now: UnixTime, due: &mut Due) {
    for observed in &inventory.rows {
        let Kind::AdminKubeconfig { leaf, .. } = observed.row.kind else {
            continue;
        };
        let Some(Facts::Kubeconfig(facts)) = observed.file.present().map(|p| &p.facts) else {
            continue;
        };
        let old = facts
            .users
            .iter()
            .filter_map(|user| user.certificates.first())
            .filter(|inlined| inlined.validity().not_after.since(now) <= policy.window)
            .find(|inlined| {
                let row = inventory.row(leaf).map(|observed| observed.row);
                // One that ends with its CA was said of the leaf on disk already.
                row.is_none_or(|row| ends_with_ca(inventory, row, inlined, policy, now).is_none())
            });
        if let Some(old) = old
            && !due.selected.iter().any(|selection| selection.row == leaf)
        {
            due.selected.push(Selection {
                row: leaf,
                reason: format!(
                    "admin: {} inlines a certificate that ends {}",
                    observed.file.path.display(),
                    old.validity().not_after
                ),
            });
        }
    }
}
