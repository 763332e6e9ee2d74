//! `fulexo`: one binary, one verb a job.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use fulexo_api::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
