//! Makes things happen. [`Commands`] has one method per use case, named like the command: it gathers facts, asks the
//! domain, appends to the log. Secrets live here, in the vault, and go nowhere else.
//!
//! It knows nothing of HTTP, and nothing of what readers see.

mod accounts;
mod authentication;
mod authorization;
mod budget;
pub mod context;
mod disclosure;
mod error;
mod execute;
mod facade;
mod idempotency;
pub mod log;
mod log_store;
mod mail;
mod rate_limit;
mod reason;
mod retention;
mod sessions;
mod unit;
pub mod vault;
mod write_side;

pub use crate::accounts::password::{Owner, PasswordReplacement};
pub use crate::accounts::profile::Profile;
pub use crate::accounts::registration::{Member, NewAccount, NewMember};
pub use crate::authentication::challenge::{Challenged, HalfWay, Purpose};
pub use crate::authentication::codes::RecoveryCodes;
pub use crate::authentication::devices::KnownDevice;
pub use crate::authentication::login::{Credentials, LoggedIn};
pub use crate::authentication::password_hash;
pub use crate::authentication::second_factor::Enrolment;
pub use crate::authentication::step_up::Evidence;
pub use crate::authorization::api_keys;
pub use crate::budget::{Budget, Payer};
pub use crate::error::{CommandError, is_unavailable};
pub use crate::execute::Done;
pub use crate::facade::Commands;
pub use crate::log_store::{LogStore, StoreError};
pub use crate::mail::kind::MailKind;
pub use crate::mail::outbox::Outgoing;
pub use crate::rate_limit::{SharedCount, Violation};
pub use crate::retention::{Retention, Swept};
pub use crate::sessions::access_token;
pub use crate::sessions::tokens::Tokens;
pub use crate::write_side::{IsCurrent, Pulse, Queues, WriteSide};
