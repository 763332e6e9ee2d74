//! The chunks of a payload: 64 KiB each, numbered, the last one marked.

use std::io;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::error::AgeError;

/// The length of a chunk; the last one may be shorter.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The length of an authentication tag.
pub const TAG_BYTES: usize = 16;

/// The length of an encrypted chunk; the last one may be shorter.
pub const SEALED_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// The length of the nonce that a payload begins with.
pub const PAYLOAD_NONCE_BYTES: usize = 16;

/// Encrypts or decrypts the chunks of one payload, in their order.
pub struct ChunkCipher {
    key: LessSafeKey,
    next: u64,
}

impl ChunkCipher {
    /// Begins with the first chunk.
    pub fn new(key: LessSafeKey) -> Self {
        Self { key, next: 0 }
    }

    /// `true` until the first chunk is done.
    pub fn at_first(&self) -> bool {
        self.next == 0
    }

    /// Encrypts the next chunk where it is, and appends its tag.
    pub fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> io::Result<()> {
        let nonce = self.nonce(last)?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), chunk);
        let tag = tag.map_err(|error| AgeError::from(error).into_io())?;
        chunk.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts the next chunk where it is, and returns its length.
    pub fn open(&mut self, sealed: &mut [u8], last: bool) -> io::Result<usize> {
        let nonce = self.nonce(last)?;
        let opened = self.key.open_in_place(nonce, Aad::empty(), sealed);
        // The provider does not say more than that the tag is wrong.
        opened.map(|chunk| chunk.len()).map_err(|_| AgeError::PayloadChanged.into_io())
    }

    /// Returns the nonce of the next chunk: its number in 11 bytes, of which 8 suffice for 2^80 bytes, and the mark.
    fn nonce(&mut self, last: bool) -> io::Result<Nonce> {
        let mut nonce = [0; NONCE_LEN];
        let [_, _, _, number @ .., mark] = &mut nonce;
        number.copy_from_slice(&self.next.to_be_bytes());
        *mark = u8::from(last);
        self.next = self.next.checked_add(1).ok_or_else(|| AgeError::Ended.into_io())?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}
