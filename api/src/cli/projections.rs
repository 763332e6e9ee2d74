//! `fulexo projections`: where each read model stands.

use clap::Args;
use fulexo_projections::status::{ViewStatus, statuses};
use serde_json::json;

use super::output::Output;
use super::progress::grouped;
use super::target::Target;
use super::{Failure, block_on};
use crate::app::connect;

#[derive(Args)]
pub struct Projections {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Projections {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let statuses = block_on(async { Ok(statuses(&connect(&url, 1).await?).await?) })?;
        if self.json {
            let all: Vec<_> = statuses.iter().map(as_json).collect();
            return Output::new().line(json!(all));
        }
        Output::new().line(table(&statuses))
    }
}

fn as_json(status: &ViewStatus) -> serde_json::Value {
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

fn state(status: &ViewStatus) -> String {
    let mut states = Vec::new();
    if let Some(why) = &status.stopped_because {
        states.push(format!("stopped at {}: {why}", grouped(status.position)));
    }
    if let Some(build) = status.build {
        let percent = (build.position * 100).checked_div(status.log_size).unwrap_or(100).min(100);
        let what = if build.is_under_way { "rebuilding" } else { "rebuild interrupted at" };
        states.push(format!("{what} {percent} %"));
    }
    if states.is_empty() { "ok".to_owned() } else { states.join("; ") }
}

/// Columns as wide as what is in them; numbers to the right.
fn table(statuses: &[ViewStatus]) -> String {
    const HEADS: [&str; 7] = ["name", "version", "position", "lag", "owner", "previous", "state"];
    const RIGHT: [bool; 7] = [false, true, true, true, false, true, false];
    let rows = statuses.iter().map(|status| {
        [
            status.projection.as_str().to_owned(),
            status.version.to_string(),
            grouped(status.position),
            grouped(status.log_size.saturating_sub(status.position)),
            status.owner.clone().unwrap_or_else(|| "-".to_owned()),
            status.previous.map_or_else(|| "-".to_owned(), |(version, _)| version.to_string()),
            state(status),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(HEADS.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).zip(RIGHT).map(|((cell, width), right)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}
