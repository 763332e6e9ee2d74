//! The content of a backup, as the events of the log tell it.

use fulexo_domain::backup::{BackupContent, BackupPart, BackupPartKind, BackupPlace};
use fulexo_domain::leaf;
use fulexo_domain::values::{BackupLabel, Epoch, InvalidValue, Sha256Hex, TreeRoot};

use super::create::CreatedBackup;
use super::manifest::{BackupManifest, PartKind};
use super::opened::OpenedBackup;
use super::target::BackupTarget;

impl OpenedBackup {
    /// Returns its content.
    ///
    /// # Errors
    /// The manifest, which is signed, has a value that no program of ours writes.
    pub fn content(&self) -> Result<BackupContent, InvalidValue> {
        content(&self.manifest, &self.manifest_sha256)
    }

    /// Returns the kind of place in which it is kept.
    #[must_use]
    pub const fn place(&self) -> BackupPlace {
        self.target.kind()
    }
}

impl CreatedBackup {
    /// Returns its content.
    ///
    /// # Errors
    /// See [`OpenedBackup::content`].
    pub fn content(&self) -> Result<BackupContent, InvalidValue> {
        content(&self.manifest, &self.manifest_sha256)
    }

    /// Returns its parts.
    ///
    /// # Errors
    /// See [`OpenedBackup::content`].
    pub fn parts(&self) -> Result<Vec<BackupPart>, InvalidValue> {
        let part = |kind| match kind {
            PartKind::Database => BackupPartKind::Database,
            PartKind::Keys => BackupPartKind::Keys,
        };
        let parts = self.manifest.parts.iter().map(|record| {
            Ok(BackupPart { length: record.length, part: part(record.part), sha256: Sha256Hex::parse(&record.sha256)? })
        });
        parts.collect()
    }
}

impl BackupTarget {
    /// Returns the kind of place.
    #[must_use]
    pub const fn kind(&self) -> BackupPlace {
        if self.is_bucket() { BackupPlace::S3 } else { BackupPlace::Directory }
    }
}

fn content(manifest: &BackupManifest, sha256: &str) -> Result<BackupContent, InvalidValue> {
    let log = &manifest.database.log;
    Ok(BackupContent {
        began_at: leaf::to_micros(manifest.began_at),
        bytes: manifest.length(),
        epoch: Epoch::from(log.epoch),
        manifest: Sha256Hex::parse(sha256)?,
        name: BackupLabel::parse(&manifest.name)?,
        position: log.position,
        root: TreeRoot::parse(&log.root)?,
    })
}
