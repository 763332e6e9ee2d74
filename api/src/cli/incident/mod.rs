//! `fulexo incident`: the response to an incident by the operator, also while no API runs.

mod contain;
mod input;
mod report;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use fulexo_commands::{CommandError, IncidentCause, IncidentStep, NewIncident};
use fulexo_database::chain;
use fulexo_domain::incident::{IncidentLinks, IncidentSeverity};
use fulexo_domain::values::{AccountId, Address, IncidentId};
use fulexo_node::config::Config;
use fulexo_node::start::Core;
use fulexo_node::state::App;
use fulexo_projections::feed::PostgresFeed;
use fulexo_projections::read_models::Projection;
use fulexo_projections::runner::{ProgressPoller, Runner};
use serde_json::json;
use uuid::Uuid;

use self::contain::{IncidentContainArgs, contain};
use self::input::read_text;
use self::report::{ReportedIncident, nothing_to_open, read_report};
use self::show::{IncidentListArgs, IncidentShowArgs, list, show};
use super::failure::Failure;
use super::output::Output;
use super::process::{block_on, operator, parsed, start_logging};

#[derive(Args)]
pub struct IncidentArgs {
    #[command(subcommand)]
    verb: IncidentVerb,
}

#[derive(Subcommand)]
enum IncidentVerb {
    /// Open an incident, and print its id.
    Open(IncidentOpenArgs),
    /// List incidents, the newest first.
    List(IncidentListArgs),
    /// Show an incident and its timeline.
    Show(IncidentShowArgs),
    /// Contain an incident, and wait until every node enforces each measure.
    ///
    /// Takes the measures in this order: lockdown, API keys, accounts, sessions, keys of the service. A run that was interrupted
    /// is run again: what was done is found done.
    Contain(IncidentContainArgs),
    /// Record that the threat and its cause are removed.
    Eradicate(IncidentTextArgs),
    /// Record that the service works as usual.
    Recover(IncidentTextArgs),
    /// Close an incident, with its lessons.
    Close(IncidentTextArgs),
    /// Add a note to an incident.
    Note(IncidentTextArgs),
}

