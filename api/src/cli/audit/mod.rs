//! `fulexo audit`: the log verified, copied and proven, without trust in whoever keeps it.

mod entry;
mod export;
mod lines;
mod replay;
pub(super) mod source;
pub(super) mod trust;
pub(super) mod verify;

use clap::{Args, Subcommand};

use super::failure::Failure;

#[derive(Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Subcommand)]
enum AuditVerb {
    /// Verify a log as a whole: every event, stream, tile and signature.
    ///
    /// Exits with 1 at the first fault, and names its position and its kind. With --since an older checkpoint shows that
    /// nothing before it was changed or removed.
    Verify(verify::VerifyArgs),
    /// Write a copy of the log that public verifiers read (C2SP tlog-tiles), or its events as lines.
    ///
    /// Continues a copy that was begun. Extends an older one, after it was proven that the log still begins with it.
    ///
    /// With --format events are written as lines, for auditors and for systems that collect events. Exits with 1 if they are
    /// not whole, and names the position to continue after.
    Export(export::ExportArgs),
    /// Replay a copy of the log on this machine, and answer questions about it over HTTP, for reading alone.
    ///
    /// Verifies the copy as `verify` does. Only then rebuilds the read models from it, in a PostgreSQL of its own, and serves
    /// them on 127.0.0.1 to whoever has the token that it prints. Needs the programs of PostgreSQL, and nothing of the service:
    /// neither its database nor its keys. Runs until Ctrl-C.
    Replay(replay::AuditReplayArgs),
    /// Write the proof of one event, with the event in it, to verify offline (C2SP tlog-proof).
    Proof(entry::ProofArgs),
    /// Verify a proof of one event offline, and print the event.
    Check(entry::CheckArgs),
}

impl AuditArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            AuditVerb::Verify(verb) => verb.run(),
            AuditVerb::Export(verb) => verb.run(),
            AuditVerb::Replay(verb) => verb.run(),
            AuditVerb::Proof(verb) => verb.run(),
            AuditVerb::Check(verb) => verb.run(),
        }
    }
}
