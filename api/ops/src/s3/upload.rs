//! An object that is written as a stream: in pieces of one size, of which one at a time is in memory. It exists once it is
//! finished, or not at all.

use std::io::{self, Write};

use hyper::body::Bytes;

use super::client::{S3Client, UnfinishedUpload};

/// The most pieces of an object.
const MAX_PIECES: usize = 10_000;
/// The end of the key of the object that has the id of an upload while it is under way, for stores that do not list uploads.
pub const UPLOAD: &str = ".upload";

/// An object that is being written. Given up when dropped, unless it is finished.
pub struct S3Upload {
    client: S3Client,
    key: String,
    piece_length: usize,
    buffer: Vec<u8>,
    /// The upload, once there is more than one piece.
    upload: Option<UnfinishedUpload>,
    tags: Vec<String>,
    length: u64,
}

impl S3Upload {
    /// Begins an object with pieces of this length, which a store wants to be at least 5 MiB.
    #[must_use]
    pub fn new(client: S3Client, key: String, piece_length: usize) -> Self {
        Self { client, key, piece_length, buffer: Vec::new(), upload: None, tags: Vec::new(), length: 0 }
    }

    /// Finishes the object.
    ///
    /// # Errors
    /// The store's refusal, or its silence. There is no object then.
    pub fn finish(mut self) -> io::Result<()> {
        if self.upload.is_none() {
            return Ok(self.client.put(&self.key, Bytes::from(std::mem::take(&mut self.buffer)))?);
        }
        self.send_piece()?;
        if let Some(upload) = &self.upload {
            self.client.complete_upload(upload, &self.tags, self.length)?;
        }
        self.upload = None;
        // What stays of it is removed with the backup.
        let _ = self.client.delete(&format!("{}{UPLOAD}", self.key));
        Ok(())
    }

    fn send_piece(&mut self) -> io::Result<()> {
        if self.tags.len() == MAX_PIECES {
            let text = format!("it has more than {MAX_PIECES} pieces: set FULEXO_BACKUP_PIECE_MIB to a larger number");
            return Err(io::Error::other(text));
        }
        let upload = match &self.upload {
            Some(upload) => upload,
            None => {
                let id = self.client.begin_upload(&self.key)?;
                let upload = self.upload.insert(UnfinishedUpload { key: self.key.clone(), id });
                self.client.put(&format!("{}{UPLOAD}", self.key), Bytes::from(upload.id.clone()))?;
                upload
            }
        };
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        let length = piece.len() as u64;
        self.tags.push(self.client.upload_piece(upload, self.tags.len() + 1, piece)?);
        self.length += length;
        Ok(())
    }
}

impl Write for S3Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == self.piece_length {
            self.send_piece()?;
        }
        if self.buffer.capacity() < self.piece_length {
            self.buffer.reserve_exact(self.piece_length);
        }
        let taken = bytes.len().min(self.piece_length - self.buffer.len());
        self.buffer.extend(bytes.iter().take(taken));
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            // What cannot be given up now, the next run gives up.
            if self.client.abort_upload(upload).is_ok() {
                let _ = self.client.delete(&format!("{}{UPLOAD}", self.key));
            }
        }
    }
}
