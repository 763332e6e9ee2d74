//! `fulexo penetration-test`: an active test of the operator's own instance.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use fulexo_ops::probe::{Consent, PenetrationTest, TargetError, TestBounds, read_accounts};
use zeroize::Zeroizing;

use super::ReportArgs;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::cli::process::{StopSignals, block_on};

#[derive(Args)]
pub struct PenetrationTestArgs {
    /// The instance, such as http://127.0.0.1:8080.
    #[arg(value_name = "URL")]
    url: String,
    /// Confirm that this host, which is not on loopback, is your own.
    #[arg(long, value_name = "HOST")]
    confirm: Option<String>,
    /// Read the token of FULEXO_PENETRATION_TEST_TOKEN, which the nodes have, too, from this file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Test with the accounts in this file, and clean up with them: a JSON list of role, email and password, or of role and
    /// access_token. Nobody else may read the file.
    #[arg(long, value_name = "FILE")]
    accounts: Option<PathBuf>,
    /// Write a line of JSON for each request to this new file.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// The most requests in all.
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = RangedU64ValueParser::<u32>::new().range(1..=100_000))]
    most_requests: u32,
    /// The most requests per second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000))]
    rate: u32,
    /// The most minutes that the probes take.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_440))]
    most_minutes: u32,
    #[command(flatten)]
    report: ReportArgs,
}

impl PenetrationTestArgs {
    pub fn run(self) -> Result<(), Failure> {
        let token = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map(Zeroizing::new);
                let text =
                    text.map_err(|error| Failure::Misused(format!("cannot read {}: {error}", path.display())))?;
                Some(Zeroizing::new(text.trim().to_owned()))
            }
            None => std::env::var("FULEXO_PENETRATION_TEST_TOKEN").ok().filter(|it| !it.is_empty()).map(Zeroizing::new),
        };
        let accounts = match &self.accounts {
            Some(path) => read_accounts(path).map_err(Failure::Misused)?,
            None => Vec::new(),
        };
        let journal = match &self.journal {
            Some(path) => {
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                let file =
                    file.map_err(|error| Failure::Misused(format!("cannot create {}: {error}", path.display())))?;
                Some(file)
            }
            None => None,
        };
        let test = PenetrationTest {
            url: self.url,
            consent: Consent { host: self.confirm, token },
            bounds: TestBounds {
                requests: self.most_requests,
                rate: self.rate,
                time: Duration::from_secs(60 * u64::from(self.most_minutes)),
            },
            accounts,
            journal,
        };
        // Elsewhere the report says it all.
        let is_shown = std::io::stderr().is_terminal();
        let report = block_on(async {
            let mut stop = StopSignals::listen()?;
            let progress = |title: &str| {
                if is_shown {
                    note(format_args!("  {title}"));
                }
            };
            test.run(stop.received(), progress).await.map_err(|error| match error {
                TargetError::Misused(text) => Failure::Misused(text),
                TargetError::Refused(text) => Failure::Unchecked(Some(text)),
            })
        })?;
        self.report.print(&report)
    }
}
