//! A network between a client and a server that can be cut and mended.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often threads look whether something has changed.
const LOOK: Duration = Duration::from_millis(20);

/// A port on loopback that leads to another one until it is cut: then nothing passes, as when
/// packets are lost. No connection is refused or closed; once it is mended all go on.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    cut: AtomicBool,
    over: AtomicBool,
}

impl Wire {
    /// Leads to `port` of 127.0.0.1.
    pub fn to(port: u16) -> Self {
        let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address.port()))
        });
        let (listener, own) = bound.unwrap_or_else(|error| panic!("no free port: {error}"));
        let shared = Arc::<Shared>::default();
        let known = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if known.over.load(Ordering::SeqCst) {
                    return;
                }
                let known = Arc::clone(&known);
                // A server that is not there closes the connection.
                std::thread::spawn(move || carry(near, port, &known));
            }
        });
        Self {
            port: own,
            shared,
            thread: Some(thread),
        }
    }

    /// Where it begins, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// Everything passes again, what was held up first.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits until things pass; `false` at the end.
    fn passes(&self) -> bool {
        while self.cut.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
        }
        !self.over.load(Ordering::SeqCst)
    }
}

fn carry(near: TcpStream, port: u16, shared: &Shared) {
    if !shared.passes() {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
        return;
    };
    let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else {
        return;
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(near, far, shared));
        one_way(far_too, near_too, shared);
    });
}

fn one_way(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let _ = from.set_read_timeout(Some(LOOK));
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 16 << 10];
    while shared.passes() {
        let read = match from.read(&mut bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let told = bytes.get(..read).unwrap_or_default();
        if !shared.passes() || to.write_all(told).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    if shared.over.load(Ordering::SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_waits_and_arrives() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let wire = Wire::to(server.local_addr().unwrap().port());
        let mut near = TcpStream::connect(("127.0.0.1", wire.port())).unwrap();
        let (mut far, _) = server.accept().unwrap();
        let mut byte = [0; 1];
        near.write_all(b"a").unwrap();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"a");
        wire.cut();
        near.write_all(b"b").unwrap();
        far.set_read_timeout(Some(LOOK * 5)).unwrap();
        assert!(far.read_exact(&mut byte).is_err());
        wire.mend();
        far.set_read_timeout(None).unwrap();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b");
        drop(near);
        assert_eq!(far.read(&mut byte).unwrap(), 0);
    }
}
