//! Encryption of a stream, a chunk at a time.

use std::io::{self, Write};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::chunks::{CHUNK_BYTES, ChunkCipher, PAYLOAD_NONCE_BYTES, SEALED_BYTES};
use super::error::AgeError;
use super::file_key::FileKey;
use super::header;
use super::recipient::{Recipient, judge};

/// Encrypts what is written to it. Holds one chunk in memory.
///
/// Only [`finish`](Self::finish) completes the file: one whose writer was dropped is refused by every reader. After a
/// failure nothing more is written.
pub struct EncryptingWriter<W: Write> {
    output: W,
    cipher: ChunkCipher,
    /// The bytes of the chunk that is being filled. A full one waits for the next byte, because it may be the last.
    chunk: Zeroizing<Vec<u8>>,
    failed: bool,
}

impl<W: Write> EncryptingWriter<W> {
    /// Draws the key of the file, and writes the header.
    pub fn new(recipients: &[Recipient], mut output: W) -> Result<Self, AgeError> {
        judge(recipients)?;
        let file_key = FileKey::generate()?;
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        rand::fill(&mut nonce)?;
        let mut begin = header::write(recipients, &file_key)?;
        begin.extend_from_slice(&nonce);
        output.write_all(&begin).map_err(AgeError::Io)?;
        Ok(Self {
            output,
            cipher: ChunkCipher::new(file_key.payload_key(&nonce)?),
            chunk: Zeroizing::new(Vec::with_capacity(SEALED_BYTES)),
            failed: false,
        })
    }

    /// Writes the last chunk, flushes, and returns the output. The output is not synchronised with the disk.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_chunk(true)?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn write_chunk(&mut self, last: bool) -> io::Result<()> {
        if self.failed {
            return Err(AgeError::Ended.into_io());
        }
        // Until the chunk is written: a part of it may be, and its nonce is spent.
        self.failed = true;
        self.cipher.seal(&mut self.chunk, last)?;
        self.output.write_all(&self.chunk)?;
        self.chunk.clear();
        self.failed = false;
        Ok(())
    }
}

impl<W: Write> Write for EncryptingWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Err(AgeError::Ended.into_io());
        }
        if data.is_empty() {
            return Ok(0);
        }
        if self.chunk.len() == CHUNK_BYTES {
            self.write_chunk(false)?;
        }
        let room = CHUNK_BYTES.saturating_sub(self.chunk.len());
        let taken = data.get(..room).unwrap_or(data);
        self.chunk.extend_from_slice(taken);
        Ok(taken.len())
    }

    /// Flushes the output. A chunk that is not full stays in memory: only the last one may be shorter.
    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
