//! The pages of the service: documentation, account pages, the page of problems, and `/`. Pages have no personal data.

pub mod account;
pub mod docs;
pub mod front;
pub mod problems;
pub mod schemas;
