//! An object that is read as a stream: in ranges of the same object, of which one at a time is in memory.

use std::io::{self, ErrorKind, Read};

use hyper::body::{Buf, Bytes};

use super::client::{ObjectHead, S3Client};

/// The length of a range, in bytes.
const RANGE: usize = 8 << 20;

/// An object that is being read.
pub struct S3Download {
    client: S3Client,
    key: String,
    head: ObjectHead,
    /// The place of the next range.
    next: u64,
    range: Bytes,
}

impl S3Download {
    /// Opens an object; `None` if there is none.
    ///
    /// # Errors
    /// The store's refusal, or its silence.
    pub fn open(client: S3Client, key: String) -> io::Result<Option<Self>> {
        let head = client.head(&key)?;
        Ok(head.map(|head| Self { client, key, head, next: 0, range: Bytes::new() }))
    }
}

impl Read for S3Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.head.length - self.next;
        if self.range.is_empty() && left > 0 {
            let length = usize::try_from(left).unwrap_or(RANGE).min(RANGE);
            let range = self.client.get_range(&self.key, &self.head, self.next, length);
            self.range = range.map_err(|error| match error.is_conflict() || error.is_missing() {
                true => io::Error::new(ErrorKind::InvalidData, "it changed while it was read"),
                false => error.into(),
            })?;
            self.next += length as u64;
        }
        let length = buffer.len().min(self.range.len());
        if let Some(buffer) = buffer.get_mut(..length) {
            self.range.copy_to_slice(buffer);
        }
        Ok(length)
    }
}
