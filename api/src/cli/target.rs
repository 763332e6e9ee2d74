//! Which database a verb works on: DATABASE_URL, or the one of a `fulexo dev` that runs here.

use std::path::PathBuf;

use clap::Args;
use fulexo_node::config;

use super::failure::Failure;
use super::postgres_variables;

#[derive(Args)]
pub struct Target {
    /// Work on the database of the `fulexo dev` that runs in this directory, not on DATABASE_URL.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Target {
    pub fn database_url(&self) -> Result<String, Failure> {
        let Some(dir) = &self.data_dir else { return Ok(config::database_url()?) };
        postgres_variables::leave()?;
        let path = dir.join("dev.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}; is `fulexo dev` running there?", path.display()))?;
        let dev: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("{} is no JSON: {error}", path.display()))?;
        let url = dev.get("database_url").and_then(serde_json::Value::as_str);
        url.map(str::to_owned).ok_or_else(|| Failure::Failed(format!("{} names no database_url", path.display())))
    }
}
