//! Files and directories that outlive a loss of power.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::BackupError;

/// Writes a new file that this user alone may read.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BackupError::file("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(BackupError::file("write", path))
}

/// Brings the names in a directory to the disk.
pub fn sync(dir: &Path) -> Result<(), BackupError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(BackupError::file("write", dir))
}
