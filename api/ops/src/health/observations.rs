//! The observations of one run: what each source said. Judges nothing.

use std::time::Duration;

use fulexo_tlog::hash::TreeHash;

use super::probes::backup_directory::BackupsSeen;
use super::probes::certificate_file::CertificateFile;
use super::probes::database::{DatabaseView, OpenDatabase, StoredState};
use super::probes::nats_servers::ObservedNats;
use super::probes::root::RootFault;
use super::probes::service::{ObservedService, ReadinessReport};

/// The answers of all sources.
pub(super) struct HealthObservations {
    pub services: Vec<ObservedService>,
    pub database: DatabaseView,
    /// The roots of the tree in the database at the sizes of checkpoints, or the reason for which one cannot be had.
    pub roots: Vec<(u64, Result<TreeHash, RootFault>)>,
    /// The servers of NATS. `None` if none is configured.
    pub nats: Option<Result<Vec<ObservedNats>, String>>,
    /// The certificate file. `None` if none is configured.
    pub certificate: Option<CertificateFile>,
    pub backups: BackupsSeen,
}

impl DatabaseView {
    /// Returns the database, if it answers.
    pub fn opened(&self) -> Option<&OpenDatabase> {
        match self {
            Self::Open(open) => Some(open),
            Self::NotGiven | Self::Down(_) | Self::Refused(_) => None,
        }
    }
}

impl HealthObservations {
    /// Returns the state in the database, or the reason for which there is none.
    pub fn state(&self) -> Result<&StoredState, String> {
        self.database.state()
    }

    /// Returns the nodes that are ready, with their URLs.
    pub fn ready(&self) -> Vec<(&str, &ReadinessReport)> {
        self.services.iter().filter_map(|service| Some((service.label.as_str(), service.ready()?))).collect()
    }

    /// Returns the reason for which neither source says something.
    pub fn silence(&self) -> String {
        let database = self.state().err().unwrap_or_default();
        let service = if self.services.is_empty() { "no URL of a node is known" } else { "no node is ready" };
        format!("{database}; {service}")
    }
}

/// The sources of facts, as reports name them.
pub(super) const DATABASE: &str = "database";
pub(super) const SERVICE: &str = "service";

/// Returns a length of time for people: `14 s`, `3 h`.
pub(super) fn spoken(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// Returns a number with its noun.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Returns a time that something took, in milliseconds.
pub(super) fn milliseconds(took: Duration) -> String {
    format!("{:.0} ms", took.as_secs_f64() * 1e3)
}
