//! `fulexo backup verify`.

use clap::Args;
use fulexo_node::config;

use super::ladder::{LadderArgs, record_verified, weighed};
use crate::cli::failure::Failure;
use crate::cli::ops::ReportArgs;
use crate::cli::process::block_on;

#[derive(Args)]
pub struct BackupVerifyArgs {
    /// Verify this backup: its name, its directory or its place in a bucket, or `latest`.
    backup: String,
    #[command(flatten)]
    ladder: LadderArgs,
    /// Record the result in the log of the service, in the database of DATABASE_URL.
    #[arg(long)]
    record: bool,
    #[command(flatten)]
    report: ReportArgs,
}

impl BackupVerifyArgs {
    pub fn run(self) -> Result<(), Failure> {
        let service = if self.record { Some(config::database_url()?) } else { None };
        let verified = self.ladder.climb("backup verify", &self.backup)?;
        let recorded = match (service, &verified.opened) {
            (Some(url), Some(opened)) => block_on(record_verified(&url, opened, &verified.report, None)),
            // Without a signature it is nobody's backup.
            (Some(_), None) | (None, _) => Ok(()),
        };
        weighed(self.report.print(&verified.report), recorded)
    }
}
