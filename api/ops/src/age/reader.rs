//! Decryption of a stream, a chunk at a time.

use std::io::{self, BufReader, Read};
use std::ops::Range;

use zeroize::Zeroizing;

use super::chunks::{ChunkCipher, PAYLOAD_NONCE_BYTES, SEALED_BYTES, TAG_BYTES};
use super::error::AgeError;
use super::header::Header;
use super::identity::Identity;

/// Decrypts a file. Holds one chunk in memory.
///
/// Gives out only bytes whose chunk was authenticated. A file is known to be whole only at its end: do not act upon the
/// bytes before `read` has returned 0. After a failure every further read fails.
pub struct DecryptingReader<R: Read> {
    input: BufReader<R>,
    cipher: ChunkCipher,
    /// A chunk, and a byte of the one that follows.
    buffer: Zeroizing<Vec<u8>>,
    /// The decrypted bytes that are not yet given out.
    ready: Range<usize>,
    /// The first byte of the next chunk. A chunk is the last one if nothing follows it.
    ahead: Option<u8>,
    state: ReadingState,
}

#[derive(Clone, Copy)]
enum ReadingState {
    /// More chunks follow.
    Open,
    /// The last chunk is decrypted.
    Ended,
    /// A chunk could not be read or authenticated.
    Failed,
}

impl<R: Read> DecryptingReader<R> {
    /// Reads and authenticates the header.
    pub fn new(identities: &[Identity], input: R) -> Result<Self, AgeError> {
        if identities.is_empty() {
            return Err(AgeError::NoIdentities);
        }
        let mut input = BufReader::new(input);
        let file_key = Header::read(&mut input)?.open(identities)?;
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        input.read_exact(&mut nonce).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => AgeError::PayloadChanged,
            _ => AgeError::Io(error),
        })?;
        Ok(Self {
            input,
            cipher: ChunkCipher::new(file_key.payload_key(&nonce)?),
            buffer: Zeroizing::new(vec![0; SEALED_BYTES + 1]),
            ready: 0..0,
            ahead: None,
            state: ReadingState::Open,
        })
    }

    /// Reads the next chunk, and decrypts it once all of it is there.
    fn next_chunk(&mut self) -> io::Result<()> {
        self.state = ReadingState::Failed;
        let mut filled = 0;
        if let (Some(ahead), Some(first)) = (self.ahead.take(), self.buffer.first_mut()) {
            *first = ahead;
            filled = 1;
        }
        while let Some(free @ [_, ..]) = self.buffer.get_mut(filled..) {
            match self.input.read(free) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let last = filled <= SEALED_BYTES;
        let sealed = self.buffer.get_mut(..filled.min(SEALED_BYTES)).unwrap_or_default();
        // An empty chunk is the whole of an empty payload: elsewhere the same bytes would have two files.
        if sealed.len() < TAG_BYTES || (sealed.len() == TAG_BYTES && !self.cipher.at_first()) {
            return Err(AgeError::PayloadChanged.into_io());
        }
        self.ready = 0..self.cipher.open(sealed, last)?;
        if !last {
            self.ahead = self.buffer.last().copied();
        }
        self.state = if last { ReadingState::Ended } else { ReadingState::Open };
        Ok(())
    }
}

impl<R: Read> Read for DecryptingReader<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        while self.ready.is_empty() {
            match self.state {
                ReadingState::Open => self.next_chunk()?,
                ReadingState::Ended => return Ok(0),
                ReadingState::Failed => return Err(AgeError::PayloadChanged.into_io()),
            }
        }
        let ready = self.buffer.get(self.ready.clone()).unwrap_or_default();
        let length = ready.len().min(output.len());
        if let (Some(from), Some(to)) = (ready.get(..length), output.get_mut(..length)) {
            to.copy_from_slice(from);
        }
        self.ready.start += length;
        Ok(length)
    }
}
