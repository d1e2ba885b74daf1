//! Files that are not what they should be: an error each time, never a panic, never a loop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kubepki::datastore::{Archive, Datastore, DatastoreError, Record};
use kubepki_datastore::etcd::EtcdFile;
use proptest::prelude::*;
use tempfile::TempDir;
use testkit::{Etcd, fixture};

const PAGE: usize = 4096;

/// The database of a real etcd: three levels of pages, values that span pages, free pages.
fn database() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut etcd = Etcd::plain();
        let large = "x".repeat(20_000);
        for count in 0..40 {
            etcd.control(&["put", &format!("/bootstrap/{}", count % 7), &large]);
        }
        etcd.control(&["del", "/bootstrap/3"]);
        etcd.control(&["compact", "--physical", "20"]);
        etcd.stop(0);
        // Most of the file is unused; what lies behind the highest page in use is cut off.
        let bytes = std::fs::read(etcd.database(0)).unwrap();
        let pages = [0, PAGE].map(|meta| number(&bytes, meta + 16 + 40));
        let used = usize::try_from(pages[0].max(pages[1])).unwrap() * PAGE;
        bytes[..used].to_vec()
    })
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn put(&self, content: &[u8]) -> PathBuf {
        let path = self.0.path().join("db");
        write(&path, content);
        path
    }
}

#[expect(clippy::disallowed_methods, reason = "a file in a temporary folder")]
fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
}

/// Reads everything that there is to read.
fn read_all(path: &Path) -> Result<Vec<Record>, DatastoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let file = EtcdFile::open(path)?;
    runtime.block_on(async {
        file.former("/bootstrap").await?;
        file.newest_revision().await?;
        file.list("/bootstrap").await
    })
}

