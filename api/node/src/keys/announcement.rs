//! The statements of nodes about their keys to each other: names and check values, never a key.

use fulexo_domain::key::KeyPurpose;

/// The announcement of a key that wraps, with its check value.
pub fn holds_encryption(id: &str, check: &str) -> String {
    format!("encryption {id} {check}")
}

/// The announcement of the key that wraps new keys.
pub fn wraps_with(id: &str) -> String {
    format!("wraps {id}")
}

/// The announcement of a key that verifies tokens.
pub fn holds_signing(id: &str) -> String {
    format!("signing {id}")
}

/// The announcement of the key that signs tokens.
pub fn signs_with(id: &str) -> String {
    format!("signs {id}")
}

/// Returns `true` if an announcement says that its node has this key. Nodes do not announce keys of the log.
pub fn is_of(announcement: &str, kind: KeyPurpose, id: &str) -> bool {
    match kind {
        KeyPurpose::Encryption => announcement.starts_with(&holds_encryption(id, "")),
        KeyPurpose::Signing => announcement == holds_signing(id),
        KeyPurpose::Log => false,
    }
}
