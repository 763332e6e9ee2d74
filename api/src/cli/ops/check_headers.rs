//! `fulexo check-headers`: the security headers of any server.

use std::time::Duration;

use clap::Args;
use fulexo_ops::clock;
use fulexo_ops::headers::{check, parse_url};
use url::Url;

use super::ReportArgs;
use crate::cli::failure::Failure;
use crate::cli::process::block_on;

#[derive(Args)]
pub struct CheckHeadersArgs {
    /// Fetch this URL of http or https, and judge the headers of the answer. A redirect is not followed.
    #[arg(value_name = "URL", value_parser = parse_url)]
    url: Url,
    /// Wait so many seconds for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=60))]
    timeout: u8,
    #[command(flatten)]
    report: ReportArgs,
}

impl CheckHeadersArgs {
    pub fn run(self) -> Result<(), Failure> {
        block_on(async {
            let mut report = check(&self.url, Duration::from_secs(self.timeout.into()), clock::now()).await;
            report.ended_at = clock::now();
            self.report.print(&report)
        })
    }
}
