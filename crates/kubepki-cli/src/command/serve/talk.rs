//! What the server says: a line of JSON on standard error for each thing that happens, written by a
//! thread of its own. Whoever reads slowly, or not at all, holds up no request.

use std::io::Write as _;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use kubepki::edge::{Clock as _, SystemClock};
use kubepki_serve::service::Line;

use crate::output;

/// Bytes that wait for a reader; what is said beyond that is counted only.
const MOST: usize = 4 << 20;
/// How long lines are gathered while many come: one write costs more than a line.
const GATHER: Duration = Duration::from_millis(5);
/// For what was said last, at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

static TALK: OnceLock<Talk> = OnceLock::new();

/// One line of JSON on standard error.
pub(super) fn say(line: &Line<'_>) {
    let now = SystemClock.now().to_string();
    let fixed = [("time", now.as_str()), ("message", line.message)];
    let more = line
        .fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    let mut text = String::with_capacity(1024);
    let mut is_plain = true;
    for (name, value) in fixed.into_iter().chain(more) {
        text.push(if text.is_empty() { '{' } else { ',' });
        is_plain &= quote(&mut text, name);
        text.push(':');
        is_plain &= quote(&mut text, value);
    }
    text.push('}');
    let talk = TALK.get_or_init(Talk::begin);
    match is_plain {
        true => talk.add(&text),
        false => talk.add(&output::harmless(&text)),
    }
}

/// Adds `value` as JSON; answers whether it has nothing in it that a terminal might obey. A line is
/// said for each certificate, and hardly anything in it has to be looked at twice.
fn quote(text: &mut String, value: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    // Without a branch for each byte, so that many are looked at together.
    let is_plain = value.bytes().fold(true, |all, byte| all & is_plain(byte));
    if is_plain {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
    is_plain
}

/// Waits until all that was said is written, if somebody reads.
pub(super) fn finish() {
    if let Some(talk) = TALK.get() {
        talk.finish();
    }
}

/// Lines on their way.
struct Talk {
    shared: Arc<Shared>,
    /// Whether there is a thread; without one each line is written where it is said.
    is_beside: bool,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// There is something to write, or nothing any more.
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    count: usize,
    /// Lines that found no room.
    lost: usize,
    /// Whether the thread waits for a line.
    is_idle: bool,
}

impl Talk {
    fn begin() -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("talk".to_owned());
        let started = thread.spawn(move || own.write());
        Self {
            shared,
            is_beside: started.is_ok(),
        }
    }

    fn add(&self, line: &str) {
        if !self.is_beside {
            return output::talk(line);
        }
        let mut lines = self.shared.lines();
        if lines.text.len() > MOST {
            lines.lost += 1;
            return;
        }
        lines.text.extend_from_slice(line.as_bytes());
        lines.text.push(b'\n');
        lines.count += 1;
        if mem::take(&mut lines.is_idle) {
            self.shared.changed.notify_all();
        }
    }

    fn finish(&self) {
        if !self.is_beside {
            return;
        }
        let busy = |lines: &mut Lines| !lines.is_idle;
        let lines = self.shared.lines();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(lines, LAST_WORDS, busy);
        drop(waited);
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes what there is, one write for all of it.
    fn write(&self) {
        let mut text = Vec::new();
        loop {
            let count = self.next(&mut text);
            // Nobody listening is no error.
            let _ = std::io::stderr().lock().write_all(&text);
            if count > 1 {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Waits for lines and puts them into `text`; answers how many there are.
    fn next(&self, text: &mut Vec<u8>) -> usize {
        text.clear();
        let mut lines = self.lines();
        while lines.count == 0 {
            lines.is_idle = true;
            self.changed.notify_all();
            let woken = self.changed.wait(lines);
            lines = woken.unwrap_or_else(PoisonError::into_inner);
        }
        lines.is_idle = false;
        mem::swap(&mut lines.text, text);
        let lost = mem::take(&mut lines.lost);
        if lost > 0 {
            let line = format!(
                "{{\"message\":\"lines that nobody read in time\",\"lines\":\"{lost}\"}}\n"
            );
            text.extend_from_slice(line.as_bytes());
        }
        mem::take(&mut lines.count)
    }
}
