//! The files of keys that sign checkpoints.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_database::chain;
use fulexo_domain::values::InvalidValue;
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::Output;

#[derive(Args)]
pub struct KeyFileArgs {
    /// Write the private key to this new file, with mode 0600.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Reads the name of a key, for clap.
pub fn key_name(text: &str) -> Result<KeyName, InvalidValue> {
    KeyName::parse(text)
        .ok_or(InvalidValue("must have 1 to 255 characters, without white space, control characters and +"))
}

impl KeyFileArgs {
    /// Creates a key, and prints its public half.
    pub fn create(self, name: KeyName, kind: KeyKind) -> Result<(), Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::Failed(format!("cannot create {}: {}", self.out.display(), chain(error)))
        };
        let seed: Zeroizing<[u8; SEED_LENGTH]> = Zeroizing::new(random_bytes().map_err(|error| failed(&error))?);
        let text = SignerKey::text(name.clone(), kind, &seed).map_err(|error| failed(&error))?;
        let key = SignerKey::from_seed(name, kind, &seed).map_err(|error| failed(&error))?;
        self.store(&text, "vkey", &key.verifier().to_string())
    }

    /// Writes a private key to the file, and prints its public half, which JSON has under this name.
    pub fn store(&self, text: &str, name: &str, public: &str) -> Result<(), Failure> {
        // Never over another key: what it signed or encrypted would be lost.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.out);
        let written = file.and_then(|mut file| writeln!(file, "{text}").and_then(|()| file.sync_all()));
        written.map_err(|error| Failure::Failed(format!("cannot create {}: {error}", self.out.display())))?;
        let mut out = Output::new();
        if self.json {
            return out.line(json!({name: public, "file": self.out.display().to_string()}));
        }
        out.line(public)
    }
}
