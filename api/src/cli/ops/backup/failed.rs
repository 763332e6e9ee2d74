//! The failures of backups as failures of verbs.

use fulexo_ops::backup::BackupError;

use crate::cli::failure::Failure;

/// Turns the failure of a backup into exit code 3, with advice.
pub fn unchecked(error: BackupError) -> Failure {
    let advice = error.advice();
    Failure::Unchecked(Some(format!("{error}. To mend it: {advice}")))
}
