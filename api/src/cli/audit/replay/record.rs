//! A trail to be replayed, and the record of a finished replay: a file that is written last. Without it, or with that of another
//! trail, a replay begins anew.

use fulexo_domain::leaf::format_time;
use fulexo_projections::as_of::AsOf;
use serde::{Deserialize, Serialize};

use crate::cli::audit::source::LogSource;
use crate::cli::audit::trust::TrustedCheckpoint;
use crate::cli::failure::Failure;
use crate::cli::rebuild::program;

/// A verified copy, and the moment up to which it is replayed.
pub struct Trail {
    pub source: LogSource,
    pub trusted: TrustedCheckpoint,
    /// The public key of the log.
    pub log_key: Option<String>,
    pub until: Option<AsOf>,
}

/// The trail that a replay is of, and the program that made it.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct TrailIdentity {
    origin: String,
    size: u64,
    root: String,
    until: Option<String>,
    program: String,
}

/// A finished replay.
#[derive(Serialize, Deserialize)]
pub struct ReplayRecord {
    pub trail: TrailIdentity,
    /// The number of events, up to the moment that was asked for.
    pub events: u64,
    /// The root over them.
    pub root: String,
    /// The tables at the last position.
    pub tables: Vec<TableContent>,
}

/// A table of the read models, as `fulexo replay` compares it.
#[derive(Serialize, Deserialize)]
pub struct TableContent {
    pub name: String,
    pub rows: u64,
    pub checksum: String,
}

impl TrailIdentity {
    pub fn of(trail: &Trail) -> Result<Self, Failure> {
        let checkpoint = &trail.trusted.checkpoint;
        let until = trail.until.map(|until| match until {
            AsOf::Position(position) => position.to_string(),
            AsOf::Time(time) => format_time(time),
        });
        Ok(Self {
            origin: checkpoint.origin.as_str().to_owned(),
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
            until,
            program: program()?,
        })
    }
}
