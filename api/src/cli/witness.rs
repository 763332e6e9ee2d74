//! `fulexo witness`: a witness of other logs, and its keys.

use std::sync::Arc;

use clap::{Args, Subcommand};
use fulexo_database::chain;
use fulexo_node::config::{self, Environment};
use fulexo_node::http::listener::{self, Reserved};
use fulexo_node::http::listener_options::{ListenerOptions, share};
use fulexo_node::witness::{Witness, WitnessService};
use fulexo_tlog::key::KeyKind;
use fulexo_tlog::note::KeyName;

use super::failure::Failure;
use super::key_file::{KeyFileArgs, key_name};
use super::output::Output;
use super::process::{StopSignals, block_on, parsed, start_logging};

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 1_000;

#[derive(Args)]
pub struct WitnessArgs {
    #[command(subcommand)]
    verb: Option<WitnessVerb>,
}

#[derive(Subcommand)]
enum WitnessVerb {
    /// Create a key that cosigns checkpoints, and print its public half.
    ///
    /// The public half, a vkey, is what a policy names the witness by.
    NewKey(NewWitnessKeyArgs),
}

#[derive(Args)]
struct NewWitnessKeyArgs {
    /// Name the witness, for ever and unlike any other: a host name of yours and a path, such as witness.example.com/w1.
    #[arg(value_parser = parsed(key_name))]
    name: KeyName,
    /// Create an ML-DSA-44 key, which resists quantum computers, instead of an Ed25519 key.
    #[arg(long)]
    ml_dsa_44: bool,
    #[command(flatten)]
    file: KeyFileArgs,
}

impl WitnessArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Some(WitnessVerb::NewKey(verb)) => {
                let kind = if verb.ml_dsa_44 { KeyKind::MlDsa44Cosignature } else { KeyKind::Ed25519Cosignature };
                verb.file.create(verb.name, kind)
            }
            None => listen(),
        }
    }
}

fn listen() -> Result<(), Failure> {
    let config = config::witness_process()?;
    start_logging(Environment::Development, "info");
    let witness = Witness::open(config.keys, config.logs, &config.state)
        .map_err(|error| Failure::Failed(format!("cannot open the witness: {}", chain(&error))))?;
    block_on(async {
        let mut stop = StopSignals::listen()?;
        let cannot = |error: std::io::Error| Failure::Failed(format!("cannot listen on {}: {error}", config.address));
        let acceptor = Reserved::new(config.address).and_then(Reserved::listen).map_err(cannot)?;
        let port = listener::port(&acceptor).unwrap_or(config.address.port());
        let mut out = Output::new();
        for key in witness.verifiers() {
            out.line(key)?;
        }
        let logs = match witness.logs() {
            1 => "1 log".to_owned(),
            logs => format!("{logs} logs"),
        };
        out.line(format_args!("witnessing {logs} on http://{}:{port}", config.address.ip()))?;
        let options = ListenerOptions {
            max_connections: MAX_CONNECTIONS,
            max_per_address: Some(share(MAX_CONNECTIONS)),
            exempt: config.trusted_proxies,
            // One address cannot have many submissions on their way.
            max_streams: 1,
            ..ListenerOptions::default()
        };
        listener::serve(acceptor, WitnessService::new(Arc::new(witness)), options, stop.received()).await;
        Ok(())
    })
}
