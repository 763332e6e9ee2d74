//! The cosigner of a witness. Of each log that it knows it cosigns checkpoints one after another, each of which extends the one
//! before, and remembers the last one in a file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::extension::{self, ExtensionError};
use fulexo_tlog::key::{self, KeyKind, SignatureError, SignerKey, SignerKeyError, SignerKeyTextError, VerifierKey};
use fulexo_tlog::note::{KeyName, MAX_NOTE, Note, SignatureLine};
use fulexo_tlog::submission::{Submission, origin_hash};

use crate::durable_file;

/// The time for which a checkpoint that is submitted again gets the cosignature that it had, in seconds: whoever repeats what a
/// log has published costs the disk nothing.
const REPEAT: u64 = 10;
/// The most keys of a witness.
const MAX_KEYS: usize = 8;
/// The most logs of a witness, and the most keys of one log.
const MAX_LOGS: usize = 10_000;
const MAX_LOG_KEYS: usize = 8;

/// The keys of a witness.
pub struct WitnessKeys(Vec<SignerKey>);

/// The keys are not those of a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WitnessKeysError {
    /// A text is not a private key.
    #[error(transparent)]
    Text(#[from] SignerKeyTextError),
    /// There is none, or there are too many.
    #[error("a witness has 1 to {MAX_KEYS} keys")]
    Number,
    /// A log's kind of key is among them.
    #[error("the key is a log's: create a witness's key with `fulexo witness new-key`")]
    Log,
    /// A key is among them twice.
    #[error("a key is given twice")]
    Twice,
}

/// The failure to open a witness.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The file system failed.
    #[error("{path}")]
    File {
        /// The file or the directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not what this witness remembers of a log.
    #[error("{0} is not what this witness has cosigned: restore it from a copy")]
    Damaged(PathBuf),
    /// Another process has the directory.
    #[error("another witness uses {0}")]
    Busy(PathBuf),
}

/// The reason for which a submission is not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not a submission of a checkpoint.
    #[error("this is not a checkpoint with a consistency proof")]
    Malformed,
    /// The log is not known here.
    #[error("this witness does not know the log")]
    UnknownLog,
    /// The log has not signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It does not extend what was cosigned last.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
    /// The state cannot be kept: nothing is cosigned.
    #[error("the state of the log cannot be written")]
    State(#[from] io::Error),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] SignerKeyError),
}

/// A witness, with a directory of its own for what it has cosigned.
pub struct Witness {
    keys: WitnessKeys,
    /// By the hash of their origins, as the monitoring interface names them.
    logs: BTreeMap<String, WitnessedLog>,
    /// Held as long as this lives.
    lock: File,
}

struct WitnessedLog {
    keys: Vec<VerifierKey>,
    path: PathBuf,
    /// Held while a checkpoint is judged and written.
    last: Mutex<Option<Cosigned>>,
    /// The note of the last one, for those who only read it.
    shown: Mutex<Option<Arc<str>>>,
}

/// A checkpoint that was cosigned.
struct Cosigned {
    checkpoint: Checkpoint,
    /// With the signatures of the log that were verified, and the cosignatures.
    note: Note,
    /// The time of the cosignatures, in seconds since 1970.
    time: u64,
}

impl WitnessKeys {
    /// Reads the keys of a witness.
    ///
    /// # Errors
    /// [`WitnessKeysError`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, WitnessKeysError> {
        let keys = texts.into_iter().map(SignerKey::parse).collect::<Result<Vec<_>, _>>()?;
        if !(1..=MAX_KEYS).contains(&keys.len()) {
            return Err(WitnessKeysError::Number);
        }
        for (place, key) in keys.iter().enumerate() {
            let key = key.verifier();
            if !key.kind().is_timed() {
                return Err(WitnessKeysError::Log);
            }
            if keys.iter().take(place).any(|other| other.verifier().is_same_key(key)) {
                return Err(WitnessKeysError::Twice);
            }
        }
        Ok(Self(keys))
    }

    /// The public halves, in their order.
    #[must_use]
    pub fn verifiers(&self) -> Vec<VerifierKey> {
        self.0.iter().map(|key| key.verifier().clone()).collect()
    }
}

