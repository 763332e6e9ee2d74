//! `fulexo rebuild`: a read model made again from the log.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use clap::Args;
use fulexo_projections::projection::Projection;
use fulexo_projections::rebuild::{Rebuilt, rebuild};

use super::target::Target;
use super::{Failure, block_on};
use crate::app::connect;

#[derive(Args)]
pub struct Rebuild {
    /// accounts, sessions or audit.
    projection: Projection,
    #[command(flatten)]
    target: Target,
}

impl Rebuild {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let name = self.projection.as_str();
        let started = Instant::now();
        let rebuilt = block_on(async {
            let pool = connect(&url, 4).await?;
            let mut bar = Bar { name, shown: None };
            let rebuilt = rebuild(&pool, self.projection, |done, all| bar.show(done, all)).await;
            bar.end();
            rebuilt.map_err(|error| Failure::Failed(format!("nothing was changed: {error}")))
        })?;
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {} events in {seconds:.1} s, {} rows", rebuilt.events, rebuilt.at_same_position.rows);
        report(name, &rebuilt)
    }
}

fn report(name: &str, rebuilt: &Rebuilt) -> Result<(), Failure> {
    if rebuilt.is_same() {
        println!("{name}: the same as before");
        Ok(())
    } else {
        Err(Failure::Failed(format!(
            "{name}: it differs from what it was ({} rows then, {} now); the log's word stands",
            rebuilt.before.rows, rebuilt.at_same_position.rows
        )))
    }
}

/// A bar on a terminal; nothing elsewhere.
struct Bar<'a> {
    name: &'a str,
    shown: Option<u64>,
}

impl Bar<'_> {
    fn show(&mut self, done: u64, all: u64) {
        let percent = (done * 100).checked_div(all).unwrap_or(100);
        if !std::io::stderr().is_terminal() || self.shown == Some(percent) {
            return;
        }
        self.shown = Some(percent);
        let filled = usize::try_from(percent * 40 / 100).unwrap_or(40);
        eprint!("\r{} [{}{}] {percent:>3} %  {done} of {all}", self.name, "█".repeat(filled), " ".repeat(40 - filled));
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}
