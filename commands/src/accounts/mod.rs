//! Accounts: registration, profiles, passwords, recovery, and the acts of administrators.

pub mod administration;
pub mod password;
pub mod profile;
pub mod recovery;
pub mod registration;
