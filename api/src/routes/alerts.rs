//! Alerts of a monitor, which open incidents: the webhook of Prometheus Alertmanager.
//!
//! The format is somebody else's, and grows: members that are not read are skipped.

use chrono::{DateTime, Utc};
use fulexo_commands::{CommandOutcome, IncidentCause, NewIncident};
use fulexo_domain::incident::{IncidentLinks, IncidentSeverity};
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{IncidentText, InvalidValue, parse_timestamp};
use fulexo_node::answer::CommandResponse;
use fulexo_node::caller::{BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use poem::Request;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::input::Input;
use super::tag::Tag;

/// The most alerts whose text is read.
const MAX_ALERTS: usize = 100;
/// The version of the webhook.
const VERSION: &str = "4";

pub struct Alerts;

/// The labels of an alert that are read.
#[derive(Object, Default)]
struct AlertLabels {
    /// The name of the alert.
    alertname: Option<String>,
    /// The severity: `critical`; `high` or `error`; `medium` or `warning`. Any other, and none, is `low`.
    severity: Option<String>,
}

/// The annotations of an alert that are read.
#[derive(Object, Default)]
struct AlertAnnotations {
    /// The alert in one line.
    summary: Option<String>,
    /// The alert in more words.
    description: Option<String>,
}

/// An alert.
#[derive(Object)]
#[oai(rename_all = "camelCase")]
struct MonitorAlert {
    /// The state: `firing` or `resolved`.
    status: String,
    /// The time (RFC 3339) at which it began to fire.
    starts_at: String,
    /// The labels. Others are skipped.
    labels: Option<AlertLabels>,
    /// The annotations. Others are skipped.
    annotations: Option<AlertAnnotations>,
}

/// A notification by the webhook of Prometheus Alertmanager. Members that are not listed are skipped.
#[derive(Object)]
#[oai(rename_all = "camelCase")]
struct AlertNotification {
    /// The version of the format: `4`.
    version: String,
    /// The key of the group of alerts.
    group_key: String,
    /// The labels that all alerts share.
    common_labels: Option<AlertLabels>,
    /// The alerts. The texts of the first 100 that fire are read, and the rest are counted.
    alerts: Vec<MonitorAlert>,
    /// The number of alerts that were left out.
    truncated_alerts: Option<u64>,
}

/// The incident of a group of alerts.
#[derive(Object)]
struct AlertReceipt {
    /// The id of the incident. `null` if no alert fires, and none is known.
    incident_id: Option<Uuid>,
    /// `true` if this notification opened it.
    opened: bool,
}

#[OpenApi(prefix_path = "/v1/incidents", tag = "Tag::Incidents")]
impl Alerts {
    /// Report alerts
    ///
    /// Needs the permission `incidents.alert`. Takes the webhook of Prometheus Alertmanager, and opens an incident for each
    /// group that fires. Another notification of the same group and the same beginning answers the same incident. Alerts that
    /// are resolved neither open nor close one. No `Idempotency-Key` is needed.
    #[oai(path = "/alerts", method = "post", operation_id = "report_alerts")]
    async fn report(
        &self,
        request: &Request,
        caller: BearerOrKey,
        body: JsonBody<AlertNotification>,
    ) -> Result<CommandResponse<AlertReceipt>, Problem> {
        caller.0.require(Permission::IncidentsAlert)?;
        let notification = body.read_known()?;
        let mut input = Input::default();
        let version = if notification.version == VERSION { Ok(()) } else { Err(InvalidValue("must be 4")) };
        input.parse("/version", version);
        let key = &notification.group_key;
        input.parse("/groupKey", if key.is_empty() { Err(InvalidValue("must not be empty")) } else { Ok(()) });
        let mut began = Began::default();
        for (index, alert) in notification.alerts.iter().enumerate() {
            let pointer = format!("/alerts/{index}/startsAt");
            let Some(time) = input.parse(&pointer, parse_timestamp(&alert.starts_at)) else { break };
            began.note(alert.fires(), time);
        }
        input.check()?;
        let app = app(request)?;
        let known = |incident_id: Option<Uuid>| AlertReceipt { incident_id, opened: false };
        let Some(began_at) = began.firing else {
            let found = match began.resolved {
                Some(time) => app.commands.incident_of(&notification.cause(time)).await?,
                None => None,
            };
            let found = CommandOutcome { value: found.map(|id| id.0), position: None };
            return Ok(CommandResponse::of(found, known));
        };
        let mut input = Input::default();
        let summary = input.parse("/alerts", notification.summary()).ok_or_else(|| input.refused())?;
        let (severity, links) = (notification.severity(), IncidentLinks::default());
        let new = NewIncident { severity, owner: None, links, summary };
        let context = context(request, caller.0.actor, None)?;
        let done = app.commands.report_incident(&context, &notification.cause(began_at), new).await?;
        Ok(CommandResponse::of(done, |(id, opened)| AlertReceipt { incident_id: Some(id.0), opened }))
    }
}

/// The earliest beginnings of the alerts of a notification.
#[derive(Default)]
struct Began {
    firing: Option<DateTime<Utc>>,
    resolved: Option<DateTime<Utc>>,
}

impl Began {
    fn note(&mut self, fires: bool, time: DateTime<Utc>) {
        let earliest = if fires { &mut self.firing } else { &mut self.resolved };
        *earliest = Some(earliest.map_or(time, |known| known.min(time)));
    }
}

impl MonitorAlert {
    fn fires(&self) -> bool {
        self.status == "firing"
    }

    /// Returns the name and what is said about it, in one line.
    fn line(&self) -> String {
        let name = self.labels.as_ref().and_then(|labels| labels.alertname.as_deref()).unwrap_or("an alert");
        let said = self.annotations.as_ref();
        let said = [said.and_then(|it| it.summary.as_deref()), said.and_then(|it| it.description.as_deref())];
        let said: Vec<&str> = said.into_iter().flatten().filter(|text| !text.trim().is_empty()).collect();
        if said.is_empty() { name.to_owned() } else { format!("{name}: {}", said.join(" – ")) }
    }
}

impl AlertNotification {
    fn firing(&self) -> impl Iterator<Item = &MonitorAlert> {
        self.alerts.iter().filter(|alert| alert.fires())
    }

    fn cause(&self, began_at: DateTime<Utc>) -> IncidentCause {
        let name = vec!["alertmanager".to_owned(), self.group_key.clone()];
        IncidentCause { name, began_at, permission: Permission::IncidentsAlert }
    }

    /// Returns the worst severity of the labels.
    fn severity(&self) -> IncidentSeverity {
        let of_alerts = self.firing().map(|alert| alert.labels.as_ref());
        let named = of_alerts.chain([self.common_labels.as_ref()]).flatten();
        let severities = named.filter_map(|labels| labels.severity.as_deref()).map(severity);
        severities.max().unwrap_or(IncidentSeverity::Low)
    }

    fn summary(&self) -> Result<IncidentText, InvalidValue> {
        let count = self.firing().count();
        let lines: Vec<String> = self.firing().take(MAX_ALERTS).map(MonitorAlert::line).collect();
        let truncated = self.truncated_alerts.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let unread = count.saturating_sub(lines.len()).saturating_add(truncated);
        IncidentText::of_lines(&format!("{count} alerts fire"), lines.iter().map(String::as_str), unread)
    }
}

fn severity(label: &str) -> IncidentSeverity {
    match label.to_ascii_lowercase().as_str() {
        "critical" => IncidentSeverity::Critical,
        "error" | "high" => IncidentSeverity::High,
        "warning" | "medium" => IncidentSeverity::Medium,
        _ => IncidentSeverity::Low,
    }
}
