//! What happened, counted, and what there was: for dashboards, and for auditors, who can list every event behind a number.

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

use super::as_of::{self, Shown};
use super::input::Input;
use super::tag::Tag;

pub struct Security;

/// Most steps in a window.
const MOST_STEPS: i64 = 200;

#[derive(Object)]
struct SecurityMetrics {
    /// Of which moment this is.
    as_of: Shown,
    /// Where the first step begins.
    from: Timestamp,
    /// Where the last step ends; what is behind the moment does not count.
    to: Timestamp,
    step_seconds: u64,
    steps: Vec<MetricStep>,
    /// Of the logins in these steps that succeeded or failed, the part that succeeded; missing where there were none.
    login_success_rate: Option<f64>,
    gauges: SecurityGauges,
}

#[derive(Object)]
struct MetricStep {
    from: Timestamp,
    /// The first time behind it.
    to: Timestamp,
    /// By type; what did not happen is missing.
    events: Vec<EventCount>,
}

#[derive(Object)]
struct EventCount {
    #[oai(rename = "type")]
    event_type: String,
    count: u64,
    /// Where these very events are listed.
    list: String,
}

/// What there was at the moment.
#[derive(Object)]
struct SecurityGauges {
    accounts: u64,
    suspended: u64,
    locked: u64,
    second_factor: u64,
    /// The part of all accounts that has a second factor; missing where there are none.
    second_factor_rate: Option<f64>,
    live_sessions: u64,
    /// Roles that somebody held.
    holders: Vec<RoleHolders>,
}

#[derive(Object)]
struct RoleHolders {
    role: String,
    holders: u64,
}

#[OpenApi(prefix_path = "/v1/security", tag = "Tag::Metrics")]
impl Security {
    /// Get security metrics
    ///
    /// Events of each type, counted step by step, and the state at the end.
    /// Steps begin at whole multiples of their length in UTC; the last one holds the moment, and counts up to it. Needs
    /// `metrics.read`.
    #[oai(path = "/metrics", method = "get", operation_id = "get_security_metrics")]
    async fn get(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// How far back, such as `90m`, `24h` or `7d`; 24 hours if not given.
        window: Query<Option<String>>,
        /// How long a step is: whole minutes, a part of the window, 200 steps at most; an hour if not given.
        step: Query<Option<String>>,
        /// A position of the log, or a time (RFC 3339): the state after that event, or after the last one recorded by then.
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

/// A window and the steps that it is cut into.
fn steps(window: &str, step: &str) -> Result<(TimeDelta, TimeDelta), Problem> {
    let mut input = Input::default();
    let window = input.parse("/window", duration(window));
    let step = input.parse("/step", duration(step));
    let (Some(window), Some(step)) = (window, step) else { return Err(input.refused()) };
    let (seconds, of) = (window.num_seconds(), step.num_seconds());
    if seconds % of == 0 && seconds / of <= MOST_STEPS {
        return Ok((window, step));
    }
    let detail = format!("must be a part of the window, of which there are {MOST_STEPS} at most");
    Err(Problem::invalid_input(vec![FieldError::new("/step", detail)]))
}

/// `90m`, `24h`, `7d`: a minute at least, a year at most.
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
    minutes().ok_or(InvalidValue("must be such as 90m, 24h or 7d, from 1m to 366d"))
}

/// Steps begin at whole multiples of their length, counted from 1970 in UTC.
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

/// The query that lists what was counted.
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

/// A part of a whole, to four digits.
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
