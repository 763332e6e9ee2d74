//! `fulexo restore`: a backup in place of the database, and what makes a restored database fit to serve.

mod arguments;
mod clean;
mod copies;
mod erasures;
mod finish;
mod steps;

use clap::{Args, Subcommand};
use fulexo_node::config::{Config, owner_database_url};
use fulexo_ops::clock;
use fulexo_ops::report::Report;

use self::arguments::FinishArgs;
use self::clean::CleanArgs;
use self::finish::{RestoredDatabase, finish};
use self::steps::{end, target};
use crate::cli::failure::Failure;
use crate::cli::process::{block_on, start_logging};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RestoreArgs {
    #[command(subcommand)]
    verb: Option<RestoreVerb>,
    #[command(flatten)]
    restore: CleanArgs,
}

#[derive(Subcommand)]
enum RestoreVerb {
    /// Make a database fit to serve that another program has restored, such as pgBackRest.
    ///
    /// Does to the database of DATABASE_URL what `restore` does after it has read a backup: migrates it, lists the events that were
    /// lost, erases again whoever was erased since, begins a new epoch, and asks the signer. Run it before any node starts. Takes
    /// the same configuration as `serve`, and DATABASE_OWNER_URL. An interrupted run is run again.
    Finish(FinishVerb),
}

#[derive(Args)]
struct FinishVerb {
    #[command(flatten)]
    finish: FinishArgs,
}

impl RestoreArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Some(RestoreVerb::Finish(verb)) => verb.run(),
            None => self.restore.run(),
        }
    }
}

impl FinishVerb {
    fn run(self) -> Result<(), Failure> {
        let plan = self.finish.plan()?;
        let config = Config::from_env()?;
        let owner_url = owner_database_url()?;
        start_logging(config.environment, "warn");
        let database = RestoredDatabase { url: config.database_url.clone(), owner_url, replaced: None, backup: None };
        block_on(async {
            let mut report = Report::begin("restore finish", target(&database.url), clock::now());
            let is_fit = finish(&database, plan, &mut report).await;
            end(&self.finish.report, report, is_fit)
        })
    }
}
