//! What rows mean and which row a write appends: the rules, without a database.

use kubepki::datastore::{Former, Record};
use zeroize::Zeroizing;

/// A row of the table.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) created: bool,
    pub(super) deleted: bool,
    pub(super) create_revision: i64,
    pub(super) prev_revision: i64,
    /// `None` is NULL: a lock, or a deletion.
    pub(super) value: Option<Zeroizing<Vec<u8>>>,
    pub(super) old_value: Option<Zeroizing<Vec<u8>>>,
}

/// A row to be appended; the database gives it its id, `lease` is 0.
pub(super) struct NewRow<'a> {
    pub(super) name: &'a str,
    pub(super) created: bool,
    pub(super) deleted: bool,
    pub(super) create_revision: i64,
    pub(super) prev_revision: i64,
    pub(super) value: Option<&'a [u8]>,
    pub(super) old_value: Option<&'a [u8]>,
}

/// A write that is asked for.
#[derive(Clone, Copy)]
pub(super) enum Write<'a> {
    Create { value: &'a [u8] },
    Update { revision: i64, value: &'a [u8] },
    Delete { revision: i64 },
}

impl Write<'_> {
    /// The revision that must be there.
    pub(super) fn expected(&self) -> Option<i64> {
        match self {
            Self::Create { .. } => None,
            Self::Update { revision, .. } | Self::Delete { revision } => Some(*revision),
        }
    }

    /// For errors.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Update { .. } => "update",
            Self::Delete { .. } => "delete",
        }
    }
}

/// The revision of a key whose newest row is `newest`; `None` if the key is not there.
pub(super) fn live_revision(newest: Option<&Row>) -> Option<i64> {
    newest.filter(|row| !row.deleted).map(|row| row.id)
}

/// The row that `write` appends after `newest`, or the revision that is there instead of the
/// expected one.
pub(super) fn next<'a>(
    key: &'a str,
    newest: Option<&'a Row>,
    write: &Write<'a>,
) -> Result<NewRow<'a>, Option<i64>> {
    let found = live_revision(newest);
    if found != write.expected() {
        return Err(found);
    }
    // kine keeps an empty value as NULL.
    let filled = |value: &'a [u8]| (!value.is_empty()).then_some(value);
    Ok(NewRow {
        name: key,
        created: matches!(write, Write::Create { .. }),
        deleted: matches!(write, Write::Delete { .. }),
        create_revision: match (write, newest) {
            (Write::Update { .. }, Some(row)) => create_revision(row),
            _ => 0,
        },
        // Of a deletion too, where there is one: that row stands in for the first.
        prev_revision: newest.map_or(0, |row| row.id),
        value: match write {
            Write::Create { value } | Write::Update { value, .. } => filled(value),
            Write::Delete { .. } => None,
        },
        old_value: newest
            .and_then(|row| row.value.as_ref())
            .map(|it| it.as_slice()),
    })
}

/// The revision that made the key: a creating row is that itself and says 0.
fn create_revision(row: &Row) -> i64 {
    if row.created {
        row.id
    } else {
        row.create_revision
    }
}

/// A live row as the rest of the program sees it.
pub(super) fn record(row: Row) -> Record {
    Record {
        revision: row.id,
        create_revision: create_revision(&row),
        key: row.name,
        value: row.value.unwrap_or_default(),
    }
}

/// Every value that a key no longer has, in `rows` (all rows of some keys, by id).
///
/// A value that was replaced lies in its own row until kine's compaction, and in `old_value` of
/// the row after it; both places are told. Copies of what is live are not.
pub(super) fn former(rows: Vec<Row>) -> Vec<Former> {
    use std::collections::BTreeMap;

    type Live = (i64, Option<Zeroizing<Vec<u8>>>);
    let newest: BTreeMap<String, Live> = rows
        .iter()
        .map(|row| (row.name.clone(), (row.id, row.value.clone())))
        .collect();
    let mut former = Vec::new();
    for row in rows {
        let Some((newest_id, live)) = newest.get(&row.name) else {
            continue;
        };
        let told = |value: &Option<Zeroizing<Vec<u8>>>| {
            value.as_ref().is_some_and(|it| !it.is_empty()) && value != live
        };
        let place = |column| format!("row {} of table kine, column {column}", row.id);
        if told(&row.old_value) {
            former.push(Former {
                key: row.name.clone(),
                revision: Some(row.prev_revision).filter(|it| *it > 0),
                place: place("old_value"),
                value: row.old_value.unwrap_or_default(),
            });
        }
        if row.id != *newest_id && told(&row.value) {
            former.push(Former {
                place: place("value"),
                key: row.name,
                revision: Some(row.id),
                value: row.value.unwrap_or_default(),
            });
        }
    }
    // By the revision that wrote the value; its own row comes before the copy.
    former.sort_by_key(|it| it.revision.unwrap_or(0));
    former
}

/// A row as the database answers it; integers come as 64 bits, casts see to that.
pub(super) fn decode<'r, R>(row: &'r R) -> Result<Row, sqlx::Error>
where
    R: sqlx::Row,
    &'static str: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    Vec<u8>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let blob = |column: &'static str| -> Result<Option<Zeroizing<Vec<u8>>>, sqlx::Error> {
        Ok(row
            .try_get::<Option<Vec<u8>>, _>(column)?
            .map(Zeroizing::new))
    };
    Ok(Row {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        created: row.try_get::<i64, _>("created")? != 0,
        deleted: row.try_get::<i64, _>("deleted")? != 0,
        create_revision: row.try_get("create_revision")?,
        prev_revision: row.try_get("prev_revision")?,
        value: blob("value")?,
        old_value: blob("old_value")?,
    })
}

/// `prefix` for `LIKE … ESCAPE '^'`.
pub(super) fn like(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if matches!(letter, '^' | '%' | '_') {
            pattern.push('^');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
