//! What may happen in Fulexo, and what each fact means.
//!
//! Two rules carry the crate. *Decide*: an aggregate looks at its state and a command and answers with
//! events, or with the reason why nothing may be recorded (`Aggregate::handle_command`). *Apply*: a state
//! follows from its events alone (`Aggregate::apply_event`).
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and ids are arguments.

pub mod account;
pub mod api_key;
pub mod authentication;
pub mod event;
pub mod jetstream;
pub mod leaf;
pub mod lockdown;
pub mod lockout;
pub mod password;
pub mod permission;
pub mod policy;
pub mod preview;
pub mod rate_limit;
pub mod role;
pub mod session;
pub mod snapshot;
pub mod values;

#[cfg(test)]
mod testing;

pub use esrs::Aggregate;
