//! One line to the system log (RFC 3164), where nobody reads a terminal.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Where journald and syslogd listen.
const SOCKET: &str = "/dev/log";

/// Facility "security" (10), severity "error" (3).
const PRIORITY: u8 = 10 * 8 + 3;

/// Syslogd cuts lines off near here; journald takes more.
const MOST_BYTES: usize = 1900;

/// Writes `text` to the system log. Where there is none, or `KUBEPKI_SYSLOG` names a socket on
/// which nobody listens, nothing happens: a log that cannot be written stops nothing.
pub fn error(text: &str) {
    let socket = std::env::var_os("KUBEPKI_SYSLOG").unwrap_or_else(|| SOCKET.into());
    let Ok(sender) = UnixDatagram::unbound() else {
        return;
    };
    // A listener that does not read must not hold us up for long.
    let _ = sender.set_write_timeout(Some(Duration::from_millis(200)));
    let pid = std::process::id();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let line = crate::output::harmless(line.trim());
        let mut end = line.len().min(MOST_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = line.get(..end).unwrap_or_default();
        let message = format!("<{PRIORITY}>kubepki[{pid}]: {line}");
        let _ = sender.send_to(message.as_bytes(), &socket);
    }
}