/// Reads the logs that a witness knows: a vkey on each line, whose name is the log's origin. A log may have several keys. Blank
/// lines, and lines that begin with `#`, are comments.
///
/// # Errors
/// The first line that is no key of a log, with its number.
pub fn witnessed_logs(text: &str) -> Result<Vec<VerifierKey>, String> {
    let mut logs: Vec<VerifierKey> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = |fault: &str| Err(format!("line {}: {fault}", number + 1));
        let Ok(key) = VerifierKey::parse(line) else { return fault("this is not the vkey of a log") };
        if key.kind() == KeyKind::Ed25519Cosignature {
            return fault("this is the key of a witness, not of a log");
        }
        if logs.iter().any(|log| log.is_same_key(&key)) {
            return fault("another line has the same key");
        }
        if logs.iter().filter(|log| log.name() == key.name()).count() == MAX_LOG_KEYS {
            return fault("the log has too many keys");
        }
        if logs.len() == MAX_LOGS {
            return fault("there are too many logs");
        }
        logs.push(key);
    }
    if logs.is_empty() { Err("it names no log".to_owned()) } else { Ok(logs) }
}

impl Witness {
    /// Opens the witness with this directory for its state, which has to exist: in place of one that is not mounted, a new one would
    /// have forgotten everything. One process at a time has it.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn open(keys: WitnessKeys, logs: Vec<VerifierKey>, directory: &Path) -> Result<Self, WitnessError> {
        let file_error = |source| WitnessError::File { path: directory.to_owned(), source };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock"));
        let lock = lock.map_err(file_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WitnessError::Busy(directory.to_owned())),
            Err(TryLockError::Error(source)) => return Err(file_error(source)),
        }
        let mut by_origin: BTreeMap<String, (KeyName, Vec<VerifierKey>)> = BTreeMap::new();
        for key in logs {
            let known = by_origin.entry(origin_hash(key.name())).or_insert_with(|| (key.name().clone(), Vec::new()));
            known.1.push(key);
        }
        let own = keys.verifiers();
        let mut logs = BTreeMap::new();
        for (hash, (origin, keys)) in by_origin {
            let path = directory.join(&hash);
            let last = Cosigned::read(&path, &origin, &keys, &own)?;
            let shown = Mutex::new(last.as_ref().map(|last| last.note.to_string().into()));
            logs.insert(hash, WitnessedLog { keys, path, last: Mutex::new(last), shown });
        }
        Ok(Self { keys, logs, lock })
    }

    /// The public halves of the keys.
    #[must_use]
    pub fn verifiers(&self) -> Vec<VerifierKey> {
        self.keys.verifiers()
    }

    /// The number of logs.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.logs.len()
    }

    /// Cosigns the checkpoint of a submission if it extends the last one of its log. It is on the disk before this returns.
    /// Submissions of one log wait for each other. Blocks on the disk.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn cosign(&self, submission: &[u8], now: DateTime<Utc>) -> Result<Vec<SignatureLine>, Refusal> {
        let Submission { extension, checkpoint: note } = Submission::parse(submission).ok_or(Refusal::Malformed)?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| Refusal::Malformed)?;
        let log = self.logs.get(&origin_hash(&checkpoint.origin)).ok_or(Refusal::UnknownLog)?;
        // Anybody can repeat a line, and each is verified.
        let lines = note.signatures().iter().filter(|line| log.keys.iter().any(|key| key.is_of(line)));
        if lines.count() > 2 * MAX_LOG_KEYS {
            return Err(Refusal::Malformed);
        }
        key::verify(&note, &log.keys)?;
        // Held until the file is written: what another thread compares with is what was cosigned last.
        let mut last = log.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = extension::judge(last.as_ref().map(|last| &last.checkpoint), &extension, &checkpoint) {
            // Anybody can submit a true checkpoint with a wrong proof. Two trees of one size are proof of another kind.
            if last
                .as_ref()
                .is_some_and(|last| last.checkpoint.size == checkpoint.size && last.checkpoint != checkpoint)
            {
                log.keep_contradiction(last.as_ref().map(|last| &last.note), &note);
            }
            return Err(error.into());
        }
        let now = u64::try_from(now.timestamp()).unwrap_or_default();
        let known = last.as_ref().map_or(0, |last| last.time);
        if let Some(last) = last.as_ref().filter(|last| last.checkpoint == checkpoint && now < last.time + REPEAT) {
            let lines = self.own_lines(&last.note);
            if !lines.is_empty() {
                return Ok(lines);
            }
        }
        if now < known {
            tracing::warn!(now, known, "the clock is behind the last cosignature, whose time is used");
        }
        // A cosignature says that no larger tree was seen until then. If a clock that goes back could say otherwise, the witness
        // would contradict itself.
        let time = now.max(known);
        let lines = self.keys.0.iter().map(|key| key.sign(&checkpoint, time)).collect::<Result<Vec<_>, _>>()?;
        // One of each key: a log that signs in many ways does not make the file longer than what is read.
        let verified = log.keys.iter().filter_map(|key| note.signatures().iter().find(|line| key.is_of(line)));
        let mut all = verified.chain(&lines).cloned();
        let Some(first) = all.next() else { return Err(SignatureError::Unknown.into()) };
        let mut cosigned = Note::new(note.text().to_owned(), first);
        all.for_each(|line| cosigned.add(line));
        let text: Arc<str> = cosigned.to_string().into();
        durable_file::replace(&log.path, text.as_bytes())?;
        *log.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        *last = Some(Cosigned { checkpoint, note: cosigned, time });
        Ok(lines)
    }

    /// The checkpoint that was cosigned last of the log with this hash of its origin; `None` if there is none. Waits for no disk.
    #[must_use]
    pub fn last(&self, origin_hash: &str) -> Option<Arc<str>> {
        self.logs.get(origin_hash)?.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The cosignatures of the keys that this witness has now.
    fn own_lines(&self, note: &Note) -> Vec<SignatureLine> {
        let is_own = |line: &&SignatureLine| self.keys.0.iter().any(|key| key.verifier().is_of(line));
        note.signatures().iter().filter(is_own).cloned().collect()
    }
}

