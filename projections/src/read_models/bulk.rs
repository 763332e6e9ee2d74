//! Bulk writes by COPY in its binary form (PostgreSQL's documentation of COPY, "Binary Format"), which costs the
//! database a third of unnesting arrays. Small batches use arrays all the same: the driver sends the end of a COPY in a
//! separate packet, which the kernel delays by 40 ms on a TCP connection.

use sqlx::encode::IsNull;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, PgConnection, Postgres};

use crate::read_models::versions::{RowChanges, SupersededVersion, VersionedRow};

/// The number of rows from which COPY saves more than that delay.
const COPY_THRESHOLD: usize = 10_000;
/// The approximate size of one message, in bytes.
const MESSAGE_SIZE: usize = 1 << 20;
/// The signature, the flags, and the length of the header extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The trailer, in place of a number of columns.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// A row of a table with a history, as the database takes it.
pub(crate) trait HistoryTable: VersionedRow {
    /// The COPY statement of the table, with its columns in order.
    const COPY: &str;
    /// The COPY statement of its past.
    const COPY_PAST: &str;
    /// The number of columns of the table.
    const COLUMNS: i16;

    /// Appends each column, in order.
    fn columns(&self, tuple: &mut CopyTuple) -> Result<(), sqlx::Error>;

    /// Inserts or updates rows, by arrays.
    async fn write_current(connection: &mut PgConnection, rows: &[Self]) -> Result<(), sqlx::Error>;

    /// Inserts superseded versions, by arrays.
    async fn write_past(connection: &mut PgConnection, rows: &[SupersededVersion<Self>]) -> Result<(), sqlx::Error>;
}

/// A row encoded for COPY.
pub(crate) struct CopyTuple(PgArgumentBuffer);

impl CopyTuple {
    /// Appends a column.
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
}

/// Writes the current rows and all superseded versions with at most three statements.
pub(crate) async fn write<T: HistoryTable>(
    connection: &mut PgConnection,
    changes: &RowChanges<T>,
) -> Result<(), sqlx::Error> {
    let (new, changed) = changes.current.split_at_checked(changes.new_rows).unwrap_or((&[], &changes.current));
    if new.len() >= COPY_THRESHOLD {
        copy(connection, T::COPY, T::COLUMNS, new, T::columns).await?;
        T::write_current(connection, changed).await?;
    } else {
        T::write_current(connection, &changes.current).await?;
    }
    if changes.past.len() >= COPY_THRESHOLD {
        copy(connection, T::COPY_PAST, T::COLUMNS + 1, &changes.past, |past, tuple| {
            past.row.columns(tuple)?;
            tuple.push(&past.until)
        })
        .await
    } else {
        T::write_past(connection, &changes.past).await
    }
}

async fn copy<R>(
    connection: &mut PgConnection,
    statement: &str,
    columns: i16,
    rows: &[R],
    encode: impl Fn(&R, &mut CopyTuple) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    // Dropped on an error, this makes the database discard the rows that it received.
    let mut copy = connection.copy_in_raw(statement).await?;
    let mut tuple = CopyTuple(PgArgumentBuffer::default());
    tuple.0.extend_from_slice(HEADER);
    for row in rows {
        tuple.0.extend_from_slice(&columns.to_be_bytes());
        encode(row, &mut tuple)?;
        if tuple.0.len() >= MESSAGE_SIZE {
            copy.send(tuple.0.as_slice()).await?;
            tuple.0.clear();
        }
    }
    tuple.0.extend_from_slice(&TRAILER);
    copy.send(tuple.0.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}
