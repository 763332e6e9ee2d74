//! The refusals of the format. None of them repeats its input, which may be a secret.

use std::io;

use aws_lc_rs::error::Unspecified;

/// A refusal of a key or of a file.
#[derive(Debug, thiserror::Error)]
pub enum AgeError {
    /// The text is not a recipient.
    #[error("This is not an age recipient. One begins with `age1` or `age1pq1`, in lower case.")]
    InvalidRecipient,
    /// The text is not an identity.
    #[error("This is not an age identity. One begins with `AGE-SECRET-KEY-1` or `AGE-SECRET-KEY-PQ-1`, in upper case.")]
    InvalidIdentity,
    /// A line of a file of recipients or identities is wrong.
    #[error("Line {line} is wrong.")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The fault of the line.
        source: Box<Self>,
    },
    /// There is no recipient to encrypt for.
    #[error("There is no recipient. Name at least one.")]
    NoRecipients,
    /// There is no identity to decrypt with.
    #[error("There is no identity. Name at least one.")]
    NoIdentities,
    /// There are more recipients or identities than a file may have.
    #[error("There are too many keys. A file has at most {most} recipients.")]
    TooManyKeys {
        /// The limit.
        most: usize,
    },
    /// Recipients of both kinds are named for one file.
    #[error(
        "A file is encrypted either for hybrid recipients (`age1pq1…`) or for others: one that a quantum computer can \
         open makes the others useless."
    )]
    MixedRecipients,
    /// The file is not of this format.
    #[error("This is not a file of the format age-encryption.org/v1. If it is armoured text, decode it first.")]
    NotAge,
    /// The header breaks a rule of the format.
    #[error("The header of the encrypted file is malformed: {0}.")]
    InvalidHeader(&'static str),
    /// The file is not encrypted for any of the identities.
    #[error("The file is not encrypted for any of the identities.")]
    NoMatch,
    /// The header's authentication code is wrong.
    #[error("The header of the encrypted file was changed.")]
    HeaderChanged,
    /// A chunk cannot be authenticated, or the last one is missing.
    #[error("The encrypted file is damaged, was changed, or is cut short.")]
    PayloadChanged,
    /// A failed operation was tried again.
    #[error("An earlier failure ended this encryption.")]
    Ended,
    /// The provider of cryptography failed; it gives no reason.
    #[error("The provider of cryptography failed.")]
    Provider,
    /// The file cannot be read or written.
    #[error("The encrypted file cannot be read or written.")]
    Io(#[source] io::Error),
}

impl From<Unspecified> for AgeError {
    fn from(_: Unspecified) -> Self {
        Self::Provider
    }
}

impl AgeError {
    /// Returns the error as `Read` and `Write` give it, with this one as its source.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::PayloadChanged => io::Error::new(io::ErrorKind::InvalidData, self),
            other => io::Error::other(other),
        }
    }
}
