//! The place that backups are written to: a directory, or a bucket of an S3-compatible store. One run at a time writes and removes
//! there; anybody may read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::bucket::BackupBucket;
use super::directory::{BackupDirectory, LockedDirectory};
use super::error::BackupError;
use super::lease::BucketLease;
use super::manifest::PartKind;
use super::name::BackupName;
use super::stored::StoredBackup;
use super::verified::{MAX_RECORD, VERIFIED, VerificationRecord};
use crate::s3::{S3Download, S3Settings, S3Upload};

/// The shortest piece of an upload, which is the shortest that stores take, in bytes.
const MIN_PIECE: u64 = 5 << 20;
/// The usual one, and the number of pieces that an estimate may have: stores take 10,000.
const PIECE: u64 = 16 << 20;
const PIECES: u64 = 8_000;

/// The place of a target, as an operator names it.
#[derive(Clone)]
pub enum TargetAddress {
    /// A directory.
    Directory(PathBuf),
    /// A bucket.
    Bucket(Box<S3Settings>),
}

/// A place with backups.
#[derive(Clone)]
pub struct BackupTarget {
    place: TargetPlace,
}

#[derive(Clone)]
enum TargetPlace {
    Directory(BackupDirectory),
    Bucket(BackupBucket),
}

/// The right to write and to remove backups. It ends when it is dropped, or with the process; in a bucket within minutes of it.
pub struct TargetLock {
    place: LockedPlace,
}

enum LockedPlace {
    Directory(LockedDirectory),
    Bucket(BackupBucket, BucketLease),
}

/// A backup that is being written. Removed when dropped, unless it is finished.
pub struct UnfinishedBackup<'a> {
    lock: &'a TargetLock,
    name: BackupName,
    is_finished: bool,
}

/// A part that is being written. In a bucket it is given up when dropped, unless it is finished.
pub enum PartWriter {
    /// A file.
    File(File),
    /// An object.
    Object(Box<S3Upload>),
}

/// A part that is being read.
pub enum PartReader {
    /// A file.
    File(File),
    /// An object.
    Object(Box<S3Download>),
}

impl BackupTarget {
    /// Opens a directory that exists, or a bucket.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn open(address: &TargetAddress) -> Result<Self, BackupError> {
        let place = match address {
            TargetAddress::Directory(dir) => TargetPlace::Directory(BackupDirectory::open(dir)?),
            TargetAddress::Bucket(settings) => TargetPlace::Bucket(BackupBucket::open((**settings).clone())?),
        };
        Ok(Self { place })
    }

    /// `true` if it is a bucket.
    #[must_use]
    pub const fn is_bucket(&self) -> bool {
        matches!(self.place, TargetPlace::Bucket(_))
    }

    /// Returns the path of a backup, for people.
    #[must_use]
    pub fn path(&self, name: BackupName) -> PathBuf {
        match &self.place {
            TargetPlace::Directory(directory) => directory.dir().join(name.to_string()),
            TargetPlace::Bucket(bucket) => bucket.display(&name.to_string()),
        }
    }

    /// Lists the backups, the oldest first: those with a manifest.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn list(&self) -> Result<Vec<StoredBackup>, BackupError> {
        let mut backups = match &self.place {
            TargetPlace::Directory(directory) => directory.list(),
            TargetPlace::Bucket(bucket) => bucket.list(),
        }?;
        backups.sort_unstable_by_key(|backup| backup.name);
        Ok(backups)
    }

    /// Finds a backup by its name, or the newest as `latest`.
    ///
    /// # Errors
    /// [`BackupError::Missing`].
    pub fn find(&self, name: &str) -> Result<BackupName, BackupError> {
        let backups = self.list()?;
        let found = match name {
            "latest" => backups.last().map(|backup| backup.name),
            _ => BackupName::parse(name).filter(|name| backups.iter().any(|backup| backup.name == *name)),
        };
        found.ok_or_else(|| {
            let path = match &self.place {
                TargetPlace::Directory(directory) => directory.dir().to_owned(),
                TargetPlace::Bucket(bucket) => bucket.display(""),
            };
            BackupError::Missing { name: name.to_owned(), path }
        })
    }

    /// Reads a small file of a backup; `None` if there is none. Reads no more than one byte beyond `most`.
    pub(super) fn read(&self, name: BackupName, file: &str, most: u64) -> Result<Option<Vec<u8>>, BackupError> {
        match &self.place {
            TargetPlace::Directory(directory) => directory.read(name, file, most + 1),
            TargetPlace::Bucket(bucket) => bucket.read(name, file, most + 1),
        }
    }

    /// `true` if the part is there, whatever it is.
    pub(super) fn has_part(&self, name: BackupName, part: PartKind) -> Result<bool, BackupError> {
        match &self.place {
            TargetPlace::Directory(directory) => Ok(directory.has_file(name, part.file())),
            TargetPlace::Bucket(bucket) => bucket.has_file(name, part.file()),
        }
    }

    /// Opens a part of a backup; `None` if there is none.
    pub(super) fn open_part(&self, name: BackupName, part: PartKind) -> Result<Option<PartReader>, BackupError> {
        Ok(match &self.place {
            TargetPlace::Directory(directory) => directory.open_file(name, part.file())?.map(PartReader::File),
            TargetPlace::Bucket(bucket) => {
                bucket.open_file(name, part.file())?.map(|object| PartReader::Object(Box::new(object)))
            }
        })
    }

    /// Reads the record of the last verification; `None` if there is none, or none that this program can read.
    ///
    /// # Errors
    /// [`BackupError::File`]: there may be one.
    pub fn verification(&self, name: BackupName) -> Result<Option<VerificationRecord>, BackupError> {
        let bytes = self.read(name, VERIFIED, MAX_RECORD)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Writes the record of a verification over the last one.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn store_verification(&self, name: BackupName, record: &VerificationRecord) -> Result<(), BackupError> {
        let mut bytes = serde_json::to_vec_pretty(record).map_err(|_| BackupError::Task)?;
        bytes.push(b'\n');
        match &self.place {
            TargetPlace::Directory(directory) => directory.write_record(name, &bytes),
            TargetPlace::Bucket(bucket) => bucket.write_record(name, &bytes),
        }
    }

    /// Takes the right to write.
    ///
    /// # Errors
    /// [`BackupError::Locked`] if another process has it.
    pub fn lock(&self) -> Result<TargetLock, BackupError> {
        let place = match &self.place {
            TargetPlace::Directory(directory) => LockedPlace::Directory(directory.lock()?),
            TargetPlace::Bucket(bucket) => LockedPlace::Bucket(bucket.clone(), bucket.lock()?),
        };
        Ok(TargetLock { place })
    }
}

