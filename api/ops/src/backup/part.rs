//! The encrypted parts of a backup: written as they are dumped, read as they are restored, hashed on the way. Nothing is on disk in
//! clear.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use fulexo_database::chain;
use fulexo_domain::jetstream::hex;
use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::manifest::{PartKind, PartRecord};
use super::opened::OpenedBackup;
use super::programs::RunningProgram;
use super::target::{PartReader, PartWriter};
use crate::age::{AgeError, DecryptingReader, EncryptingWriter, Identity, Recipient};

/// The bytes that are moved at a time.
const CHUNK: usize = 64 << 10;

/// A file, and the digest and the length of what went through.
struct Hashing<T> {
    inner: T,
    digest: Sha256,
    length: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, digest: Sha256::new(), length: 0 }
    }

    fn sha256(self) -> (String, u64, T) {
        (hex(&self.digest.finalize()), self.length, self.inner)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Runs `pg_dump`, and encrypts what it writes into a new part, which is where it stays afterwards. `written` is told the bytes so
/// far.
pub fn write_part(
    new: PartWriter,
    path: &Path,
    part: PartKind,
    recipients: &[Recipient],
    pg_dump: &mut Command,
    mut written: impl FnMut(u64),
) -> Result<PartRecord, BackupError> {
    let file_error = |action| BackupError::file(action, path);
    let mut writer = EncryptingWriter::new(recipients, Hashing::new(new)).map_err(|error| match error {
        AgeError::Io(error) => file_error("write")(error),
        other => BackupError::Crypto(chain(&other).to_string()),
    })?;
    let mut program = RunningProgram::start("pg_dump", pg_dump.stdout(Stdio::piped()))?;
    let Some(mut output) = program.child.stdout.take() else { return Err(BackupError::Task) };
    let (mut buffer, mut total) = (vec![0; CHUNK], 0);
    loop {
        let read = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(file_error("read the output of pg_dump for")(error)),
        };
        // On an error the program is killed as it is dropped.
        writer.write_all(buffer.get(..read).unwrap_or_default()).map_err(file_error("write"))?;
        total += read as u64;
        written(total);
    }
    program.end()?;
    let (sha256, length, new) = writer.finish().map_err(file_error("write"))?.sha256();
    new.finish().map_err(file_error("write"))?;
    Ok(PartRecord { part, sha256, length, recipients: recipients.iter().map(ToString::to_string).collect() })
}

/// The reason why a part was not read.
pub enum UnreadPart {
    /// None of the identities opens it.
    NotOurs(String),
    /// It is not the file that was signed.
    Damaged(String),
    /// The program that reads it failed, or the machine.
    Failed(BackupError),
}

/// Compares a part with its record.
pub fn check_part(backup: &OpenedBackup, record: &PartRecord, mut read: impl FnMut(u64)) -> Result<(), UnreadPart> {
    let mut reader = Hashing::new(open_part(backup, record)?);
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return is_signed(reader, record),
            Ok(_) => read(reader.length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_damage(&error) => return Err(damaged(record, &error)),
            Err(error) => return Err(UnreadPart::Failed(read_error(backup, record)(error))),
        }
    }
}

/// Decrypts a part into the standard input of a program, which has to succeed. The file is compared with its record on the way.
/// `fed` is told the bytes so far.
pub fn feed_part(
    backup: &OpenedBackup,
    record: &PartRecord,
    identities: &[Identity],
    name: &'static str,
    command: &mut Command,
    mut fed: impl FnMut(u64),
) -> Result<(), UnreadPart> {
    let failed = |error| UnreadPart::Failed(read_error(backup, record)(error));
    let file = Hashing::new(open_part(backup, record)?);
    let mut reader = DecryptingReader::new(identities, file).map_err(|error| match error {
        AgeError::NoMatch => UnreadPart::NotOurs(error.to_string()),
        AgeError::Io(error) if !is_damage(&error) => failed(error),
        other => UnreadPart::Damaged(format!("{}: {}", record.part.file(), chain(&other))),
    })?;
    let mut program =
        RunningProgram::start(name, command.stdin(Stdio::piped()).stdout(Stdio::null())).map_err(UnreadPart::Failed)?;
    let mut input = program.child.stdin.take();
    let (mut buffer, mut total) = (zeroize::Zeroizing::new(vec![0; CHUNK]), 0);
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_damage(&error) => return Err(damaged(record, &error)),
            Err(error) => return Err(failed(error)),
        };
        // A program that has read enough, or failed, closes its end: its status says which. The rest is read in any case, so that
        // the whole file is known to be sound.
        if input.as_mut().is_some_and(|pipe| pipe.write_all(buffer.get(..read).unwrap_or_default()).is_err()) {
            input = None;
        }
        total += read as u64;
        fed(total);
    }
    drop(input);
    program.end().map_err(UnreadPart::Failed)?;
    // Again: the file may be another one by now.
    check_part(backup, record, |_| {})
}

/// `true` if a file is not what it was, and `false` if it cannot be read.
pub fn is_damage(error: &io::Error) -> bool {
    [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof].contains(&error.kind())
}

fn damaged(record: &PartRecord, error: &io::Error) -> UnreadPart {
    UnreadPart::Damaged(format!("{}: {error}", record.part.file()))
}

fn open_part(backup: &OpenedBackup, record: &PartRecord) -> Result<PartReader, UnreadPart> {
    match backup.open_part(record.part) {
        Ok(Some(reader)) => Ok(reader),
        Ok(None) => Err(UnreadPart::Damaged(format!("{} is missing", record.part.file()))),
        Err(BackupError::File { source, .. }) if is_damage(&source) => Err(damaged(record, &source)),
        Err(error) => Err(UnreadPart::Failed(error)),
    }
}

fn read_error(backup: &OpenedBackup, record: &PartRecord) -> impl FnOnce(io::Error) -> BackupError + use<> {
    BackupError::file("read", &backup.path(record.part))
}

fn is_signed(reader: Hashing<PartReader>, record: &PartRecord) -> Result<(), UnreadPart> {
    let (sha256, length, _) = reader.sha256();
    if length != record.length {
        let (file, expected) = (record.part.file(), record.length);
        return Err(UnreadPart::Damaged(format!("{file} has {length} bytes, and the manifest says {expected}")));
    }
    if sha256 != record.sha256 {
        return Err(UnreadPart::Damaged(format!("{} has another SHA-256 than the manifest says", record.part.file())));
    }
    Ok(())
}
