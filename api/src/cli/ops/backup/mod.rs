//! `fulexo backup`: keys, backups, their list, their retention and their verification.

mod address;
mod canary;
mod create;
mod drill;
mod failed;
mod keygen;
mod ladder;
mod list;
pub mod places;
mod prune;
mod record;
mod rungs;
mod scratch;
mod verify;

use clap::{Args, Subcommand};

pub use self::address::{address, target_dir};
pub use self::failed::unchecked;
pub use self::places::{identities, trusted_keys};
pub use self::rungs::OutsideCheckpoint;

use crate::cli::failure::Failure;

#[derive(Args)]
pub struct BackupArgs {
    #[command(subcommand)]
    verb: BackupVerb,
}

#[derive(Subcommand)]
enum BackupVerb {
    /// Write a backup: the whole database as of one moment, encrypted, with a signed manifest.
    ///
    /// Streams pg_dump through encryption: nothing is on disk in clear, and no key on this machine can read it. Works alongside
    /// running nodes. Needs DATABASE_OWNER_URL and the client programs of PostgreSQL. Exits with 3 if there is no backup.
    Create(create::CreateArgs),
    /// Verify a backup, rung by rung: signature, checksums, decryption, a restore, the log, the read models.
    ///
    /// Run it on a machine that has an identity, away from the service. Restores into a PostgreSQL of its own, which it starts and
    /// removes. Writes the result next to the manifest. Exits with 1 if something was found, and with 3 if a rung was not climbed.
    Verify(verify::BackupVerifyArgs),
    /// Verify the newest backup, and measure a recovery from it against goals.
    ///
    /// For cron: asks nothing. Measures the time up to the restored database, the age of the backup and, if DATABASE_URL is set, the
    /// events that would be lost, and records the drill in the log of the service. Exits with 1 if something was found or a goal was
    /// missed, and with 3 if something was not checked.
    Drill(drill::DrillArgs),
    /// List the backups, the oldest first.
    List(list::ListArgs),
    /// Remove backups that are not kept any longer.
    ///
    /// Never removes the newest backup, nor the last one that was verified. Wrapped keys are removed earlier than their backups.
    Prune(prune::PruneArgs),
    /// Create an identity that decrypts backups, or a key that signs them.
    Keygen(keygen::KeygenArgs),
}

impl BackupArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            BackupVerb::Create(verb) => verb.run(),
            BackupVerb::Verify(verb) => verb.run(),
            BackupVerb::Drill(verb) => verb.run(),
            BackupVerb::List(verb) => verb.run(),
            BackupVerb::Prune(verb) => verb.run(),
            BackupVerb::Keygen(verb) => verb.run(),
        }
    }
}
