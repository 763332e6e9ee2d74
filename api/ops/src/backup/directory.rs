//! A directory with backups. A backup gets its name last, after everything in it is on disk.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::durable::{sync, write_durably};
use super::error::BackupError;
use super::manifest::{MANIFEST, NOTE, PartKind};
use super::name::BackupName;
use super::stored::StoredBackup;
use super::verified::VERIFIED;

/// The end of the name of a backup that is being written.
const UNFINISHED: &str = ".unfinished";
/// The name of the lock.
const LOCK: &str = "lock";
/// The record of a verification that is being written.
const NEW_RECORD: &str = "verified.json.new";
/// All files that a backup can have. Others are not ours, and never removed.
const FILES: [&str; 6] = [MANIFEST, NOTE, VERIFIED, NEW_RECORD, PartKind::Database.file(), PartKind::Keys.file()];

/// A directory with backups.
#[derive(Clone, Debug)]
pub struct BackupDirectory {
    dir: PathBuf,
}

/// The right to write there. It ends when it is dropped, or with the process.
pub struct LockedDirectory {
    pub directory: BackupDirectory,
    file: File,
}

impl Drop for LockedDirectory {
    fn drop(&mut self) {
        // A child of this process has a copy of the file between fork and exec, which closing does not unlock.
        let _ = self.file.unlock();
    }
}

impl BackupDirectory {
    /// Opens a directory that exists.
    pub fn open(dir: &Path) -> Result<Self, BackupError> {
        let dir = dir.canonicalize().map_err(BackupError::file("open", dir))?;
        Ok(Self { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lists the backups: those with a manifest.
    pub fn list(&self) -> Result<Vec<StoredBackup>, BackupError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(BackupError::file("read", &self.dir))? {
            let entry = entry.map_err(BackupError::file("read", &self.dir))?;
            if let Some(name) = entry.file_name().to_str().and_then(BackupName::parse)
                && entry.path().join(MANIFEST).is_file()
            {
                let length =
                    |part: PartKind| fs::metadata(entry.path().join(part.file())).map(|metadata| metadata.len()).ok();
                found.push(StoredBackup { name, database: length(PartKind::Database), keys: length(PartKind::Keys) });
            }
        }
        Ok(found)
    }

    /// Reads a small file whole; `None` if there is none.
    pub fn read(&self, name: BackupName, file: &str, most: u64) -> Result<Option<Vec<u8>>, BackupError> {
        let Some(opened) = self.open_file(name, file)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = opened.take(most).read_to_end(&mut bytes);
        read.map_err(BackupError::file("read", &self.path(name, file)))?;
        Ok(Some(bytes))
    }

    /// `true` if there is something under this name.
    pub fn has_file(&self, name: BackupName, file: &str) -> bool {
        self.path(name, file).exists()
    }

    /// Opens a file; `None` if there is none.
    pub fn open_file(&self, name: BackupName, file: &str) -> Result<Option<File>, BackupError> {
        let path = self.path(name, file);
        // Before it is opened: a pipe would be waited for.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => File::open(&path).map(Some).map_err(BackupError::file("read", &path)),
            Ok(_) => Err(BackupError::file("read", &path)(io::Error::new(ErrorKind::InvalidData, "it is not a file"))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackupError::file("read", &path)(error)),
        }
    }

    /// Writes the record of a verification over the last one.
    pub fn write_record(&self, name: BackupName, bytes: &[u8]) -> Result<(), BackupError> {
        let (path, new) = (self.path(name, VERIFIED), self.path(name, NEW_RECORD));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(BackupError::file("remove", &new)(error)),
            Ok(()) | Err(_) => {}
        }
        write_durably(&new, bytes)?;
        fs::rename(&new, &path).map_err(BackupError::file("write", &path))?;
        sync(&self.dir.join(name.to_string()))
    }

