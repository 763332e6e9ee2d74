//! A bucket with backups. A backup is one as soon as its manifest is there, which is written last and removed first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hyper::body::Bytes;

use super::error::BackupError;
use super::lease::BucketLease;
use super::manifest::{MANIFEST, NOTE, PartKind};
use super::name::BackupName;
use super::stored::StoredBackup;
use super::verified::VERIFIED;
use crate::s3::{S3Client, S3Download, S3Settings, S3Upload, StoredObject, UPLOAD, UnfinishedUpload};

/// The ends of all keys that a backup can have. The manifest is removed first, so that what is left is no backup.
const FILES: [&str; 7] = [
    MANIFEST,
    NOTE,
    VERIFIED,
    PartKind::Database.file(),
    PartKind::Keys.file(),
    "database.age.upload",
    "keys.age.upload",
];
/// The longest id of an upload that is read, in bytes.
const MAX_ID: usize = 4_096;

/// A bucket with backups.
#[derive(Clone)]
pub struct BackupBucket {
    client: S3Client,
}

impl BackupBucket {
    pub fn open(settings: S3Settings) -> Result<Self, BackupError> {
        let path = PathBuf::from(settings.display(""));
        let client = S3Client::new(settings);
        let client = client.map_err(|text| BackupError::file("open", &path)(std::io::Error::other(text)))?;
        Ok(Self { client })
    }

    /// Returns the name of a key for people.
    pub fn display(&self, key: &str) -> PathBuf {
        PathBuf::from(self.client.display(key))
    }

    /// Lists the backups: those with a manifest.
    pub fn list(&self) -> Result<Vec<StoredBackup>, BackupError> {
        let mut found = Vec::new();
        for (name, files) in self.files()? {
            if files.contains_key(MANIFEST) {
                let length = |part: PartKind| files.get(part.file()).copied();
                found.push(StoredBackup { name, database: length(PartKind::Database), keys: length(PartKind::Keys) });
            }
        }
        Ok(found)
    }

    /// Reads a small object whole; `None` if there is none.
    pub fn read(&self, name: BackupName, file: &str, most: u64) -> Result<Option<Vec<u8>>, BackupError> {
        let (key, most) = (key(name, file), usize::try_from(most).unwrap_or(usize::MAX));
        let read = self.client.get(&key, most).map_err(|error| self.failed("read", &key)(error.into()))?;
        Ok(read.map(|(bytes, _)| bytes.to_vec()))
    }

    /// `true` if there is an object under this name.
    pub fn has_file(&self, name: BackupName, file: &str) -> Result<bool, BackupError> {
        let key = key(name, file);
        let head = self.client.head(&key).map_err(|error| self.failed("read", &key)(error.into()))?;
        Ok(head.is_some())
    }

    /// Opens an object; `None` if there is none.
    pub fn open_file(&self, name: BackupName, file: &str) -> Result<Option<S3Download>, BackupError> {
        let key = key(name, file);
        S3Download::open(self.client.clone(), key.clone()).map_err(self.failed("read", &key))
    }

    /// Writes the record of a verification over the last one.
    pub fn write_record(&self, name: BackupName, bytes: &[u8]) -> Result<(), BackupError> {
        self.put(&key(name, VERIFIED), bytes)
    }

    /// Takes the right to write.
    pub fn lock(&self) -> Result<BucketLease, BackupError> {
        BucketLease::take(&self.client)
    }

    /// Removes what interrupted runs left, and returns how many: nobody else writes now.
    pub fn clear_remains(&self) -> Result<usize, BackupError> {
        let mut cleared = BTreeSet::new();
        let is_listed = match self.client.uploads() {
            Ok(uploads) => {
                for upload in uploads {
                    let Some((name, _)) = parse(&upload.key) else { continue };
                    self.abort(&upload)?;
                    cleared.insert(name);
                }
                true
            }
            Err(error) if error.is_unknown_operation() => false,
            Err(error) => return Err(self.failed("list the uploads in", "")(error.into())),
        };
        for (name, files) in self.files()? {
            if !files.contains_key(MANIFEST) {
                if !is_listed {
                    self.abort_noted(name)?;
                }
                self.remove(name)?;
                cleared.insert(name);
            }
        }
        Ok(cleared.len())
    }

