//! Append-only enforcement, tried: as the application's role, everything is attempted that would change the log.
//!
//! The attempts are in one transaction that is rolled back, and harm nothing even if they are permitted: statements that
//! change rows match none, and what would take a strong lock is tried only where the catalog says that it will be refused.

use fulexo_database::{DatabaseFailure, chain};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const PERMITTED: Rule = Rule {
    id: "append_only.permitted",
    title: "the application can change the log",
    severity: Severity::Critical,
    remedy: "Treat the log as altered until `fulexo audit verify` says otherwise against a checkpoint that was kept outside. \
             Take the privilege away: compare the findings of database_roles and database_grants.",
    reference: "docs/invariants.md",
};
const GRANTED: Rule = Rule {
    id: "append_only.granted",
    title: "only a trigger keeps the application from changing the log",
    severity: Severity::High,
    remedy: "Revoke the privilege as the owner of the table: `revoke PRIVILEGE on TABLE from ROLE`.",
    reference: "docs/invariants.md",
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "append_only",
    title: "the log refuses every change that the application tries",
    rules: &[PERMITTED, GRANTED],
};

/// A table of the log, and what the catalog says of the application's privileges on it.
#[derive(FromRow)]
struct LogTable {
    name: String,
    /// A table of events, or a partition of it.
    has_events: bool,
    /// The application can act as the owner of the table or of its schema.
    is_owned: bool,
    updates: bool,
    deletes: bool,
    inserts: bool,
    truncates: bool,
}

/// The tables that the log consists of. 64 partitions hold 640 million events.
const TABLES: &str = "
    select format('%I.%I', n.nspname, c.relname) as name, c.relname ~ '^event' as has_events,
           pg_has_role(current_user, c.relowner, 'USAGE') or pg_has_role(current_user, n.nspowner, 'USAGE') as is_owned,
           has_any_column_privilege(c.oid, 'UPDATE') as updates, has_table_privilege(c.oid, 'DELETE') as deletes,
           has_any_column_privilege(c.oid, 'INSERT') as inserts, has_table_privilege(c.oid, 'TRUNCATE') as truncates
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'log' and (c.relname in ('event', 'head', 'stream', 'unique_key') or c.relname ~ '^event_[0-9]+$')
      and c.relkind in ('r', 'p')
    order by c.relname limit 64";

/// Makes the check, as the application's role.
pub async fn check(connection: &mut PgConnection) -> Check {
    let tables: Vec<LogTable> = match sqlx::query_as(TABLES).fetch_all(&mut *connection).await {
        Ok(tables) => tables,
        Err(error) => return CHECK.asked(Err(error)),
    };
    if !tables.iter().any(|table| table.has_events) {
        return CHECK.unchecked("the database has no log: run `fulexo migrate`");
    }
    if let Err(error) =
        sqlx::raw_sql("begin read write; set local statement_timeout = '5s'").execute(&mut *connection).await
    {
        return CHECK.asked(Err(error));
    }
    let tried = attempts(connection, &tables).await;
    // Nothing was changed; should this fail, the server rolls back when the connection ends.
    let rolled_back = sqlx::raw_sql("rollback").execute(connection).await;
    CHECK.asked(tried.and_then(|found| rolled_back.map(|_| found)))
}

async fn attempts(connection: &mut PgConnection, tables: &[LogTable]) -> Result<(AuditFindings, String), sqlx::Error> {
    let (mut findings, mut count) = (AuditFindings::default(), 0_usize);
    for table in tables {
        let LogTable { name, .. } = table;
        for (action, statement, is_granted) in changes(table) {
            count += 1;
            let subject = format!("{action} on {name}");
            if attempt(connection, &statement).await? {
                findings.push(&PERMITTED, subject, "the database did not refuse the statement; it was rolled back");
            } else if is_granted {
                findings.push(&GRANTED, subject, "the privilege is granted; a trigger refused the statement");
            }
        }
        count += 1;
        if table.truncates && !table.is_owned {
            findings.push(&GRANTED, format!("TRUNCATE on {name}"), "the privilege is granted; it was not tried");
        }
        if table.is_owned {
            let evidence =
                "the application can act as the owner, who disables triggers and drops tables; it was not tried";
            findings.push(&PERMITTED, format!("ownership of {name}"), evidence);
        } else if table.has_events {
            // Ownership is judged before a lock is taken.
            count += 1;
            if attempt(connection, &format!("alter table {name} disable trigger append_only")).await? {
                findings.push(
                    &PERMITTED,
                    format!("DISABLE TRIGGER on {name}"),
                    "the database did not refuse the statement",
                );
            }
        }
    }
    let evasions = [
        ("session_replication_role", "set local session_replication_role = replica"),
        ("role fulexo_sequencer", "set local role fulexo_sequencer"),
        ("log.guard_table", "select log.guard_table('log.head')"),
    ];
    for (subject, statement) in evasions {
        count += 1;
        if attempt(connection, statement).await? {
            findings.push(&PERMITTED, subject, "the database did not refuse the statement; it was rolled back");
        }
    }
    Ok((findings, format!("{count} attempts, all refused")))
}

/// The changes of rows: the action, a statement that matches no row, and whether the privilege is granted. The owner has
/// every privilege, which is another finding.
fn changes(table: &LogTable) -> Vec<(&'static str, String, bool)> {
    let LogTable { name, is_owned, updates, deletes, inserts, .. } = table;
    let column = match name.as_str() {
        "log.head" => "position",
        "log.stream" => "version",
        "log.unique_key" => "stream_id",
        _ => "leaf",
    };
    let update = format!("update {name} set {column} = {column} where false");
    vec![
        ("UPDATE", update, *updates && !is_owned),
        ("DELETE", format!("delete from {name} where false"), *deletes && !is_owned),
        ("INSERT", format!("insert into {name} select * from {name} where false"), *inserts && !is_owned),
    ]
}

/// Attempts a statement, and takes it back. Returns `true` if it was permitted.
async fn attempt(connection: &mut PgConnection, statement: &str) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql("savepoint attempt").execute(&mut *connection).await?;
    let tried = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *connection).await;
    sqlx::raw_sql("rollback to savepoint attempt").execute(connection).await?;
    match tried {
        Ok(_) => Ok(true),
        Err(error) => match DatabaseFailure::of(&error) {
            DatabaseFailure::InsufficientPrivilege => Ok(false),
            _ => Err(sqlx::Error::Io(std::io::Error::other(format!(
                "`{statement}` was neither permitted nor refused: {}",
                chain(&error)
            )))),
        },
    }
}
