//! The memory of a signer: what it signed last, in a file that neither the service nor its database can change back.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::note::KeyName;
use serde::{Deserialize, Serialize};

use crate::durable_file;

/// The length of the longest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1_024;
/// The time that others may hold the file.
const LOCK_TIME: Duration = Duration::from_secs(4);

/// The failure to read or to keep a signer's memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file system failed.
    #[error("{path}")]
    File {
        /// The file or the directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not a signer's memory.
    #[error("{0} is not the memory of a signer: restore it from a copy")]
    Damaged(PathBuf),
    /// The file is the memory of a signer of another log.
    #[error("{0} is the memory of a signer of another log")]
    OtherLog(PathBuf),
}

/// The last signatures of a signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerMemory {
    /// The last checkpoint.
    pub last: Checkpoint,
    /// The size of the last checkpoint that each witness cosigned, by its name.
    pub witnesses: BTreeMap<String, u64>,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryFileForm {
    origin: String,
    size: u64,
    root: String,
    witnesses: BTreeMap<String, u64>,
}

/// The file of one log. Several processes may share it.
#[derive(Debug)]
pub(super) struct MemoryFile {
    path: PathBuf,
    origin: KeyName,
}

/// The file while no other process, and no other thread, reads or writes it.
pub(super) struct LockedMemory<'a> {
    file: &'a MemoryFile,
    lock: File,
}

impl MemoryFile {
    /// Opens the memory of this log. The file need not exist; its directory has to.
    pub fn open(path: PathBuf, origin: KeyName) -> Result<Self, MemoryError> {
        let file = Self { path, origin };
        file.lock()?.read()?;
        Ok(file)
    }

    /// Waits until nobody else holds it, or for [`LOCK_TIME`]. The lock ends with the process that holds it.
    pub fn lock(&self) -> Result<LockedMemory<'_>, MemoryError> {
        // Of its own, because the memory is another file after each change.
        let path = durable_file::beside(&self.path, "lock");
        let file_error = |source| MemoryError::File { path: path.clone(), source };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(file_error)?;
        let began = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(LockedMemory { file: self, lock }),
                Err(TryLockError::Error(source)) => return Err(file_error(source)),
                Err(TryLockError::WouldBlock) if began.elapsed() > LOCK_TIME => {
                    return Err(file_error(io::Error::new(ErrorKind::TimedOut, "another process holds it")));
                }
                // A turn takes as long as the disk: there is nothing to be woken by.
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for LockedMemory<'_> {
    fn drop(&mut self) {
        // A child of this process has a copy of the file between fork and exec, which closing does not unlock.
        let _ = self.lock.unlock();
    }
}

impl LockedMemory<'_> {
    /// Reads it; `None` if nothing was ever signed.
    pub fn read(&self) -> Result<Option<SignerMemory>, MemoryError> {
        let path = &self.file.path;
        let file_error = |source| MemoryError::File { path: path.clone(), source };
        let damaged = || MemoryError::Damaged(path.clone());
        let Some(text) = durable_file::read(path, MAX_FILE).map_err(file_error)? else { return Ok(None) };
        let form: MemoryFileForm = serde_json::from_slice(&text).map_err(|_| damaged())?;
        if form.origin != self.file.origin.as_str() {
            return Err(MemoryError::OtherLog(path.clone()));
        }
        let root = TreeHash::parse(&form.root).ok_or_else(damaged)?;
        let last = Checkpoint { origin: self.file.origin.clone(), size: form.size, root };
        // As strictly as one that comes from elsewhere.
        Checkpoint::parse(&last.to_string()).map_err(|_| damaged())?;
        Ok(Some(SignerMemory { last, witnesses: form.witnesses }))
    }

    /// Keeps it, also through a loss of power: after an error the file is as it was before.
    pub fn write(&self, memory: &SignerMemory) -> Result<(), MemoryError> {
        let SignerMemory { last, witnesses } = memory;
        let form = MemoryFileForm {
            origin: last.origin.to_string(),
            size: last.size,
            root: last.root.to_string(),
            witnesses: witnesses.clone(),
        };
        let path = &self.file.path;
        let written = || durable_file::replace(path, &[&serde_json::to_vec(&form)?[..], b"\n"].concat());
        written().map_err(|source| MemoryError::File { path: path.clone(), source })
    }
}
