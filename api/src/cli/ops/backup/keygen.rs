//! `fulexo backup keygen`: an identity that decrypts backups, or a key that signs their manifests.

use clap::Args;
use fulexo_ops::age::Identity;
use fulexo_tlog::key::KeyKind;
use fulexo_tlog::note::KeyName;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::key_file::{KeyFileArgs, key_name};
use crate::cli::process::parsed;

#[derive(Args)]
pub struct KeygenArgs {
    /// Create a key that signs manifests, under this name, such as `auth.example.com/backups`. Without it an identity is created,
    /// whose recipient is printed: keep it away from the machines of the service.
    #[arg(long, value_name = "NAME", value_parser = parsed(key_name))]
    signing: Option<KeyName>,
    /// Create an identity that also withstands quantum computers. Programs of others need age 1.3 or later for it.
    #[arg(long, conflicts_with = "signing")]
    hybrid: bool,
    #[command(flatten)]
    file: KeyFileArgs,
}

impl KeygenArgs {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(name) = self.signing {
            return self.file.create(name, KeyKind::Ed25519);
        }
        let identity = if self.hybrid { Identity::generate_hybrid() } else { Identity::generate() };
        let identity = identity.map_err(|error| Failure::Failed(error.to_string()))?;
        let recipient = identity.recipient().to_string();
        let text = Zeroizing::new(format!("# public key: {recipient}\n{}", &*identity.expose()));
        self.file.store(&text, "recipient", &recipient)
    }
}
