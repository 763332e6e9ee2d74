//! `fulexo check-ssl`: the certificate and the TLS of any server.

use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use fulexo_ops::clock;
use fulexo_ops::tls::target::TlsTarget;
use fulexo_ops::tls::{TlsPolicy, check, machine_roots, roots_from_pem};

use super::ReportArgs;
use crate::cli::failure::Failure;
use crate::cli::process::block_on;

#[derive(Args)]
pub struct CheckSslArgs {
    /// Check this server: a name or an address, with a port if it is not 443.
    #[arg(value_name = "HOST[:PORT]", value_parser = TlsTarget::parse)]
    target: TlsTarget,
    /// Trust the authorities in this PEM file, and no others. Without it, those that this machine trusts.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Find certificates that end within so many days.
    #[arg(long, value_name = "DAYS", default_value_t = 21, value_parser = clap::value_parser!(u16).range(..=3650))]
    days: u16,
    /// Wait so many seconds for a connection, and for each answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=60))]
    timeout: u8,
    #[command(flatten)]
    report: ReportArgs,
}

impl CheckSslArgs {
    pub fn run(self) -> Result<(), Failure> {
        let roots = match &self.ca {
            Some(path) => {
                let pem = std::fs::read(path)
                    .map_err(|error| Failure::Misused(format!("cannot read {}: {error}", path.display())))?;
                roots_from_pem(&pem).ok_or_else(|| {
                    Failure::Misused(format!("{} has no certificate in PEM that can be trusted", path.display()))
                })?
            }
            None => machine_roots(),
        };
        let policy = TlsPolicy {
            roots,
            horizon: TimeDelta::days(self.days.into()),
            patience: Duration::from_secs(self.timeout.into()),
        };
        block_on(async {
            let mut report = check(&self.target, &policy, clock::now()).await;
            report.ended_at = clock::now();
            self.report.print(&report)
        })
    }
}
