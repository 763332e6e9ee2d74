//! The domain of Fulexo: its aggregates, their commands and their events.
//!
//! The crate follows two rules. *Decide*: an aggregate answers a command with events, or with the reason for its
//! refusal (`Aggregate::handle_command`). *Apply*: the state of an aggregate follows from its events alone
//! (`Aggregate::apply_event`).
//!
//! The crate does no I/O, reads no clock and draws no random numbers: time and ids are arguments.

pub mod account;
pub mod api_key;
pub mod audit;
pub mod authentication;
pub mod backup;
pub mod change;
pub mod checkpoint;
pub mod erasure;
pub mod event;
pub mod incident;
pub mod jetstream;
pub mod key;
pub mod leaf;
pub mod lockdown;
pub mod lockout;
pub mod login;
pub mod password;
pub mod permission;
pub mod policy;
pub mod preview;
pub mod rate_limit;
pub mod role;
pub mod sealed_field;
pub mod session;
pub mod snapshot;
pub mod values;

#[cfg(test)]
mod testing;

pub use esrs::Aggregate;