    /// Begins a backup.
    pub fn begin(&self, name: BackupName) -> Result<(), BackupError> {
        let key = key(name, MANIFEST);
        match self.client.head(&key).map_err(|error| self.failed("read", &key)(error.into()))? {
            None => Ok(()),
            Some(_) => Err(self.failed("create", &key)(std::io::ErrorKind::AlreadyExists.into())),
        }
    }

    /// Creates a part, in pieces of this length.
    pub fn create_part(&self, name: BackupName, part: PartKind, piece_length: usize) -> S3Upload {
        S3Upload::new(self.client.clone(), key(name, part.file()), piece_length)
    }

    /// Writes the signature, then the manifest: the last step, after everything else is whole, and nobody else has removed it.
    pub fn finish(
        &self,
        name: BackupName,
        lease: &BucketLease,
        parts: &[(PartKind, u64)],
        note: &[u8],
        manifest: &[u8],
    ) -> Result<(), BackupError> {
        self.put(&key(name, NOTE), note)?;
        for (part, length) in parts {
            let key = key(name, part.file());
            let head = self.client.head(&key).map_err(|error| self.failed("read", &key)(error.into()))?;
            if head.is_none_or(|head| head.length != *length) {
                let text = "the store does not have what was written";
                return Err(self.failed("write", &key)(std::io::Error::other(text)));
            }
        }
        lease.check()?;
        self.put(&key(name, MANIFEST), manifest)
    }

    /// Removes what there is of a backup that was begun.
    pub fn abandon(&self, name: BackupName) {
        // What cannot be removed now, the next run removes.
        let _ = self.remove(name);
    }

    /// Removes a backup.
    pub fn remove(&self, name: BackupName) -> Result<(), BackupError> {
        FILES.into_iter().try_for_each(|file| self.delete(&key(name, file)))
    }

    /// Removes one part of a backup. Returns `false` if it was not there.
    pub fn remove_part(&self, name: BackupName, part: PartKind) -> Result<bool, BackupError> {
        let key = key(name, part.file());
        let head = self.client.head(&key).map_err(|error| self.failed("read", &key)(error.into()))?;
        if head.is_some() {
            self.delete(&key)?;
        }
        Ok(head.is_some())
    }

    /// Gives up the uploads whose ids are in objects.
    fn abort_noted(&self, name: BackupName) -> Result<(), BackupError> {
        for part in PartKind::ALL {
            let noted = key(name, &format!("{}{UPLOAD}", part.file()));
            let id = self.client.get(&noted, MAX_ID).map_err(|error| self.failed("read", &noted)(error.into()))?;
            if let Some((id, _)) = id {
                let id = String::from_utf8_lossy(&id).into_owned();
                self.abort(&UnfinishedUpload { key: key(name, part.file()), id })?;
            }
        }
        Ok(())
    }

    fn abort(&self, upload: &UnfinishedUpload) -> Result<(), BackupError> {
        let aborted = self.client.abort_upload(upload);
        aborted.map_err(|error| self.failed("give up the upload of", &upload.key)(error.into()))
    }

    /// Lists the objects of backups: their ends, and their lengths.
    fn files(&self) -> Result<BTreeMap<BackupName, BTreeMap<String, u64>>, BackupError> {
        let listed = self.client.list(|key| parse(key).is_some());
        let mut backups: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for StoredObject { key, length } in listed.map_err(|error| self.failed("list", "")(error.into()))? {
            if let Some((name, file)) = parse(&key) {
                backups.entry(name).or_default().insert(file.to_owned(), length);
            }
        }
        Ok(backups)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let put = self.client.put(key, Bytes::copy_from_slice(bytes));
        put.map_err(|error| self.failed("write", key)(error.into()))
    }

    fn delete(&self, key: &str) -> Result<(), BackupError> {
        self.client.delete(key).map_err(|error| self.failed("remove", key)(error.into()))
    }

    fn failed(&self, action: &'static str, key: &str) -> impl FnOnce(std::io::Error) -> BackupError + use<> {
        BackupError::file(action, &self.display(key))
    }
}

fn key(name: BackupName, file: &str) -> String {
    format!("{name}/{file}")
}

/// Reads the key of an object of a backup. Others are not ours, and never removed.
fn parse(key: &str) -> Option<(BackupName, &str)> {
    let (name, file) = key.split_once('/')?;
    Some((BackupName::parse(name)?, file)).filter(|(_, file)| FILES.contains(file))
}
