//! Tables with a history, each from one list of its columns: the statements that write rows and their superseded
//! versions, and those that read the versions as of a position.
//!
//! The statements are made from names of columns, which are constants, and from nothing else. They are checked when they
//! run, unlike those of `sqlx::query!`; `tests/tests/projections` runs each.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::read_models::copy_format::CopyBuffer;
use crate::read_models::versions::{SupersededVersion, VersionedRow};

/// A row of a table with a history. The table of its superseded versions has the same columns, and `until`.
pub(crate) trait HistoryTable: VersionedRow + Sized + 'static {
    /// The table's name. That of the superseded versions ends in `_past`.
    const NAME: &str;
    /// The columns of the primary key.
    const KEY: &[&str];
    /// All columns of the table: the fields of the row, by [`columns!`].
    const COLUMNS: &[Column<Self>];
}

/// A column, and how the values of a field get there.
pub(crate) struct Column<T> {
    /// The name of the column and of the field.
    pub name: &'static str,
    /// Appends the value of a row to a COPY.
    pub copy: fn(&T, &mut CopyBuffer) -> Result<(), sqlx::Error>,
    /// Pushes an expression with the values of many rows, one row each.
    pub unnest: for<'a> fn(&mut dyn Iterator<Item = &'a T>, &mut QueryBuilder<Postgres>),
}

/// The columns of a row, by the names of its fields. It does not compile if a field is missing.
macro_rules! columns {
    ($row:ident { $($field:ident),+ $(,)? }) => {{
        const _: fn(&$row) = |$row { $($field: _),+ }| {};
        &[$($crate::read_models::history_table::Column {
            name: stringify!($field),
            copy: |row, buffer| $crate::read_models::history_table::Value::copy(&row.$field, buffer),
            unnest: |rows, sql| {
                $crate::read_models::history_table::Value::unnest(rows.map(|row: &$row| &row.$field), sql);
            },
        }),+]
    }};
}
pub(crate) use columns;

/// A value of a column.
pub(crate) trait Value {
    /// Appends the value to a COPY.
    fn copy(&self, buffer: &mut CopyBuffer) -> Result<(), sqlx::Error>;

    /// Pushes an expression with many values, one row each.
    fn unnest<'a>(values: impl Iterator<Item = &'a Self>, sql: &mut QueryBuilder<Postgres>)
    where
        Self: 'a;
}

macro_rules! scalars {
    ($($value:ty: $sql_type:literal),+ $(,)?) => {$(
        impl Value for $value {
            fn copy(&self, buffer: &mut CopyBuffer) -> Result<(), sqlx::Error> {
                buffer.push(self)
            }

            fn unnest<'a>(values: impl Iterator<Item = &'a Self>, sql: &mut QueryBuilder<Postgres>) {
                sql.push("unnest(").push_bind(values.cloned().collect::<Vec<_>>()).push(concat!("::", $sql_type, "[])"));
            }
        }
    )+};
}

scalars! {
    Uuid: "uuid",
    Option<Uuid>: "uuid",
    i64: "bigint",
    Option<i64>: "bigint",
    i32: "integer",
    bool: "boolean",
    String: "text",
    Option<String>: "text",
    DateTime<Utc>: "timestamptz",
    Option<DateTime<Utc>>: "timestamptz",
}

impl Value for Vec<String> {
    fn copy(&self, buffer: &mut CopyBuffer) -> Result<(), sqlx::Error> {
        buffer.push(&self.as_slice())
    }

    fn unnest<'a>(values: impl Iterator<Item = &'a Self>, sql: &mut QueryBuilder<Postgres>) {
        unnest_lists(values.map(Self::as_slice), sql);
    }
}

impl Value for Arc<[String]> {
    fn copy(&self, buffer: &mut CopyBuffer) -> Result<(), sqlx::Error> {
        buffer.push(&&**self)
    }

    fn unnest<'a>(values: impl Iterator<Item = &'a Self>, sql: &mut QueryBuilder<Postgres>) {
        unnest_lists(values.map(|list| &**list), sql);
    }
}

/// PostgreSQL unnests an array of arrays down to its elements, so lists go as texts. They are names, which contain no
/// spaces.
fn unnest_lists<'a>(lists: impl Iterator<Item = &'a [String]>, sql: &mut QueryBuilder<Postgres>) {
    sql.push("string_to_array(unnest(").push_bind(lists.map(|list| list.join(" ")).collect::<Vec<_>>());
    sql.push("::text[]), ' ')");
}

