//! Exports of the audit trail: events as lines for auditors and other systems. `reader` reads a fixed range of the log
//! page by page, `format` writes each event as a line: as the API shows it, in OCSF, or as its exact leaf.
//!
//! Nothing here opens sealed data: an export names people by their ids alone.

mod format;
mod item;
pub mod ocsf;
mod reader;

pub use self::format::{ExportError, ExportFormat};
pub use self::reader::{ExportRange, ExportReader, ExportWindow};
