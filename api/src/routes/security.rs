//! Security metrics for dashboards and auditors: counts of events, each with the query that lists them, and gauges.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use fulexo_domain::permission::Permission;
use fulexo_domain::values::InvalidValue;
use fulexo_node::answer::query_failed;
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::http::Problem;
use fulexo_node::http::problem::FieldError;
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::as_of::Moment;
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::{counts, metrics};
use poem::Request;
use poem_openapi::param::{Header, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::as_of::{self, AsOfResource};
use super::input::Input;
use super::tag::Tag;

pub struct Security;

/// The most steps in a window.
const MOST_STEPS: i64 = 200;

/// Security metrics of a window.
#[derive(Object)]
struct SecurityMetrics {
    /// The moment of the metrics.
    as_of: AsOfResource,
    /// The start of the first step.
    from: Timestamp,
    /// The end of the last step. Events after the moment are not counted.
    to: Timestamp,
    /// The length of a step, in seconds.
    step_seconds: u64,
    /// The steps of the window, in order.
    steps: Vec<MetricStep>,
    /// The share of logins in this window that succeeded, 0 to 1, of those that succeeded or failed. `null` without any.
    login_success_rate: Option<f64>,
    gauges: SecurityGauges,
}

/// The counts of one step.
#[derive(Object)]
struct MetricStep {
    /// The start of the step.
    from: Timestamp,
    /// The end of the step, which the step does not include.
    to: Timestamp,
    /// The counts by event type. Types without an event are left out.
    events: Vec<EventCount>,
}

/// The number of events of one type.
#[derive(Object)]
struct EventCount {
    /// The event type, `<category>.<fact>`.
    #[oai(rename = "type")]
    event_type: String,
    count: u64,
    /// The path and query that list exactly these events.
    list: String,
}

/// The gauges at the moment.
#[derive(Object)]
struct SecurityGauges {
    /// The number of accounts.
    accounts: u64,
    /// The number of suspended accounts.
    suspended: u64,
    /// The number of locked accounts.
    locked: u64,
    /// The number of accounts with a second factor.
    second_factor: u64,
    /// The share of accounts with a second factor, 0 to 1. `null` without any account.
    second_factor_rate: Option<f64>,
    /// The number of active sessions.
    live_sessions: u64,
    /// The number of holders of each role that has any.
    holders: Vec<RoleHolders>,
}

/// The number of holders of a role.
#[derive(Object)]
struct RoleHolders {
    role: String,
    /// The number of accounts that have the role.
    holders: u64,
}

#[OpenApi(prefix_path = "/v1/security", tag = "Tag::Metrics")]
impl Security {
    /// Get security metrics
    ///
    /// Needs the permission `metrics.read`. Returns the number of events by type and step, and gauges of accounts, sessions and
    /// roles at the end. Steps start at whole multiples of their length in UTC. The last step contains the moment and counts
    /// events up to it.
    #[oai(path = "/metrics", method = "get", operation_id = "get_security_metrics")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// The length of the window, such as `90m`, `24h` or `7d`, `1m` to `366d`. The default is `24h`.
        window: Query<Option<String>>,
        /// The length of a step, such as `5m` or `1h`. It must divide the window into at most 200 steps. The default is `1h`.
        step: Query<Option<String>>,
        /// The moment to read: a position of the log, or a time (RFC 3339). The state is the one after that event, or after the
        /// last event recorded by that time.
        as_of: Query<Option<String>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Json<SecurityMetrics>, Problem> {
        caller.0.require(Permission::MetricsRead)?;
        let app = app(request)?;
        let (window, step) = steps(window.0.as_deref().unwrap_or("24h"), step.0.as_deref().unwrap_or("1h"))?;
        let projections =
            [Projection::Metrics, Projection::Audit, Projection::Accounts, Projection::Sessions, Projection::Roles];
        app.caught_up(Projection::Metrics, min_position.0).await?;
        let moment = match as_of::moment(app, as_of.0.as_deref(), &projections).await? {
            Some(moment) => moment,
            None => as_of::present(app, &projections).await?,
        };
        let to = start_of_step(moment.time, step) + step;
        let from = to - window;
        let _leave = app.look_back().await?;
        let events = metrics::events(&app.pool, from, step, moment).await.map_err(query_failed)?;
        let gauges = metrics::gauges(&app.pool, moment).await.map_err(query_failed)?;
        let holders = counts::holders(&app.pool, moment.position).await.map_err(query_failed)?;
        Ok(Json(SecurityMetrics {
            as_of: moment.into(),
            from: from.into(),
            to: to.into(),
            step_seconds: step.num_seconds().unsigned_abs(),
            login_success_rate: login_success_rate(&events),
            steps: in_steps(events, from, window, step, moment),
            gauges: SecurityGauges {
                accounts: gauges.accounts,
                suspended: gauges.suspended,
                locked: gauges.locked,
                second_factor: gauges.second_factor,
                second_factor_rate: rate(gauges.second_factor, gauges.accounts),
                live_sessions: gauges.live_sessions,
                holders: holders.into_iter().map(|(role, holders)| RoleHolders { role, holders }).collect(),
            },
        }))
    }
}

/// Parses a window and its steps.
fn steps(window: &str, step: &str) -> Result<(TimeDelta, TimeDelta), Problem> {
    let mut input = Input::default();
    let window = input.parse("/window", duration(window));
    let step = input.parse("/step", duration(step));
    let (Some(window), Some(step)) = (window, step) else { return Err(input.refused()) };
    let (seconds, of) = (window.num_seconds(), step.num_seconds());
    if seconds % of == 0 && seconds / of <= MOST_STEPS {
        return Ok((window, step));
    }
    let detail = format!("must divide the window into at most {MOST_STEPS} steps");
    Err(Problem::invalid_input(vec![FieldError::new("/step", detail)]))
}

/// Parses a duration such as `90m`, `24h` or `7d`, from one minute to 366 days.
fn duration(text: &str) -> Result<TimeDelta, InvalidValue> {
    let minutes = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "m" => 1,
            "h" => 60,
            "d" => 24 * 60,
            _ => return None,
        };
        let is_number = (1..=6).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let minutes = number.parse::<i64>().ok().filter(|_| is_number)? * unit;
        (1..=366 * 24 * 60).contains(&minutes).then(|| TimeDelta::minutes(minutes))
    };
    minutes().ok_or(InvalidValue("must be a duration such as 90m, 24h or 7d, from 1m to 366d"))
}