/// The names of the columns, each after `prefix`, as a list in SQL.
pub(crate) fn column_list<T: HistoryTable>(prefix: &str) -> String {
    T::COLUMNS.iter().map(|column| format!("{prefix}{}", column.name)).collect::<Vec<_>>().join(", ")
}

/// The statement that gives the versions of all rows as of the position `$1`. `schema` ends in a dot, or is empty.
pub(crate) fn versions_as_of<T: HistoryTable>(schema: &str) -> String {
    let (name, columns) = (T::NAME, column_list::<T>(""));
    format!(
        "select {columns} from {schema}{name} where since <= $1 \
         union all select {columns} from {schema}{name}_past where since <= $1 and $1 < until"
    )
}

/// Inserts or updates rows, by arrays.
pub(crate) async fn write_current<T: HistoryTable>(
    connection: &mut PgConnection,
    rows: &[T],
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    upsert(rows).build().execute(connection).await?;
    Ok(())
}

/// Inserts superseded versions, by arrays.
pub(crate) async fn write_past<T: HistoryTable>(
    connection: &mut PgConnection,
    versions: &[SupersededVersion<T>],
) -> Result<(), sqlx::Error> {
    if versions.is_empty() {
        return Ok(());
    }
    insert_past(versions).build().execute(connection).await?;
    Ok(())
}

fn upsert<T: HistoryTable>(rows: &[T]) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(format!("insert into {} ({})", T::NAME, column_list::<T>("")));
    push_values(&mut sql, || rows.iter());
    sql.push(" on conflict (").push(T::KEY.join(", ")).push(") do update set ");
    let mut assignments = sql.separated(", ");
    for Column { name, .. } in T::COLUMNS.iter().filter(|column| !T::KEY.contains(&column.name)) {
        assignments.push(format_args!("{name} = excluded.{name}"));
    }
    sql
}

fn insert_past<T: HistoryTable>(versions: &[SupersededVersion<T>]) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(format!("insert into {}_past ({}, until)", T::NAME, column_list::<T>("")));
    push_values(&mut sql, || versions.iter().map(|version| &version.row));
    sql.push(", ");
    Value::unnest(versions.iter().map(|version| &version.until), &mut sql);
    sql
}

fn push_values<'a, T: HistoryTable, R: Iterator<Item = &'a T>>(sql: &mut QueryBuilder<Postgres>, rows: impl Fn() -> R) {
    for (number, column) in T::COLUMNS.iter().enumerate() {
        sql.push(if number == 0 { " select " } else { ", " });
        (column.unnest)(&mut rows(), sql);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq)]
    struct Thing {
        id: Uuid,
        since: i64,
        names: Vec<String>,
    }

    impl VersionedRow for Thing {
        type Key = Uuid;

        fn key(&self) -> Uuid {
            self.id
        }

        fn since(&mut self) -> &mut i64 {
            &mut self.since
        }
    }

    impl HistoryTable for Thing {
        const NAME: &str = "thing";
        const KEY: &[&str] = &["id"];
        const COLUMNS: &[Column<Self>] = columns!(Thing { id, since, names });
    }

    #[test]
    fn statements_name_each_column_once_per_list() {
        let row = Thing { id: Uuid::nil(), since: 1, names: vec![] };
        assert_eq!(
            upsert(std::slice::from_ref(&row)).sql().as_str(),
            "insert into thing (id, since, names) \
             select unnest($1::uuid[]), unnest($2::bigint[]), string_to_array(unnest($3::text[]), ' ') \
             on conflict (id) do update set since = excluded.since, names = excluded.names"
        );
        assert_eq!(
            insert_past(&[SupersededVersion { row, until: 2 }]).sql().as_str(),
            "insert into thing_past (id, since, names, until) \
             select unnest($1::uuid[]), unnest($2::bigint[]), string_to_array(unnest($3::text[]), ' '), \
             unnest($4::bigint[])"
        );
        assert_eq!(
            versions_as_of::<Thing>("read."),
            "select id, since, names from read.thing where since <= $1 \
             union all select id, since, names from read.thing_past where since <= $1 and $1 < until"
        );
    }
}
