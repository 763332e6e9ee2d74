//! The process of a verb: its runtime, its log, its signals and its actor.

use fulexo_commands::context::{Context, RequestOrigin};
use fulexo_domain::event::Actor;
use fulexo_domain::values::InvalidValue;
use fulexo_node::clock;
use fulexo_node::config::Environment;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use uuid::Uuid;

use super::failure::Failure;
use super::output::LogWriter;

/// Runs the work of a verb in a runtime of its own. The main task runs on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

/// Runs the work of a verb that has to end in time: like [`block_on`], but what hangs in a system call is left behind.
pub fn block_on_and_leave<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    // A name that does not resolve, or a directory on a server that is away, would be waited for.
    runtime.shutdown_background();
    outcome
}

/// Starts the structured log on standard error: JSON in production, text in development. `FULEXO_LOG` is the filter
/// (`info,fulexo_commands=debug`), `FULEXO_LOG_FORMAT` is `json` or `text`.
///
/// Below `info` only the service's own crates are logged, regardless of `FULEXO_LOG`: other crates log requests, addresses and
/// credentials there. The NATS client is not logged at all.
pub fn start_logging(environment: Environment, default_filter: &str) {
    let filter = std::env::var("FULEXO_LOG").unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter::new);
    let builder = builder.with_ansi(LogWriter::has_colours());
    let json = match std::env::var("FULEXO_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        Ok(_) | Err(_) => environment == Environment::Production,
    };
    // The NATS client repeats at each attempt what `fulexo_node::nats` logs once.
    let ours = filter_fn(|metadata| {
        is_ours(metadata.target()) || (*metadata.level() <= Level::INFO && crate_of(metadata.target()) != "async_nats")
    });
    fulexo_node::http::panic::log_panics();
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

/// Returns the context of commands that the operator runs.
#[must_use]
pub fn operator() -> Context {
    let context = Context {
        actor: Actor::Operator,
        correlation: Uuid::nil(),
        now: clock::now(),
        origin: RequestOrigin::default(),
        idempotency_key: None,
    };
    Context { correlation: context.new_id(), ..context }
}

/// The signals Ctrl-C and SIGTERM. Until this value exists they end the process at once.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot listen to signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits until the process receives a signal to stop.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Returns a parser of an argument for clap.
pub fn parsed<T: 'static>(
    parse: fn(&str) -> Result<T, InvalidValue>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| parse(text).map_err(|error| error.to_string())
}
