//! The content of a backup as the log tells of it.

use chrono::{DateTime, Utc};
use fulexo_domain::backup::BackupContent;
use fulexo_domain::leaf::to_micros;
use fulexo_domain::values::{BackupLabel, Epoch, Sha256Hex, TreeRoot};
use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::manifest::BackupManifest;

/// Returns what the log tells of the backup with this manifest.
///
/// # Errors
/// [`BackupError::Crypto`] if a manifest that was not written by this program has values that the log does not take.
pub fn content(manifest: &BackupManifest) -> Result<BackupContent, BackupError> {
    let invalid = |_| BackupError::Crypto("the manifest has values that the log does not take".to_owned());
    let digest: String = Sha256::digest(manifest.to_bytes()?).iter().map(|byte| format!("{byte:02x}")).collect();
    let log = &manifest.database.log;
    let began_at: DateTime<Utc> = to_micros(manifest.began_at);
    Ok(BackupContent {
        began_at,
        bytes: manifest.parts.iter().map(|part| part.length).sum(),
        epoch: Epoch::from(log.epoch),
        manifest: Sha256Hex::parse(&digest).map_err(invalid)?,
        name: BackupLabel::parse(&manifest.name).map_err(invalid)?,
        position: log.position,
        root: TreeRoot::parse(&log.root).map_err(invalid)?,
    })
}
