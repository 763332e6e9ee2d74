//! The header of a file: the file key, wrapped for each recipient, under an authentication code.
//!
//! Every header has one text: what is not written exactly as the format says is refused. A header is bounded in bytes and
//! in stanzas before anything is computed with it.

use std::io::{BufRead, Read};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::error::AgeError;
use super::file_key::FileKey;
use super::identity::Identity;
use super::recipient::{MOST_RECIPIENTS, Recipient};
use super::stanza::{Addressee, WrappedFileKey, decode};

/// The most bytes of a header. With the most recipients, all of them hybrid, it has 100,000.
pub const MOST_HEADER_BYTES: usize = 128 * 1024;

const VERSION_LINE: &[u8] = b"age-encryption.org/v1";
const CODE_MARK: &[u8] = b"---";
const BODY_LINE_BYTES: usize = 48;
const BODY_LINE_COLUMNS: usize = 64;
const CODE_BYTES: usize = 32;

/// Writes the header of a file for these recipients.
pub fn write(recipients: &[Recipient], file_key: &FileKey) -> Result<Vec<u8>, AgeError> {
    let mut text = [VERSION_LINE, b"\n"].concat();
    for recipient in recipients {
        text.extend_from_slice(recipient.wrap(file_key)?.text().as_bytes());
    }
    text.extend_from_slice(CODE_MARK);
    let code = hmac::sign(&file_key.header_key()?, &text);
    text.extend_from_slice(format!(" {}\n", STANDARD_NO_PAD.encode(code)).as_bytes());
    Ok(text)
}

/// A header that was read, and not yet authenticated.
pub struct Header {
    /// The wrapped keys of known types, in their order.
    wrapped: Vec<WrappedFileKey>,
    /// The bytes under the authentication code.
    text: Vec<u8>,
    code: [u8; CODE_BYTES],
}

impl Header {
    /// Reads a header, and nothing behind it.
    pub fn read(input: &mut impl BufRead) -> Result<Self, AgeError> {
        let mut lines = HeaderLines { input, text: Vec::new() };
        match lines.next() {
            Ok(line) if line == VERSION_LINE => {}
            Err(error @ AgeError::Io(_)) => return Err(error),
            Ok(_) | Err(_) => return Err(AgeError::NotAge),
        }
        let (mut wrapped, mut stanzas, mut passphrase) = (Vec::new(), 0, false);
        loop {
            let before = lines.text.len();
            let line = lines.next()?;
            if let Some(code) = line.strip_prefix(CODE_MARK) {
                let code = code.strip_prefix(b" ").ok_or(AgeError::InvalidHeader("its last line is malformed"))?;
                let code = decode(code)?;
                let code = code.try_into().map_err(|_| AgeError::InvalidHeader("its code has not 32 bytes"))?;
                if stanzas == 0 {
                    return Err(AgeError::InvalidHeader("it has no stanza"));
                }
                if passphrase && stanzas > 1 {
                    return Err(AgeError::InvalidHeader("a passphrase is not the only way in"));
                }
                let mut text = lines.text;
                text.truncate(before + CODE_MARK.len());
                return Ok(Self { wrapped, text, code });
            }
            stanzas += 1;
            if stanzas > MOST_RECIPIENTS {
                return Err(AgeError::InvalidHeader("it has more than 64 stanzas"));
            }
            let arguments = line.strip_prefix(b"-> ").ok_or(AgeError::InvalidHeader("a line begins no stanza"))?;
            let addressee = Addressee::parse(arguments)?;
            passphrase |= matches!(addressee, Addressee::Passphrase);
            wrapped.extend(addressee.with_body(&body(&mut lines)?)?);
        }
    }

    /// Returns the file key, once the header is authenticated with it.
    pub fn open(&self, identities: &[Identity]) -> Result<FileKey, AgeError> {
        for identity in identities {
            for wrapped in &self.wrapped {
                let Some(file_key) = identity.unwrap(wrapped)? else {
                    continue;
                };
                return match hmac::verify(&file_key.header_key()?, &self.text, &self.code) {
                    Ok(()) => Ok(file_key),
                    Err(_) => Err(AgeError::HeaderChanged),
                };
            }
        }
        Err(AgeError::NoMatch)
    }
}

/// Reads the body of a stanza, whose last line is the first one that is not full.
fn body(lines: &mut HeaderLines<'_, impl BufRead>) -> Result<Vec<u8>, AgeError> {
    let mut body = Vec::new();
    loop {
        let line = lines.next()?;
        if line.len() > BODY_LINE_COLUMNS {
            return Err(AgeError::InvalidHeader("a line of a body is longer than 64 characters"));
        }
        let bytes = decode(line)?;
        body.extend_from_slice(&bytes);
        if bytes.len() < BODY_LINE_BYTES {
            return Ok(body);
        }
    }
}

/// The lines of a header, and everything that was read of them.
struct HeaderLines<'i, R> {
    input: &'i mut R,
    text: Vec<u8>,
}

impl<R: BufRead> HeaderLines<'_, R> {
    /// Reads a line, and returns it without its end.
    fn next(&mut self) -> Result<&[u8], AgeError> {
        let begin = self.text.len();
        let left = MOST_HEADER_BYTES.saturating_sub(begin);
        let mut bounded = Read::take(&mut *self.input, left as u64);
        bounded.read_until(b'\n', &mut self.text).map_err(AgeError::Io)?;
        let line = self.text.get(begin..).and_then(|line| line.strip_suffix(b"\n"));
        line.ok_or(AgeError::InvalidHeader("it does not end, or is longer than 128 KiB"))
    }
}
