//! The protocol between a node and the signer: HTTP on a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /log` | 200, [`LogState`] as JSON |
//! | `POST /sign` with a [`SigningRequest`] | 200, signature lines; 400; 403 for another log; 409 and the size that was signed last; 422 for a tree that does not extend the last one; 500 and the reason |
//! | `POST /witnesses` with the size that each witness cosigned last, as JSON | 204; 400; 500 and the reason |
//!
//! `POST /sign` is `add-checkpoint` of C2SP tlog-witness, with a checkpoint that nobody has signed yet.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::note::{MAX_NOTE, Note};
use fulexo_tlog::submission::ExtensionProof;
use serde::{Deserialize, Serialize};

use super::log_signer::SigningRequest;

/// The length of the longest request that is read, in bytes.
pub const MAX_REQUEST: usize = MAX_NOTE + 8_192;

/// The log whose checkpoints are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// The keys that sign, as vkeys; the first one is named as the log.
    pub keys: Vec<String>,
    /// The text of the checkpoint that was signed last; `None` if none was.
    pub last: Option<String>,
    /// The size of the last checkpoint that each witness cosigned, by its name.
    pub witnesses: BTreeMap<String, u64>,
}

impl SigningRequest {
    /// Reads a request; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_REQUEST {
            return None;
        }
        let (extension, rest) = ExtensionProof::split(bytes)?;
        // The text of a checkpoint has no blank line.
        let (text, published) = match rest.windows(2).position(|pair| pair == b"\n\n") {
            Some(end) => {
                let (text, note) = rest.split_at(end + 1);
                (text, Some(Note::parse(note.get(1..)?).ok()?))
            }
            None => (rest, None),
        };
        let checkpoint = Checkpoint::parse(std::str::from_utf8(text).ok()?).ok()?;
        Some(Self { extension, checkpoint, published })
    }
}

impl Display for SigningRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.extension, self.checkpoint)?;
        self.published.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}
