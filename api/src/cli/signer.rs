//! `fulexo signer`: the process that signs the log's checkpoints, apart from the service and its database; and its keys.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_database::chain;
use fulexo_domain::values::InvalidValue;
use fulexo_node::config::{self, Environment};
use fulexo_node::signer::{LogSigner, SignerSocket};
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
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
    NewKey(NewKeyArgs),
}

#[derive(Args)]
struct NewKeyArgs {
    /// Name the log, for ever and unlike any other: a host name of yours and a path, such as auth.example.com/log.
    #[arg(value_parser = parsed(key_name))]
    name: KeyName,
    /// Write the private key to this new file, with mode 0600.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Create an ML-DSA-44 key, which signs beside the log's Ed25519 key.
    #[arg(long)]
    ml_dsa_44: bool,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

fn key_name(text: &str) -> Result<KeyName, InvalidValue> {
    KeyName::parse(text)
        .ok_or(InvalidValue("must have 1 to 255 characters, without white space, control characters and +"))
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

impl NewKeyArgs {
    fn run(self) -> Result<(), Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::Failed(format!("cannot create {}: {}", self.out.display(), chain(error)))
        };
        let seed: Zeroizing<[u8; SEED_LENGTH]> = Zeroizing::new(random_bytes().map_err(|error| failed(&error))?);
        let kind = if self.ml_dsa_44 { KeyKind::MlDsa44Cosignature } else { KeyKind::Ed25519 };
        let text = SignerKey::text(self.name.clone(), kind, &seed).map_err(|error| failed(&error))?;
        let key = SignerKey::from_seed(self.name, kind, &seed).map_err(|error| failed(&error))?;
        // Never over another key: nobody could sign that log again.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.out);
        let written = file.and_then(|mut file| writeln!(file, "{}", *text).and_then(|()| file.sync_all()));
        written.map_err(|error| failed(&error))?;
        let vkey = key.verifier().to_string();
        let mut out = Output::new();
        if self.json {
            return out.line(json!({"vkey": vkey, "file": self.out.display().to_string()}));
        }
        out.line(vkey)
    }
}
