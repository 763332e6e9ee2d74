//! Values that are parsed once, at the edge. A value of these types is always valid. The module neither compares nor
//! stores them.

mod address;
mod backup_facts;
mod code_input;
mod display_name;
mod email;
mod epoch;
mod finding_rule;
mod ids;
mod incident_text;
mod invalid;
mod names;
mod opaque_string;
mod reason;
mod timestamp;

pub use address::{Address, AddressDigest, AddressKind};
pub use backup_facts::{BackupLabel, Sha256Hex, TreeRoot};
pub use code_input::CodeInput;
pub use display_name::DisplayName;
pub use email::EmailAddress;
pub use epoch::Epoch;
pub use finding_rule::FindingRule;
pub use ids::{AccountId, ApiKeyId, IncidentId, SessionId};
pub use incident_text::IncidentText;
pub use invalid::InvalidValue;
pub use names::{ApiKeyName, RoleName};
pub(crate) use opaque_string::opaque_string;
pub use reason::Reason;
pub use timestamp::parse_timestamp;
