//! A channel as a stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Session;

/// Bytes to and from a socket that the host has opened for us.
///
/// The connection lives as long as a stream on it. Dropping the stream closes its channel. A
/// stream should be read: some megabytes wait for its reader, more hold up the connection's other
/// channels.
pub struct Stream {
    channel: ChannelStream<Msg>,
    session: Session,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(channel: ChannelStream<Msg>, session: Session) -> Self {
        Self { channel, session }
    }

    /// A channel of a broken connection ends like one that the host has closed; the reader must
    /// not take that for the end of the data.
    fn broken(&self) -> Option<io::Error> {
        let error = self.session.broken_now()?;
        Some(io::Error::new(io::ErrorKind::ConnectionReset, error))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.channel).poll_read(context, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            return Poll::Ready(self.broken().map_or(Ok(()), Err));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.channel).poll_write(context, bytes));
        Poll::Ready(done.map_err(|error| self.broken().unwrap_or(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(context)
    }
}
