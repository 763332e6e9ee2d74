//! Incidents: opened, contained, eradicated, recovered from and closed, with their notes and their timeline.

use std::collections::BTreeSet;

use fulexo_commands::vault::PersonalData;
use fulexo_commands::{CommandError, CommandOutcome, IncidentStep, NewIncident};
use fulexo_domain::incident::{IncidentLinks, IncidentPhase, IncidentSeverity, MAX_LINKS};
use fulexo_domain::permission::Permission;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{AccountId, FindingRule, IncidentId, IncidentText, SessionId};
use fulexo_node::answer::{CommandResponse, QueryResponse, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::problem::FieldError;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::incidents::{self, IncidentFilter, IncidentRow};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::as_of::{AsOfPaging, AsOfResource};
use super::audit::{ActorResource, AuditEvent};
use super::input::{Input, Limit, PageQuery, read_id, read_position};
use super::tag::Tag;

pub struct Incidents;

/// The evidence of an incident.
#[derive(Object, Default)]
#[oai(rename = "IncidentEvidence", deny_unknown_fields)]
struct EvidenceResource {
    /// The ids of accounts.
    #[oai(default, validator(max_items = 100))]
    accounts: Vec<Uuid>,
    /// The positions of events.
    #[oai(default, validator(max_items = 100))]
    events: Vec<u64>,
    /// The rules that findings of checks break. The log keeps them in clear, permanently.
    #[oai(default, validator(max_items = 100))]
    findings: Vec<String>,
    /// The ids of sessions.
    #[oai(default, validator(max_items = 100))]
    sessions: Vec<Uuid>,
}

/// An incident to open.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct IncidentRequest {
    /// The severity: `low`, `medium`, `high` or `critical`.
    severity: String,
    /// The summary, 1 to 4000 characters. It is sealed alongside the event.
    summary: String,
    /// The id of the account that leads the response.
    owner: Option<Uuid>,
    /// The evidence.
    links: Option<EvidenceResource>,
}

/// A note on an incident.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct IncidentNoteRequest {
    /// The note, 1 to 4000 characters. It is sealed alongside the event.
    note: String,
    /// More evidence.
    links: Option<EvidenceResource>,
}

/// The end of a phase, with a note.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct IncidentPhaseRequest {
    /// The note, 1 to 4000 characters: the measures that were taken. It is sealed alongside the event.
    note: String,
}

/// The end of an incident.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct IncidentCloseRequest {
    /// The lessons, 1 to 4000 characters. They are sealed alongside the event.
    lessons: String,
}

/// A change of the owner or the severity.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct IncidentChangeRequest {
    /// The id of the account that leads the response from now on.
    owner: Option<Uuid>,
    /// The severity from now on: `low`, `medium`, `high` or `critical`.
    severity: Option<String>,
}

/// An incident.
#[derive(Object)]
#[oai(rename = "Incident")]
struct IncidentResource {
    /// The id of the incident.
    incident_id: Uuid,
    /// The phase: `identified`, `contained`, `eradicated`, `recovered` or `closed`.
    phase: String,
    /// The time at which the phase began.
    phase_at: Timestamp,
    /// The severity: `low`, `medium`, `high` or `critical`.
    severity: String,
    /// The id of the account that leads the response.
    owner: Option<Uuid>,
    /// The time at which the incident was opened.
    opened_at: Timestamp,
    /// The actor that opened the incident.
    opened_by: ActorResource,
    /// The position of the event that opened the incident.
    opened_position: u64,
    /// The evidence.
    links: EvidenceResource,
}

/// An incident with what was written about it.
#[derive(Object)]
struct IncidentWithTexts {
    #[oai(flatten)]
    incident: IncidentResource,
    /// The summary. `null` if it was destroyed.
    summary: Option<String>,
    /// The lessons. `null` until the incident is closed.
    lessons: Option<String>,
}

/// A page of incidents.
#[derive(Object)]
struct IncidentPage {
    /// The incidents of this page.
    items: Vec<IncidentResource>,
    /// The cursor of the next page. `null` on the last page.
    next_cursor: Option<String>,
    /// The moment of this state. Present if the query has `as_of`.
    #[oai(skip_serializing_if_is_none)]
    as_of: Option<AsOfResource>,
}

/// An event of the timeline of an incident.
#[derive(Object)]
struct IncidentTimelineEntry {
    /// The event.
    event: AuditEvent,
    /// The summary, the reason, the note or the lessons, if the event is one of the incident's own.
    text: Option<String>,
}

/// A page of the timeline of an incident.
#[derive(Object)]
struct IncidentTimeline {
    /// The events of this page.
    items: Vec<IncidentTimelineEntry>,
    /// The cursor of the next page. `null` on the last page.
    next_cursor: Option<String>,
}

