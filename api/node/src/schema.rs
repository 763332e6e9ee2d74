//! Migrations: applied by the owner role, checked by the application at start.

use fulexo_database::{DatabaseFailure, chain};
use sqlx::migrate::{Migrate, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::database::reason;

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// The result of `migrate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations applied now.
    pub applied: Vec<String>,
    /// The version that the schema has now.
    pub version: i64,
}

/// Applies what is missing, as the owner, and lets the application's role in.
///
/// # Errors
/// In words for the operator.
pub async fn migrate(owner_url: &str, application_role: &str) -> Result<Migrated, String> {
    let mut connection = PgConnection::connect(owner_url)
        .await
        .map_err(|error| format!("cannot reach the database: {}", reason(&error)))?;
    connection.ensure_migrations_table("_sqlx_migrations").await.map_err(|error| chain(&error).to_string())?;
    let known =
        connection.list_applied_migrations("_sqlx_migrations").await.map_err(|error| chain(&error).to_string())?;
    MIGRATOR
        .run(&mut connection)
        .await
        .map_err(|error| format!("a migration failed and was rolled back: {}", chain(&error)))?;
    grant(&mut connection, application_role).await.map_err(|error| {
        format!(
            "the role {application_role:?} of DATABASE_URL cannot be made a member of fulexo_app: {}",
            reason(&error)
        )
    })?;
    let applied = MIGRATOR.iter().filter(|migration| known.iter().all(|known| known.version != migration.version));
    let applied = applied.map(|migration| format!("{:04} {}", migration.version, migration.description)).collect();
    Ok(Migrated { applied, version: latest() })
}

async fn grant(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    // Identifiers cannot be bound; Postgres itself quotes this one.
    let statement = sqlx::query_scalar!(r#"select format('grant fulexo_app to %I', $1::text) as "sql!""#, role)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    // The application sees which migrations were applied, and nothing else of this schema.
    sqlx::query("grant usage on schema public to fulexo_app").execute(&mut *connection).await?;
    sqlx::query("grant select on public._sqlx_migrations to fulexo_app").execute(connection).await?;
    Ok(())
}

/// Checks that the schema is the one that this build was made for, or a newer one.
///
/// # Errors
/// In words for the operator.
pub async fn check(pool: &PgPool) -> Result<(), String> {
    let version: Option<i64> = sqlx::query_scalar("select max(version) from public._sqlx_migrations where success")
        .fetch_one(pool)
        .await
        .map_err(|error| match DatabaseFailure::of(&error) {
            DatabaseFailure::UndefinedTable | DatabaseFailure::InsufficientPrivilege => {
                "the database has no schema yet, or its role may not see it: run `fulexo migrate` with \
                 DATABASE_OWNER_URL and DATABASE_URL set"
                    .to_owned()
            }
            _ => format!("the database cannot be read: {}", chain(&error)),
        })?;
    match version {
        // A newer schema is safe under the previous release: migrations expand before they contract.
        Some(version) if version >= latest() => Ok(()),
        version => Err(format!(
            "the database is at migration {}, this build needs {}: run `fulexo migrate`",
            version.unwrap_or(0),
            latest()
        )),
    }
}

fn latest() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}
