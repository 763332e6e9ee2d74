//! The command line: one file a verb.
//!
//! Exit codes: 0 done; 1 it failed, the last line says why; 2 the configuration or the arguments are wrong, and every
//! problem is listed.

mod as_of;
mod completions;
mod dev;
mod events;
mod failure;
mod lockdown;
mod migrate;
mod openapi;
mod output;
mod postgres_variables;
mod process;
mod progress;
mod projections;
mod rebuild;
mod register;
mod replay;
mod serve;
mod table;
mod target;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::failure::Failure;
use self::output::note;
pub use self::process::operator;

/// Event-sourced security backend: logins, sessions and roles as an immutable log.
#[derive(Parser)]
#[command(name = "fulexo", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    color: colorchoice_clap::Color,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run everything on this machine: a private Postgres and NATS, keys, demo accounts.
    ///
    /// Runs until Ctrl-C. What was recorded stays: the next start goes on with it, also after a crash.
    Dev(dev::Dev),
    /// Run the service, configured by the environment.
    ///
    /// The variables are listed in docs/configuration.md. Every problem with them is reported at once.
    Serve(serve::Serve),
    /// Bring the database's schema up to date, as the owner role.
    ///
    /// Applies what is missing, each migration whole or not at all, and makes the role of DATABASE_URL a member of
    /// fulexo_app. Safe under the previous release, and to run again. Needs DATABASE_OWNER_URL and DATABASE_URL.
    Migrate(migrate::Migrate),
    /// Register an account with roles of your choice, and print its password: how the first administrator comes to be.
    ///
    /// Works on the database directly, beside running nodes, and is recorded as done by the operator. Configured as
    /// `serve` is.
    Register(register::Register),
    /// Close the service to everybody but those who respond to an incident, or open it again.
    ///
    /// Works on the database directly, beside running nodes, and is recorded as done by the operator. Configured as
    /// `serve` is. `fulexo lockdown off` lifts it.
    Lockdown(lockdown::Lockdown),
    /// Print the OpenAPI document.
    Openapi(openapi::Openapi),
    /// Make read models again from the log, compare them with the live ones, and put them in their place.
    ///
    /// Beside running nodes, and beside the live tables: readers see those until the new ones are whole, then, in one
    /// transaction, the new ones. Interrupted, the next run goes on where it was. Exits with 1 when the log says
    /// something else than a view did; the log's word stands then, and --rollback brings the view back.
    Rebuild(rebuild::Rebuild),
    /// Show who could do what, and what there was, at a position or a time.
    ///
    /// Asks the read models, which keep every version of their rows; nothing is replayed.
    AsOf(as_of::AsOf),
    /// Make the read models again from the log alone, up to a position, and compare them with what the live ones say of it.
    ///
    /// Works in temporary tables of its own, beside running nodes, and changes nothing. Exits with 1 when a table differs.
    Replay(replay::Replay),
    /// List the read models: version, position, lag, owner, state.
    Projections(projections::Projections),
    /// Follow the log in the terminal.
    ///
    /// One line an event: position, time, type, who, about whom, what.
    Events(events::Events),
    /// Print the completions of a shell.
    ///
    /// For bash: `fulexo completions bash > ~/.local/share/bash-completion/completions/fulexo`.
    Completions(completions::Completions),
    /// Write the manual: a page for fulexo, and one for each verb.
    ///
    /// Then `man -l DIR/fulexo.1`, or `man fulexo` where DIR is one that `man` looks in.
    Man(completions::Man),
}

impl Cli {
    /// Does what was asked.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.color.write_global();
        let outcome = match self.verb {
            Verb::Dev(verb) => verb.run(),
            Verb::Serve(verb) => verb.run(),
            Verb::Migrate(verb) => verb.run(),
            Verb::Register(verb) => verb.run(),
            Verb::Lockdown(verb) => verb.run(),
            Verb::Openapi(verb) => verb.run(),
            Verb::Rebuild(verb) => verb.run(),
            Verb::AsOf(verb) => verb.run(),
            Verb::Replay(verb) => verb.run(),
            Verb::Projections(verb) => verb.run(),
            Verb::Events(verb) => verb.run(),
            Verb::Completions(verb) => verb.run(Self::command()),
            Verb::Man(verb) => verb.run(Self::command()),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Failed(text)) => {
                note(format_args!("fulexo: {text}"));
                ExitCode::FAILURE
            }
            Err(Failure::Misused(text)) => {
                note(format_args!("error: {text}\n\nFor more information, try '--help'."));
                ExitCode::from(2)
            }
            Err(Failure::Misconfigured(errors)) => {
                note(format_args!("fulexo: {errors}"));
                ExitCode::from(2)
            }
        }
    }
}