/// An opened incident.
#[derive(Object)]
struct OpenedIncident {
    /// The id of the incident.
    incident_id: Uuid,
    /// The size of a signed checkpoint that covers the event. `null` if none did within 2 seconds, or nothing signs the log.
    checkpoint_size: Option<u64>,
    /// The size of the newest checkpoint that as many witnesses have cosigned as the policy asks for, at the time of the response.
    /// `null` if no witnesses are asked, or too few have cosigned one.
    anchored_size: Option<u64>,
}

/// A recorded step of the response to an incident.
#[derive(Object)]
struct IncidentReceipt {
    /// The position of the event. `null` if nothing changed.
    position: Option<u64>,
    /// The size of a signed checkpoint that covers the event. `null` if none did within 2 seconds, or nothing signs the log.
    checkpoint_size: Option<u64>,
    /// The size of the newest checkpoint that as many witnesses have cosigned as the policy asks for, at the time of the response.
    /// `null` if no witnesses are asked, or too few have cosigned one.
    anchored_size: Option<u64>,
}

#[OpenApi(prefix_path = "/v1/incidents", tag = "Tag::Incidents")]
impl Incidents {
    /// Open an incident
    ///
    /// Needs the permission `incidents.manage`. Opens an incident in the phase `identified`.
    #[oai(path = "/", method = "post", operation_id = "open_incident")]
    async fn open(
        &self,
        request: &Request,
        caller: BearerOrKey,
        body: JsonBody<IncidentRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<OpenedIncident, 201>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let IncidentRequest { severity, summary, owner, links } = body.read()?;
        let app = app(request)?;
        let mut input = Input::default();
        let severity = input.parse("/severity", IncidentSeverity::parse(&severity));
        let summary = input.parse("/summary", IncidentText::parse(&summary));
        let links = evidence(app, &mut input, links).await?;
        let (Some(severity), Some(summary), Some(links)) = (severity, summary, links) else {
            return Err(input.refused());
        };
        let context = context(request, caller.0.actor, idempotency_key.0)?;
        let new = NewIncident { severity, owner: owner.map(AccountId), links, summary };
        let done = app.commands.open_incident(&context, new).await?;
        let checkpoint_size = app.checkpoint_over(&done).await;
        let response = CommandResponse::of(done, |id| OpenedIncident {
            incident_id: id.0,
            checkpoint_size,
            anchored_size: app.anchored_size(),
        });
        Ok(response.with_checkpoint(checkpoint_size))
    }

