//! The database of a verb: DATABASE_URL, or the database of a running `fulexo dev`.

use std::path::PathBuf;

use clap::Args;
use fulexo_node::config;

use super::failure::Failure;
use super::postgres_variables;

#[derive(Args)]
pub struct Target {
    /// Use the database of the `fulexo dev` that runs in this directory instead of DATABASE_URL.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Target {
    pub fn database_url(&self) -> Result<String, Failure> {
        let Some(dir) = &self.data_dir else { return Ok(config::database_url()?) };
        postgres_variables::leave()?;
        let path = dir.join("dev.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            format!("cannot read {}: {error}. Is `fulexo dev` running in this directory?", path.display())
        })?;
        let dev: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("{} is not JSON: {error}", path.display()))?;
        let url = dev.get("database_url").and_then(serde_json::Value::as_str);
        url.map(str::to_owned).ok_or_else(|| Failure::Failed(format!("{} has no database_url", path.display())))
    }
}