impl TargetLock {
    /// Removes what interrupted runs left, and returns how many: nobody else writes now.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn clear_remains(&self) -> Result<usize, BackupError> {
        match &self.place {
            LockedPlace::Directory(lock) => lock.directory.clear_remains(),
            LockedPlace::Bucket(bucket, _) => bucket.clear_remains(),
        }
    }

    /// Begins a backup.
    pub(super) fn begin(&self, name: BackupName) -> Result<UnfinishedBackup<'_>, BackupError> {
        match &self.place {
            LockedPlace::Directory(lock) => lock.directory.begin(name)?,
            LockedPlace::Bucket(bucket, _) => bucket.begin(name)?,
        }
        Ok(UnfinishedBackup { lock: self, name, is_finished: false })
    }

    /// Removes a backup: first what makes it one, so that what is left if this is interrupted is none.
    pub(super) fn remove(&self, name: BackupName) -> Result<(), BackupError> {
        match &self.place {
            LockedPlace::Directory(lock) => lock.directory.remove(name),
            LockedPlace::Bucket(bucket, lease) => {
                lease.check()?;
                bucket.remove(name)
            }
        }
    }

    /// Removes one part of a backup. Returns `false` if it was not there.
    pub(super) fn remove_part(&self, name: BackupName, part: PartKind) -> Result<bool, BackupError> {
        match &self.place {
            LockedPlace::Directory(lock) => lock.directory.remove_part(name, part),
            LockedPlace::Bucket(bucket, lease) => {
                lease.check()?;
                bucket.remove_part(name, part)
            }
        }
    }
}

impl UnfinishedBackup<'_> {
    /// Creates a part of about this length at most. In a bucket it is uploaded in pieces of `piece` bytes, by default of as many as
    /// the length asks for.
    pub fn create_part(&self, part: PartKind, estimate: u64, piece: Option<u64>) -> Result<PartWriter, BackupError> {
        Ok(match &self.lock.place {
            LockedPlace::Directory(lock) => PartWriter::File(lock.directory.create_part(self.name, part)?),
            LockedPlace::Bucket(bucket, _) => {
                let piece = piece.unwrap_or_else(|| PIECE.max(estimate.div_ceil(PIECES))).max(MIN_PIECE);
                let piece = usize::try_from(piece).map_err(|_| BackupError::Task)?;
                PartWriter::Object(Box::new(bucket.create_part(self.name, part, piece)))
            }
        })
    }

    /// Makes it a backup: the last step, after everything else is whole. The lengths are those of its parts.
    pub fn finish(mut self, parts: &[(PartKind, u64)], note: &str, manifest: &[u8]) -> Result<(), BackupError> {
        match &self.lock.place {
            LockedPlace::Directory(lock) => lock.directory.finish(self.name, note.as_bytes(), manifest)?,
            LockedPlace::Bucket(bucket, lease) => bucket.finish(self.name, lease, parts, note.as_bytes(), manifest)?,
        }
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for UnfinishedBackup<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            match &self.lock.place {
                LockedPlace::Directory(lock) => lock.directory.abandon(self.name),
                LockedPlace::Bucket(bucket, _) => bucket.abandon(self.name),
            }
        }
    }
}

impl PartWriter {
    /// Brings everything to where it stays.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Object(object) => object.finish(),
        }
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Object(object) => object.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Object(object) => object.flush(),
        }
    }
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Object(object) => object.read(buffer),
        }
    }
}

/// Returns the directory and the name of a backup that is named by its path; `None` for a name alone.
#[must_use]
pub fn split_path(path: &Path) -> Option<(&Path, &str)> {
    let (parent, name) = (path.parent()?, path.file_name()?.to_str()?);
    (parent != Path::new("")).then_some((parent, name))
}
