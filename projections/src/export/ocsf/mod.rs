//! Events in the Open Cybersecurity Schema Framework (OCSF). `mapping` is the table: the class, activity, severity and status
//! of each event type. `details` are the attributes of a class that an event fills, `record` puts the line together.
//!
//! Every fact of a leaf is in its record, so that the leaf can be written again from it and proven against the log. People are
//! named by their ids.

mod details;
mod mapping;
mod objects;
mod record;
mod vocabulary;

pub use self::mapping::OcsfMapping;
pub use self::record::OcsfRecord;
pub use self::vocabulary::{OcsfActivity, OcsfClass, OcsfSeverity, OcsfStatus, OcsfVersion};
