//! Accounts: how they come to be, what is known of them, and what administrators do to them.

pub mod administration;
pub mod password;
pub mod profile;
pub mod recovery;
pub mod registration;