    /// List incidents
    ///
    /// Needs the permission `incidents.manage`. Returns incidents by time of opening. Filters are combined with AND.
    #[oai(path = "/", method = "get", operation_id = "list_incidents")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// A filter for incidents in this phase.
        phase: Query<Option<String>>,
        /// A filter for incidents of this severity.
        severity: Query<Option<String>>,
        /// A filter for incidents of this owner.
        owner: Query<Option<Uuid>>,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The moment to read: a position of the log, or a time (RFC 3339). The state is the one after that event, or after the
        /// last event recorded by that time.
        as_of: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<IncidentPage>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let app = app(request)?;
        let mut input = Input::default();
        let phase = input.parse_optional("/phase", phase.0.as_deref().map(IncidentPhase::parse));
        let severity = input.parse_optional("/severity", severity.0.as_deref().map(IncidentSeverity::parse));
        input.check()?;
        let view = app.caught_up(Projection::Incidents, min_position.0).await?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let past = AsOfPaging::of(app, &[Projection::Incidents], as_of.0, wanted, read_id).await?;
        let filter = IncidentFilter { phase, severity, owner: owner.0.map(AccountId) };
        let position = past.moment.map(|moment| moment.position);
        let page = incidents::list(&app.pool, &filter, &past.paging, position).await.map_err(query_failed)?;
        Ok(view.of(IncidentPage {
            items: page.items.into_iter().map(IncidentResource::of).collect(),
            next_cursor: past.next(page.next),
            as_of: past.shown(),
        }))
    }

    /// Get an incident
    ///
    /// Needs the permission `incidents.manage`. Returns the incident with its summary and its lessons.
    #[oai(path = "/:incident_id", method = "get", operation_id = "get_incident")]
    async fn show(
        &self,
        request: &Request,
        caller: BearerOrKey,
        incident_id: Path<Uuid>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<IncidentWithTexts>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let app = app(request)?;
        let view = app.caught_up(Projection::Incidents, min_position.0).await?;
        let row = find(app, incident_id.0).await?;
        let positions: Vec<i64> = [Some(row.opened_position), row.closed_position].into_iter().flatten().collect();
        let opened = app.commands.vault().open_personal(&positions).await.map_err(CommandError::from)?;
        let text = |position: Option<i64>, field| {
            let text = opened.get(&position?).and_then(|facts: &PersonalData| facts.get(field));
            text.map(str::to_owned)
        };
        Ok(view.of(IncidentWithTexts {
            summary: text(Some(row.opened_position), SealedField::Summary),
            lessons: text(row.closed_position, SealedField::Lessons),
            incident: IncidentResource::of(row),
        }))
    }

    /// Get the timeline of an incident
    ///
    /// Needs the permissions `incidents.manage` and `audit.read`. Returns events in the order of the log: the incident's own with
    /// what was written, those linked to it, and those that its containments caused.
    #[oai(path = "/:incident_id/timeline", method = "get", operation_id = "get_incident_timeline")]
    async fn timeline(
        &self,
        request: &Request,
        caller: BearerOrKey,
        incident_id: Path<Uuid>,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<IncidentTimeline>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        caller.0.require(Permission::AuditRead)?;
        let app = app(request)?;
        app.caught_up(Projection::Incidents, min_position.0).await?;
        let view = app.caught_up(Projection::Audit, min_position.0).await?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let paging = wanted.paging(read_position)?;
        let row = find(app, incident_id.0).await?;
        let _permit = app.look_back().await?;
        let page = incidents::timeline(&app.pool, &row, &paging).await.map_err(query_failed)?;
        let events = page.items.iter().map(AuditEvent::read).collect::<Result<Vec<_>, _>>()?;
        let own: Vec<i64> = page
            .items
            .iter()
            .zip(&events)
            .filter(|(_, event)| event.is_of(row.incident_id))
            .map(|(entry, _)| entry.position)
            .collect();
        let opened = app.commands.vault().open_personal(&own).await.map_err(CommandError::from)?;
        let items = page.items.iter().zip(events).map(|(entry, event)| {
            let text = opened.get(&entry.position).and_then(|facts| {
                let fields = [SealedField::Summary, SealedField::Reason, SealedField::Note, SealedField::Lessons];
                fields.into_iter().find_map(|field| facts.get(field).map(str::to_owned))
            });
            IncidentTimelineEntry { event, text }
        });
        let next_cursor = page.next.map(|position| super::input::cursor_of(paging.order, position));
        Ok(view.of(IncidentTimeline { items: items.collect(), next_cursor }))
    }

    /// Change an incident's owner or severity
    ///
    /// Needs the permission `incidents.manage`. Members that are missing stay as they are.
    ///
    /// Answers 409 `incident_phase` if the incident is closed.
    #[oai(path = "/:incident_id", method = "patch", operation_id = "change_incident")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        incident_id: Path<Uuid>,
        body: JsonBody<IncidentChangeRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<IncidentReceipt>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let IncidentChangeRequest { owner, severity } = body.read()?;
        let mut input = Input::default();
        let severity = input.parse_optional("/severity", severity.as_deref().map(IncidentSeverity::parse));
        input.check()?;
        let step = IncidentStep::Triage(owner.map(AccountId), severity);
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let app = app(request)?;
        receipt(app, app.commands.take_incident_step(&context, IncidentId(incident_id.0), step).await?).await
    }

    /// Record the eradication of the threat
    ///
    /// Needs the permission `incidents.manage`. The threat and its cause are removed.
    ///
    /// Answers 409 `incident_phase` unless the incident is contained.
    #[oai(path = "/:incident_id/eradicate", method = "post", operation_id = "eradicate_incident")]
    async fn eradicate(
        &self,
        request: &Request,
        caller: Bearer,
        incident_id: Path<Uuid>,
        body: JsonBody<IncidentPhaseRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<IncidentReceipt>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let step = IncidentStep::Eradicate(text("/note", &body.read()?.note)?);
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let app = app(request)?;
        receipt(app, app.commands.take_incident_step(&context, IncidentId(incident_id.0), step).await?).await
    }

    /// Record the recovery of the service
    ///
    /// Needs the permission `incidents.manage`. The service works as usual.
    ///
    /// Answers 409 `incident_phase` unless the threat is eradicated.
    #[oai(path = "/:incident_id/recover", method = "post", operation_id = "recover_incident")]
    async fn recover(
        &self,
        request: &Request,
        caller: Bearer,
        incident_id: Path<Uuid>,
        body: JsonBody<IncidentPhaseRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<IncidentReceipt>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let step = IncidentStep::Recover(text("/note", &body.read()?.note)?);
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let app = app(request)?;
        receipt(app, app.commands.take_incident_step(&context, IncidentId(incident_id.0), step).await?).await
    }

    /// Close an incident
    ///
    /// Needs the permission `incidents.manage`. Records the lessons. A closed incident still takes notes.
    ///
    /// Answers 409 `incident_phase` unless the service has recovered.
    #[oai(path = "/:incident_id/close", method = "post", operation_id = "close_incident")]
    async fn close(
        &self,
        request: &Request,
        caller: Bearer,
        incident_id: Path<Uuid>,
        body: JsonBody<IncidentCloseRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<IncidentReceipt>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let step = IncidentStep::Close(text("/lessons", &body.read()?.lessons)?);
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let app = app(request)?;
        receipt(app, app.commands.take_incident_step(&context, IncidentId(incident_id.0), step).await?).await
    }

    /// Add a note to an incident
    ///
    /// Needs the permission `incidents.manage`. Records the note and the evidence, in any phase.
    ///
    /// Answers 409 `incident_full` if the incident has as many notes or as much evidence as one may have.
    #[oai(path = "/:incident_id/notes", method = "post", operation_id = "note_incident")]
    async fn note(
        &self,
        request: &Request,
        caller: BearerOrKey,
        incident_id: Path<Uuid>,
        body: JsonBody<IncidentNoteRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<IncidentReceipt>, Problem> {
        caller.0.require(Permission::IncidentsManage)?;
        let IncidentNoteRequest { note, links } = body.read()?;
        let app = app(request)?;
        let mut input = Input::default();
        let note = input.parse("/note", IncidentText::parse(&note));
        let links = evidence(app, &mut input, links).await?;
        let (Some(note), Some(links)) = (note, links) else { return Err(input.refused()) };
        let context = context(request, caller.0.actor, idempotency_key.0)?;
        let step = IncidentStep::Note(note, links);
        receipt(app, app.commands.take_incident_step(&context, IncidentId(incident_id.0), step).await?).await
    }
}

