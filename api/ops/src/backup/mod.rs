//! Backups of a service's database: written encrypted, verified, kept for a time. Knows nothing of the node: the database may be
//! all that is left.
//!
//! ```text
//! TARGET/lock                          held while anybody writes or removes backups
//! TARGET/20261201T061402Z-4711/        a backup: the time, and the number of events in it
//!     database.age                     pg_dump of everything but the wrapped keys, encrypted (age)
//!     keys.age                         the tables of wrapped keys, encrypted for their own recipients
//!     manifest.note                    the signature (C2SP signed-note) over the name and the SHA-256 of the next one
//!     manifest.json                    the content, in clear
//!     verified.json                    the last verification
//! ```
//!
//! A target is a directory, where a backup that is being written is `NAME.unfinished`, or a bucket, where it is one without a
//! manifest.

mod bucket;
mod client_url;
mod content;
mod create;
mod directory;
mod drill;
mod durable;
mod error;
mod lease;
mod load;
mod manifest;
mod name;
mod opened;
mod part;
mod programs;
mod retention;
mod sealed_sample;
mod state;
mod stored;
mod target;
mod verification;
mod verified;

pub use self::client_url::ClientUrl;
pub use self::create::{CreateRequest, CreatedBackup, WrittenBytes, create};
pub use self::drill::{DrillGoals, DrillMeasures};
pub use self::error::BackupError;
pub use self::load::load;
pub use self::manifest::{BackupManifest, PartKind, PartRecord, signing_note_text};
pub use self::name::BackupName;
pub use self::opened::OpenedBackup;
pub use self::retention::{BackupRetention, RemovedBackups, prune};
pub use self::sealed_sample::{SealedSample, sealed_sample};
pub use self::state::{DatabaseState, TableChecksum, read_state, read_tree, root_at};
pub use self::stored::StoredBackup;
pub use self::target::{BackupTarget, TargetAddress, split_path};
pub use self::verification::{RUNGS, compare_states, verify_checksums, verify_format, verify_signature};
pub use self::verified::VerificationRecord;
