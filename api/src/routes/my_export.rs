//! The export of a person's own data: everything that is stored about them, as one JSON document, which is written while it is
//! read.

use std::fmt::Write as _;
use std::sync::Arc;

use fulexo_commands::{CommandError, EventCopy, KnownDevice};
use fulexo_domain::audit::{CopyFilter, CopyForm};
use fulexo_domain::permission::Permissions;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::AccountId;
use fulexo_node::answer::{behind, query_failed};
use fulexo_node::caller::{Authority, Bearer, Caller, app, context};
use fulexo_node::clock;
use fulexo_node::export_stream::{ExportFailure, ExportSource, ExportStream};
use fulexo_node::http::Problem;
use fulexo_node::http::files::takes_gzip;
use fulexo_node::http::problem::FieldError;
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::page::Paging;
use fulexo_projections::read_models::audit::{self, AuditFilter};
use fulexo_projections::read_models::{Projection, accounts, roles, sessions};
use poem::http::Version;
use poem::{Body, IntoResponse, Request, Response};
use poem_openapi::param::Header;
use poem_openapi::payload::Payload;
use poem_openapi::registry::MetaSchemaRef;
use poem_openapi::types::{Any, ToJSON, Type};
use poem_openapi::{ApiResponse, OpenApi};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::audit::AuditEvent;
use super::sessions::{SessionOrigin, with_origins};
use super::tag::Tag;

pub struct MyData;

/// The version of the document's form. `/schemas/my-data.json` describes it.
const FORM: u32 = 1;
/// The number of grants, of sessions, or of events, that are read at a time.
const PAGE: u16 = 200;

/// A JSON document that is written while it is read.
struct WrittenJson(Body);

impl Payload for WrittenJson {
    const CONTENT_TYPE: &'static str = "application/json; charset=utf-8";

    fn schema_ref() -> MetaSchemaRef {
        Any::<Value>::schema_ref()
    }
}

impl IntoResponse for WrittenJson {
    fn into_response(self) -> Response {
        self.0.with_content_type(Self::CONTENT_TYPE).into_response()
    }
}

/// A document with everything that is stored about a person.
#[derive(ApiResponse)]
enum MyDataResponse {
    /// The document. `/schemas/my-data.json` is its JSON Schema.
    #[oai(status = 200)]
    Document(
        WrittenJson,
        /// A name for a file.
        #[oai(header = "Content-Disposition")]
        String,
        /// `gzip`, if the request accepts it.
        #[oai(header = "Content-Encoding")]
        Option<String>,
        /// The request headers that select the content.
        #[oai(header = "Vary")]
        String,
        /// The JSON Schema of the document.
        #[oai(header = "Link")]
        String,
        /// The position of the last event that the response is sure to include.
        #[oai(header = "Log-Position")]
        Option<u64>,
    ),
}

