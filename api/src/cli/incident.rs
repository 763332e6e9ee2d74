//! `fulexo incident`: the response to an incident by the operator, also while no API runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use fulexo_commands::{CommandError, IncidentCause, IncidentStep, NewIncident};
use fulexo_database::chain;
use fulexo_domain::incident::{IncidentLinks, IncidentPhase, IncidentSeverity};
use fulexo_domain::leaf;
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{AccountId, ApiKeyId, IncidentId, IncidentText, InvalidValue, Reason, parse_timestamp};
use fulexo_node::config::Config;
use fulexo_node::containment::{ContainmentPlan, MAX_NAMED};
use fulexo_node::http::problem::Code;
use fulexo_node::start::Core;
use fulexo_node::state::App;
use fulexo_projections::feed::PostgresFeed;
use fulexo_projections::page::{Paging, SortOrder};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::incidents::{self, IncidentFilter, IncidentRow};
use fulexo_projections::read_models::sessions::SessionSelection;
use fulexo_projections::runner::{ProgressPoller, Runner};
use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::Failure;
use super::incident_report::{ReportedIncident, nothing_to_open, read_report};
use super::output::Output;
use super::process::{block_on, operator, parsed, start_logging};
use super::table::{Table, TableColumn};

/// The time for which a read model may take to apply the log.
const PATIENCE: Duration = Duration::from_secs(120);
/// The most pages of a timeline that are shown: 10,000 events.
const MOST_PAGES: usize = 50;

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
    /// Takes the measures in this order: lockdown, API keys, accounts, sessions. A run that was interrupted is run again: what
    /// was done is found done.
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
struct IncidentListArgs {
    /// Only incidents in this phase.
    #[arg(long, value_parser = parsed(IncidentPhase::parse))]
    phase: Option<IncidentPhase>,
    /// Only incidents of this severity.
    #[arg(long, value_parser = parsed(IncidentSeverity::parse))]
    severity: Option<IncidentSeverity>,
    /// The maximum number of incidents, 1 to 200.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct IncidentShowArgs {
    /// The id of the incident.
    incident: Uuid,
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

#[derive(Args)]
struct IncidentContainArgs {
    /// The id of the incident.
    incident: Uuid,
    /// Record this reason, 1 to 500 characters. It is sealed alongside the events.
    #[arg(long, value_name = "TEXT", value_parser = parsed(Reason::parse))]
    reason: Reason,
    /// Impose a lockdown: logins or all.
    #[arg(long, value_name = "SCOPE", value_parser = parsed(LockdownScope::parse))]
    lockdown: Option<LockdownScope>,
    /// Suspend this account. Repeat it for several.
    #[arg(long, value_name = "ACCOUNT")]
    suspend: Vec<Uuid>,
    /// Revoke this API key. Repeat it for several.
    #[arg(long, value_name = "KEY")]
    revoke_key: Vec<Uuid>,
    /// Revoke the sessions of this account. Repeat it for several.
    #[arg(long, value_name = "ACCOUNT")]
    sessions_of: Vec<Uuid>,
    /// Revoke the sessions that began at this time (RFC 3339) or later, with --sessions-of only those of the accounts.
    #[arg(long, value_name = "TIME", value_parser = parsed(time))]
    sessions_since: Option<DateTime<Utc>>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// A time, as the API reads it.
fn time(text: &str) -> Result<DateTime<Utc>, InvalidValue> {
    parse_timestamp(text).map_err(|_| InvalidValue("must be a time such as 2026-12-01T03:00:00Z (RFC 3339)"))
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
            IncidentVerb::Contain(args) => IncidentWork::Contain(args),
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
    Contain(IncidentContainArgs),
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
            Self::Contain(args) => contain(app, &mut out, args).await,
        }
    }
}

async fn contain(app: &App, out: &mut Output, args: IncidentContainArgs) -> Result<(), Failure> {
    let accounts: Vec<AccountId> = args.sessions_of.into_iter().map(AccountId).collect();
    if [args.suspend.len(), args.revoke_key.len(), accounts.len()].into_iter().any(|length| length > MAX_NAMED) {
        return Err(Failure::Misused(format!(
            "a containment names at most {MAX_NAMED} accounts or API keys of each kind"
        )));
    }
    let sessions = (!accounts.is_empty() || args.sessions_since.is_some()).then(|| SessionSelection {
        accounts: (!accounts.is_empty()).then_some(accounts),
        since: args.sessions_since,
        ..SessionSelection::default()
    });
    let plan = ContainmentPlan {
        lockdown: args.lockdown,
        accounts: args.suspend.into_iter().map(AccountId).collect(),
        api_keys: args.revoke_key.into_iter().map(ApiKeyId).collect(),
        sessions,
        reason: args.reason,
        own: Permissions::of(&Permission::ALL),
    };
    let done = app.contain(&operator(), IncidentId(args.incident), &plan).await.map_err(|problem| {
        let (code, meaning) = (problem.code(), problem.meaning());
        let is_final = [Code::NOT_FOUND.name, Code::INCIDENT_PHASE.name].contains(&code);
        let advice = if is_final { "" } else { " Run the command again to continue." };
        Failure::Failed(format!("the incident is not contained ({code}). {meaning}{advice}"))
    })?;
    let position = done.position.unwrap_or_default();
    if args.json {
        return out.line(json!({
            "incident": args.incident, "position": position, "measures": done.value.measures,
        }));
    }
    for measure in done.value.measures {
        let nodes = measure.enforced_on + measure.down.len() as u64;
        out.line(format_args!(
            "{}: {} at position {}, enforced on {} of {nodes} nodes",
            measure.kind.as_str(),
            measure.count,
            measure.position,
            measure.enforced_on
        ))?;
        for target in measure.refused {
            out.line(format_args!("  refused: {} ({})", target.id, target.code))?;
        }
        for name in measure.down {
            out.line(format_args!(
                "  {name} does not respond. Until it has caught up, it asks the database about each request, or refuses it"
            ))?;
        }
        if measure.more {
            out.line("  more sessions match: run the command again")?;
        }
    }
    out.line(format_args!("contained at position {position}"))
}

