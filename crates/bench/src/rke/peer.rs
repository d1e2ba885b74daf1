//! The same files by OpenSSH's programs: `scp` beside their place, `ssh` to flush and move them.

use std::time::Instant;

use super::scene::Scene;
use crate::measure::{Failure, program};

/// Flushes what was copied and moves it in place.
const MOVE: &str = "sync -f /etc/kubernetes/ssl.new && mv /etc/kubernetes/ssl.new/* \
/etc/kubernetes/ssl/ && rmdir /etc/kubernetes/ssl.new && sync -f /etc/kubernetes/ssl";

/// All hosts at once; seconds.
///
/// # Errors
///
/// When a program fails.
pub async fn copy(scene: &Scene) -> Result<f64, Failure> {
    let begin = Instant::now();
    for part in 0..2 {
        let mut children = Vec::new();
        for way in &scene.ways {
            let mut command = program(if part == 0 { "scp" } else { "ssh" });
            command.args(["-q", "-F", "/dev/null", "-o", "BatchMode=yes"]);
            command
                .arg("-o")
                .arg(format!("UserKnownHostsFile={}", scene.known().display()));
            command.arg("-i").arg(&scene.key);
            let port = way.port.to_string();
            if part == 0 {
                let to = format!("root@{}:/etc/kubernetes/ssl.new", way.address);
                command
                    .args(["-P", &port, "-pr"])
                    .arg(scene.folder().join("peer"))
                    .arg(to);
            } else {
                command.args(["-p", &port, &format!("root@{}", way.address), MOVE]);
            }
            children.push(tokio::process::Command::from(command).spawn()?);
        }
        for mut child in children {
            let ended = child.wait().await?;
            if !ended.success() {
                return Err(format!("part {part} of scp and ssh ended with {ended}").into());
            }
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}
