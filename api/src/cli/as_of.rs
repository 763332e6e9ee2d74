//! `fulexo as-of`: accounts, sessions, roles, grants and metrics at a position or a time. Prints ids and no personal data,
//! which is sealed.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use fulexo_domain::permission::{built_in_permissions, built_in_roles};
use fulexo_domain::values::RoleName;
use fulexo_node::database::connect;
use fulexo_projections::as_of::{AsOf as When, Moment};
use fulexo_projections::page::{MAX_PAGE_SIZE, Paging};
use fulexo_projections::read_models::{accounts, counts, metrics, roles, sessions};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::events::short;
use super::failure::Failure;
use super::output::{Output, note};
use super::process::block_on;
use super::replay::{resolve, seen};
use super::table::{Table, TableColumn};
use super::target::Target;

#[derive(Args)]
pub struct AsOfArgs {
    /// Show this moment: a position of the log, or a time (RFC 3339) such as 2026-11-01T12:00Z.
    #[arg(value_name = "WHEN")]
    when: When,
    /// Show this view.
    #[arg(value_enum)]
    view: View,
    /// Print one JSON document per line.
    #[arg(long)]
    json: bool,
    /// Print whole lines, regardless of the width of the terminal.
    #[arg(long, conflicts_with = "json")]
    wide: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, ValueEnum)]
enum View {
    /// Accounts with their roles and states.
    Accounts,
    /// Active sessions.
    Sessions,
    /// Roles with their permissions.
    Roles,
    /// Role grants with their times, grantors and permissions.
    Grants,
    /// Events of the 24 hours before, by type, and gauges.
    Metrics,
}

impl AsOfArgs {
    pub fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        block_on(async {
            let pool = connect(&url, 2).await?;
            let moment = resolve("WHEN", self.when, &pool).await?;
            seen(&pool, moment.position).await?;
            let table = Table::new(self.view.columns());
            let mut out = Lines { json: self.json, table, has_head: true, out: Output::wide(self.wide) };
            out.head(moment)?;
            match self.view {
                View::Accounts => show_accounts(&pool, moment, &mut out).await?,
                View::Sessions => show_sessions(&pool, moment, &mut out).await?,
                View::Roles => show_roles(&pool, moment, &mut out).await?,
                View::Grants => show_grants(&pool, moment, &mut out).await?,
                View::Metrics => show_metrics(&pool, moment, &mut out).await?,
            }
            out.flush()
        })
    }
}

impl View {
    const fn columns(self) -> &'static [TableColumn] {
        match self {
            Self::Accounts => &[
                TableColumn::Text("account id"),
                TableColumn::Text("registered at"),
                TableColumn::Elastic("roles"),
                TableColumn::Elastic("state"),
            ],
            Self::Sessions => &[
                TableColumn::Text("session id"),
                TableColumn::Text("account id"),
                TableColumn::Text("started at"),
                TableColumn::Text("last seen at"),
            ],
            Self::Roles => {
                &[TableColumn::Text("role"), TableColumn::Number("holders"), TableColumn::Elastic("permissions")]
            }
            Self::Grants => &[
                TableColumn::Text("account id"),
                TableColumn::Elastic("role"),
                TableColumn::Text("granted at"),
                TableColumn::Number("position"),
                TableColumn::Text("granted by"),
                TableColumn::Elastic("permissions"),
            ],
            Self::Metrics => &[TableColumn::Text("metric"), TableColumn::Number("number")],
        }
    }
}

async fn show_accounts(pool: &PgPool, moment: Moment, out: &mut Lines) -> Result<(), Failure> {
    let mut paging = Paging::first(MAX_PAGE_SIZE);
    loop {
        let page = accounts::list_as_of(pool, &accounts::AccountFilter::default(), &paging, moment).await?;
        for row in &page.items {
            let locked = row.locked_until.max(row.second_factor_locked_until).is_some_and(|until| until > moment.time);
            let state = [
                (row.suspended, "suspended"),
                (locked, "locked"),
                (row.password_expired, "password_expired"),
                (row.second_factor, "second_factor"),
            ];
            let state: Vec<&str> = state.into_iter().filter(|(is, _)| *is).map(|(_, state)| state).collect();
            out.row(&[
                ("account_id", json!(row.account_id)),
                ("registered_at", time(row.registered_at)),
                ("roles", json!(row.roles)),
                ("state", json!(state)),
            ])?;
        }
        if page.next.is_none() || out.out.is_closed() {
            return Ok(());
        }
        paging.after = page.next;
    }
}

async fn show_sessions(pool: &PgPool, moment: Moment, out: &mut Lines) -> Result<(), Failure> {
    let filter = sessions::SessionFilter { account: None, live: Some(true) };
    let mut paging = Paging::first(MAX_PAGE_SIZE);
    loop {
        let page = sessions::list_as_of(pool, &filter, &paging, moment).await?;
        for row in &page.items {
            out.row(&[
                ("session_id", json!(row.session_id)),
                ("account_id", json!(row.account_id)),
                ("started_at", time(row.started_at)),
                ("last_seen_at", time(row.last_seen_at)),
            ])?;
        }
        if page.next.is_none() || out.out.is_closed() {
            return Ok(());
        }
        paging.after = page.next;
    }
}

