//! The signer of the log's checkpoints. It has a memory of its own ([`super::memory`]), and signs only what extends the last tree
//! that it signed: whoever changes the database, or restores an old one, does not get another history signed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use fulexo_database::chain;
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::extension::{self, ExtensionError};
use fulexo_tlog::key::{self, KeyKind, SignerKey, SignerKeyError, SignerKeyTextError, VerifierKey};
use fulexo_tlog::note::{KeyName, MAX_NAME, Note, SignatureLine};
use fulexo_tlog::submission::ExtensionProof;
use zeroize::Zeroizing;

use super::memory::{MemoryError, MemoryFile, SignerMemory};

/// The most witnesses that are remembered.
const MAX_WITNESSES: usize = 64;

/// A checkpoint to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRequest {
    /// The proof that it extends the one that was signed last.
    pub extension: ExtensionProof,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The checkpoint that is published. A signer whose memory is lost believes its own signature under it.
    pub published: Option<Note>,
}

/// The reason for which a signer does not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The checkpoint is one of another log.
    #[error("the checkpoint names another log")]
    OtherLog,
    /// The checkpoint does not extend the one that was signed last.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
    /// The memory cannot be read or kept.
    #[error("the signer's memory cannot be used")]
    Memory(#[from] MemoryError),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] SignerKeyError),
    /// The signer did not answer, or not as one does.
    #[error("{0}")]
    Remote(String),
}

/// The keys of a log.
pub struct LogKeys {
    /// All have the origin as their name; the first is an Ed25519 one, which every verifier of checkpoints knows.
    keys: Vec<SignerKey>,
    origin: KeyName,
}

/// The keys are not those of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogKeysError {
    /// A text is not a private key.
    #[error(transparent)]
    Text(#[from] SignerKeyTextError),
    /// There is none, or the first is of another kind.
    #[error("the first key must be an Ed25519 key")]
    First,
    /// A witness's kind of Ed25519 key is among them.
    #[error("an Ed25519 key for cosignatures is a witness's")]
    Witness,
    /// The keys have several names.
    #[error("all keys must have the same name")]
    Names,
    /// A key is among them twice.
    #[error("a key is given twice")]
    Twice,
}

/// The signer in this process.
pub struct LogSigner {
    keys: Mutex<Arc<LogKeys>>,
    /// The file that the keys come from, if it is read again before each signature.
    file: Option<PathBuf>,
    memory: MemoryFile,
}

impl LogKeys {
    /// Reads the keys of a log: its key, and those that sign beside it.
    ///
    /// # Errors
    /// [`LogKeysError`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, LogKeysError> {
        let keys = texts.into_iter().map(SignerKey::parse).collect::<Result<Vec<_>, _>>()?;
        let first = keys.first().filter(|key| key.verifier().kind() == KeyKind::Ed25519).ok_or(LogKeysError::First)?;
        let origin = first.verifier().name().clone();
        for (place, key) in keys.iter().enumerate() {
            let key = key.verifier();
            if key.kind() == KeyKind::Ed25519Cosignature {
                return Err(LogKeysError::Witness);
            }
            if *key.name() != origin {
                return Err(LogKeysError::Names);
            }
            if keys.iter().take(place).any(|other| other.verifier().is_same_key(key)) {
                return Err(LogKeysError::Twice);
            }
        }
        Ok(Self { keys, origin })
    }

    /// The log's name, which is the keys'.
    #[must_use]
    pub const fn origin(&self) -> &KeyName {
        &self.origin
    }

    /// The public halves, in their order.
    #[must_use]
    pub fn verifiers(&self) -> Vec<VerifierKey> {
        self.keys.iter().map(|key| key.verifier().clone()).collect()
    }

    /// The checkpoint of a note that one of these keys signed.
    fn signed(&self, note: &Note) -> Option<Checkpoint> {
        key::verify(note, &self.verifiers()).ok()?;
        Checkpoint::parse(note.text()).ok().filter(|checkpoint| checkpoint.origin == self.origin)
    }
}

impl LogSigner {
    /// Opens the signer with this file as its memory.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn open(keys: LogKeys, memory: PathBuf) -> Result<Self, MemoryError> {
        let memory = MemoryFile::open(memory, keys.origin.clone())?;
        Ok(Self { keys: Mutex::new(Arc::new(keys)), file: None, memory })
    }

    /// Reads the keys from this file again whenever they are needed: a rotation changes them there.
    #[must_use]
    pub fn following(self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self }
    }

    /// The log's keys. Blocks on the disk. A file that cannot be read, or has the keys of another log, changes nothing.
    #[must_use]
    pub fn keys(&self) -> Arc<LogKeys> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file {
            let text = std::fs::read_to_string(file).map(Zeroizing::new);
            let lines = text.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty());
            match LogKeys::parse(lines) {
                Ok(read) if read.origin == keys.origin => {
                    if read.verifiers() != keys.verifiers() {
                        tracing::info!("the keys of the log have changed");
                        *keys = Arc::new(read);
                    }
                }
                Ok(_) => tracing::error!("the file of the log's keys has the keys of another log"),
                Err(error) => tracing::error!(error = %chain(&error), "the file of the log's keys cannot be read"),
            }
        }
        Arc::clone(&keys)
    }

    /// The memory; `None` if nothing was signed.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn memory(&self) -> Result<Option<SignerMemory>, MemoryError> {
        self.memory.lock()?.read()
    }

    /// Signs a checkpoint, with each key, that extends the last one. It is kept in the memory first, so that no other tree is
    /// ever signed at its size, whether or not the signatures arrive. Blocks on the disk.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn sign(&self, request: &SigningRequest, now: DateTime<Utc>) -> Result<Vec<SignatureLine>, SignerError> {
        let SigningRequest { extension, checkpoint, published } = request;
        let keys = self.keys();
        if checkpoint.origin != keys.origin {
            return Err(SignerError::OtherLog);
        }
        let memory = self.memory.lock()?;
        let known = memory.read()?;
        let last = match &known {
            Some(known) => Some(known.last.clone()),
            None => published.as_ref().and_then(|note| keys.signed(note)),
        };
        extension::judge(last.as_ref(), extension, checkpoint)?;
        let witnesses = known.map(|known| known.witnesses).unwrap_or_default();
        memory.write(&SignerMemory { last: checkpoint.clone(), witnesses })?;
        let time = u64::try_from(now.timestamp()).unwrap_or_default();
        Ok(keys.keys.iter().map(|key| key.sign(checkpoint, time)).collect::<Result<_, _>>()?)
    }

    /// Remembers the size of the last checkpoint that each witness cosigned, by its name, in place of those of before. Sizes that
    /// were not signed here are not believed. Blocks on the disk.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn remember(&self, mut witnesses: BTreeMap<String, u64>) -> Result<(), MemoryError> {
        let memory = self.memory.lock()?;
        let Some(known) = memory.read()? else { return Ok(()) };
        witnesses.retain(|name, size| name.len() <= MAX_NAME && *size <= known.last.size);
        // What a witness has cosigned never becomes less.
        for (name, size) in &mut witnesses {
            *size = known.witnesses.get(name).map_or(*size, |known| (*size).max(*known));
        }
        if witnesses.len() > MAX_WITNESSES || witnesses == known.witnesses {
            return Ok(());
        }
        memory.write(&SignerMemory { witnesses, ..known })
    }
}