async fn receipt(app: &App, done: CommandOutcome<()>) -> Result<CommandResponse<IncidentReceipt>, Problem> {
    let checkpoint_size = app.checkpoint_over(&done).await;
    let position = done.position;
    let anchored_size = app.anchored_size();
    let response = CommandResponse::of(done, |()| IncidentReceipt { position, checkpoint_size, anchored_size });
    Ok(response.with_checkpoint(checkpoint_size))
}

async fn find(app: &App, incident: Uuid) -> Result<IncidentRow, Problem> {
    let row = incidents::get(&app.pool, IncidentId(incident)).await.map_err(query_failed)?;
    row.ok_or_else(Problem::not_found)
}

fn text(pointer: &str, text: &str) -> Result<IncidentText, Problem> {
    let mut input = Input::default();
    input.parse(pointer, IncidentText::parse(text)).ok_or_else(|| input.refused())
}

/// Reads evidence. Events must be in the log. `None` for a fault.
async fn evidence(
    app: &App,
    input: &mut Input,
    given: Option<EvidenceResource>,
) -> Result<Option<IncidentLinks>, Problem> {
    let EvidenceResource { accounts, events, findings, sessions } = given.unwrap_or_default();
    if [accounts.len(), events.len(), findings.len(), sessions.len()].into_iter().any(|length| length > MAX_LINKS) {
        return Err(Problem::invalid_input(vec![FieldError::new(
            "/links",
            "must have at most 100 items in each list",
        )]));
    }
    if let Some(last) = events.iter().max()
        && *last >= app.commands.log().size().await.map_err(CommandError::from)?
    {
        return Err(Problem::invalid_input(vec![FieldError::new("/links/events", "must be positions of the log")]));
    }
    let rules = findings.iter().enumerate();
    let rules: Option<BTreeSet<FindingRule>> =
        rules.map(|(index, rule)| input.parse(&format!("/links/findings/{index}"), FindingRule::parse(rule))).collect();
    Ok(rules.map(|findings| IncidentLinks {
        accounts: accounts.into_iter().map(AccountId).collect(),
        events: events.into_iter().collect(),
        findings,
        sessions: sessions.into_iter().map(SessionId).collect(),
    }))
}

impl IncidentResource {
    fn of(row: IncidentRow) -> Self {
        let ids = |list: &[String]| list.iter().filter_map(|id| id.parse().ok()).collect();
        Self {
            incident_id: row.incident_id,
            phase: row.phase,
            phase_at: row.phase_at.into(),
            severity: row.severity,
            owner: row.owner,
            opened_at: row.opened_at.into(),
            opened_by: ActorResource { kind: row.opened_by_kind, id: row.opened_by },
            opened_position: row.opened_position.unsigned_abs(),
            links: EvidenceResource {
                accounts: ids(&row.accounts),
                events: row.events.iter().filter_map(|position| position.parse().ok()).collect(),
                findings: row.findings,
                sessions: ids(&row.sessions),
            },
        }
    }
}
