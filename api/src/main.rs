//! `fulexo`: one binary, one verb a job.

use std::process::ExitCode;

use clap::Parser;
use fulexo_api::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
