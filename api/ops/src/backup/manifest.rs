//! The manifest of a backup, and its signature. The manifest is in clear: it has no secret and no personal data.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use fulexo_tlog::key::{SignerKey, VerifierKey, verify};
use fulexo_tlog::note::Note;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::name::BackupName;
use super::state::DatabaseState;

/// The version of this form.
const FORMAT: u32 = 1;
/// The first line of what is signed: no checkpoint begins with it, and nothing else does.
const SIGNED: &str = "fulexo.dev/backup/v1";
/// The length of the longest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The names of the two files.
pub const MANIFEST: &str = "manifest.json";
pub const NOTE: &str = "manifest.note";

/// The content of a backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// The version of this form.
    pub format: u32,
    /// The name of the backup, which is the name of its directory.
    pub name: String,
    /// The time before the first byte was read.
    pub began_at: DateTime<Utc>,
    /// The time after the last byte was written.
    pub ended_at: DateTime<Utc>,
    /// The machine that wrote it.
    pub host: String,
    /// The version of Fulexo that wrote it.
    pub program: String,
    /// The version of the server, such as 150014.
    pub postgres: u32,
    /// The version of `pg_dump`.
    pub pg_dump: String,
    /// The database, as of the one moment of the backup.
    pub database: DatabaseState,
    /// The published checkpoint (C2SP tlog-checkpoint).
    pub checkpoint: Option<String>,
    /// The newest checkpoint that enough witnesses have cosigned.
    pub anchored: Option<String>,
    /// The public key that the log names as its own (a vkey).
    pub log_key: Option<String>,
    /// The roles of the server that own something or may do something. A restore needs them.
    pub roles: Vec<String>,
    /// The encrypted files.
    pub parts: Vec<PartRecord>,
}

/// The two parts of a backup.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// Everything but the wrapped keys.
    Database,
    /// The wrapped keys, without which nothing personal can be opened.
    Keys,
}

impl PartKind {
    /// All of them, in the order of a restore.
    pub const ALL: [Self; 2] = [Self::Database, Self::Keys];

    /// Returns the name of its file.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Database => "database.age",
            Self::Keys => "keys.age",
        }
    }
}

/// An encrypted file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PartRecord {
    /// The part.
    pub part: PartKind,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The length of the file, in bytes.
    pub length: u64,
    /// Those who can decrypt it (age recipients).
    pub recipients: Vec<String>,
}

impl BackupManifest {
    /// The version of the form that this program writes and reads.
    pub(super) const FORMAT: u32 = FORMAT;

    /// Returns the record of a part.
    #[must_use]
    pub fn part(&self, kind: PartKind) -> Option<&PartRecord> {
        self.parts.iter().find(|record| record.part == kind)
    }

    /// Returns the length of all parts together, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.parts.iter().map(|part| part.length).sum()
    }

    /// Returns the bytes of the file. There is one form of each manifest.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, BackupError> {
        let mut bytes = serde_json::to_vec(self).map_err(|_| BackupError::Crypto("the manifest has no form".into()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Signs the bytes of a manifest.
    pub(super) fn sign(name: BackupName, bytes: &[u8], key: &SignerKey) -> Result<String, BackupError> {
        let text = signing_note_text(name, bytes);
        let signature = key.sign_text(&text).map_err(|error| BackupError::Crypto(error.to_string()))?;
        Ok(Note::new(text, signature).to_string())
    }

    /// Reads a manifest, and verifies that a trusted key has signed it under this name.
    ///
    /// # Errors
    /// The reason, as the second half of a sentence about the backup.
    pub(super) fn open(name: BackupName, bytes: &[u8], note: &[u8], trusted: &[VerifierKey]) -> Result<Self, String> {
        let note = Note::parse(note).map_err(|error| format!("{NOTE}: {error}"))?;
        verify(&note, trusted).map_err(|error| format!("{NOTE}: {error}"))?;
        if note.text() != signing_note_text(name, bytes) {
            return Err(format!("{NOTE} signs another name or another {MANIFEST}"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| format!("{MANIFEST}: {error}"))?;
        if manifest.format != FORMAT {
            return Err(format!("{MANIFEST} has the form {}, and this program reads {FORMAT}", manifest.format));
        }
        let is_canonical = manifest.to_bytes().is_ok_and(|canonical| canonical == bytes);
        let kinds: Vec<PartKind> = manifest.parts.iter().map(|record| record.part).collect();
        if !is_canonical || manifest.name != name.to_string() || kinds != PartKind::ALL {
            return Err(format!("{MANIFEST} is not one that this program writes"));
        }
        Ok(manifest)
    }
}

/// Returns the text that the signature of a backup covers.
#[must_use]
pub fn signing_note_text(name: BackupName, manifest: &[u8]) -> String {
    format!("{SIGNED}\n{name}\n{}\n", STANDARD.encode(Sha256::digest(manifest)))
}
