//! The epoch of the log: the history that a position belongs to.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::invalid::InvalidValue;

/// A history of the log. The epoch changes when a backup is restored, so that positions of the undone history are
/// recognisable. Equals the first half of `log.head.epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(u64);

impl From<Uuid> for Epoch {
    fn from(epoch: Uuid) -> Self {
        Self(epoch.as_u64_pair().0)
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        format!("{:016x}", epoch.0)
    }
}

impl TryFrom<String> for Epoch {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        let epoch = u64::from_str_radix(&text, 16).ok().map(Self).filter(|epoch| String::from(*epoch) == text);
        epoch.ok_or(InvalidValue("must be 16 hexadecimal digits"))
    }
}
