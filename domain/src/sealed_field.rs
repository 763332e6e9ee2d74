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
    /// The lessons of an incident, as free text.
    Lessons,
    /// A note on an incident, as free text.
    Note,
    /// A reason, as free text by an administrator.
    Reason,
    /// The summary of an incident, as free text.
    Summary,
    /// The user agent of the client.
    UserAgent,
}

impl SealedField {
    /// All fields.
    pub const ALL: [Self; 9] = [
        Self::Device,
        Self::DisplayName,
        Self::Email,
        Self::Ip,
        Self::Lessons,
        Self::Note,
        Self::Reason,
        Self::Summary,
        Self::UserAgent,
    ];

    /// The name in leaves.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::DisplayName => "display_name",
            Self::Email => "email",
            Self::Ip => "ip",
            Self::Lessons => "lessons",
            Self::Note => "note",
            Self::Reason => "reason",
            Self::Summary => "summary",
            Self::UserAgent => "user_agent",
        }
    }
}
