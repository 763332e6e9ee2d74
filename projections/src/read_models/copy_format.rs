//! Rows in the binary form of COPY (PostgreSQL's documentation of COPY, "Binary Format").

use sqlx::encode::IsNull;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, Postgres};

/// The signature, the flags, and the length of the header extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The trailer, in place of a number of columns.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Encoded rows on their way to the database.
pub(crate) struct CopyBuffer(PgArgumentBuffer);

impl CopyBuffer {
    /// A buffer that begins with the header.
    pub fn new() -> Self {
        let mut buffer = PgArgumentBuffer::default();
        buffer.extend_from_slice(HEADER);
        Self(buffer)
    }

    /// Begins a row of this many columns.
    pub fn begin_row(&mut self, columns: i16) {
        self.0.extend_from_slice(&columns.to_be_bytes());
    }

    /// Appends a column to the row.
    pub fn push<'v, V: Encode<'v, Postgres>>(&mut self, value: &V) -> Result<(), sqlx::Error> {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        let length = match value.encode_by_ref(&mut self.0).map_err(sqlx::Error::Encode)? {
            IsNull::No => i32::try_from(self.0.len() - at - 4).map_err(|error| sqlx::Error::Encode(error.into()))?,
            IsNull::Yes => -1,
        };
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    /// Appends the trailer.
    pub fn end(&mut self) {
        self.0.extend_from_slice(&TRAILER);
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Forgets the bytes so far, once they are sent.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
