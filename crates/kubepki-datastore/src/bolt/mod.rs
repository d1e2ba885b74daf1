//! bbolt files, read only: the format in which etcd keeps its data (etcd-io/bbolt `page.go`,
//! `bucket.go`, `db.go`).
//!
//! A file is pages of one size. Pages 0 and 1 are two copies of the head, written in turn; the
//! intact one with the higher transaction number counts. From it a tree of branch and leaf pages
//! leads to buckets, each of which is such a tree again, or small enough to lie inside its
//! parent's leaf. All numbers are little-endian here: bbolt writes those of its machine, and
//! K3s runs on no big-endian one that this program is built for.
//!
//! Nothing in the file is trusted: every offset is checked, no page is visited twice, and at most
//! one run of pages is in memory.

mod page;

use std::fs::File;
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use self::page::{Meta, Page};

/// A file that cannot be read as bbolt's, in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) String);

/// An open file of which one state has been chosen.
#[derive(Debug)]
pub(crate) struct Bolt<'a> {
    file: &'a File,
    meta: Meta,
}

/// A tree of keys and values.
#[derive(Debug)]
pub(crate) enum Bucket {
    /// It begins at this page.
    Root(u64),
    /// It is so small that it lies in its parent.
    Inline(Zeroizing<Vec<u8>>),
}

/// Far above what etcd writes at once (1.5 MiB a value by default).
const RUN_LIMIT: u64 = 64 << 20;
/// A tree of this height would hold more than any disk does.
const DEPTH_LIMIT: usize = 64;

impl<'a> Bolt<'a> {
    /// Reads the head of `file`, of which the first `length` bytes are bbolt's.
    pub(crate) fn open(file: &'a File, length: u64) -> Result<Self, Damage> {
        if length == 0 {
            return Err(Damage("it is empty".to_owned()));
        }
        let first = Meta::read(file, 0, length)?;
        let second = match &first {
            Some(first) => Meta::read(file, first.page_size, length)?,
            // Where the second page begins is told by the first one only: try every size.
            None => page::SIZES
                .map(|size| {
                    Meta::read(file, size, length)
                        .ok()
                        .flatten()
                        .filter(|it| it.page_size == size)
                })
                .into_iter()
                .flatten()
                .next(),
        };
        let meta = [first, second]
            .into_iter()
            .flatten()
            .max_by_key(|meta| meta.transaction)
            .ok_or_else(|| {
                Damage("it is not etcd's: neither of its two first pages is bbolt's".to_owned())
            })?;
        let needed = meta.pages.checked_mul(meta.page_size);
        match needed {
            Some(needed) if needed <= length => Ok(Self { file, meta }),
            _ => Err(Damage(format!(
                "it was cut off: it should have {} pages of {} bytes, and has {length} bytes",
                meta.pages, meta.page_size
            ))),
        }
    }

    /// The bucket called `name` at the top.
    pub(crate) fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Damage> {
        let mut found = None;
        self.walk_tree(self.meta.root, &mut |entry| {
            if entry.key != name {
                return Ok(());
            }
            let (root, inline) = entry
                .value
                .split_first_chunk::<8>()
                .map(|(root, rest)| (u64::from_le_bytes(*root), rest.get(8..)))
                .ok_or_else(|| Damage("a bucket has no head".to_owned()))?;
            found = Some(match (entry.is_bucket, root, inline) {
                (true, 0, Some(page)) => Bucket::Inline(Zeroizing::new(page.to_vec())),
                (true, 1.., _) => Bucket::Root(root),
                _ => return Err(Damage("a value stands where a bucket belongs".to_owned())),
            });
            Ok(())
        })?;
        Ok(found)
    }

