//! The checkpoints of the log, as far as the log itself tells of them. They have a single stream, the nil one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The reason why the signer refused to sign the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointRefusal {
    /// The log had fewer events than were signed.
    Shorter,
    /// The log had other events than those that were signed.
    Different,
    /// The signer has the key of another log.
    OtherLog,
    /// The signer could not read or keep its memory.
    Memory,
}

impl CheckpointRefusal {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Shorter, Self::Different, Self::OtherLog, Self::Memory];

    /// The name in leaves and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shorter => "shorter",
            Self::Different => "different",
            Self::OtherLog => "other_log",
            Self::Memory => "memory",
        }
    }
}

/// An event of the log's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointEvent {
    /// The signer signs again, after it had refused to. Refusals within seconds of each other are one.
    #[serde(rename = "checkpoint.refusal_ended")]
    RefusalEnded {
        /// The reason of the last refusal.
        reason: CheckpointRefusal,
        /// The time of the first refusal.
        #[serde(with = "crate::leaf::micros")]
        started_at: DateTime<Utc>,
        /// The time of the next signature.
        #[serde(with = "crate::leaf::micros")]
        ended_at: DateTime<Utc>,
    },
}
