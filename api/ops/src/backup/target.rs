//! The directory that backups are written to. One run at a time writes and removes there; anybody may read.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::durable::{sync, write_durably};
use super::error::BackupError;
use super::manifest::{MANIFEST, NOTE, PartKind};
use super::name::BackupName;
use super::verified::VERIFIED;

/// The end of the name of a backup that is being written.
const UNFINISHED: &str = ".unfinished";
/// The name of the lock.
const LOCK: &str = "lock";
/// All files that a backup can have. Others are not ours, and never removed.
const FILES: [&str; 6] =
    [MANIFEST, NOTE, VERIFIED, "verified.json.new", PartKind::Database.file(), PartKind::Keys.file()];

/// A directory with backups.
#[derive(Clone, Debug)]
pub struct BackupTarget {
    dir: PathBuf,
}

/// The right to write and to remove backups. It ends when it is dropped, or with the process.
pub struct TargetLock {
    target: BackupTarget,
    file: File,
}

/// A backup that is being written. Removed when dropped, unless it is finished.
pub struct UnfinishedBackup<'a> {
    target: &'a BackupTarget,
    name: BackupName,
    dir: PathBuf,
    is_finished: bool,
}

impl BackupTarget {
    /// Opens a directory that exists.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn open(dir: &Path) -> Result<Self, BackupError> {
        let dir = dir.canonicalize().map_err(BackupError::file("open", dir))?;
        Ok(Self { dir })
    }

    /// Returns its path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of a backup.
    #[must_use]
    pub fn path(&self, name: BackupName) -> PathBuf {
        self.dir.join(name.to_string())
    }

    /// Lists the backups, the oldest first: those with a manifest.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn list(&self) -> Result<Vec<BackupName>, BackupError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(BackupError::file("read", &self.dir))? {
            let entry = entry.map_err(BackupError::file("read", &self.dir))?;
            if let Some(name) = entry.file_name().to_str().and_then(BackupName::parse)
                && entry.path().join(MANIFEST).is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Finds a backup by its name, or the newest as `latest`.
    ///
    /// # Errors
    /// [`BackupError::Missing`].
    pub fn find(&self, name: &str) -> Result<BackupName, BackupError> {
        let names = self.list()?;
        let found = match name {
            "latest" => names.last().copied(),
            _ => BackupName::parse(name).filter(|name| names.contains(name)),
        };
        found.ok_or_else(|| BackupError::Missing { name: name.to_owned(), path: self.dir.clone() })
    }

    /// Takes the right to write.
    ///
    /// # Errors
    /// [`BackupError::Locked`] if another process has it.
    pub fn lock(&self) -> Result<TargetLock, BackupError> {
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(BackupError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(TargetLock { target: self.clone(), file }),
            Err(TryLockError::WouldBlock) => Err(BackupError::Locked(self.dir.clone())),
            Err(TryLockError::Error(error)) => Err(BackupError::file("lock", &path)(error)),
        }
    }
}

impl Drop for TargetLock {
    fn drop(&mut self) {
        // A child of this process has a copy of the file between fork and exec, which closing does not unlock.
        let _ = self.file.unlock();
    }
}

impl TargetLock {
    /// Removes what interrupted runs left, and returns how many: nobody else writes now.
    pub fn clear_remains(&self) -> Result<usize, BackupError> {
        let dir = &self.target.dir;
        let mut cleared = 0;
        for entry in fs::read_dir(dir).map_err(BackupError::file("read", dir))? {
            let entry = entry.map_err(BackupError::file("read", dir))?;
            let name = entry.file_name();
            let is_remains = name.to_str().and_then(|name| name.strip_suffix(UNFINISHED)).and_then(BackupName::parse);
            if is_remains.is_some() {
                remove_backup(&entry.path())?;
                cleared += 1;
            }
        }
        Ok(cleared)
    }

    /// Begins a backup.
    pub fn begin(&self, name: BackupName) -> Result<UnfinishedBackup<'_>, BackupError> {
        let dir = self.target.dir.join(format!("{name}{UNFINISHED}"));
        let exists = io::Error::from(ErrorKind::AlreadyExists);
        if self.target.path(name).exists() {
            return Err(BackupError::file("create", &self.target.path(name))(exists));
        }
        DirBuilder::new().mode(0o700).create(&dir).map_err(BackupError::file("create", &dir))?;
        Ok(UnfinishedBackup { target: &self.target, name, dir, is_finished: false })
    }

    /// Removes a backup: first its manifest, so that what is left if this is interrupted is no backup.
    pub fn remove(&self, name: BackupName) -> Result<(), BackupError> {
        let (path, aside) = (self.target.path(name), self.target.dir.join(format!("{name}{UNFINISHED}")));
        fs::rename(&path, &aside).map_err(BackupError::file("remove", &path))?;
        remove_backup(&aside)
    }

    /// Removes one part of a backup. Returns `false` if it was not there.
    pub fn remove_part(&self, name: BackupName, part: PartKind) -> Result<bool, BackupError> {
        let path = self.target.path(name).join(part.file());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(BackupError::file("remove", &path)(error)),
        }
    }
}

impl UnfinishedBackup<'_> {
    /// Returns the directory to write to.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the signature, then the manifest, and gives the backup its name: the last step, after everything else is on disk.
    pub fn finish(mut self, note: &str, manifest: &[u8]) -> Result<(), BackupError> {
        write_durably(&self.dir.join(NOTE), note.as_bytes())?;
        write_durably(&self.dir.join(MANIFEST), manifest)?;
        sync(&self.dir)?;
        let path = self.target.path(self.name);
        fs::rename(&self.dir, &path).map_err(BackupError::file("rename", &self.dir))?;
        self.is_finished = true;
        sync(&self.target.dir)
    }
}

impl Drop for UnfinishedBackup<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed now, the next run removes.
            let _ = remove_backup(&self.dir);
        }
    }
}

/// Removes the files of a backup and its directory, and nothing that is not ours.
fn remove_backup(dir: &Path) -> Result<(), BackupError> {
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
