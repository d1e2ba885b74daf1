//! Many trees: read side by side, said in order, few in memory.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, PoisonError};

/// Results that each worker may be ahead of the one that is said next.
const AHEAD: usize = 4;

/// Runs `work` on each item with `workers` threads and hands the results to `take` in the order
/// of the items, on the calling thread. No work is ever done there, however few threads: the
/// caller may be inside an asynchronous runtime, and work that starts one would panic.
///
/// At most a few results per worker wait at any time, however slow one item is. `take` ends
/// everything early by breaking.
pub fn in_order<T, R>(
    items: &[T],
    workers: NonZeroUsize,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(R) -> ControlFlow<()>,
) where
    T: Sync,
    R: Send,
{
    let queue = Queue {
        state: Mutex::new(State {
            next_item: 0,
            next_said: 0,
            ended: false,
            waiting: BTreeMap::new(),
        }),
        changed: Condvar::new(),
        ahead: workers.get().saturating_mul(AHEAD),
        count: items.len(),
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.get().min(items.len()) {
            scope.spawn(|| {
                // A worker that panics must not leave the caller waiting.
                let _guard = Guard(&queue);
                while let Some(index) = queue.next() {
                    if let Some(item) = items.get(index) {
                        queue.put(index, work(item));
                    }
                }
            });
        }
        while let Some(result) = queue.take() {
            if take(result).is_break() {
                queue.end();
            }
        }
    });
}

struct State<R> {
    next_item: usize,
    next_said: usize,
    ended: bool,
    waiting: BTreeMap<usize, R>,
}

struct Queue<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
    ahead: usize,
    count: usize,
}

impl<R> Queue<R> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item to work on; waits while results pile up.
    fn next(&self) -> Option<usize> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| {
                !state.ended
                    && state.next_item < self.count
                    && state.next_item >= state.next_said.saturating_add(self.ahead)
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.ended || state.next_item >= self.count {
            return None;
        }
        let index = state.next_item;
        state.next_item = index.saturating_add(1);
        Some(index)
    }

    fn put(&self, index: usize, result: R) {
        let mut state = self.lock();
        state.waiting.insert(index, result);
        self.changed.notify_all();
    }

    /// The next result in order; waits for it. `None` at the end.
    fn take(&self) -> Option<R> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| {
                !state.ended
                    && state.next_said < self.count
                    && !state.waiting.contains_key(&state.next_said)
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return None;
        }
        let index = state.next_said;
        let result = state.waiting.remove(&index)?;
        state.next_said = index.saturating_add(1);
        self.changed.notify_all();
        Some(result)
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// Ends the queue when its worker ends by a panic; the scope then passes the panic on.
struct Guard<'a, R>(&'a Queue<R>);

impl<R> Drop for Guard<'_, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn workers(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn results_come_in_order() {
        let items: Vec<usize> = (0..500).collect();
        for count in [1, 2, 7] {
            let mut said = Vec::new();
            in_order(
                &items,
                workers(count),
                |item| item * 2,
                |result| {
                    said.push(result);
                    ControlFlow::Continue(())
                },
            );
            assert_eq!(said, (0..500).map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_callers_runtime_is_left_alone() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
        };
        for (items, count) in [(1, 1), (1, 3), (5, 1), (5, 2)] {
            let mut said = 0;
            runtime().block_on(async {
                in_order(
                    &vec![(); items],
                    workers(count),
                    |()| runtime().block_on(async {}),
                    |()| {
                        said += 1;
                        ControlFlow::Continue(())
                    },
                );
            });
            assert_eq!(said, items);
        }
    }

    #[test]
    fn no_worker_runs_far_ahead() {
        let items: Vec<usize> = (0..1_000).collect();
        let begun = AtomicUsize::new(0);
        let mut said = 0;
        in_order(
            &items,
            workers(3),
            |_| begun.fetch_add(1, Ordering::SeqCst),
            |_| {
                said += 1;
                let ahead = begun.load(Ordering::SeqCst) - said;
                assert!(ahead <= 3 * AHEAD + 3, "{ahead}");
                ControlFlow::Continue(())
            },
        );
        assert_eq!(said, 1_000);
    }

    #[test]
    fn the_taker_can_end_it() {
        let items: Vec<usize> = (0..10_000).collect();
        let begun = AtomicUsize::new(0);
        in_order(
            &items,
            workers(2),
            |_| begun.fetch_add(1, Ordering::SeqCst),
            |_| ControlFlow::Break(()),
        );
        assert!(begun.load(Ordering::SeqCst) < 100);
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        in_order(
            &[1, 2, 3],
            workers(2),
            |item| assert!(*item < 2),
            |()| ControlFlow::Continue(()),
        );
    }
}
