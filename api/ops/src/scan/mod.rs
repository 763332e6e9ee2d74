//! The scan for known vulnerabilities: the program's own dependencies against the RustSec advisory database, and the
//! versions of the services that it uses against a dated table.
//!
//! Needs no network for the former. Says of everything that it could not judge.

pub mod advisories;
pub mod archive;
pub mod dependency_list;
pub mod exceptions;
pub mod judge;
pub mod service_table;
pub mod service_versions;
