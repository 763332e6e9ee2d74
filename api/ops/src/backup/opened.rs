//! A backup whose manifest is signed.

use std::path::PathBuf;

use super::error::BackupError;
use super::manifest::{BackupManifest, PartKind};
use super::name::BackupName;
use super::target::{BackupTarget, PartReader};

/// A backup whose manifest is signed.
#[derive(Clone)]
pub struct OpenedBackup {
    /// Its name.
    pub name: BackupName,
    /// Its manifest.
    pub manifest: BackupManifest,
    pub(super) target: BackupTarget,
    /// The SHA-256 of its manifest, in hexadecimal.
    pub(super) manifest_sha256: String,
    /// The parts that were there when it was opened.
    pub(super) parts: Vec<PartKind>,
}

impl OpenedBackup {
    /// Returns the major version of the program that wrote the parts, which no older one reads.
    pub(super) fn dump_major(&self) -> u32 {
        self.manifest.pg_dump.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default()
    }

    /// `true` if this part was removed before the backup itself.
    #[must_use]
    pub fn is_removed(&self, part: PartKind) -> bool {
        !self.parts.contains(&part)
    }

    /// Returns the path of a part, for people.
    pub(super) fn path(&self, part: PartKind) -> PathBuf {
        self.target.path(self.name).join(part.file())
    }

    /// Opens a part; `None` if there is none.
    pub(super) fn open_part(&self, part: PartKind) -> Result<Option<PartReader>, BackupError> {
        self.target.open_part(self.name, part)
    }
}
