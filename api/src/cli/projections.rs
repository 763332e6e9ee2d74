//! `fulexo projections`: lists the read models with their checkpoints.

use clap::Args;
use fulexo_node::database::connect;
use fulexo_projections::status::{ReadModelStatus, statuses};
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::process::block_on;
use super::progress::grouped;
use super::table::{Table, TableColumn};
use super::target::Target;

#[derive(Args)]
pub struct ProjectionsArgs {
    /// Print the list as JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Print whole lines, regardless of the width of the terminal.
    #[arg(long, conflicts_with = "json")]
    wide: bool,
    #[command(flatten)]
    target: Target,
}

impl ProjectionsArgs {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let statuses = block_on(async { Ok(statuses(&connect(&url, 1).await?).await?) })?;
        if self.json {
            let all: Vec<_> = statuses.iter().map(as_json).collect();
            return Output::new().line(json!(all));
        }
        Output::wide(self.wide).table(&table(&statuses), true)
    }
}

fn as_json(status: &ReadModelStatus) -> serde_json::Value {
    json!({
        "name": status.projection.as_str(),
        "version": status.version,
        "position": status.position,
        "lag": status.log_size.saturating_sub(status.position),
        "owner": status.owner,
        "stopped_because": status.stopped_because,
        "build": status.build.map(|build| json!({
            "version": build.version,
            "position": build.position,
            "under_way": build.is_under_way,
        })),
        "previous_version": status.previous.map(|(version, _)| version),
    })
}

fn state(status: &ReadModelStatus) -> String {
    let mut states = Vec::new();
    if let Some(why) = &status.stopped_because {
        states.push(format!("stopped at position {}: {why}", grouped(status.position)));
    }
    if let Some(build) = status.build {
        let percent = (build.position * 100).checked_div(status.log_size).unwrap_or(100).min(100);
        let activity = if build.is_under_way { "rebuilding" } else { "rebuild interrupted at" };
        states.push(format!("{activity} {percent} %"));
    }
    if states.is_empty() { "ok".to_owned() } else { states.join("; ") }
}

const COLUMNS: [TableColumn; 7] = [
    TableColumn::Text("name"),
    TableColumn::Number("version"),
    TableColumn::Number("position"),
    TableColumn::Number("lag"),
    TableColumn::Elastic("owner"),
    TableColumn::Number("previous"),
    TableColumn::Elastic("state"),
];

fn table(statuses: &[ReadModelStatus]) -> Table {
    let mut table = Table::new(&COLUMNS);
    for status in statuses {
        table.row([
            status.projection.as_str().to_owned(),
            status.version.to_string(),
            grouped(status.position),
            grouped(status.log_size.saturating_sub(status.position)),
            status.owner.clone().unwrap_or_else(|| "-".to_owned()),
            status.previous.map_or_else(|| "-".to_owned(), |(version, _)| version.to_string()),
            state(status),
        ]);
    }
    table
}
