//! `fulexo migrate`: updates the schema, as the owner role.

use clap::Args;
use fulexo_node::config::{database_url, owner_database_url};
use fulexo_node::schema;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;

use super::failure::Failure;
use super::output::Output;
use super::process::block_on;

#[derive(Args)]
pub struct MigrateArgs {
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl MigrateArgs {
    pub fn run(self) -> Result<(), Failure> {
        let (owner, application) = (owner_database_url()?, database_url()?);
        let application: PgConnectOptions =
            application.parse().map_err(|_| Failure::Failed("DATABASE_URL must be a PostgreSQL URL".into()))?;
        let migrated = block_on(async { Ok(schema::migrate(&owner, application.get_username()).await?) })?;
        let mut out = Output::new();
        if self.json {
            return out.line(json!({"applied": migrated.applied, "version": migrated.version}));
        }
        for migration in &migrated.applied {
            out.line(format_args!("applied {migration}"))?;
        }
        out.line(format_args!("the schema is at migration {}", migrated.version))
    }
}
