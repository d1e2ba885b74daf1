//! Commands.

use std::time::Duration;

use kubepki_remote::ssh::{SshError, quote};
use proptest::prelude::*;
use testkit::SshdOptions;

use super::common::{Lab, TIMEOUTS, argv, output};

#[tokio::test]
async fn words_arrive_as_they_are() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let words = [
        "printf", "%s\\n", "", " ", "a b", "$HOME", "`id`", "$(id)", "'", "\"", "\\", "a\nb", "*",
        "~", "#", ";", "&&", "|", ">x", "ü", "!!", "-n", "{a,b}", "'\\''",
    ];
    let expected: String = words[2..].iter().map(|word| format!("{word}\n")).collect();
    assert_eq!(output(&session, &words).await, expected);
}

proptest! {
    #[test]
    fn a_shell_takes_a_quoted_line_apart_again(
        words in proptest::collection::vec("[^\0]{0,12}", 0..6),
    ) {
        let mut argv = argv(&["printf", "%s\\0", "-"]);
        argv.extend(words.iter().cloned());
        let run = testkit::run("sh", &["-c", &quote(&argv)], b"");
        let expected: String = std::iter::once("-")
            .chain(words.iter().map(String::as_str))
            .map(|word| format!("{word}\0"))
            .collect();
        prop_assert_eq!(run.stdout, expected.into_bytes());
    }
}

#[tokio::test]
async fn input_output_and_exit_are_the_programs() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let run = async |words: &[&str], stdin: &[u8]| {
        session
            .exec(&argv(words), stdin, TIMEOUTS.request)
            .await
            .unwrap()
    };
    let script = "cat; echo complaint >&2; exit 3";
    let done = run(&["sh", "-c", script], b"\0in\xff").await;
    assert_eq!(
        (done.code, done.stdout.as_slice()),
        (Some(3), b"\0in\xff".as_slice())
    );
    assert_eq!(done.stderr, b"complaint\n");
    let killed = run(&["sh", "-c", "kill -9 $$"], b"").await;
    assert_eq!(killed.code, None);
    let missing = run(&["/nonexistent/program"], b"").await;
    assert_eq!(missing.code, Some(127));
    // More than any window or buffer holds, into a program that reads and into one that does not.
    let big = vec![b'x'; 8 * 1024 * 1024];
    let echoed = run(&["cat"], &big).await;
    assert!(echoed.stdout == big);
    assert_eq!(run(&["true"], &big).await.code, Some(0));
    // A daemon that keeps the streams open does not hold the command up for ever.
    let started = run(&["sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"], b"").await;
    let pid = String::from_utf8(started.stdout).unwrap();
    run(&["kill", pid.trim()], b"").await;

    for bad in [argv(&[]), argv(&[""]), argv(&["echo", "a\0b"])] {
        let error = session.exec(&bad, b"", TIMEOUTS.request).await.unwrap_err();
        assert!(matches!(error, SshError::Exec { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_command_that_does_not_end_is_given_up() {
    let lab = Lab::new();
    let session = lab.connect().await;
    let limit = Duration::from_secs(1);
    let words = argv(&["sh", "-c", "echo secret-argument; exec sleep 1000"]);
    let error = session.exec(&words, b"", limit).await.unwrap_err();
    assert!(
        matches!(error, SshError::ExecTimedOut { seconds: 1, .. }),
        "{error:?}"
    );
    assert!(!error.to_string().contains("secret-argument"), "{error}");
    assert_eq!(output(&session, &["echo", "next"]).await, "next\n");
}

#[tokio::test]
async fn a_forced_command_is_what_runs() {
    let lab = Lab::with(SshdOptions {
        lines: vec!["ForceCommand echo no shells here; exit 1".to_owned()],
        ..SshdOptions::default()
    });
    let session = lab.connect().await;
    let done = session
        .exec(&argv(&["id"]), b"", TIMEOUTS.request)
        .await
        .unwrap();
    assert_eq!(
        (done.code, done.stdout.as_slice()),
        (Some(1), b"no shells here\n".as_slice())
    );
    let error = session.sftp().await.unwrap_err();
    assert!(matches!(error, SshError::Sftp { .. }), "{error:?}");
    assert!(!error.is_unreachable());
}

#[tokio::test]
async fn too_many_sessions_are_told() {
    let lab = Lab::with(SshdOptions {
        lines: vec!["MaxSessions 1".to_owned()],
        ..SshdOptions::default()
    });
    let session = lab.connect().await;
    let files = session.sftp().await.unwrap();
    let error = session
        .exec(&argv(&["id"]), b"", TIMEOUTS.request)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("MaxSessions"), "{error}");
    drop(files);
}
