//! `fulexo projections`: where each read model stands.

use clap::Args;
use fulexo_projections::standing::{Standing, standings};
use serde_json::json;

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
        let standings = block_on(async { Ok(standings(&connect(&url, 1).await?).await?) })?;
        if self.json {
            let all: Vec<_> = standings.iter().map(as_json).collect();
            println!("{}", json!(all));
        } else {
            print!("{}", table(&standings));
        }
        Ok(())
    }
}

fn as_json(standing: &Standing) -> serde_json::Value {
    json!({
        "name": standing.projection.as_str(),
        "version": standing.version,
        "position": standing.position,
        "lag": standing.log_size.saturating_sub(standing.position),
        "owner": standing.owner,
        "stopped_because": standing.stopped_because,
        "build": standing.build.map(|build| json!({
            "version": build.version,
            "position": build.position,
            "under_way": build.is_under_way,
        })),
        "previous_version": standing.previous.map(|(version, _)| version),
    })
}

fn state(standing: &Standing) -> String {
    let mut states = Vec::new();
    if let Some(why) = &standing.stopped_because {
        states.push(format!("stopped at {}: {why}", grouped(standing.position)));
    }
    if let Some(build) = standing.build {
        let percent = (build.position * 100).checked_div(standing.log_size).unwrap_or(100).min(100);
        let what = if build.is_under_way { "rebuilding" } else { "rebuild interrupted at" };
        states.push(format!("{what} {percent} %"));
    }
    if states.is_empty() { "ok".to_owned() } else { states.join("; ") }
}

/// Columns as wide as what is in them; numbers to the right.
fn table(standings: &[Standing]) -> String {
    const HEADS: [&str; 7] = ["name", "version", "position", "lag", "owner", "previous", "state"];
    const RIGHT: [bool; 7] = [false, true, true, true, false, true, false];
    let rows = standings.iter().map(|standing| {
        [
            standing.projection.as_str().to_owned(),
            standing.version.to_string(),
            grouped(standing.position),
            grouped(standing.log_size.saturating_sub(standing.position)),
            standing.owner.clone().unwrap_or_else(|| "-".to_owned()),
            standing.previous.map_or_else(|| "-".to_owned(), |(version, _)| version.to_string()),
            state(standing),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(HEADS.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).zip(RIGHT).map(|((cell, width), right)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
