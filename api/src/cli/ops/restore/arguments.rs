//! The arguments of what follows the restore itself.

use std::path::PathBuf;

use clap::Args;

use super::copies;
use super::erasures;
use super::finish::FinishPlan;
use crate::cli::audit::trust::TrustArgs;
use crate::cli::failure::Failure;
use crate::cli::ops::ReportArgs;
use crate::cli::ops::backup::OutsideCheckpoint;

/// The arguments of what follows the restore itself.
#[derive(Args)]
pub struct FinishArgs {
    /// Read the events that were lost from this copy of the log: a directory of `fulexo audit export`, the URL of a service or of a
    /// static copy, or the URL of a PostgreSQL database. The copy in NATS is read in any case.
    #[arg(long, value_name = "PLACE")]
    copy: Option<String>,
    /// Read entries of a copy over HTTP with the access token, or the API key, in this file.
    #[arg(long, value_name = "FILE", requires = "copy")]
    token_file: Option<PathBuf>,
    /// Compare the log with this checkpoint, which was kept outside: a file, or the URL of a static copy. It tells how many events
    /// there were at least.
    #[arg(long, value_name = "PLACE")]
    checkpoint: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Erase the accounts in this file again, one id per line. It is taken to name everybody who was erased since the backup.
    #[arg(long, value_name = "FILE", conflicts_with = "no_erasures")]
    erasures: Option<PathBuf>,
    /// Nobody was erased since the backup. Needed if no copy of the log tells.
    #[arg(long)]
    no_erasures: bool,
    /// Write the events that were lost to this new file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    lost: Option<PathBuf>,
    #[command(flatten)]
    pub report: ReportArgs,
}

impl FinishArgs {
    /// Reads what the arguments name.
    pub fn plan(&self) -> Result<FinishPlan, Failure> {
        let outside = self.checkpoint.as_deref().map(OutsideCheckpoint::of).transpose()?;
        if outside.is_some() && !self.trust.is_given() {
            return Err(Failure::Misused("--checkpoint needs --key or --policy: whom to trust".to_owned()));
        }
        let listed = match (&self.erasures, self.no_erasures) {
            (Some(path), _) => Some(erasures::read_list(path)?),
            (None, true) => Some(Vec::new()),
            (None, false) => None,
        };
        let list = self.lost.clone();
        if let Some(path) = list.as_deref().filter(|path| path.exists()) {
            return Err(Failure::Misused(format!("--lost: {} is there already", path.display())));
        }
        let token = self.token_file.as_deref().map(copies::read_token).transpose()?;
        let copy = self.copy.clone().map(|place| (place, token));
        Ok(FinishPlan { copy, outside, trust: self.trust.given()?, erasures: listed, list })
    }
}