#[OpenApi(prefix_path = "/v1/me", tag = "Tag::Me")]
impl MyData {
    /// Export your data
    ///
    /// Needs an elevated session. Returns everything that is stored about you as one JSON document: your account with its roles,
    /// known devices and sessions, and every event of the log that concerns you, with what is sealed alongside it. Passwords,
    /// seeds, codes and tokens are not in it: nobody can read them. `/schemas/my-data.json` is the document's JSON Schema.
    ///
    /// The export is an event itself, `audit.exported`.
    ///
    /// A response that ends without an error is complete. You may have one export under way at a node (429), and a node 4 (503).
    /// HTTP/1.0 is refused: it does not tell a complete response from another one.
    #[oai(path = "/export", method = "get", operation_id = "export_me")]
    async fn export(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<MyDataResponse, Problem> {
        let caller = caller.0;
        caller.require_elevated()?;
        let app = app(request)?;
        if request.version() < Version::HTTP_11 {
            let refused = "HTTP/1.0 does not tell a complete export from one that was cut: use HTTP/1.1";
            return Err(Problem::invalid_input(vec![FieldError::new("", refused)]));
        }
        let permit = app.own_export(caller.account)?;
        for projection in [Projection::Accounts, Projection::Roles, Projection::Sessions] {
            app.caught_up_for(&caller, projection, min_position.0).await?;
        }
        let end = app.caught_up_for(&caller, Projection::Audit, min_position.0).await?.last();
        let context = context(request, caller.actor(), None)?;
        let devices = app.commands.known_devices(&context, caller.account, caller.session).await?;
        let opening = opening(app, &caller, devices, end).await?;
        let account = caller.account;
        let caller = Authority::from(caller);
        let (form, filter) = (CopyForm::OwnData, CopyFilter::default());
        app.record_copy(request, &caller, EventCopy { form, first: 0, last: end, filter }).await?;
        let source = MyDataSource { app: Arc::clone(app), account, end, step: MyDataStep::Opening(opening) };
        let is_compressed = takes_gzip(request.headers());
        let export =
            ExportStream { app: Arc::clone(app), caller, needs: Permissions::NONE, source, is_compressed, permit };
        Ok(MyDataResponse::Document(
            WrittenJson(export.into_body()),
            "attachment; filename=\"my-data.json\"".to_owned(),
            is_compressed.then(|| "gzip".to_owned()),
            "accept-encoding".to_owned(),
            "</schemas/my-data.json>; rel=\"describedby\"".to_owned(),
            end,
        ))
    }
}

/// The document up to the sessions.
async fn opening(app: &App, caller: &Caller, devices: Vec<KnownDevice>, end: Option<u64>) -> Result<String, Problem> {
    let account = accounts::get(&app.pool, caller.account).await.map_err(query_failed)?;
    // A token is issued only to an account.
    let row = account.ok_or_else(|| behind(Projection::Accounts, caller.position()))?;
    let profile = app.commands.profile(caller.account).await?.ok_or_else(Problem::not_found)?;
    let grants = grants_of(app, caller.account).await?;
    let time = |time: chrono::DateTime<chrono::Utc>| Timestamp(time).to_json();
    let optional = |time: Option<chrono::DateTime<chrono::Utc>>| time.map(Timestamp).to_json();
    let grants: Vec<_> = grants
        .iter()
        .map(|held| {
            let by = json!({"kind": held.grant.granted_by_kind, "id": held.grant.granted_by});
            json!({"role": held.grant.role, "granted_at": time(held.grant.granted_at), "granted_by": by})
        })
        .collect();
    let devices: Vec<_> = devices
        .into_iter()
        .map(|known| {
            json!({
                "device_id": known.device, "first_used_at": time(known.first_used_at),
                "last_used_at": time(known.last_used_at), "expires_at": time(known.expires_at),
                "ip": known.ip, "user_agent": known.user_agent,
            })
        })
        .collect();
    let document = json!({
        "form": FORM,
        "exported_at": time(clock::now()),
        "last_position": end,
        "account": {
            "account_id": row.account_id,
            "email": profile.email.as_str(),
            "display_name": profile.display_name.as_ref().map(|name| name.as_str()),
            "email_verified": row.email_verified,
            "registered_at": time(row.registered_at),
            "password_changed_at": time(row.password_changed_at),
            "password_expired": row.password_expired,
            "last_login_at": optional(row.last_login_at),
            "second_factor": row.second_factor,
            "recovery_codes": row.recovery_codes,
            "locked_until": optional(row.locked_until.max(row.second_factor_locked_until)),
            "erasure_due_at": optional(row.erasure_due_at),
        },
        "roles": grants,
        "devices": devices,
    });
    let text = document.to_string();
    // The lists that may be long follow, inside the same object.
    Ok(format!("{},\"sessions\":[", text.strip_suffix('}').unwrap_or(&text)))
}

/// All grants to an account: at most one per role, of which there are a few hundred.
async fn grants_of(app: &App, account: AccountId) -> Result<Vec<roles::GrantWithPermissions>, Problem> {
    let filter = roles::GrantFilter { account: Some(account), role: None };
    let (mut paging, mut grants) = (Paging::first(PAGE), Vec::new());
    loop {
        let page = roles::grants(&app.pool, &filter, &paging, None).await.map_err(query_failed)?;
        grants.extend(page.items);
        match page.next {
            Some(last) => paging.after = Some(last),
            None => return Ok(grants),
        }
    }
}

/// The part of the document that is written next.
enum MyDataStep {
    Opening(String),
    /// Sessions after this one. `true` if one was written before.
    Sessions(Option<Uuid>, bool),
    /// Events after this position. `true` if one was written before.
    Events(Option<i64>, bool),
    End,
}

/// The rest of the document, read page by page.
struct MyDataSource {
    app: Arc<App>,
    account: AccountId,
    /// The last event of the document.
    end: Option<u64>,
    step: MyDataStep,
}

impl ExportSource for MyDataSource {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ExportFailure> {
        let step = std::mem::replace(&mut self.step, MyDataStep::End);
        let (text, next) = match step {
            MyDataStep::Opening(text) => (text, MyDataStep::Sessions(None, false)),
            MyDataStep::Sessions(after, is_begun) => self.sessions(after, is_begun).await?,
            MyDataStep::Events(after, is_begun) => self.events(after, is_begun).await?,
            MyDataStep::End => return Ok(None),
        };
        self.step = next;
        Ok(Some(text.into_bytes()))
    }

