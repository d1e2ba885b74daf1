//! A connection that can be cut: everything goes through it, up to a moment.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// When the connection is cut, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// At the piece of this number, from 1, that the client sends.
    pub nth: usize,
    /// Whether the server still gets it; the client never gets an answer.
    pub delivered: bool,
    /// Whether later connections are cut too.
    pub lasting: bool,
}

#[derive(Debug)]
struct Line {
    cut: Cut,
    sent: usize,
    done: bool,
}

/// Takes connections on a port of its own and passes them on.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Mutex<Line>>,
}

impl Proxy {
    /// In front of `port` on this machine. Its threads end with the test program.
    pub fn start(port: u16, cut: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Mutex::new(Line {
            cut,
            sent: 0,
            done: false,
        }));
        let shared = line.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.lock().unwrap();
                let refused = state.done && state.cut.lasting;
                drop(state);
                if refused {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    pass(client, server, &shared);
                }
            }
        });
        Self { address, line }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Whether it came to the cut.
    pub fn has_cut(&self) -> bool {
        self.line.lock().unwrap().done
    }
}

fn pass(client: TcpStream, server: TcpStream, line: &Arc<Mutex<Line>>) {
    let lost = Arc::new(Mutex::new(false));
    let (mut to_server, mut from_server) = (server.try_clone().unwrap(), server);
    let (mut to_client, mut from_client) = (client.try_clone().unwrap(), client);
    let (line, answer_lost) = (line.clone(), lost.clone());
    thread::spawn(move || {
        let mut piece = [0; 65_536];
        while let Ok(length @ 1..) = from_client.read(&mut piece) {
            let mut state = line.lock().unwrap();
            state.sent += 1;
            let here = !state.done && state.sent == state.cut.nth;
            let delivered = state.cut.delivered;
            state.done |= here;
            drop(state);
            if here && !delivered {
                break;
            }
            // Before the piece goes out: the answer may be there at once.
            *lost.lock().unwrap() |= here;
            if to_server.write_all(&piece[..length]).is_err() || here {
                break;
            }
        }
        // A server that got the last piece answers it, and the other direction ends the rest;
        // but not every piece is a question.
        if *lost.lock().unwrap() {
            thread::sleep(Duration::from_millis(100));
        }
        let _ = to_server.shutdown(Shutdown::Both);
        let _ = from_client.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let mut piece = [0; 65_536];
        while let Ok(length @ 1..) = from_server.read(&mut piece) {
            if *answer_lost.lock().unwrap() || to_client.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = from_server.shutdown(Shutdown::Both);
        let _ = to_client.shutdown(Shutdown::Both);
    });
}
