//! Fulexo's operations: what an operator, cron or an auditor asks of a service, from outside.
//!
//! Knows a service by its addresses, its database and its files, and nothing of the node that runs there: every check
//! also works when the service is down.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod age;
pub mod audit;
pub mod backup;
pub mod clock;
pub mod finding;
pub mod headers;
pub mod health;
pub mod page;
pub mod probe;
pub mod report;
pub mod restore;
pub mod s3;
pub mod sarif;
pub mod sbom;
pub mod scan;
pub mod tls;
