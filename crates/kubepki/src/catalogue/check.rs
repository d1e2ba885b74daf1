//! What must hold of the table itself.

use std::collections::BTreeSet;

use super::{Flavour, Kind, Row};

/// A fault in a flavour's table: a bug in this program, found by its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// Two rows have one id.
    IdTwice(&'static str),
    /// Two rows that can exist together name one file.
    PathTwice(&'static str, &'static str),
    /// A row names a row that does not exist, or is of another kind.
    Dangling {
        /// The row.
        row: &'static str,
        /// What it names.
        names: &'static str,
    },
    /// A leaf without purpose or common name.
    Unissuable(&'static str),
    /// A leaf or key that no service rotates.
    Unserved(&'static str),
}

/// Every fault of `flavour`'s table.
pub fn check_table(flavour: &'static Flavour) -> Vec<TableFault> {
    let mut faults = Vec::new();
    let mut ids = BTreeSet::new();
    for row in flavour.rows {
        if !ids.insert(row.id) {
            faults.push(TableFault::IdTwice(row.id));
        }
        check_row(flavour, row, &mut faults);
    }
    for (index, row) in flavour.rows.iter().enumerate() {
        for other in flavour.rows.iter().skip(index + 1) {
            if row.side == other.side && shares_file(row, other) && overlap(row, other) {
                faults.push(TableFault::PathTwice(row.id, other.id));
            }
        }
    }
    for service in flavour.services {
        for id in service.rows {
            if flavour.row(id).is_none() {
                faults.push(TableFault::Dangling {
                    row: service.name,
                    names: id,
                });
            }
        }
    }
    faults
}

fn check_row(flavour: &'static Flavour, row: &'static Row, faults: &mut Vec<TableFault>) {
    let mut needs = |id: &'static str, fits: fn(&Row) -> bool| {
        if !flavour.row(id).is_some_and(fits) {
            faults.push(TableFault::Dangling {
                row: row.id,
                names: id,
            });
        }
    };
    let is_leaf = |row: &Row| matches!(row.kind, Kind::Leaf(_));
    match &row.kind {
        Kind::Leaf(leaf) => needs(leaf.authority, Row::is_authority),
        Kind::FirstOf { authority } | Kind::CopyOf { authority } | Kind::Listener { authority } => {
            needs(authority, Row::is_authority);
        }
        Kind::Kubeconfig { leaf, .. } => needs(leaf, is_leaf),
        Kind::AdminKubeconfig { leaf, authority } => {
            needs(leaf, is_leaf);
            needs(authority, Row::is_authority);
        }
        _ => {}
    }
    if let Kind::Leaf(leaf) = &row.kind {
        let unnamed = leaf.common_name == super::CommonName::Literal("");
        if leaf.purposes.is_empty() || unnamed {
            faults.push(TableFault::Unissuable(row.id));
        }
    }
    let rotatable = matches!(row.kind, Kind::Leaf(_) | Kind::Key | Kind::Listener { .. });
    if rotatable && flavour.service_of(row).is_none() {
        faults.push(TableFault::Unserved(row.id));
    }
}

fn shares_file(row: &Row, other: &Row) -> bool {
    let files = |row: &Row| [Some(row.file()), row.key_file()];
    files(row)
        .iter()
        .flatten()
        .any(|file| files(other).contains(&Some(file.clone())))
}

/// Whether some release has both rows.
fn overlap(row: &Row, other: &Row) -> bool {
    let ends_where_begins = |a: &Row, b: &Row| a.until.is_some_and(|until| until == b.since);
    !ends_where_begins(row, other) && !ends_where_begins(other, row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{K3S, Since};

    #[test]
    fn k3s_is_sound() {
        assert_eq!(check_table(&K3S), []);
    }

    #[test]
    fn faults_are_found() {
        static ROWS: &[Row] = &[
            Row {
                id: "twice",
                summary: "",
                side: crate::catalogue::Side::Server,
                path: "a",
                kind: Kind::FirstOf {
                    authority: "nobody",
                },
                since: Since::ALWAYS,
                until: None,
                depends_on: None,
                because: None,
            },
            Row {
                id: "twice",
                summary: "",
                side: crate::catalogue::Side::Server,
                path: "a",
                kind: Kind::Key,
                since: Since::ALWAYS,
                until: None,
                depends_on: None,
                because: None,
            },
        ];
        static BROKEN: Flavour = Flavour {
            name: "broken",
            rows: ROWS,
            services: &[],
        };
        assert_eq!(
            check_table(&BROKEN),
            [
                TableFault::Dangling {
                    row: "twice",
                    names: "nobody"
                },
                TableFault::IdTwice("twice"),
                TableFault::Unserved("twice"),
                TableFault::PathTwice("twice", "twice"),
            ]
        );
    }
}