/// Returns the start of the step that contains the time: a whole multiple of the step's length since 1970 in UTC.
fn start_of_step(time: DateTime<Utc>, step: TimeDelta) -> DateTime<Utc> {
    let into = time.timestamp_micros().rem_euclid(step.num_microseconds().unwrap_or(1).max(1));
    DateTime::from_timestamp_micros(time.timestamp_micros() - into).unwrap_or(time)
}

fn in_steps(
    events: Vec<metrics::EventCountRow>,
    from: DateTime<Utc>,
    window: TimeDelta,
    step: TimeDelta,
    moment: Moment,
) -> Vec<MetricStep> {
    let mut by_step: BTreeMap<i64, Vec<metrics::EventCountRow>> = BTreeMap::new();
    for events in events {
        by_step.entry(events.step).or_default().push(events);
    }
    let mut begins = from;
    (0..window.num_seconds() / step.num_seconds())
        .map(|nth| {
            let (from, to) = (begins, begins + step);
            begins = to;
            let count = |events: metrics::EventCountRow| EventCount {
                list: list(&events.event_type, from, to, moment),
                event_type: events.event_type,
                count: events.events.unsigned_abs(),
            };
            let events = by_step.remove(&nth).unwrap_or_default().into_iter().map(count).collect();
            MetricStep { from: from.into(), to: to.into(), events }
        })
        .collect()
}

/// Returns the path and query that list the counted events.
fn list(event_type: &str, from: DateTime<Utc>, to: DateTime<Utc>, moment: Moment) -> String {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("/v1/audit/events?type={event_type}&from={}&to={}&as_of={}", text(from), text(to), moment.position)
}

fn login_success_rate(events: &[metrics::EventCountRow]) -> Option<f64> {
    let count = |event_type: &str| -> u64 {
        events.iter().filter(|it| it.event_type == event_type).map(|it| it.events.unsigned_abs()).sum()
    };
    let succeeded = count("authentication.succeeded");
    rate(succeeded, succeeded + count("authentication.failed"))
}

/// Returns the ratio of a part to the whole, rounded to four digits.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_steps_are_whole_minutes_and_few_enough() {
        let minutes = |window, step| steps(window, step).ok().map(|(w, s)| (w.num_minutes(), s.num_minutes()));
        assert_eq!(minutes("24h", "1h"), Some((1_440, 60)));
        assert_eq!(minutes("200m", "1m"), Some((200, 1)));
        assert_eq!(minutes("366d", "2d"), Some((366 * 1_440, 2_880)));
        for (window, step) in [
            ("201m", "1m"),
            ("24h", "7h"),
            ("1h", "2h"),
            ("0h", "1h"),
            ("1h", "0m"),
            ("1h", ""),
            ("h", "1h"),
            ("-1h", "1h"),
            ("+1h", "1h"),
            ("1h", "60s"),
            ("367d", "367d"),
            ("9999999d", "1d"),
            ("1ö", "1h"),
        ] {
            assert_eq!(minutes(window, step), None, "{window} {step}");
        }
    }

    #[test]
    fn steps_begin_at_whole_multiples_of_their_length() {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let start = |text, step| start_of_step(time(text), step);
        assert_eq!(start("2026-11-01T12:34:56Z", TimeDelta::hours(1)), time("2026-11-01T12:00:00Z"));
        assert_eq!(start("2026-11-01T12:00:00Z", TimeDelta::hours(1)), time("2026-11-01T12:00:00Z"));
        assert_eq!(start("1969-12-31T23:59:59Z", TimeDelta::days(1)), time("1969-12-31T00:00:00Z"));
    }
}
