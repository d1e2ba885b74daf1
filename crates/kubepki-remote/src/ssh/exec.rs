//! Commands on a host.

use std::time::Duration;

use kubepki::host::Output;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::timeout;
use zeroize::Zeroize as _;

use super::{Session, SocketFault, SshError};

/// What a command may print, on both streams together, in bytes.
const OUTPUT_LIMIT: usize = 64 * 1024 * 1024;

/// Joins `argv` to a line from which a shell of Bourne's kind makes the same words.
///
/// Words of harmless letters stay as they are; others stand in single quotes.
pub fn quote(argv: &[String]) -> String {
    let words: Vec<_> = argv.iter().map(|word| quote_word(word)).collect();
    words.join(" ")
}

fn quote_word(word: &str) -> String {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || "_-./:,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

pub(super) async fn run(
    session: &Session,
    argv: &[String],
    stdin: &[u8],
    limit: Duration,
) -> Result<Output, SshError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |reason: &str| SshError::Exec {
        host: session.host().to_owned(),
        program: program.clone(),
        reason: reason.to_owned(),
    };
    if program.is_empty() {
        return Err(failed("the command is empty"));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(failed(
            "an argument holds a NUL byte, which no program can be given",
        ));
    }
    let channel = session.channel().await?;
    let (mut reader, writer) = channel.split();
    let command = talk(&mut reader, &writer, argv, stdin);
    let end = match timeout(limit, command).await {
        Ok(end) => end,
        Err(_) => {
            // sshd passes the signal on where it can; the closed channel does the rest.
            let goodbye = async {
                let _ = writer.signal(russh::Sig::KILL).await;
                let _ = writer.close().await;
            };
            let _ = session.bounded("stopping a command", goodbye).await;
            return Err(SshError::ExecTimedOut {
                host: session.host().to_owned(),
                program,
                seconds: limit.as_secs(),
            });
        }
    };
    let _ = session.bounded("closing a channel", writer.close()).await;
    let end = match end {
        Ok(end) => end,
        Err(error) => return Err(session.broken(&error).await),
    };
    match end {
        End::Exited(output) => Ok(output),
        End::Refused => Err(failed(
            "sshd refused to run it; look for ForceCommand or a shell like nologin",
        )),
        End::TooMuch => Err(failed("it printed more than 64 MiB")),
        End::Lost => Err(match session.broken(&russh::Error::Disconnect).await {
            SshError::Broken { reason, .. } => {
                failed(&format!("the connection broke before its end: {reason}"))
            }
            other => other,
        }),
    }
}

/// Starts the command, feeds it and hears it out.
async fn talk(
    reader: &mut ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
    argv: &[String],
    stdin: &[u8],
) -> Result<End, russh::Error> {
    writer.exec(true, quote(argv)).await?;
    let feed = async {
        if !stdin.is_empty() {
            writer.data(stdin).await?;
        }
        writer.eof().await
    };
    let read = collect(reader);
    // A program need not read what it is given, and may end before it was all sent.
    let mut feed = std::pin::pin!(feed);
    let mut read = std::pin::pin!(read);
    let mut fed = false;
    loop {
        tokio::select! {
            biased;
            end = &mut read => return Ok(end),
            _ = &mut feed, if !fed => fed = true,
        }
    }
}

enum End {
    Exited(Output),
    Refused,
    TooMuch,
    /// The channel ended without the program's exit code.
    Lost,
}

async fn collect(reader: &mut ChannelReadHalf) -> End {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut code = None;
    let mut ended = false;
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => append(&mut stdout, &data),
            ChannelMsg::ExtendedData { data, ext: 1 } => stderr.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => {
                code = i32::try_from(exit_status).ok();
                ended = true;
            }
            ChannelMsg::ExitSignal { .. } => ended = true,
            ChannelMsg::Failure => return End::Refused,
            ChannelMsg::Close => break,
            _ => {}
        }
        if stdout.len().saturating_add(stderr.len()) > OUTPUT_LIMIT {
            return End::TooMuch;
        }
    }
    if !ended {
        return End::Lost;
    }
    End::Exited(Output {
        code,
        stdout,
        stderr,
    })
}

/// What a command prints may be secret: a buffer that moves leaves nothing behind.
fn append(buffer: &mut Vec<u8>, more: &[u8]) {
    if buffer.capacity() - buffer.len() < more.len() {
        let mut larger = Vec::with_capacity((buffer.len() + more.len()) * 2);
        larger.extend_from_slice(buffer);
        buffer.zeroize();
        *buffer = larger;
    }
    buffer.extend_from_slice(more);
}

/// Looks as the user why a socket could not be connected to: sshd says only that it could not.
pub(super) async fn look_at_socket(session: &Session, path: &str) -> SocketFault {
    // The kernel's list has the name that the socket was bound to: /run/docker.sock, where
    // /var/run is a link. 00010000 is the flag of a socket that listens.
    const SCRIPT: &str = r#"[ -e "$1" ] || exit 10
[ -S "$1" ] || exit 11
[ -r "$1" ] && [ -w "$1" ] || exit 12
folder=$(cd -P -- "$(dirname -- "$1")" && pwd -P)
grep ' 00010000 ' /proc/net/unix | grep -F -q -- " $folder/$(basename -- "$1")" && exit 14
exit 13"#;
    let argv = ["sh", "-c", SCRIPT, "sh", path].map(str::to_owned);
    let limit = session.timeouts().request;
    match run(session, &argv, b"", limit).await {
        Ok(Output { code: Some(10), .. }) => SocketFault::Missing,
        Ok(Output { code: Some(11), .. }) => SocketFault::Other(format!("{path} is not a socket")),
        Ok(Output { code: Some(12), .. }) => SocketFault::Denied,
        Ok(Output { code: Some(13), .. }) => SocketFault::NotListening,
        Ok(Output { code: Some(14), .. }) => SocketFault::Prohibited {
            said: "connect failed",
        },
        _ => SocketFault::ConnectFailed,
    }
}
