//! The command line: one file a verb.
//!
//! Exit codes: 0 done; 1 it failed, the last line says why; 2 the configuration or the arguments are wrong, and every
//! problem is listed.

mod as_of;
mod completions;
mod dev;
mod events;
mod lockdown;
mod migrate;
mod openapi;
mod output;
mod postgres_variables;
mod progress;
mod projections;
mod rebuild;
mod register;
mod replay;
mod serve;
mod table;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fulexo_commands::context::{Context, Origin};
use fulexo_domain::event::Actor;
use fulexo_domain::values::InvalidValue;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use uuid::Uuid;

use self::output::{LogWriter, note};
use crate::clock;
use crate::config::{ConfigErrors, Environment};

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

/// Why a verb did not do its job.
enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2.
    Misconfigured(ConfigErrors),
    /// Exit code 2: an argument by its name, and what is wrong with it.
    Misused(String),
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Misconfigured(errors)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<crate::app::StartError> for Failure {
    fn from(error: crate::app::StartError) -> Self {
        Self::Failed(error.0)
    }
}

impl From<fulexo_dev_servers::ServerError> for Failure {
    fn from(error: fulexo_dev_servers::ServerError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(format!("the database: {error}"))
    }
}

/// A value of our own that an argument is parsed into.
fn parsed<T: 'static>(
    parse: fn(&str) -> Result<T, InvalidValue>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| parse(text).map_err(|error| error.to_string())
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
            Verb::Completions(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
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

/// `; did you mean NAME?` where one of these names is near to what was written.
pub(crate) fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, names).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// The name that is nearest to what was written, if one is near.
pub(crate) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &str| {
        let is_beginning = name.starts_with(written) && !written.is_empty();
        if is_beginning { 1.0 } else { strsim::jaro_winkler(written, name) }
    };
    let nearest = names.into_iter().map(|name| (near(name), name)).max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest.filter(|(near, _)| *near > 0.85).map(|(_, name)| name)
}

/// A runtime for one verb; its main task runs on this very thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

/// Structured log on standard error: JSON in production, text in development. `FULEXO_LOG` filters
/// (`info,fulexo_commands=debug`), `FULEXO_LOG_FORMAT` is `json` or `text`.
///
/// Below `info` only the service's own crates are heard, whatever `FULEXO_LOG` says: others write out requests, addresses
/// and credentials there. The client of NATS is not heard at all.
fn start_logging(environment: Environment, default_filter: &str) {
    let filter = std::env::var("FULEXO_LOG").unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter::new);
    let builder = builder.with_ansi(LogWriter::has_colours());
    let json = match std::env::var("FULEXO_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        Ok(_) | Err(_) => environment == Environment::Production,
    };
    // The client of NATS says at each try what `crate::nats` says once.
    let ours = filter_fn(|metadata| {
        is_ours(metadata.target()) || (*metadata.level() <= Level::INFO && crate_of(metadata.target()) != "async_nats")
    });
    crate::http::panic::log_panics();
    // A second start in one process keeps the first logger.
    let _ = if json {
        builder.json().flatten_event(true).finish().with(ours).try_init()
    } else {
        builder.with_target(false).finish().with(ours).try_init()
    };
}

/// `true` if a target of the log is one of the service's own crates.
fn is_ours(target: &str) -> bool {
    let name = crate_of(target);
    name == "fulexo" || name.starts_with("fulexo_")
}

fn crate_of(target: &str) -> &str {
    target.split("::").next().unwrap_or_default()
}

/// Whoever runs the binary, as commands see them.
#[must_use]
pub fn operator() -> Context {
    let context = Context {
        actor: Actor::Operator,
        correlation: Uuid::nil(),
        now: clock::now(),
        origin: Origin::default(),
        idempotency_key: None,
    };
    Context { correlation: context.new_id(), ..context }
}

/// Ctrl-C and SIGTERM, from the moment on that this is made: before, they end the process at once.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot listen to signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Resolves when the process is asked to stop.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