async fn list(app: &App, out: &mut Output, args: &IncidentListArgs) -> Result<(), Failure> {
    caught_up(app, Projection::Incidents).await?;
    let filter = IncidentFilter { phase: args.phase, severity: args.severity, owner: None };
    let paging = Paging { after: None, order: SortOrder::Descending, limit: args.limit };
    let page = incidents::list(&app.pool, &filter, &paging, None).await.map_err(unread)?;
    if args.json {
        let items: Vec<Value> = page.items.iter().map(row).collect();
        return out.line(json!({"items": items, "more": page.next.is_some()}));
    }
    let columns = ["incident", "phase", "severity", "opened"].map(TableColumn::Text);
    let mut table = Table::new(&columns);
    for incident in page.items {
        let opened = leaf::format_time(incident.opened_at);
        table.row([incident.incident_id.to_string(), incident.phase, incident.severity, opened]);
    }
    out.table(&table, true)
}

async fn show(app: &App, out: &mut Output, args: &IncidentShowArgs) -> Result<(), Failure> {
    caught_up(app, Projection::Incidents).await?;
    caught_up(app, Projection::Audit).await?;
    let found = incidents::get(&app.pool, IncidentId(args.incident)).await.map_err(unread)?;
    let incident = found.ok_or_else(|| Failure::Failed(format!("the incident {} does not exist", args.incident)))?;
    if !args.json {
        out.line(format_args!("{} {} {}", incident.incident_id, incident.severity, incident.phase))?;
    }
    let (mut entries, mut paging) = (Vec::new(), Paging::first(200));
    for _ in 0..MOST_PAGES {
        let page = incidents::timeline(&app.pool, &incident, &paging).await.map_err(unread)?;
        let positions: Vec<i64> = page.items.iter().map(|entry| entry.position).collect();
        let opened = app.commands.vault().open_personal(&positions).await;
        let opened = opened.map_err(|error| Failure::Failed(format!("cannot unseal: {}", chain(&error))))?;
        for entry in &page.items {
            let raw = leaf::read(entry.position.unsigned_abs(), &entry.leaf);
            let raw = raw.map_err(|error| Failure::Failed(chain(&error).to_string()))?;
            let text = opened.get(&entry.position).filter(|_| raw.stream == incident.incident_id).and_then(|facts| {
                let fields = [SealedField::Summary, SealedField::Reason, SealedField::Note, SealedField::Lessons];
                fields.into_iter().find_map(|field| facts.get(field))
            });
            let time = leaf::format_time(raw.time);
            if args.json {
                entries.push(json!({"position": entry.position, "time": time, "type": raw.r#type, "text": text}));
            } else {
                // One line per event, whatever the text has.
                let text = text.unwrap_or_default().replace(char::is_control, " ");
                out.line(format_args!("{} {time} {} {text}", entry.position, raw.r#type))?;
            }
        }
        match page.next {
            Some(next) => paging.after = Some(next),
            None => break,
        }
    }
    if args.json {
        let mut whole = row(&incident);
        if let Value::Object(members) = &mut whole {
            members.insert("timeline".to_owned(), entries.into());
        }
        return out.line(whole);
    }
    Ok(())
}

fn row(incident: &IncidentRow) -> Value {
    json!({
        "incident": incident.incident_id, "phase": incident.phase, "severity": incident.severity,
        "owner": incident.owner, "opened_at": leaf::format_time(incident.opened_at),
        "phase_at": leaf::format_time(incident.phase_at),
    })
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

/// Waits until a read model has applied the whole log.
async fn caught_up(app: &App, projection: Projection) -> Result<(), Failure> {
    let size = app.commands.log().size().await.map_err(|error| Failure::Failed(chain(&error).to_string()))?;
    let Some(last) = size.checked_sub(1) else { return Ok(()) };
    let behind = |_| Failure::Failed("the read models are behind the log. Run the command again".to_owned());
    app.progress.wait(projection, last, PATIENCE).await.map(drop).map_err(behind)
}

fn unread(error: sqlx::Error) -> Failure {
    Failure::Failed(format!("cannot read the database: {}", fulexo_node::database::reason(&error)))
}

fn refused(error: CommandError) -> Failure {
    Failure::Failed(format!("nothing was recorded: {}", chain(&error)))
}

/// Reads a text, and no more of a file than one may have.
fn read_text(path: &Path) -> Result<IncidentText, Failure> {
    let most = 4 * IncidentText::MAX_CHARS as u64 + 1_024;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Misused(format!("cannot read the text from {}: {error}", path.display())))?;
    IncidentText::parse(&text).map_err(|error| Failure::Misused(format!("the text {error}")))
}
