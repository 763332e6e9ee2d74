//! The directory of the backups: the newest one, and the newest one that was verified. Judges no age.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_database::chain;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::backup::{BackupName, BackupTarget, StoredBackup, TargetAddress};

/// The most backups whose verification is looked for.
const MOST: usize = 1_000;
/// The directory of the backups, as far as it was read.
pub enum BackupsSeen {
    /// No directory was given.
    NotGiven,
    /// It cannot be read.
    Unread(String),
    /// It was read.
    Read(BackupList),
}

/// The backups in the directory.
pub struct BackupList {
    pub count: usize,
    pub newest: Option<BackupName>,
    /// The newest one that was verified, and the time of that.
    pub verified: Option<(BackupName, DateTime<Utc>)>,
}

impl BackupsSeen {
    /// Reads the directory. One on a server that is away is not waited for.
    pub async fn read(place: Option<TargetAddress>, patience: Duration) -> Self {
        let Some(place) = place else { return Self::NotGiven };
        match timeout(patience, spawn_blocking(move || list(&place))).await {
            Ok(Ok(Ok(list))) => Self::Read(list),
            Ok(Ok(Err(reason))) => Self::Unread(reason),
            Ok(Err(_)) => Self::Unread("the directory could not be read".to_owned()),
            Err(_) => Self::Unread(format!("the directory was not read within {:.1} seconds", patience.as_secs_f32())),
        }
    }
}

fn list(place: &TargetAddress) -> Result<BackupList, String> {
    let failed = |error| chain(&error).to_string();
    let target = BackupTarget::open(place).map_err(failed)?;
    let names: Vec<BackupName> = target.list().map_err(failed)?.iter().map(|StoredBackup { name, .. }| *name).collect();
    let mut verified = None;
    for name in names.iter().rev().take(MOST) {
        let record = target.verification(*name).map_err(failed)?;
        if let Some(record) = record.filter(|record| record.is_good()) {
            verified = Some((*name, record.at));
            break;
        }
    }
    Ok(BackupList { count: names.len(), newest: names.last().copied(), verified })
}
