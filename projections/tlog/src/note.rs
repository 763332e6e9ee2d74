//! Signed notes (C2SP signed-note): a text, a blank line, and lines of signatures. This reads and writes them; `key` verifies.

use std::fmt::{self, Display, Formatter};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The length of the longest note that is read, in bytes: room for [`MAX_SIGNATURES`] of the longest kind.
pub const MAX_NOTE: usize = 256 * 1_024;
/// The most signatures of a note that is read.
pub const MAX_SIGNATURES: usize = 64;
/// The length of the longest name of a key, in bytes, as cosignatures limit it.
pub const MAX_NAME: usize = 255;
/// The beginning of a signature line: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// The name of a key: not empty, without white space, control characters and `+`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

/// A signature of a note, of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// The name of the key.
    pub name: KeyName,
    /// The id of the key: a hint, no proof of anything.
    pub key_id: u32,
    /// The signature in the form of the kind of key; not empty.
    pub signature: Vec<u8>,
}

/// A text with signatures, which nobody has verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

/// A text is not a signed note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is longer than [`MAX_NOTE`], or has more than [`MAX_SIGNATURES`].
    #[error("the note is too long")]
    TooLong,
    /// It is not UTF-8, or has a control character other than the line feed.
    #[error("the note is not plain text")]
    NotText,
    /// No blank line and signature lines follow a text.
    #[error("the note has no signatures")]
    Unsigned,
    /// A line among the signatures is none.
    #[error("the note has a line that is not a signature")]
    BadSignatureLine,
}

impl KeyName {
    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let is_name = (1..=MAX_NAME).contains(&name.len())
            && !name.chars().any(|sign| sign == '+' || sign.is_whitespace() || sign.is_control());
        is_name.then(|| Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for KeyName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SignatureLine {
    /// Reads a signature line, without its line feed.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let (id, signature) = decoded.split_first_chunk()?;
        let key_id = u32::from_be_bytes(*id);
        (!signature.is_empty()).then_some(Self { name: KeyName::parse(name)?, key_id, signature: signature.to_vec() })
    }
}

/// Writes the line with its line feed.
impl Display for SignatureLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let decoded = [&self.key_id.to_be_bytes()[..], &self.signature].concat();
        writeln!(f, "{DASH}{} {}", self.name, STANDARD.encode(decoded))
    }
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::NotText);
        }
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Unsigned)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Unsigned)?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == MAX_SIGNATURES {
                return Err(NoteError::TooLong);
            }
            signatures.push(SignatureLine::parse(line).ok_or(NoteError::BadSignatureLine)?);
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// Makes a note of a text, which ends with a line feed, and a first signature.
    #[must_use]
    pub fn new(text: String, signature: SignatureLine) -> Self {
        Self { text, signatures: vec![signature] }
    }

    /// Adds a signature, unless it is there already.
    pub fn add(&mut self, signature: SignatureLine) {
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// The text, with its last line feed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in their order.
    #[must_use]
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }
}

impl Display for Note {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| Display::fmt(signature, f))
    }
}