    /// Shows every key and value of `bucket` to `visit`, sorted by key.
    pub(crate) fn walk(&self, bucket: &Bucket, visit: &mut VisitValue<'_>) -> Result<(), Damage> {
        let visit: &mut Visit<'_> = &mut |entry| {
            if entry.is_bucket {
                return Err(Damage("a bucket stands where a value belongs".to_owned()));
            }
            visit(entry.key, entry.value)
        };
        match bucket {
            Bucket::Root(root) => self.walk_tree(*root, visit),
            Bucket::Inline(bytes) => Page::parse(bytes)?.leaf(&mut Order::default(), visit),
        }
    }

    fn walk_tree(&self, root: u64, visit: &mut Visit<'_>) -> Result<(), Damage> {
        let mut seen = Seen::new(self.meta.pages);
        let mut order = Order::default();
        let mut waiting = vec![(root, 0)];
        while let Some((number, depth)) = waiting.pop() {
            if depth > DEPTH_LIMIT {
                return Err(Damage(format!(
                    "its tree is deeper than {DEPTH_LIMIT} pages"
                )));
            }
            let bytes = self.read(number, &mut seen)?;
            let at = |damage: Damage| Damage(format!("page {number}: {}", damage.0));
            let page = Page::parse(&bytes).map_err(at)?;
            if page.is_leaf() {
                page.leaf(&mut order, visit).map_err(at)?;
            } else {
                let children = page.branch().map_err(at)?;
                waiting.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
            }
        }
        Ok(())
    }

    /// Page `number` and those that continue it.
    fn read(&self, number: u64, seen: &mut Seen) -> Result<Zeroizing<Vec<u8>>, Damage> {
        let size = self.meta.page_size;
        let broken = |what: &str| Damage(format!("page {number} {what}"));
        if !(2..self.meta.pages).contains(&number) {
            return Err(broken("lies outside the file"));
        }
        seen.enter(number)?;
        let mut bytes = self.read_at(number * size, size)?;
        let (own_number, overflow) = page::identity(&bytes).ok_or_else(|| broken("has no head"))?;
        if own_number != number {
            return Err(broken("says that it is another one"));
        }
        if overflow == 0 {
            return Ok(bytes);
        }
        let run = (overflow + 1) * size;
        if overflow >= self.meta.pages - number || run > RUN_LIMIT {
            return Err(broken("is longer than can be"));
        }
        for continued in number + 1..=number + overflow {
            seen.enter(continued)?;
        }
        bytes = self.read_at(number * size, run)?;
        Ok(bytes)
    }

    fn read_at(&self, offset: u64, length: u64) -> Result<Zeroizing<Vec<u8>>, Damage> {
        read_at(self.file, offset, length)
    }
}

/// Reads exactly `length` bytes.
fn read_at(file: &File, offset: u64, length: u64) -> Result<Zeroizing<Vec<u8>>, Damage> {
    let length = usize::try_from(length).map_err(|_| Damage("a page is too long".to_owned()))?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut bytes, offset)
        .map_err(|error| Damage(format!("cannot read {length} bytes at {offset}: {error}")))?;
    Ok(bytes)
}

/// What is done with each key and value of a bucket.
pub(crate) type VisitValue<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Damage> + 'a;
type Visit<'a> = dyn FnMut(page::Entry<'_>) -> Result<(), Damage> + 'a;

/// The last key, to see that the next one is greater.
#[derive(Debug, Default)]
struct Order(Option<Zeroizing<Vec<u8>>>);

impl Order {
    fn next(&mut self, key: &[u8]) -> Result<(), Damage> {
        if self.0.as_ref().is_some_and(|last| last.as_slice() >= key) {
            return Err(Damage("its keys are not in order".to_owned()));
        }
        self.0 = Some(Zeroizing::new(key.to_vec()));
        Ok(())
    }
}

/// Which pages of a tree have been visited, one bit each.
struct Seen(Vec<u64>);

impl Seen {
    fn new(pages: u64) -> Self {
        Self(vec![0; usize::try_from(pages / 64 + 1).unwrap_or_default()])
    }

    fn enter(&mut self, number: u64) -> Result<(), Damage> {
        let bit = 1_u64 << (number % 64);
        let word = usize::try_from(number / 64)
            .ok()
            .and_then(|index| self.0.get_mut(index))
            .ok_or_else(|| Damage(format!("page {number} lies outside the file")))?;
        if *word & bit != 0 {
            return Err(Damage(format!("page {number} is in the tree twice")));
        }
        *word |= bit;
        Ok(())
    }
}
