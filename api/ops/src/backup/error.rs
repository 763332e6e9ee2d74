//! The failures of backups.

use std::io;
use std::path::{Path, PathBuf};

/// The reason why a backup was not made, read or removed. It contains no secret and no personal data.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A failed action on a file.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    File {
        /// The action, as a verb.
        action: &'static str,
        /// The file or the directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another run works in the target.
    #[error("another run of `fulexo backup` works in {path}: wait for its end", path = .0.display())]
    Locked(PathBuf),
    /// The target has no such backup.
    #[error("there is no backup {name} in {path}", path = .path.display())]
    Missing {
        /// The name that was asked for.
        name: String,
        /// The target.
        path: PathBuf,
    },
    /// The database failed, or refused.
    #[error("the database: {0}")]
    Database(String),
    /// A program of PostgreSQL is missing, or too old.
    #[error("{0}")]
    NoProgram(String),
    /// A program of PostgreSQL failed.
    #[error("{program} {problem}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The manner in which it ended, and its last words.
        problem: String,
    },
    /// Encryption, decryption or a signature failed.
    #[error("{0}")]
    Crypto(String),
    /// A task of this process ended without a result.
    #[error("a task of this process failed")]
    Task,
}

impl BackupError {
    /// Returns a conversion of an I/O error for one action on one path.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// Returns the advice for an operator.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free space in the target, or raise its quota, or prune older backups with `fulexo backup prune`, and run the verb again"
            }
            Self::File { path, .. } if path.starts_with("s3://") => {
                "check the store, its address (AWS_ENDPOINT_URL) and the rights of the key (AWS_ACCESS_KEY_ID), and run the verb again"
            }
            Self::File { .. } => "make the file or the directory usable for this user, and run the verb again",
            Self::Locked(_) => {
                "wait until the other run has ended; in a bucket, that of one that died ends within 5 minutes"
            }
            Self::Missing { .. } => "list the backups with `fulexo backup list`",
            Self::Database(_) => {
                "check that the database is up and that DATABASE_OWNER_URL leads to it, and run the verb again"
            }
            Self::NoProgram(_) => {
                "install the client programs of PostgreSQL (on Debian: apt-get install postgresql-client)"
            }
            Self::Program { .. } => "mend what the program says, and run the verb again",
            Self::Crypto(_) => "check the files of keys, and run the verb again",
            Self::Task => "run the verb again",
        }
    }
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        // The message alone: the detail of an error repeats values of the row.
        Self::Database(match error.as_database_error() {
            Some(error) => error.message().to_owned(),
            None => fulexo_database::chain(&error).to_string(),
        })
    }
}
