//! The private PostgreSQL of a verification, in a temporary directory. The next run removes what a killed one left.

use std::fs;
use std::path::{Path, PathBuf};

use fulexo_commands::vault::crypto::random_bytes;
use fulexo_dev_servers::{DataDir, Options, Postgres};
use fulexo_domain::jetstream::hex;

use crate::cli::failure::Failure;
use crate::cli::output::note;

/// The beginning of the names of the directories.
const PREFIX: &str = "fulexo-backup-verify-";
/// The settings of a server whose data nobody needs after a crash.
const SETTINGS: [(&str, &str); 6] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("max_wal_size", "2GB"),
    ("maintenance_work_mem", "256MB"),
];

/// A running server. Dropping it ends it, and removes its directory.
pub struct ScratchServer {
    postgres: Postgres,
    dir: DataDir,
}

impl ScratchServer {
    /// Starts a server in a new directory below this one, after removing those of killed runs.
    pub fn start(parent: &Path) -> Result<Self, Failure> {
        remove_abandoned(parent);
        let random = random_bytes::<8>().map_err(|error| Failure::Failed(format!("cannot draw a name: {error}")))?;
        let dir = DataDir::open(&parent.join(format!("{PREFIX}{}", hex(&random))))?;
        match start(&dir) {
            Ok(postgres) => Ok(Self { postgres, dir }),
            Err(failure) => {
                remove(dir.path());
                Err(failure)
            }
        }
    }

    /// Returns the URL of the superuser.
    pub fn url(&self) -> String {
        self.postgres.superuser_url("postgres")
    }
}

impl Drop for ScratchServer {
    fn drop(&mut self) {
        self.postgres.stop();
        remove(self.dir.path());
    }
}

fn start(dir: &DataDir) -> Result<Postgres, Failure> {
    let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(Postgres::start(dir, &Options { settings })?)
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        note(format_args!("cannot remove {}, which has a restored database: {error}", dir.display()));
    }
}

fn remove_abandoned(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A link of somebody else leads to a directory that is not of a verification.
        name.starts_with(PREFIX) && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
    };
    for path in entries.map(|entry| entry.path()).filter(is_ours) {
        // Refused if it belongs to another user, or if a run is using it.
        let Ok(dir) = DataDir::open(&path) else { continue };
        // A server that outlived its owner is taken over, and ended.
        if path.join("postgres/data/postmaster.pid").exists() {
            drop(start(&dir));
        }
        remove(&path);
    }
}
