//! `kubepki k3s generate-custom-ca-certs|rotate-default-ca-certs`: K3s's scripts by another name.

use kubepki::ca::script::{Surroundings, Transcript, generate_custom, rotate_default};
use kubepki::ca::{CaError, Make};
use zeroize::Zeroizing;

use super::args::ScriptArgs;
use crate::error::{CliError, Exit};
use crate::output;
use crate::world::World;

/// Which script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Script {
    /// `generate-custom-ca-certs.sh`.
    Custom,
    /// `rotate-default-ca-certs.sh`.
    Default,
}

/// Runs it: its words go to standard output, and it ends as the script does.
pub(super) async fn run(script: Script, args: &ScriptArgs) -> Exit {
    match carry_out(script, args).await {
        Ok(exit) => exit,
        Err(error) => {
            output::talk(&format!("kubepki: {}", error.message));
            Exit::Failed
        }
    }
}

async fn carry_out(script: Script, args: &ScriptArgs) -> Result<Exit, CliError> {
    let world = World::real();
    let make = Make {
        now: world.now(),
        entropy: &world.entropy,
        keys: &world.keys,
    };
    let around = Surroundings::new(Some(args.product.clone()), args.data_dir.clone());
    let done: Result<Transcript, CaError> = match script {
        Script::Custom => generate_custom(&world.host, &around, &make).await,
        Script::Default => rotate_default(&world.host, &around, &make).await,
    };
    let transcript = done?;
    let mut text = Zeroizing::new(String::new());
    for line in &transcript.lines {
        text.push_str(line);
        text.push('\n');
    }
    output::data(&text)?;
    Ok(match transcript.code {
        0 => Exit::Fine,
        _ => Exit::Failed,
    })
}
