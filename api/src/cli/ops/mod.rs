//! The verbs of operations: checks, backups, audits and scans. `fulexo-ops` does the work; these print it.
//!
//! Exit codes: 0, everything was checked and nothing was found; 1, something was found; 2, the arguments or the
//! configuration are wrong; 3, something could not be checked.

pub mod backup;
pub mod check_headers;
pub mod check_ssl;
pub mod health_check;
pub mod penetration_test;
mod report_text;
pub mod restore;
pub mod sbom;
pub mod security_audit;
pub mod vulnerability_scan;

use clap::Args;
use fulexo_ops::report::{Report, Verdict};
use fulexo_ops::sarif::to_sarif;

use super::failure::Failure;
use super::output::Output;

/// The form in which a report is printed.
#[derive(Args)]
pub struct ReportArgs {
    /// Print the report as JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Print the report as SARIF 2.1.0, for dashboards of findings.
    #[arg(long, conflicts_with = "json")]
    sarif: bool,
}

impl ReportArgs {
    /// `true` if the report is text for people, to which a verb may add.
    pub const fn is_text(&self) -> bool {
        !self.json && !self.sarif
    }

    /// Prints a report, and turns its verdict into the exit code.
    pub fn print(&self, report: &Report) -> Result<(), Failure> {
        self.print_with(report, report_text::print)
    }

    /// The same with the text as an overview: a line per check, and the findings below.
    pub fn print_overview(&self, report: &Report) -> Result<(), Failure> {
        self.print_with(report, report_text::print_overview)
    }

    fn print_with(
        &self,
        report: &Report,
        as_text: fn(&Report, &mut Output) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut out = Output::new();
        if self.json {
            out.line(report.to_json())?;
        } else if self.sarif {
            out.line(to_sarif(report, env!("CARGO_PKG_VERSION")))?;
        } else {
            as_text(report, &mut out)?;
        }
        match report.verdict() {
            Verdict::Clean => Ok(()),
            Verdict::Findings => Err(Failure::Findings),
            Verdict::Incomplete => Err(Failure::Unchecked(None)),
        }
    }
}
