//! The probes: each asks one source, bounded in time and size, and judges nothing.

pub mod backup_directory;
pub mod certificate_file;
pub mod clock_reading;
pub mod database;
pub mod nats_servers;
pub mod root;
pub mod service;
