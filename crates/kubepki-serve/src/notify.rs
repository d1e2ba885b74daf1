//! systemd's notification socket (`sd_notify(3)`).

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket's address as `NOTIFY_SOCKET` has it: a path, or `@` and a name.
fn address(socket: &OsStr) -> std::io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

/// Tells systemd `state` (`READY=1`, `STOPPING=1`), where it listens.
///
/// # Errors
///
/// When the socket does not take it.
pub fn notify(socket: Option<&OsStr>, state: &str) -> std::io::Result<()> {
    let Some(socket) = socket.filter(|it| !it.is_empty()) else {
        return Ok(());
    };
    let sender = UnixDatagram::unbound()?;
    sender.send_to_addr(state.as_bytes(), &address(socket)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_listens_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        notify(Some(path.as_os_str()), "READY=1").unwrap();
        let mut heard = [0; 16];
        let length = receiver.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
        assert!(notify(None, "READY=1").is_ok());
        assert!(notify(Some(OsStr::new("/nonexistent/x")), "READY=1").is_err());
    }
}
