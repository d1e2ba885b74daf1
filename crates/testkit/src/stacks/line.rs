//! Connections that are kept for many requests, as HTTP/1.1 has them.

use std::fmt;
use std::io::BufRead;

/// A client's connection, open until it is dropped.
pub struct Line<'a>(Box<dyn Ask + Send + 'a>);

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line(..)")
    }
}

impl<'a> Line<'a> {
    pub(super) fn of(ask: impl Ask + Send + 'a) -> Self {
        Self(Box::new(ask))
    }

    /// GETs `path` on this very connection: the body of a 200.
    ///
    /// # Errors
    ///
    /// The status of another answer, or how the connection ended.
    pub fn ask(&mut self, path: &str) -> Result<Vec<u8>, String> {
        self.0.ask(path)
    }
}

/// One request and its answer.
pub(super) trait Ask {
    fn ask(&mut self, path: &str) -> Result<Vec<u8>, String>;
}

pub(super) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: kubernetes\r\n\r\n")
}

/// Reads one answer; what a client's program says of itself before it is passed over.
pub(super) fn answer(from: &mut impl BufRead) -> Result<Vec<u8>, String> {
    let mut next = || {
        let mut line = Vec::new();
        match from.read_until(b'\n', &mut line) {
            Ok(0) => Err("the connection ended".to_owned()),
            Ok(_) => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    let status = loop {
        let line = next()?;
        if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
            break status.to_owned();
        }
    };
    let mut length = 0;
    loop {
        let line = next()?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().map_err(|_| line.clone())?;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)
        .map_err(|error| error.to_string())?;
    match status.starts_with("200") {
        true => Ok(body),
        false => Err(status),
    }
}
