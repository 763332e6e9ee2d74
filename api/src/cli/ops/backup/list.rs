//! `fulexo backup list`.

use std::path::PathBuf;

use clap::Args;
use fulexo_ops::backup::{BackupTarget, StoredBackup};
use serde_json::json;

use super::address::target_dir;
use super::failed::unchecked;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::grouped;
use crate::cli::table::{Table, TableColumn};

#[derive(Args)]
pub struct ListArgs {
    /// List the backups in this directory, or this bucket (`s3://BUCKET/PREFIX`) [default: FULEXO_BACKUP_TO].
    #[arg(long, value_name = "PLACE")]
    from: Option<PathBuf>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub fn run(self) -> Result<(), Failure> {
        let target = BackupTarget::open(&target_dir(self.from, "--from")?).map_err(unchecked)?;
        let (mut table, mut rows) = (
            Table::new(&[
                TableColumn::Text("backup"),
                TableColumn::Number("events"),
                TableColumn::Number("bytes"),
                TableColumn::Text("wrapped keys"),
                TableColumn::Text("verified"),
            ]),
            Vec::new(),
        );
        for StoredBackup { name, database, keys } in target.list().map_err(unchecked)? {
            let (bytes, has_keys) = (database.unwrap_or_default() + keys.unwrap_or_default(), keys.is_some());
            let verification = target.verification(name).map_err(unchecked)?;
            let verdict = match &verification {
                None => "never".to_owned(),
                Some(record) if record.has_findings => format!("findings {}", record.at.format("%Y-%m-%d")),
                Some(record) => {
                    let highest = record.rungs.last().map_or("nothing", String::as_str);
                    format!("{} up to {highest}", record.at.format("%Y-%m-%d"))
                }
            };
            table.row([
                name.to_string(),
                grouped(name.events()),
                grouped(bytes),
                if has_keys { "kept" } else { "removed" }.to_owned(),
                verdict,
            ]);
            rows.push(json!({
                "backup": name.to_string(), "time": name.time(), "events": name.events(), "bytes": bytes,
                "has_keys": has_keys, "verified": verification,
            }));
        }
        let mut out = Output::new();
        if self.json {
            return rows.into_iter().try_for_each(|row| out.line(row));
        }
        out.table(&table, true)
    }
}