    fn read_up_to(&self) -> Option<u64> {
        match self.step {
            MyDataStep::Events(after, _) => after.map(i64::unsigned_abs),
            MyDataStep::End => self.end,
            MyDataStep::Opening(_) | MyDataStep::Sessions(..) => None,
        }
    }
}

impl MyDataSource {
    async fn sessions(&self, after: Option<Uuid>, is_begun: bool) -> Result<(String, MyDataStep), ExportFailure> {
        let filter = sessions::SessionFilter { account: Some(self.account), live: None };
        let paging = Paging { after, ..Paging::first(PAGE) };
        let page = with_origins(&self.app, &filter, &paging, None).await.map_err(unread)?;
        let items = page.items.into_iter().map(|(session, [began, last_seen])| session_of(&session, began, last_seen));
        let mut text = String::new();
        let is_begun = append(&mut text, items, is_begun);
        Ok(match page.next {
            Some(last) => (text, MyDataStep::Sessions(Some(last), is_begun)),
            None => {
                text.push_str("],\"events\":[");
                (text, MyDataStep::Events(None, false))
            }
        })
    }

    async fn events(&self, after: Option<i64>, is_begun: bool) -> Result<(String, MyDataStep), ExportFailure> {
        let filter = AuditFilter { subject: Some(self.account.0), ..AuditFilter::default() };
        let paging = Paging { after, ..Paging::first(PAGE) };
        let page = audit::list(&self.app.pool, &filter, &paging).await?;
        // What was recorded since the export began is not in it: it would never end.
        let is_in = |position: i64| self.end.is_some_and(|end| position.unsigned_abs() <= end);
        let mut entries = page.items;
        let read = entries.len();
        entries.retain(|entry| is_in(entry.position));
        let positions: Vec<i64> = entries.iter().map(|entry| entry.position).collect();
        let opened = self.app.commands.vault().open_personal(&positions).await.map_err(CommandError::from)?;
        let mut items = Vec::new();
        for entry in &entries {
            let mut event = AuditEvent::read(entry).map_err(unread)?.to_json().unwrap_or_default();
            let mut personal = Map::new();
            for field in SealedField::ALL {
                if let Some(value) = opened.get(&entry.position).and_then(|opened| opened.get(field)) {
                    personal.insert(field.as_str().to_owned(), value.into());
                }
            }
            if let Some(event) = event.as_object_mut() {
                event.insert("personal".to_owned(), Value::Object(personal));
            }
            items.push(event);
        }
        let mut text = String::new();
        let is_begun = append(&mut text, items.into_iter(), is_begun);
        Ok(match page.next.filter(|_| entries.len() == read) {
            Some(last) => (text, MyDataStep::Events(Some(last), is_begun)),
            None => {
                text.push_str("]}\n");
                (text, MyDataStep::End)
            }
        })
    }
}

fn session_of(session: &sessions::SessionRow, began: SessionOrigin, last_seen: SessionOrigin) -> Value {
    let time = |time: chrono::DateTime<chrono::Utc>| Timestamp(time).to_json();
    json!({
        "session_id": session.session_id,
        "started_at": time(session.started_at),
        "last_seen_at": time(session.last_seen_at),
        "idle_expires_at": time(session.idle_expires_at),
        "expires_at": time(session.expires_at),
        "ended_at": session.ended_at.map(Timestamp).to_json(),
        "ended_by": session.ended_by,
        "methods": session.methods.to_vec(),
        "ip": began.ip,
        "user_agent": began.user_agent,
        "last_seen_ip": last_seen.ip,
        "last_seen_user_agent": last_seen.user_agent,
    })
}

/// Appends items of a list; returns `true` if one was written by now.
fn append(text: &mut String, items: impl Iterator<Item = Value>, is_begun: bool) -> bool {
    items.fold(is_begun, |is_begun, item| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{item}", if is_begun { "," } else { "" });
        true
    })
}

fn unread(problem: Problem) -> ExportFailure {
    format!("the data cannot be read: {}", problem.code()).into()
}