impl WitnessedLog {
    /// Keeps the first two checkpoints of the log that contradict each other, the one that was cosigned and the other one of its size:
    /// they are evidence.
    fn keep_contradiction(&self, cosigned: Option<&Note>, note: &Note) {
        let path = durable_file::beside(&self.path, "contradiction");
        if path.exists() {
            return;
        }
        let path_text = path.display();
        let both = format!("{}\n{note}", cosigned.map(ToString::to_string).unwrap_or_default());
        match durable_file::replace(&path, both.as_bytes()) {
            Ok(()) => tracing::error!(%path_text, "a log has signed two trees of one size, which are in this file"),
            Err(error) => tracing::error!(%error, "a log has signed two trees of one size, which cannot be kept"),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // A child of this process has a copy of the file between fork and exec, which closing does not unlock.
        let _ = self.lock.unlock();
    }
}

impl Cosigned {
    /// Reads what was cosigned last; `None` if nothing was.
    fn read(
        path: &Path,
        origin: &KeyName,
        log: &[VerifierKey],
        own: &[VerifierKey],
    ) -> Result<Option<Self>, WitnessError> {
        let most = u64::try_from(MAX_NOTE).unwrap_or(u64::MAX).saturating_add(1);
        let read = durable_file::read(path, most);
        let Some(bytes) = read.map_err(|source| WitnessError::File { path: path.to_owned(), source })? else {
            return Ok(None);
        };
        let damaged = || WitnessError::Damaged(path.to_owned());
        let note = Note::parse(&bytes).map_err(|_| damaged())?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| damaged())?;
        // A key of the log or of the witness may have been replaced since, but not all of them.
        let keys = [log, own].concat();
        let verified = key::verify(&note, &keys).map_err(|_| damaged())?;
        if checkpoint.origin != *origin {
            return Err(damaged());
        }
        // The log's signatures may have times, too, which are its own.
        let cosigned = verified.iter().filter(|signature| signature.key >= log.len());
        let time = cosigned.map(|signature| signature.time).max().unwrap_or_default();
        Ok(Some(Self { checkpoint, note, time }))
    }
}
