//! Values parsed once at the edge: whoever holds one knows that it is sound. Nothing here compares or stores.

mod display_name;
mod email;
mod epoch;
mod ids;
mod invalid;
mod names;
mod reason;
mod timestamp;
mod typed_code;
mod typed_text;

pub use display_name::DisplayName;
pub use email::EmailAddress;
pub use epoch::Epoch;
pub use ids::{AccountId, ApiKeyId, SessionId};
pub use invalid::InvalidValue;
pub use names::{KeyName, RoleName};
pub use reason::Reason;
pub use timestamp::parse_timestamp;
pub use typed_code::TypedCode;
pub(crate) use typed_text::opaque_string;
