//! Single pages: the head of the file, branches, leaves.

use std::fs::File;

use super::{Damage, Order, Visit, read_at};

/// Page sizes that machines have.
pub(super) const SIZES: [u64; 8] = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];

const HEAD: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const BUCKET: u32 = 0x01;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// What of a meta page its checksum covers.
const COVERED: usize = 56;

/// One of the two heads of a file.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) page_size: u64,
    /// The page where the tree of buckets begins.
    pub(super) root: u64,
    /// One more than the highest page in use.
    pub(super) pages: u64,
    pub(super) transaction: u64,
}

impl Meta {
    /// The head at `offset`; `None` if what lies there is not one, or is torn.
    pub(super) fn read(file: &File, offset: u64, length: u64) -> Result<Option<Self>, Damage> {
        let size = (HEAD + COVERED + 8) as u64;
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Ok(None);
        }
        let bytes = read_at(file, offset, size)?;
        Ok(Self::parse(bytes.get(HEAD..).unwrap_or_default()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let sum = fnv1a(bytes.get(..COVERED)?);
        let meta = Self {
            page_size: u32_at(bytes, 8)?.into(),
            root: u64_at(bytes, 16)?,
            pages: u64_at(bytes, 40)?,
            transaction: u64_at(bytes, 48)?,
        };
        let intact = u32_at(bytes, 0)? == MAGIC
            && u32_at(bytes, 4)? == VERSION
            && u64_at(bytes, COVERED)? == sum
            && SIZES.contains(&meta.page_size);
        intact.then_some(meta)
    }
}

/// A page's own number and how many pages continue it.
pub(super) fn identity(bytes: &[u8]) -> Option<(u64, u64)> {
    Some((u64_at(bytes, 0)?, u32_at(bytes, 12)?.into()))
}

/// A branch or leaf page with the pages that continue it.
pub(super) struct Page<'a> {
    bytes: &'a [u8],
    leaf: bool,
    count: usize,
}

/// One element of a leaf.
pub(super) struct Entry<'a> {
    pub(super) is_bucket: bool,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Page<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Damage> {
        let (flags, count) = u16_at(bytes, 8)
            .zip(u16_at(bytes, 10))
            .ok_or_else(|| Damage("it has no head".to_owned()))?;
        let leaf = match flags {
            LEAF => true,
            BRANCH => false,
            other => {
                return Err(Damage(format!(
                    "it is neither branch nor leaf ({other:#x})"
                )));
            }
        };
        Ok(Self {
            bytes,
            leaf,
            count: count.into(),
        })
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.leaf
    }

    /// The pages below a branch, in order.
    pub(super) fn branch(&self) -> Result<Vec<u64>, Damage> {
        if self.count == 0 {
            return Err(Damage("it is a branch without children".to_owned()));
        }
        (0..self.count)
            .map(|index| {
                let element = HEAD + index * ELEMENT;
                u64_at(self.bytes, element + 8).ok_or_else(outside)
            })
            .collect()
    }

    /// Shows every element of a leaf to `visit`.
    pub(super) fn leaf(&self, order: &mut Order, visit: &mut Visit<'_>) -> Result<(), Damage> {
        for index in 0..self.count {
            let entry = self.entry(index).ok_or_else(outside)?;
            order.next(entry.key)?;
            visit(entry)?;
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Option<Entry<'a>> {
        let element = HEAD + index * ELEMENT;
        let flags = u32_at(self.bytes, element)?;
        let [position, key_length, value_length] = [4, 8, 12].map(|field| {
            u32_at(self.bytes, element + field).and_then(|it| usize::try_from(it).ok())
        });
        // Positions count from the element itself.
        let key_start = element.checked_add(position?)?;
        let key_end = key_start.checked_add(key_length?)?;
        let value_end = key_end.checked_add(value_length?)?;
        Some(Entry {
            is_bucket: flags & BUCKET != 0,
            key: self.bytes.get(key_start..key_end)?,
            value: self.bytes.get(key_end..value_end)?,
        })
    }
}

fn outside() -> Damage {
    Damage("an element reaches out of it".to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*chunk))
}

/// FNV-1a of 64 bits, the checksum of bbolt's heads.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_of_known_texts() {
        // From the authors' test suite.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
