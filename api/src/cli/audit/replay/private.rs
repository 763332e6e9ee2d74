//! The private PostgreSQL of a replay, in a directory of its own: a temporary one, or one that is kept for the next run.
//!
//! ```text
//! DIR/replay.json    what the replay in it is of; without it there is none, or half of one
//! DIR/authorization  the header with the token of the run
//! DIR/postgres/      the server (`fulexo_dev_servers`)
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use fulexo_commands::vault::crypto::random_bytes;
use fulexo_dev_servers::{DataDir, Options, Postgres};
use fulexo_domain::jetstream::hex;
use zeroize::Zeroizing;

use super::record::ReplayRecord;
use crate::cli::failure::Failure;
use crate::cli::output::note;

/// The role that the served node works with. It may read.
pub const AUDITOR: &str = "fulexo_auditor";
/// The database of the replay.
pub const DATABASE: &str = "replay";

const RECORD: &str = "replay.json";
const HEADER: &str = "authorization";

/// A running server. Dropping it ends it, and removes what is temporary.
pub struct PrivateDatabase {
    postgres: Postgres,
    dir: DataDir,
    password: Zeroizing<String>,
    /// Dropped last: nobody uses it any more.
    _temporary: Option<TemporaryDir>,
}

struct TemporaryDir(PathBuf);

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            note(format_args!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

impl PrivateDatabase {
    /// Starts the server of this directory, or of a new temporary one.
    pub fn start(kept: Option<&Path>) -> Result<Self, Failure> {
        let random = |error| Failure::Failed(format!("cannot draw a name and a password: {error}"));
        let (dir, temporary) = match kept {
            Some(path) => (DataDir::open(path)?, None),
            None => {
                let name = format!("fulexo-replay-{}", hex(&random_bytes::<8>().map_err(random)?));
                let dir = DataDir::open(&std::env::temp_dir().join(name))?;
                let temporary = TemporaryDir(dir.path().to_owned());
                (dir, Some(temporary))
            }
        };
        let is_new = !dir.path().join("postgres").exists();
        if !is_new && !dir.path().join(RECORD).exists() {
            let path = dir.path().display();
            return Err(Failure::Failed(format!(
                "{path} has the database of `fulexo dev` and not of a replay. Choose another data directory"
            )));
        }
        if is_new {
            dir.store(RECORD, NO_RECORD)?;
        }
        // What is not on disk yet when the power fails is built again.
        let settings = [("synchronous_commit", "off"), ("max_wal_size", "2GB")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let postgres = Postgres::start(&dir, &Options { settings })?;
        let bytes = Zeroizing::new(random_bytes::<32>().map_err(random)?);
        Ok(Self { postgres, dir, password: Zeroizing::new(hex(&*bytes)), _temporary: temporary })
    }

    /// The URL of the superuser, for a database.
    pub fn superuser_url(&self, database: &str) -> String {
        self.postgres.superuser_url(database)
    }

    /// The URL of the role that may read.
    pub fn auditor_url(&self) -> String {
        self.postgres.url(AUDITOR, &self.password, DATABASE)
    }

    /// The password of the role that may read, of this run: hexadecimal digits.
    pub fn auditor_password(&self) -> &str {
        &self.password
    }

    /// `true` if the server still runs.
    pub fn is_running(&self) -> bool {
        self.postgres.is_running()
    }

    /// The record of the finished replay, if there is one that this program can read.
    pub fn record(&self) -> Option<ReplayRecord> {
        let text = fs::read_to_string(self.dir.path().join(RECORD)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the record of a finished replay.
    pub fn store_record(&self, record: &ReplayRecord) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(record).map_err(|error| error.to_string())?;
        Ok(self.dir.store(RECORD, &text)?)
    }

    /// Forgets the record: from now on the replay is not finished.
    pub fn forget_record(&self) -> Result<(), Failure> {
        Ok(self.dir.store(RECORD, NO_RECORD)?)
    }

    /// Writes the header with the token, for clients that read it from a file: other users see the arguments of a command.
    pub fn store_header(&self, token: &str) -> Result<PathBuf, Failure> {
        let header = Zeroizing::new(format!("Authorization: Bearer {token}\n"));
        self.dir.store(HEADER, &header)?;
        Ok(self.dir.path().join(HEADER))
    }
}

/// The content of the record's file while there is no finished replay. The file tells the directory from one of `fulexo dev`.
const NO_RECORD: &str = "{}";

impl Drop for PrivateDatabase {
    fn drop(&mut self) {
        // The token ends with the run. Its file may not be there yet.
        let _ = self.dir.remove(HEADER);
    }
}
