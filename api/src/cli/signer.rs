//! `fulexo signer`: the process that signs the log's checkpoints, apart from the service and its database; and its keys.

use std::sync::Arc;

use clap::{Args, Subcommand};
use fulexo_database::chain;
use fulexo_node::config::{self, Environment};
use fulexo_node::signer::{LogSigner, SignerSocket};
use fulexo_tlog::key::KeyKind;
use fulexo_tlog::note::KeyName;

use super::failure::Failure;
use super::key_file::{KeyFileArgs, key_name};
use super::output::Output;
use super::process::{StopSignals, block_on, parsed, start_logging};

#[derive(Args)]
pub struct SignerArgs {
    #[command(subcommand)]
    verb: Option<SignerVerb>,
}

#[derive(Subcommand)]
enum SignerVerb {
    /// Create a key that signs a log's checkpoints, and print its public half.
    ///
    /// The public half, a vkey, is what auditors and witnesses verify checkpoints with.
    NewKey(NewLogKeyArgs),
}

#[derive(Args)]
struct NewLogKeyArgs {
    /// Name the log, for ever and unlike any other: a host name of yours and a path, such as auth.example.com/log.
    #[arg(value_parser = parsed(key_name))]
    name: KeyName,
    /// Create an ML-DSA-44 key, which signs beside the log's Ed25519 key.
    #[arg(long)]
    ml_dsa_44: bool,
    #[command(flatten)]
    file: KeyFileArgs,
}

impl SignerArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Some(SignerVerb::NewKey(verb)) => verb.run(),
            None => listen(),
        }
    }
}

fn listen() -> Result<(), Failure> {
    let (config, socket) = config::signer_process()?;
    start_logging(Environment::Development, "info");
    let signer = LogSigner::open(config.keys, config.memory)
        .map(|signer| signer.following(config.file))
        .map_err(|error| Failure::Failed(format!("cannot open the signer: {}", chain(&error))))?;
    block_on(async {
        let mut stop = StopSignals::listen()?;
        let listening = SignerSocket::listen(&socket, Arc::new(signer)).await;
        let listening =
            listening.map_err(|error| Failure::Failed(format!("cannot listen on {}: {error}", socket.display())))?;
        Output::new().line(format_args!("signing on {}", socket.display()))?;
        tokio::select! {
            () = listening.run() => {}
            () = stop.received() => {}
        }
        Ok(())
    })
}

impl NewLogKeyArgs {
    fn run(self) -> Result<(), Failure> {
        let kind = if self.ml_dsa_44 { KeyKind::MlDsa44Cosignature } else { KeyKind::Ed25519 };
        self.file.create(self.name, kind)
    }
}
