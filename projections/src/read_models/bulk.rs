//! Many rows at once, by COPY in its binary form (PostgreSQL's documentation of COPY, "Binary Format"): it costs the database a
//! third of what it takes to take arrays apart. Few rows go by arrays all the same: the driver sends the end of a COPY in a
//! packet of its own, which the kernel holds back for 40 ms where the connection is TCP.

use sqlx::encode::IsNull;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, PgConnection, Postgres};

use crate::read_models::versions::{Made, Row, Superseded};

/// From so many rows on what COPY saves is more than what it waits.
const MANY: usize = 10_000;
/// Bytes in one message, and a little more.
const MESSAGE: usize = 1 << 20;
/// Signature, flags, length of what else there is.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In the place of a number of columns.
const END: [u8; 2] = (-1_i16).to_be_bytes();

/// Rows of a table with a history, as the database takes them.
pub(crate) trait Table: Row {
    /// Into the table, its columns in order.
    const COPY: &str;
    /// Into its twin.
    const COPY_PAST: &str;
    /// How many columns the table has.
    const COLUMNS: i16;

    /// Each column, in order.
    fn columns(&self, tuple: &mut Tuple) -> Result<(), sqlx::Error>;

    /// Writes rows, whether they are there already or not, by arrays.
    async fn write_current(connection: &mut PgConnection, rows: &[Self]) -> Result<(), sqlx::Error>;

    /// Writes what rows were, by arrays.
    async fn write_past(connection: &mut PgConnection, rows: &[Superseded<Self>]) -> Result<(), sqlx::Error>;
}

/// A row on its way.
pub(crate) struct Tuple(PgArgumentBuffer);

impl Tuple {
    /// The next column.
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

/// Writes rows as they are now, and every version in between: at most three statements.
pub(crate) async fn write<T: Table>(connection: &mut PgConnection, made: &Made<T>) -> Result<(), sqlx::Error> {
    let (begun, changed) = made.current.split_at_checked(made.begun).unwrap_or((&[], &made.current));
    if begun.len() >= MANY {
        copy(connection, T::COPY, T::COLUMNS, begun, T::columns).await?;
        T::write_current(connection, changed).await?;
    } else {
        T::write_current(connection, &made.current).await?;
    }
    if made.past.len() >= MANY {
        copy(connection, T::COPY_PAST, T::COLUMNS + 1, &made.past, |past, tuple| {
            past.row.columns(tuple)?;
            tuple.push(&past.until)
        })
        .await
    } else {
        T::write_past(connection, &made.past).await
    }
}

async fn copy<R>(
    connection: &mut PgConnection,
    statement: &str,
    columns: i16,
    rows: &[R],
    encode: impl Fn(&R, &mut Tuple) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    // Dropped on an error, it tells the database to forget what came.
    let mut copy = connection.copy_in_raw(statement).await?;
    let mut tuple = Tuple(PgArgumentBuffer::default());
    tuple.0.extend_from_slice(HEADER);
    for row in rows {
        tuple.0.extend_from_slice(&columns.to_be_bytes());
        encode(row, &mut tuple)?;
        if tuple.0.len() >= MESSAGE {
            copy.send(tuple.0.as_slice()).await?;
            tuple.0.clear();
        }
    }
    tuple.0.extend_from_slice(&END);
    copy.send(tuple.0.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}
