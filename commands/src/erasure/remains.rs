//! The search for what is left of an erased person, in every table and in the planner's statistics.

use std::collections::BTreeMap;

use fulexo_domain::values::AccountId;
use sqlx::{AssertSqlSafe, PgPool};
use zeroize::Zeroizing;

/// Something that is left of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// The place: a column of a table, or the statistics of one.
    pub place: String,
    /// The kind of what is there: `account` for the account's id, `value` for a value that was searched for.
    pub kind: RemainsKind,
    /// The number of rows.
    pub rows: u64,
}

/// The kind of what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemainsKind {
    /// The id of the account, where nothing of an erased account may be.
    Account,
    /// A value that was searched for.
    Value,
}

impl RemainsKind {
    /// The name in output for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Value => "value",
        }
    }
}

/// The tables in which the id of an erased account stays: the log and what follows from it are kept under a number that says
/// nothing. All others have no row of it.
const PSEUDONYMOUS: [&str; 6] = ["access", "read", "read_next", "read_previous", "tree", "projection"];
/// The same, of schemas in which it stays in some tables alone.
const KEPT: [&str; 6] =
    ["log.event", "log.stream", "log.snapshot", "log.copy_holder", "vault.erasure", "vault.subject_key"];

/// A column of a table, as the catalogue has it.
struct SearchedColumn {
    schema: String,
    table: String,
    /// The table, quoted for a statement.
    from: String,
    /// The column, quoted for a statement.
    column: String,
    type_name: String,
}

/// The search for what is left of a person.
pub struct RemainsSearch {
    pool: PgPool,
    account: AccountId,
    values: Vec<Zeroizing<String>>,
    columns: BTreeMap<String, Vec<SearchedColumn>>,
}

impl RemainsSearch {
    /// Prepares the search for an account, and for these values of its person. An empty value would be everywhere: it is left
    /// out.
    ///
    /// # Errors
    /// The database's.
    pub async fn new(pool: PgPool, account: AccountId, values: Vec<Zeroizing<String>>) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query!(
            r#"select n.nspname as "schema!", c.relname as "table!", format('%I.%I', n.nspname, c.relname) as "from!",
                      format('%I', a.attname) as "column!", format_type(a.atttypid, null) as "type_name!"
               from pg_class c
               join pg_namespace n on n.oid = c.relnamespace
               join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
                 and n.nspname not like 'pg\_toast%' and has_table_privilege(c.oid, 'select')
               order by 1, 2, a.attnum"#
        )
        .fetch_all(&pool)
        .await?;
        let mut columns: BTreeMap<String, Vec<SearchedColumn>> = BTreeMap::new();
        for row in rows {
            let column = SearchedColumn {
                schema: row.schema,
                table: row.table,
                from: row.from,
                column: row.column,
                type_name: row.type_name,
            };
            columns.entry(column.from.clone()).or_default().push(column);
        }
        let values = values.into_iter().filter(|value| !value.is_empty()).collect();
        Ok(Self { pool, account, values, columns })
    }

    /// `true` if the account was erased.
    ///
    /// # Errors
    /// The database's.
    pub async fn is_erased(&self) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"select exists (select from vault.erasure where account_id = $1) as "erased!""#,
            self.account.0
        )
        .fetch_one(&self.pool)
        .await
    }

    /// The tables that are searched.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Searches one table, reading it once.
    ///
    /// # Errors
    /// The database's.
    pub async fn table(&self, table: &str) -> Result<Vec<Remains>, sqlx::Error> {
        let mut found = Vec::new();
        let Some(columns) = self.columns.get(table) else { return Ok(found) };
        let mut tests = Vec::new();
        for column in columns {
            let name = &column.column;
            if column.type_name == "uuid" && !column.keeps_ids() {
                tests.push((column, RemainsKind::Account, format!("{name} = $1")));
            }
            if !self.values.is_empty() {
                let test = match column.type_name.as_str() {
                    "bytea" => format!("exists (select from unnest($3::bytea[]) v where position(v in {name}) > 0)"),
                    "bytea[]" => format!(
                        "exists (select from unnest($3::bytea[]) v, unnest({name}) c where position(v in c) > 0)"
                    ),
                    _ => format!("exists (select from unnest($2::text[]) v where strpos({name}::text, v) > 0)"),
                };
                tests.push((column, RemainsKind::Value, test));
            }
        }
        if tests.is_empty() {
            return Ok(found);
        }
        let counts: Vec<_> = tests.iter().map(|(_, _, test)| format!("count(*) filter (where {test})")).collect();
        // Names come from the catalogue, quoted by the database itself. Each parameter is used, so that its type is known.
        let statement = format!(
            "select array[{}]::bigint[] from {table} where $1::uuid is not null and $2::text[] is not null and $3::bytea[] is not null",
            counts.join(", ")
        );
        let texts: Vec<String> = self.values.iter().map(|value| value.to_string()).collect();
        let bytes: Vec<Vec<u8>> = self.values.iter().map(|value| value.as_bytes().to_vec()).collect();
        let rows: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(statement))
            .bind(self.account.0)
            .bind(texts)
            .bind(bytes)
            .fetch_one(&self.pool)
            .await?;
        for ((column, kind, _), rows) in tests.into_iter().zip(rows) {
            if rows > 0 {
                let place = format!("{}.{}", column.from, column.column);
                found.push(Remains { place, kind, rows: rows.unsigned_abs() });
            }
        }
        Ok(found)
    }

    /// Searches the planner's statistics, which hold values of columns.
    ///
    /// # Errors
    /// The database's.
    pub async fn statistics(&self) -> Result<Vec<Remains>, sqlx::Error> {
        let texts: Vec<String> = self.values.iter().map(|value| value.to_string()).collect();
        let id = self.account.0.to_string();
        let rows = sqlx::query!(
            r#"select schemaname as "schema!", tablename as "table!", attname as "column!",
                      strpos(held, $1) > 0 as "has_id!",
                      exists (select from unnest($2::text[]) v
                              where strpos(held, v) > 0
                                 or strpos(held, encode(convert_to(v, 'UTF8'), 'hex')) > 0) as "has_value!"
               from (select schemaname, tablename, attname,
                            concat(most_common_vals::text, histogram_bounds::text, most_common_elems::text) as held
                     from pg_stats where schemaname not in ('pg_catalog', 'information_schema')) s"#,
            id,
            &texts
        )
        .fetch_all(&self.pool)
        .await?;
        let mut found = Vec::new();
        for row in rows {
            let place = format!("statistics of {}.{}.{}", row.schema, row.table, row.column);
            if row.has_id && !keeps_ids(&row.schema, &row.table) {
                found.push(Remains { place: place.clone(), kind: RemainsKind::Account, rows: 1 });
            }
            if row.has_value {
                found.push(Remains { place, kind: RemainsKind::Value, rows: 1 });
            }
        }
        Ok(found)
    }
}

impl SearchedColumn {
    fn keeps_ids(&self) -> bool {
        keeps_ids(&self.schema, &self.table)
    }
}

/// `true` if the id of an erased account stays in this table.
fn keeps_ids(schema: &str, table: &str) -> bool {
    // Partitions of the log have a number.
    let table = table.trim_end_matches(|digit: char| digit.is_ascii_digit()).trim_end_matches('_');
    PSEUDONYMOUS.contains(&schema) || KEPT.contains(&format!("{schema}.{table}").as_str())
}