async fn show_roles(pool: &PgPool, moment: Moment, out: &mut Lines) -> Result<(), Failure> {
    let holders = counts::holders(pool, moment.position).await?;
    let mut show = |role: &str, permissions: Value| {
        let holders = holders.get(role).copied().unwrap_or_default();
        out.row(&[("role", json!(role)), ("holders", json!(holders)), ("permissions", permissions)])
    };
    for role in built_in_roles() {
        show(role.as_str(), permissions_of(role.as_str(), None))?;
    }
    for role in roles::defined(pool, moment.position).await? {
        let permissions = if role.retired { json!(["(retired)"]) } else { json!(role.permissions) };
        show(&role.role, permissions)?;
    }
    Ok(())
}

async fn show_grants(pool: &PgPool, moment: Moment, out: &mut Lines) -> Result<(), Failure> {
    let mut paging = Paging::first(MAX_PAGE_SIZE);
    loop {
        let position = Some(moment.position);
        let page = roles::grants(pool, &roles::GrantFilter::default(), &paging, position).await?;
        for roles::GrantWithPermissions { grant, permissions } in &page.items {
            let by = grant.granted_by.map_or_else(|| json!(grant.granted_by_kind), |id| json!(id));
            out.row(&[
                ("account_id", json!(grant.account_id)),
                ("role", json!(grant.role)),
                ("granted_at", time(grant.granted_at)),
                ("position", json!(grant.since)),
                ("granted_by", by),
                ("permissions", permissions_of(&grant.role, permissions.as_deref())),
            ])?;
        }
        if page.next.is_none() || out.out.is_closed() {
            return Ok(());
        }
        paging.after = page.next;
    }
}

async fn show_metrics(pool: &PgPool, moment: Moment, out: &mut Lines) -> Result<(), Failure> {
    let day = TimeDelta::days(1);
    let minute = moment.time.duration_trunc(TimeDelta::minutes(1)).unwrap_or(moment.time);
    let mut show = |metric: &str, number: Value| out.row(&[("metric", json!(metric)), ("number", number)]);
    for events in metrics::events(pool, minute + TimeDelta::minutes(1) - day, day, moment).await? {
        show(&events.event_type, json!(events.events))?;
    }
    let gauges = metrics::gauges(pool, moment).await?;
    show("accounts", json!(gauges.accounts))?;
    show("accounts suspended", json!(gauges.suspended))?;
    show("accounts locked", json!(gauges.locked))?;
    show("accounts with a second factor", json!(gauges.second_factor))?;
    show("active sessions", json!(gauges.live_sessions))?;
    for (role, holders) in counts::holders(pool, moment.position).await? {
        show(&format!("holders of {role}"), json!(holders))?;
    }
    Ok(())
}

/// Returns the permissions of a role. A built-in role has the permissions of this release.
fn permissions_of(role: &str, defined: Option<&[String]>) -> Value {
    if let Some(defined) = defined {
        return json!(defined);
    }
    let permissions = RoleName::parse(role).ok().and_then(|role| built_in_permissions(&role)).unwrap_or_default();
    json!(permissions.iter().map(|permission| permission.as_str()).collect::<Vec<_>>())
}

fn time(time: DateTime<Utc>) -> Value {
    json!(fulexo_domain::leaf::format_time(time))
}

/// A table for people, or one JSON document per line.
struct Lines {
    json: bool,
    /// The rows of one page that are not written yet.
    table: Table,
    has_head: bool,
    out: Output,
}

impl Lines {
    fn head(&mut self, moment: Moment) -> Result<(), Failure> {
        let at = moment.time.format("%Y-%m-%d %H:%M:%S UTC");
        let position =
            moment.last().map_or_else(|| "before the first event".to_owned(), |last| format!("position {last}"));
        let text = format!("as of {position}, {at}");
        if self.json {
            note(text);
            return Ok(());
        }
        self.out.line(text)
    }

    fn row(&mut self, values: &[(&str, Value)]) -> Result<(), Failure> {
        if self.json {
            let document: serde_json::Map<_, _> =
                values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            return self.out.line(Value::Object(document));
        }
        let is_cut = self.out.is_cut();
        self.table.row(values.iter().map(|(name, value)| text(name, value, is_cut)));
        if self.table.len() >= usize::from(MAX_PAGE_SIZE) { self.flush() } else { Ok(()) }
    }

    /// Writes the rows of the table.
    fn flush(&mut self) -> Result<(), Failure> {
        if !self.json {
            self.out.table(&self.table, self.has_head)?;
            self.has_head = false;
            self.table.clear();
        }
        Ok(())
    }
}

/// Formats a value for people: a list as words, a time to the second, an id by its end if lines are cut.
fn text(name: &str, value: &Value, is_cut: bool) -> String {
    match value {
        Value::Array(items) => items.iter().map(|item| text("", item, is_cut)).collect::<Vec<_>>().join(" "),
        Value::String(time) if name.ends_with("_at") => time.get(..19).unwrap_or(time).replace('T', " "),
        Value::String(text) => match text.parse() {
            Ok(id) if is_cut => short(id),
            Ok(_) | Err(_) => text.clone(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