#[track_caller]
fn malformed(path: &Path, wanted: &str) {
    let error = read_all(path).unwrap_err();
    assert!(matches!(error, DatastoreError::Malformed { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains(&path.display().to_string()), "{text}");
}

#[test]
fn the_whole_file_is_read() {
    let place = Place::new();
    let records = read_all(&place.put(database())).unwrap();
    assert_eq!(records.len(), 6);
    assert!(records.iter().all(|record| record.value.len() == 20_000));
}

#[test]
fn what_is_no_database_is_told_apart() {
    let place = Place::new();
    malformed(&place.put(b""), "it is empty");
    malformed(&place.put(b"x"), "not etcd's");
    malformed(&place.put(&b"some text\n".repeat(2001)), "not etcd's");
    malformed(&place.put(&[0; 3 * PAGE]), "not etcd's");
    malformed(&place.put(b"PK\x03\x04 and so on"), "zip archive");
    malformed(&place.put(b"\x1f\x8b\x08 and so on"), "gzip");
    malformed(&place.put(b"SQLite format 3\0 and so on"), "SQLite");
    // 32 bytes more than full pages look like a snapshot with its checksum.
    malformed(&place.put(&[7; 4 * PAGE + 32]), "not etcd's");

    let nowhere = EtcdFile::open(&place.0.path().join("none")).unwrap_err();
    assert!(
        matches!(nowhere, DatastoreError::Unreachable { .. }),
        "{nowhere}"
    );
    let folder = EtcdFile::open(place.0.path()).unwrap_err().to_string();
    assert!(folder.contains("not a regular file"), "{folder}");
}

#[test]
fn a_snapshot_that_lost_or_changed_a_byte_is_refused() {
    let fixture = fixture("k3s-1.36-etcd-external");
    let whole = std::fs::read(fixture.extra("etcd-snapshot.db")).unwrap();
    let place = Place::new();
    for at in (0..whole.len()).step_by(9_973) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        malformed(&place.put(&changed), "SHA-256 at its end does not fit");
    }
    // Without the checksum it is a database like any other.
    let bare = &whole[..whole.len() - 32];
    assert_eq!(read_all(&place.put(bare)).unwrap().len(), 1);
    assert_eq!(read_all(&place.put(&whole)).unwrap().len(), 1);
}

#[test]
fn a_file_that_was_cut_off_is_refused_at_every_length() {
    let place = Place::new();
    let path = place.put(database());
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // From the end, so that each is a prefix of the file before.
    for length in (1..database().len()).rev().step_by(PAGE / 2 + 7) {
        file.set_len(length as u64).unwrap();
        malformed(&path, "");
    }
    file.set_len((2 * PAGE) as u64).unwrap();
    malformed(&path, "it was cut off: it should have");
}

#[test]
fn one_torn_head_does_not_matter_two_do() {
    let place = Place::new();
    let newer = if number(database(), 16 + 48) > number(database(), PAGE + 16 + 48) {
        0
    } else {
        PAGE
    };
    let mut torn = database().to_vec();
    torn[newer + 16 + 50] ^= 1;
    // The older head is of the transaction before; etcd itself falls back to it.
    let runs = read_all(&place.put(&torn));
    assert!(runs.is_ok_and(|records| !records.is_empty()));
    torn[PAGE - newer + 16 + 50] ^= 1;
    malformed(&place.put(&torn), "neither of its two first pages");
}

/// Sets eight bytes of a head and mends its checksum, so that only what they say is wrong.
fn with_head(at: usize, value: u64) -> Vec<u8> {
    let mut bytes = database().to_vec();
    for meta in [0, PAGE] {
        let meta = meta + 16;
        bytes[meta + at..meta + at + 8].copy_from_slice(&value.to_le_bytes());
        let sum = bytes[meta..meta + 56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        bytes[meta + 56..meta + 64].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

#[test]
fn a_head_that_lies_is_found_out() {
    let place = Place::new();
    let (root, pages) = (16, 40);
    for huge in [1 << 20, 1 << 40, 1 << 52, u64::MAX / 4096, u64::MAX] {
        malformed(&place.put(&with_head(pages, huge)), "it was cut off");
        malformed(&place.put(&with_head(root, huge)), "lies outside the file");
    }
    for head in [0, 1] {
        malformed(&place.put(&with_head(root, head)), "lies outside the file");
    }
    malformed(&place.put(&with_head(pages, 2)), "lies outside the file");
    malformed(&place.put(&with_head(pages, 0)), "lies outside the file");
}

/// The page where etcd's history begins, a branch, and its children.
fn branch() -> (usize, Vec<u64>) {
    let bytes = database();
    let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let newer = [0, PAGE]
        .into_iter()
        .max_by_key(|head| number(bytes, head + 16 + 48))
        .unwrap();
    let buckets = number(bytes, newer + 16 + 16) as usize * PAGE;
    let page = (0..usize::from(bytes[buckets + 10]))
        .map(|index| buckets + 16 + index * 16)
        .map(|element| (element + field(element + 4), field(element + 8)))
        .find(|(name, length)| &bytes[*name..name + length] == b"key")
        .map(|(name, length)| number(bytes, name + length) as usize)
        .expect("there is a bucket of keys");
    let count = usize::from(bytes[page * PAGE + 10]);
    assert!(bytes[page * PAGE + 8] == 1 && count > 1, "it is a branch");
    let children = (0..count)
        .map(|index| number(bytes, page * PAGE + 16 + index * 16 + 8))
        .collect();
    (page, children)
}

#[test]
fn circles_twins_and_strangers_in_the_tree_are_found_out() {
    let place = Place::new();
    let (page, children) = branch();
    let child = |index: usize| page * PAGE + 16 + index * 16 + 8;
    for (target, wanted) in [
        (page as u64, "is in the tree twice"),
        (children[1], "is in the tree twice"),
        (u64::MAX, "lies outside the file"),
        (0, "lies outside the file"),
    ] {
        let mut bytes = database().to_vec();
        bytes[child(0)..child(0) + 8].copy_from_slice(&target.to_le_bytes());
        malformed(&place.put(&bytes), wanted);
    }
    let mut bytes = database().to_vec();
    for (from, to) in [(child(0), children[1]), (child(1), children[0])] {
        bytes[from..from + 8].copy_from_slice(&to.to_le_bytes());
    }
    malformed(&place.put(&bytes), "keys are not in order");

    // A leaf that claims to be gigabytes long is not fetched.
    let leaf = usize::try_from(children[0]).unwrap() * PAGE;
    for overflow in [u32::MAX, 1 << 20, 1 << 14] {
        let mut bytes = database().to_vec();
        bytes[leaf + 12..leaf + 16].copy_from_slice(&overflow.to_le_bytes());
        malformed(&place.put(&bytes), "is longer than can be");
    }
    for (field, what) in [
        (0, "says that it is another one"),
        (8, "neither branch nor leaf"),
    ] {
        let mut bytes = database().to_vec();
        bytes[leaf + field] ^= 0x40;
        malformed(&place.put(&bytes), what);
    }
    // Position, length of key, length of value of the first element.
    for field in [4, 8, 12] {
        let mut bytes = database().to_vec();
        bytes[leaf + 16 + field..leaf + 20 + field].copy_from_slice(&u32::MAX.to_le_bytes());
        malformed(&place.put(&bytes), "an element reaches out of it");
    }
}

#[test]
fn a_file_of_gigabytes_is_not_read_whole() {
    let place = Place::new();
    let path = place.put(database());
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // Sparse: 6 GiB behind the pages in use, as an etcd leaves behind that was much larger.
    file.set_len(6 << 30).unwrap();
    assert_eq!(read_all(&path).unwrap().len(), 6);
}

#[test]
fn a_bbolt_file_of_somebody_else_is_named_as_such() {
    let place = Place::new();
    let mut bytes = database().to_vec();
    // The bucket of etcd's history under another name, in the page where buckets are listed.
    for head in [0, PAGE] {
        let root = usize::try_from(number(&bytes, head + 16 + 16)).unwrap() * PAGE;
        let page = &mut bytes[root..root + PAGE];
        let at = page
            .windows(3)
            .position(|it| it == b"key" || it == b"kez")
            .unwrap();
        page[at + 2] = b'z';
    }
    malformed(
        &place.put(&bytes),
        "it is a bbolt file, but not etcd's: it has no bucket \"key\"",
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is changed anywhere: an answer or an error, in the time of one reading.
    #[test]
    fn any_change_ends_in_an_answer_or_an_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        in_heads_of_pages in any::<bool>(),
    ) {
        let mut bytes = database().to_vec();
        for (index, value) in changes {
            let at = if in_heads_of_pages {
                // The first bytes of pages decide most.
                let page = 2 + index.index(bytes.len() / PAGE - 2);
                page * PAGE + usize::from(value) % 64
            } else {
                index.index(bytes.len())
            };
            bytes[at] = value;
        }
        let place = Place::new();
        let path = place.0.path().join("db");
        std::fs::File::options().create_new(true).write(true).open(&path).unwrap()
            .write_all(&bytes).unwrap();
        match read_all(&path) {
            Ok(records) => prop_assert!(records.len() <= 7),
            Err(error) => prop_assert!(matches!(error, DatastoreError::Malformed { .. }), "{error}"),
        }
    }
}
