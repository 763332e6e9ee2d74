//! A backup as a list of a target has it.

use super::name::BackupName;

/// A backup in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBackup {
    /// Its name.
    pub name: BackupName,
    /// The length of the database, in bytes; `None` if it is missing.
    pub database: Option<u64>,
    /// The length of the wrapped keys, in bytes; `None` if they were removed.
    pub keys: Option<u64>,
}
