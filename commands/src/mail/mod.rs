//! Mail to the owners of accounts: of which kind, and what waits to be sent.

pub mod kind;
pub mod outbox;
