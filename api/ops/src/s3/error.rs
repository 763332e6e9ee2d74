//! The failures of a store. They name its answer by its code, and never repeat its words: some stores repeat what was signed.

use std::io::{self, ErrorKind};

use hyper::StatusCode;

use super::xml::first;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// The store answered with a refusal.
    #[error("the store answered {status}{}", spaced(.code))]
    Refused {
        /// The status.
        status: u16,
        /// The code; empty if it gave none.
        code: String,
    },
    /// There was no answer.
    #[error("{0}")]
    NoAnswer(String),
    /// The answer is not one of this protocol.
    #[error("the store {0}")]
    Garbled(&'static str),
}

impl S3Error {
    /// Reads a refusal.
    pub fn of(status: StatusCode, body: &[u8]) -> Self {
        let code = first(&String::from_utf8_lossy(body), "Code").unwrap_or_default();
        let is_code = code.len() <= 64 && code.bytes().all(|c| c.is_ascii_alphanumeric());
        Self::Refused { status: status.as_u16(), code: if is_code { code } else { String::new() } }
    }

    /// `true` if the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        // What was altered on the way arrives whole the next time.
        const AGAIN: [&str; 8] = [
            "BadDigest",
            "IncompleteBody",
            "InternalError",
            "OperationAborted",
            "RequestTimeout",
            "ServiceUnavailable",
            "SlowDown",
            "XAmzContentSHA256Mismatch",
        ];
        match self {
            Self::Refused { status, code } => {
                [408, 429, 500, 502, 503, 504].contains(status) || AGAIN.contains(&code.as_str())
            }
            Self::NoAnswer(_) | Self::Garbled(_) => true,
        }
    }

    /// `true` if the store has no such object.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, code } if code != "NoSuchBucket")
    }

    /// `true` if the store refused, whatever its reason.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// `true` if another object is there already, or another one than was asked for.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409 | 412, .. })
    }

    /// `true` if the store does not have the operation.
    pub fn is_unknown_operation(&self) -> bool {
        matches!(self, Self::Refused { status: 405 | 501, .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { status: 507, .. } => ErrorKind::StorageFull,
            Self::Refused { code, .. }
                if ["QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"].contains(&code.as_str()) =>
            {
                ErrorKind::StorageFull
            }
            Self::Refused { status: 401 | 403, .. } => ErrorKind::PermissionDenied,
            Self::Refused { status: 404, .. } => ErrorKind::NotFound,
            Self::Refused { status: 409 | 412, .. } => ErrorKind::AlreadyExists,
            Self::Refused { .. } | Self::NoAnswer(_) | Self::Garbled(_) => ErrorKind::Other,
        }
    }
}

impl From<S3Error> for io::Error {
    fn from(error: S3Error) -> Self {
        Self::new(error.kind(), error)
    }
}

fn spaced(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" {code}") }
}
