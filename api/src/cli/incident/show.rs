//! `fulexo incident list` and `show`: the incidents and the timeline of one, from read models that have caught up with the log.

use std::time::Duration;

use clap::Args;
use fulexo_database::chain;
use fulexo_domain::incident::{IncidentPhase, IncidentSeverity};
use fulexo_domain::leaf;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::IncidentId;
use fulexo_node::state::App;
use fulexo_projections::page::{Paging, SortOrder};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::incidents::{self, IncidentFilter, IncidentRow};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::process::parsed;
use crate::cli::table::{Table, TableColumn};

/// The time for which a read model may take to apply the log.
const PATIENCE: Duration = Duration::from_secs(120);
/// The most pages of a timeline that are shown: 10,000 events.
const MOST_PAGES: usize = 50;

#[derive(Args)]
pub(super) struct IncidentListArgs {
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
pub(super) struct IncidentShowArgs {
    /// The id of the incident.
    incident: Uuid,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Prints the incidents that match.
pub(super) async fn list(app: &App, out: &mut Output, args: &IncidentListArgs) -> Result<(), Failure> {
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

/// Prints an incident and its timeline.
pub(super) async fn show(app: &App, out: &mut Output, args: &IncidentShowArgs) -> Result<(), Failure> {
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
