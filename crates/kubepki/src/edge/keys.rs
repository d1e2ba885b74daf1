//! Many keys at once.
//!
//! An RSA key costs a good part of a second, and how much is luck: threads that take the next
//! one when they are done keep all cores busy, where a fixed share each would not.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pki::{KeyAlgorithm, PrivateKey};

use super::KeySource;

/// New keys, in the order asked for, on as many threads as there are cores.
///
/// # Errors
///
/// The first key that `keys` could not make; the others are then dropped.
pub fn generate_all(
    keys: &dyn KeySource,
    wanted: &[KeyAlgorithm],
) -> Result<Vec<PrivateKey>, pki::Error> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    generate_on(keys, wanted, cores.min(wanted.len()))
}

fn generate_on(
    keys: &dyn KeySource,
    wanted: &[KeyAlgorithm],
    threads: usize,
) -> Result<Vec<PrivateKey>, pki::Error> {
    if threads < 2 {
        return wanted.iter().map(|kind| keys.generate(*kind)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(kind) = wanted.get(index) else {
                return Ok(made);
            };
            match keys.generate(*kind) {
                Ok(key) => made.push((index, key)),
                Err(error) => {
                    // The others stop at their next.
                    next.store(wanted.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut made = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for thread in others {
            let more = thread.join().unwrap_or(Err(pki::Error::Crypto {
                what: "generate a key",
            }));
            all = all.and_then(|mut all| {
                all.extend(more?);
                Ok(all)
            });
        }
        all
    })?;
    made.sort_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, key)| key).collect())
}

/// A source that has keys lying ready, and asks another once they are used up.
///
/// A plan takes its keys one by one as its steps come; [`Self::fill`] makes them all before the
/// first step, on all cores. They are in memory only: a key is staged by the step that takes it.
pub struct KeyStock<'a> {
    source: &'a dyn KeySource,
    ready: Mutex<HashMap<KeyAlgorithm, Vec<PrivateKey>>>,
}

impl<'a> KeyStock<'a> {
    /// An empty stock.
    pub fn new(source: &'a dyn KeySource) -> Self {
        Self {
            source,
            ready: Mutex::default(),
        }
    }

    /// Makes one key of each algorithm in `wanted`, which may hold one many times.
    ///
    /// # Errors
    ///
    /// As [`generate_all`]; the stock is then as it was.
    pub fn fill(&self, wanted: &[KeyAlgorithm]) -> Result<(), pki::Error> {
        let made = generate_all(self.source, wanted)?;
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        for key in made {
            ready.entry(key.algorithm()).or_default().push(key);
        }
        Ok(())
    }

    /// How many keys of `algorithm` lie ready.
    pub fn ready(&self, algorithm: KeyAlgorithm) -> usize {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.get(&algorithm).map_or(0, Vec::len)
    }
}

impl KeySource for KeyStock<'_> {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
        let taken = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.get_mut(&algorithm).and_then(Vec::pop)
        };
        match taken {
            Some(key) => Ok(key),
            None => self.source.generate(algorithm),
        }
    }
}

impl fmt::Debug for KeyStock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let count: usize = ready.values().map(Vec::len).sum();
        write!(f, "KeyStock({count} keys, {:?})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::FreshKeys;

    /// Fails at the given call, counted from 0.
    #[derive(Debug)]
    struct Failing {
        at: usize,
        calls: AtomicUsize,
    }

    impl KeySource for Failing {
        fn generate(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey, pki::Error> {
            match self.calls.fetch_add(1, Ordering::Relaxed) {
                call if call == self.at => Err(pki::Error::NoRandomness),
                _ => FreshKeys.generate(algorithm),
            }
        }
    }

    #[test]
    fn keys_come_in_order_and_are_all_different() {
        let wanted: Vec<KeyAlgorithm> = (0..40)
            .map(|index| match index % 3 {
                0 => KeyAlgorithm::P256,
                1 => KeyAlgorithm::P384,
                _ => KeyAlgorithm::Ed25519,
            })
            .collect();
        for threads in [0, 1, 2, 7, 64] {
            let made = generate_on(&FreshKeys, &wanted, threads).unwrap();
            let kinds: Vec<_> = made.iter().map(PrivateKey::algorithm).collect();
            assert_eq!(kinds, wanted);
            let different: std::collections::HashSet<_> = made
                .iter()
                .map(|key| key.spki_sha256().to_string())
                .collect();
            assert_eq!(different.len(), wanted.len());
        }
        assert!(generate_all(&FreshKeys, &[]).unwrap().is_empty());
    }

    #[test]
    fn one_failure_fails_all() {
        for threads in [1, 4] {
            for at in [0, 3, 19] {
                let source = Failing {
                    at,
                    calls: AtomicUsize::new(0),
                };
                let failed = generate_on(&source, &[KeyAlgorithm::P256; 20], threads);
                assert_eq!(failed.err(), Some(pki::Error::NoRandomness));
            }
        }
    }

    #[test]
    fn a_stock_gives_what_it_has_and_then_asks() {
        let source = Failing {
            at: 3,
            calls: AtomicUsize::new(0),
        };
        let stock = KeyStock::new(&source);
        stock
            .fill(&[
                KeyAlgorithm::P256,
                KeyAlgorithm::Ed25519,
                KeyAlgorithm::P256,
            ])
            .unwrap();
        assert_eq!(stock.ready(KeyAlgorithm::P256), 2);
        assert_eq!(stock.ready(KeyAlgorithm::Rsa(2048)), 0);
        let first = stock.generate(KeyAlgorithm::P256).unwrap();
        let second = stock.generate(KeyAlgorithm::P256).unwrap();
        assert_ne!(first.spki_der(), second.spki_der());
        // The fourth call of the source is the one that fails.
        assert!(stock.generate(KeyAlgorithm::P256).is_err());
        let other = stock.generate(KeyAlgorithm::Ed25519).unwrap();
        assert_eq!(other.algorithm(), KeyAlgorithm::Ed25519);
        assert!(stock.generate(KeyAlgorithm::Ed25519).is_ok());
    }
}
