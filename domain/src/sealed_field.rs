//! The personal fields of events.

use serde::{Deserialize, Serialize};

/// A personal field, which is sealed alongside the log and never part of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealedField {
    /// The device, by the id of its token.
    Device,
    /// The display name.
    DisplayName,
    /// The e-mail address.
    Email,
    /// The IP address of the client.
    Ip,
    /// A reason, as free text by an administrator.
    Reason,
    /// The user agent of the client.
    UserAgent,
}

impl SealedField {
    /// All fields.
    pub const ALL: [Self; 6] = [Self::Device, Self::DisplayName, Self::Email, Self::Ip, Self::Reason, Self::UserAgent];

    /// The name in leaves.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::DisplayName => "display_name",
            Self::Email => "email",
            Self::Ip => "ip",
            Self::Reason => "reason",
            Self::UserAgent => "user_agent",
        }
    }
}
