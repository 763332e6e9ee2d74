//! The record of the last verification of a backup, which lies beside its manifest. It is not signed: it decides only which
//! backups are kept.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::durable::{sync, write_durably};
use super::error::BackupError;

/// The name of the file.
pub const VERIFIED: &str = "verified.json";
/// The length of the longest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 10;

/// A verification.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationRecord {
    /// The time at which it ended.
    pub at: DateTime<Utc>,
    /// The seconds that it took.
    pub seconds: f64,
    /// The version of Fulexo.
    pub program: String,
    /// The rungs that were climbed, by the names of the checks.
    pub rungs: Vec<String>,
    /// `true` if something was found.
    pub has_findings: bool,
}

impl VerificationRecord {
    /// `true` if the backup was restored, and nothing was found.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.has_findings && self.rungs.iter().any(|rung| rung == "restore")
    }

    /// Reads the record of a backup; `None` if there is none, or none that this program can read.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        fs::File::open(dir.join(VERIFIED)).ok()?.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes the record of a backup over the last one.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn store(&self, dir: &Path) -> Result<(), BackupError> {
        let (path, new) = (dir.join(VERIFIED), dir.join("verified.json.new"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(BackupError::file("remove", &new)(error)),
            Ok(()) | Err(_) => {}
        }
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|_| BackupError::Task)?;
        bytes.push(b'\n');
        write_durably(&new, &bytes)?;
        fs::rename(&new, &path).map_err(BackupError::file("write", &path))?;
        sync(dir)
    }
}
