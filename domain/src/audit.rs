//! The audit trail, as far as the log itself tells of its use: who opened what is sealed alongside an event. One stream per
//! event that was opened, with its id.

use serde::{Deserialize, Serialize};

use crate::sealed_field::SealedField;

/// An event of the audit trail. Sealed in each: reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditTrailEvent {
    /// The sealed fields of an event were disclosed to the actor.
    #[serde(rename = "audit.unsealed")]
    Unsealed {
        /// The position of the event.
        position: u64,
        /// The fields.
        fields: Vec<SealedField>,
    },
}