#[derive(Args)]
struct IncidentOpenArgs {
    /// The severity: low, medium, high or critical.
    #[arg(value_parser = parsed(IncidentSeverity::parse), required_unless_present = "from_report")]
    severity: Option<IncidentSeverity>,
    /// Read a report that a verb of operations printed with --json, `-` for standard input. Severity and summary come from
    /// its findings.
    ///
    /// The same faults have one incident a day. Without findings none is opened.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["severity", "text"])]
    from_report: Option<PathBuf>,
    /// Read the summary from this file; `-` for standard input. It is sealed alongside the event.
    #[arg(long, value_name = "FILE", default_value = "-")]
    text: PathBuf,
    /// The id of the account that leads the response.
    #[arg(long, value_name = "ACCOUNT")]
    owner: Option<Uuid>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct IncidentTextArgs {
    /// The id of the incident.
    incident: Uuid,
    /// Read the text from this file; `-` for standard input. It is sealed alongside the event.
    #[arg(long, value_name = "FILE", default_value = "-")]
    text: PathBuf,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl IncidentArgs {
    pub fn run(self) -> Result<(), Failure> {
        // Before the database: standard input may be a person.
        let work = match self.verb {
            IncidentVerb::Open(IncidentOpenArgs { from_report: Some(path), owner, json, .. }) => {
                let report = read_report(&path)?;
                let Some(reported) = ReportedIncident::of(&report)? else {
                    let mut out = Output::new();
                    if json {
                        return out.line(json!({"incident": null, "position": null, "new": false}));
                    }
                    return out.line(nothing_to_open(&report));
                };
                let (cause, new) = reported.with_owner(owner.map(AccountId));
                IncidentWork::Report(cause, new, json)
            }
            IncidentVerb::Open(IncidentOpenArgs { severity, text, owner, json, from_report: None }) => {
                // clap has asked for it.
                let severity = severity.ok_or_else(|| Failure::Misused("the severity is missing".to_owned()))?;
                let (owner, links, summary) = (owner.map(AccountId), IncidentLinks::default(), read_text(&text)?);
                IncidentWork::Open(NewIncident { severity, owner, links, summary }, json)
            }
            IncidentVerb::List(args) => IncidentWork::List(args),
            IncidentVerb::Show(args) => IncidentWork::Show(args),
            IncidentVerb::Contain(args) => {
                let address = args.address()?;
                IncidentWork::Contain(args, address)
            }
            IncidentVerb::Eradicate(args) => IncidentWork::Step(IncidentStep::Eradicate(read_text(&args.text)?), args),
            IncidentVerb::Recover(args) => IncidentWork::Step(IncidentStep::Recover(read_text(&args.text)?), args),
            IncidentVerb::Close(args) => IncidentWork::Step(IncidentStep::Close(read_text(&args.text)?), args),
            IncidentVerb::Note(args) => {
                IncidentWork::Step(IncidentStep::Note(read_text(&args.text)?, IncidentLinks::default()), args)
            }
        };
        let config = Config::from_env()?;
        start_logging(config.environment, "warn");
        block_on(async {
            let core = Core::start(config).await?;
            // While no node runs, this process is the one that applies events to the read models.
            let done = tokio::select! {
                done = work.run(&core.app) => done,
                () = follow(&core.app) => Err(Failure::Failed("the read models are not followed any more".to_owned())),
            };
            core.stop().await;
            done
        })
    }
}

/// A verb with the text that it was given.
enum IncidentWork {
    Open(NewIncident, bool),
    Report(IncidentCause, NewIncident, bool),
    List(IncidentListArgs),
    Show(IncidentShowArgs),
    Contain(IncidentContainArgs, Option<Address>),
    Step(IncidentStep, IncidentTextArgs),
}

impl IncidentWork {
    async fn run(self, app: &App) -> Result<(), Failure> {
        let mut out = Output::new();
        match self {
            Self::Open(new, json) => {
                let done = app.commands.open_incident(&operator(), new).await.map_err(refused)?;
                if json {
                    return out.line(json!({"incident": done.value.0, "position": done.position}));
                }
                out.line(format_args!("opened the incident {}", done.value))
            }
            Self::Report(cause, new, json) => {
                let done = app.commands.report_incident(&operator(), &cause, new).await.map_err(refused)?;
                let (incident, is_new) = done.value;
                if json {
                    return out.line(json!({"incident": incident.0, "position": done.position, "new": is_new}));
                }
                if is_new {
                    return out.line(format_args!("opened the incident {incident}"));
                }
                out.line(format_args!("the incident {incident} was opened for these findings already"))
            }
            Self::Step(step, IncidentTextArgs { incident, json, text: _ }) => {
                let done = app.commands.take_incident_step(&operator(), IncidentId(incident), step).await;
                let position = done.map_err(refused)?.position;
                if json {
                    return out.line(json!({"incident": incident, "position": position}));
                }
                out.line(format_args!("recorded at position {}", position.unwrap_or_default()))
            }
            Self::List(args) => list(app, &mut out, &args).await,
            Self::Show(args) => show(app, &mut out, &args).await,
            Self::Contain(args, address) => contain(app, &mut out, args, address).await,
        }
    }
}

/// Applies events to the read models that the verbs show, next to nodes that do so, too.
async fn follow(app: &App) {
    let runner = |projection| {
        let (pool, head, progress) = (app.pool.clone(), app.head.clone(), app.progress.clone());
        Runner::new(projection, pool, head, progress, Arc::new(PostgresFeed), Arc::clone(&app.node_name)).run()
    };
    let poller = ProgressPoller::new(app.pool.clone(), app.head.clone(), app.progress.clone());
    tokio::join!(runner(Projection::Incidents), runner(Projection::Audit), poller.run());
}

fn refused(error: CommandError) -> Failure {
    Failure::Failed(format!("nothing was recorded: {}", chain(&error)))
}