    /// Takes the right to write.
    pub fn lock(&self) -> Result<LockedDirectory, BackupError> {
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(BackupError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(LockedDirectory { directory: self.clone(), file }),
            Err(TryLockError::WouldBlock) => Err(BackupError::Locked(self.dir.clone())),
            Err(TryLockError::Error(error)) => Err(BackupError::file("lock", &path)(error)),
        }
    }

    /// Removes what interrupted runs left, and returns how many: nobody else writes now.
    pub fn clear_remains(&self) -> Result<usize, BackupError> {
        let mut cleared = 0;
        for entry in fs::read_dir(&self.dir).map_err(BackupError::file("read", &self.dir))? {
            let entry = entry.map_err(BackupError::file("read", &self.dir))?;
            let name = entry.file_name();
            let is_remains = name.to_str().and_then(|name| name.strip_suffix(UNFINISHED)).and_then(BackupName::parse);
            if is_remains.is_some() {
                remove_files(&entry.path())?;
                cleared += 1;
            }
        }
        Ok(cleared)
    }

    /// Begins a backup.
    pub fn begin(&self, name: BackupName) -> Result<(), BackupError> {
        let (path, dir) = (self.dir.join(name.to_string()), self.unfinished(name));
        if path.exists() {
            return Err(BackupError::file("create", &path)(ErrorKind::AlreadyExists.into()));
        }
        DirBuilder::new().mode(0o700).create(&dir).map_err(BackupError::file("create", &dir))
    }

    /// Creates a part of a backup that was begun.
    pub fn create_part(&self, name: BackupName, part: PartKind) -> Result<File, BackupError> {
        let path = self.unfinished(name).join(part.file());
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        created.map_err(BackupError::file("create", &path))
    }

    /// Writes the signature, then the manifest, and gives the backup its name: the last step, after everything else is on disk.
    pub fn finish(&self, name: BackupName, note: &[u8], manifest: &[u8]) -> Result<(), BackupError> {
        let dir = self.unfinished(name);
        write_durably(&dir.join(NOTE), note)?;
        write_durably(&dir.join(MANIFEST), manifest)?;
        sync(&dir)?;
        fs::rename(&dir, self.dir.join(name.to_string())).map_err(BackupError::file("rename", &dir))?;
        sync(&self.dir)
    }

    /// Removes what there is of a backup that was begun.
    pub fn abandon(&self, name: BackupName) {
        // What cannot be removed now, the next run removes.
        let _ = remove_files(&self.unfinished(name));
    }

    /// Removes a backup. It loses its name first, so that what is left if this is interrupted is no backup.
    pub fn remove(&self, name: BackupName) -> Result<(), BackupError> {
        let (path, aside) = (self.dir.join(name.to_string()), self.unfinished(name));
        fs::rename(&path, &aside).map_err(BackupError::file("remove", &path))?;
        remove_files(&aside)
    }

    /// Removes one part of a backup. Returns `false` if it was not there.
    pub fn remove_part(&self, name: BackupName, part: PartKind) -> Result<bool, BackupError> {
        let path = self.path(name, part.file());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(BackupError::file("remove", &path)(error)),
        }
    }

    fn path(&self, name: BackupName, file: &str) -> PathBuf {
        self.dir.join(name.to_string()).join(file)
    }

    fn unfinished(&self, name: BackupName) -> PathBuf {
        self.dir.join(format!("{name}{UNFINISHED}"))
    }
}

/// Removes the files of a backup and its directory, and nothing that is not ours.
fn remove_files(dir: &Path) -> Result<(), BackupError> {
    // A link is not followed.
    let is_dir = fs::symlink_metadata(dir).map_err(BackupError::file("read", dir))?.is_dir();
    if !is_dir {
        return Err(BackupError::file("remove", dir)(ErrorKind::NotADirectory.into()));
    }
    for file in FILES {
        match fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(BackupError::file("remove", &dir.join(file))(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    fs::remove_dir(dir).map_err(BackupError::file("remove", dir))
}
