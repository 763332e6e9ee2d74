//! The record of the last verification of a backup, which lies beside its manifest. It is not signed: it decides only which
//! backups are kept.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The name of the file.
pub const VERIFIED: &str = "verified.json";
/// The length of the longest record that is read, in bytes.
pub const MAX_RECORD: u64 = 64 << 10;

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
}
