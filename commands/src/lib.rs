//! The write side. [`Commands`] has one method per use case, named after the command: it gathers facts, asks the domain
//! for a decision, and appends the events to the log. Secrets live here, in the vault, and never leave it.
//!
//! This crate does not know HTTP or the read models.

mod accounts;
mod authentication;
mod authorization;
mod backups;
mod checkpoint;
pub mod context;
mod copies;
mod disclosure;
mod erasure;
mod error;
mod execute;
mod facade;
mod idempotency;
mod keys;
pub mod log;
mod log_store;
mod mail;
mod quotas;
mod rate_limit;
mod reason;
mod retention;
mod sessions;
mod unit_of_work;
mod unsealing;
pub mod vault;
mod write_side;

pub use crate::accounts::password::{PasswordOwner, PasswordReplacement};
pub use crate::accounts::profile::Profile;
pub use crate::accounts::registration::{NewAccount, ProvisionedAccount, ProvisioningRequest};
pub use crate::authentication::challenge::{ChallengePurpose, IssuedChallenge, PendingLogin};
pub use crate::authentication::codes::RecoveryCodes;
pub use crate::authentication::devices::KnownDevice;
pub use crate::authentication::login::{Credentials, LoginResult};
pub use crate::authentication::password_hash;
pub use crate::authentication::second_factor::Enrolment;
pub use crate::authentication::standing::{CounterReach, DeviceStanding, LoginStanding, StandingKind, StandingReason};
pub use crate::authentication::step_up::Evidence;
pub use crate::authorization::api_keys;
pub use crate::authorization::incidents::{IncidentCause, IncidentStep, NewIncident};
pub use crate::backups::record_backup;
pub use crate::copies::EventCopy;
pub use crate::erasure::ErasureStatus;
pub use crate::erasure::remains::{Remains, RemainsKind, RemainsSearch};
pub use crate::error::CommandError;
pub use crate::execute::CommandOutcome;
pub use crate::facade::Commands;
pub use crate::log_store::{LogStore, StoreError};
pub use crate::mail::kind::MailKind;
pub use crate::mail::outbox::OutgoingMail;
pub use crate::quotas::{CommandQuotas, QuotaHolder};
pub use crate::rate_limit::{RateLimitViolation, SharedQuotaDecision};
pub use crate::retention::{Retention, SweepResult};
pub use crate::sessions::access_token;
pub use crate::sessions::tokens::Tokens;
pub use crate::write_side::{CommitHeartbeat, FreshnessCheck, NodeQueues, WriteSide};
