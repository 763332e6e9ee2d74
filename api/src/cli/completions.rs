//! `fulexo completions` and `fulexo man`: shell completions and the manual, generated from the command line.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;
use super::output::Output;

#[derive(Args)]
pub struct CompletionsArgs {
    /// Print completions for this shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Write the pages to this directory, such as /usr/local/share/man/man1.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl CompletionsArgs {
    pub fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "fulexo", &mut script);
        Output::new().line(String::from_utf8_lossy(&script).trim_end())
    }
}

impl ManArgs {
    pub fn run(self, command: Command) -> Result<(), Failure> {
        let written = std::fs::create_dir_all(&self.dir)
            .and_then(|()| clap_mangen::generate_to(command.disable_help_subcommand(true), &self.dir));
        written.map_err(|error| Failure::Failed(format!("cannot write to {}: {error}", self.dir.display())))
    }
}
