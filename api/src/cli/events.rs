//! `fulexo events`: follows the log in the terminal.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use fulexo_database::chain;
use fulexo_domain::leaf::{self, RawLeaf};
use fulexo_node::database::connect;
use fulexo_node::log_size::log_size;
use sqlx::PgPool;
use tokio::time::sleep;

use super::failure::Failure;
use super::output::{DIM, Output};
use super::process::{StopSignals, block_on};
use super::target::Target;

/// The width from which a line shows the full time. In a narrower terminal the subject takes its place.
const WHOLE: u16 = 100;

#[derive(Args)]
pub struct EventsArgs {
    /// Start at this position [default: the last ten events].
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Stop at the current end of the log.
    #[arg(long)]
    no_follow: bool,
    /// Print the leaves, one JSON document per line.
    #[arg(long)]
    json: bool,
    /// Print whole lines, regardless of the width of the terminal.
    #[arg(long, conflicts_with = "json")]
    wide: bool,
    #[command(flatten)]
    target: Target,
}

impl EventsArgs {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        block_on(async {
            let pool = connect(&url, 2).await?;
            let size = log_size(&pool).await?;
            let from = self.from.unwrap_or_else(|| size.saturating_sub(10));
            let mut stop = StopSignals::listen()?;
            tokio::select! {
                () = stop.received() => Ok(()),
                ended = self.follow(&pool, from) => ended,
            }
        })
    }

    async fn follow(&self, pool: &PgPool, from: u64) -> Result<(), Failure> {
        let mut next = i64::try_from(from).unwrap_or(i64::MAX);
        let mut out = Output::wide(self.wide || self.json);
        loop {
            let rows = sqlx::query!(
                "select position, leaf from log.event where position >= $1 order by position limit 500",
                next
            )
            .fetch_all(pool)
            .await?;
            for row in &rows {
                let format = if out.is_narrower_than(WHOLE) { "%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.3f" };
                out.cut_line(&self.line(row.position.unsigned_abs(), &row.leaf, format)?)?;
                next = row.position + 1;
            }
            if out.is_closed() {
                return Ok(());
            }
            if rows.is_empty() {
                if self.no_follow {
                    return Ok(());
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    fn line(&self, position: u64, bytes: &[u8], time_format: &str) -> Result<String, Failure> {
        if self.json {
            return Ok(String::from_utf8_lossy(bytes).into_owned());
        }
        let raw = leaf::read(position, bytes).map_err(|error| Failure::Failed(chain(&error).to_string()))?;
        let style = style_of(&raw);
        let actor = raw.actor.id().map_or_else(|| raw.actor.kind().to_owned(), short);
        let subject = raw.subject.map_or_else(|| "-".to_owned(), short);
        let data = match raw.data.get() {
            "{}" => "",
            data => data,
        };
        let time = raw.time.format(time_format);
        Ok(format!(
            "{DIM}{position:>8}  {time}{DIM:#}  {style}{:<28}{style:#}  {actor:>9} {DIM}→{DIM:#} {subject:<9}  {DIM}{data}{DIM:#}",
            raw.r#type
        ))
    }
}

/// Returns the end of an id. The beginning of an id is its time, which events of one minute share.
pub(super) fn short(id: uuid::Uuid) -> String {
    let text = id.simple().to_string();
    format!("…{}", text.get(24..).unwrap_or_default())
}

fn style_of(raw: &RawLeaf<'_>) -> Style {
    let colour = match raw.r#type {
        "authentication.failed" | "session.refresh_reused" => AnsiColor::Yellow,
        "authentication.locked_out" | "session.revoked" | "account.role_revoked" => AnsiColor::Red,
        "authentication.succeeded" | "session.started" | "account.role_granted" => AnsiColor::Green,
        _ => AnsiColor::Cyan,
    };
    colour.on_default()
}
