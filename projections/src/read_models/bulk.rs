//! Bulk writes by COPY in its binary form (PostgreSQL's documentation of COPY, "Binary Format"), which costs the
//! database a third of unnesting arrays. Small batches use arrays all the same: the driver sends the end of a COPY in a
//! separate packet, which the kernel delays by 40 ms on a TCP connection.

use sqlx::PgConnection;

use crate::read_models::copy_format::CopyBuffer;
use crate::read_models::history_table::{HistoryTable, column_list, write_current, write_past};
use crate::read_models::versions::{RowChanges, SupersededVersion};

/// The number of rows from which COPY saves more than that delay.
const COPY_THRESHOLD: usize = 10_000;
/// The approximate size of one message, in bytes.
const MESSAGE_SIZE: usize = 1 << 20;

/// Writes the current rows and all superseded versions with at most three statements.
pub(crate) async fn write<T: HistoryTable>(
    connection: &mut PgConnection,
    changes: &RowChanges<T>,
) -> Result<(), sqlx::Error> {
    let (new, changed) = changes.current.split_at_checked(changes.new_rows).unwrap_or((&[], &changes.current));
    if new.len() >= COPY_THRESHOLD {
        let statement = format!("copy {} ({}) from stdin (format binary)", T::NAME, column_list::<T>(""));
        copy(connection, &statement, T::COLUMNS.len(), new, append_row).await?;
        write_current(connection, changed).await?;
    } else {
        write_current(connection, &changes.current).await?;
    }
    if changes.past.len() >= COPY_THRESHOLD {
        let statement = format!("copy {}_past ({}, until) from stdin (format binary)", T::NAME, column_list::<T>(""));
        let append = |past: &SupersededVersion<T>, buffer: &mut CopyBuffer| {
            append_row(&past.row, buffer)?;
            buffer.push(&past.until)
        };
        copy(connection, &statement, T::COLUMNS.len() + 1, &changes.past, append).await
    } else {
        write_past(connection, &changes.past).await
    }
}

fn append_row<T: HistoryTable>(row: &T, buffer: &mut CopyBuffer) -> Result<(), sqlx::Error> {
    T::COLUMNS.iter().try_for_each(|column| (column.copy)(row, buffer))
}

async fn copy<R>(
    connection: &mut PgConnection,
    statement: &str,
    columns: usize,
    rows: &[R],
    append: impl Fn(&R, &mut CopyBuffer) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    let columns = i16::try_from(columns).map_err(|error| sqlx::Error::Encode(error.into()))?;
    // Dropped on an error, this makes the database discard the rows that it received.
    let mut copy = connection.copy_in_raw(statement).await?;
    let mut buffer = CopyBuffer::new();
    for row in rows {
        buffer.begin_row(columns);
        append(row, &mut buffer)?;
        if buffer.bytes().len() >= MESSAGE_SIZE {
            copy.send(buffer.bytes()).await?;
            buffer.clear();
        }
    }
    buffer.end();
    copy.send(buffer.bytes()).await?;
    copy.finish().await?;
    Ok(())
}
