//! Mail to the owners of accounts: its kinds, and the outbox.

pub mod kind;
pub mod outbox;
