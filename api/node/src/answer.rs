//! What calls answer with, beside refusals: a body or none, and for whatever was recorded the log's position.

use std::time::Duration;

use fulexo_commands::{CommandError, CommandOutcome, is_unavailable};
use fulexo_domain::account::AccountError;
use fulexo_domain::api_key::ApiKeyError;
use fulexo_domain::lockdown::LockdownError;
use fulexo_domain::policy::PolicyError;
use fulexo_domain::role::RoleError;
use fulexo_projections::read_models::Projection;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiResponse, Object};

use crate::caller::Caller;
use crate::http::headers::LOG_POSITION;
use crate::http::problem::{Code, FieldError, Problem};
use crate::state::App;

/// How long a query waits for a read model.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same, for a view of the caller's own.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);
/// The same, where nobody asked for a position.
const UNASKED_PATIENCE: Duration = Duration::from_millis(250);

/// The answer of a command: `STATUS`, a JSON body, `Log-Position`.
pub struct Recorded<T, const STATUS: u16 = 200> {
    body: T,
    position: Option<u64>,
    cookies: Vec<HeaderValue>,
}

/// The answer of a query: a JSON body, and in `Log-Position` the last event that its read model had seen before it was asked.
pub struct Viewed<T> {
    body: T,
    view: View,
}

/// The part of the log that a read model had seen.
#[derive(Clone, Copy)]
pub struct View {
    last: Option<u64>,
}

/// The answer of a command that has nothing more to say: 204 and `Log-Position`.
pub struct NoContent {
    position: Option<u64>,
    cookies: Vec<HeaderValue>,
}

/// Where a change is in force: it waits for each node to apply it, or to have lost the right to judge without it.
#[derive(Object)]
pub struct Enforced {
    /// The log's position that each node was waited for to have applied.
    position: u64,
    /// How many nodes have.
    enforced_on: u64,
    /// How many nodes there are.
    nodes: u64,
    /// The names of the others. They judge nothing from memory before they have caught up.
    down: Vec<String>,
    /// How long that took to know, in milliseconds.
    waited_ms: u64,
}

impl<T, const STATUS: u16> Recorded<T, STATUS> {
    /// The body for what a command gave.
    pub fn of<V>(done: CommandOutcome<V>, body: impl FnOnce(V) -> T) -> Self {
        Self { body: body(done.value), position: done.position, cookies: Vec::new() }
    }

    /// With cookies to be set.
    pub fn with_cookies(self, cookies: Vec<HeaderValue>) -> Self {
        Self { cookies, ..self }
    }
}

impl NoContent {
    /// With cookies to be set.
    pub fn with_cookies(self, cookies: Vec<HeaderValue>) -> Self {
        Self { cookies, ..self }
    }
}

impl View {
    /// With what the read model showed then, or later.
    pub const fn of<T>(self, body: T) -> Viewed<T> {
        Viewed { body, view: self }
    }
}

impl<V> From<CommandOutcome<V>> for NoContent {
    fn from(done: CommandOutcome<V>) -> Self {
        Self { position: done.position, cookies: Vec::new() }
    }
}

impl<T: ToJSON + Send, const STATUS: u16> IntoResponse for Recorded<T, STATUS> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        response.set_status(StatusCode::from_u16(STATUS).unwrap_or_default());
        stamp(response, self.position, self.cookies)
    }
}

impl<T: ToJSON + Send> IntoResponse for Viewed<T> {
    fn into_response(self) -> Response {
        stamp(Json(self.body).into_response(), self.view.last, Vec::new())
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        stamp(StatusCode::NO_CONTENT.into_response(), self.position, self.cookies)
    }
}

fn stamp(mut response: Response, position: Option<u64>, cookies: Vec<HeaderValue>) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    if let Some(position) = position {
        response.headers_mut().insert(LOG_POSITION, HeaderValue::from(position));
    }
    response
}

impl<T: ToJSON + Type, const STATUS: u16> ApiResponse for Recorded<T, STATUS> {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: Json::<T>::schema_ref() };
        documented(STATUS, vec![content], RECORDED)
    }

    fn register(registry: &mut Registry) {
        <Json<T> as Payload>::register(registry);
    }
}

impl<T: ToJSON + Type> ApiResponse for Viewed<T> {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: Json::<T>::schema_ref() };
        documented(200, vec![content], VIEWED)
    }

    fn register(registry: &mut Registry) {
        <Json<T> as Payload>::register(registry);
    }
}

impl ApiResponse for NoContent {
    fn meta() -> MetaResponses {
        documented(204, Vec::new(), RECORDED)
    }

    fn register(_: &mut Registry) {}
}

/// `Log-Position` of a command.
const RECORDED: &str = "Position of the last event recorded; send it as Log-Min-Position to read it back.";
/// `Log-Position` of a query.
const VIEWED: &str = "Position of an event that the answer has seen, and all before it.";

fn documented(status: u16, content: Vec<MetaMediaType>, position: &str) -> MetaResponses {
    let position = MetaHeader {
        name: "Log-Position".to_owned(),
        description: Some(position.to_owned()),
        required: false,
        deprecated: false,
        schema: u64::schema_ref(),
    };
    let response =
        MetaResponse { description: "", status: Some(status), status_range: None, content, headers: vec![position] };
    MetaResponses { responses: vec![response] }
}

impl App {
    /// The answer of a command that takes something away: once no node grants it any more.
    ///
    /// # Errors
    /// 503 `enforcement_unknown` when the nodes cannot be asked; what the command did is recorded.
    pub async fn enforced<V>(&self, done: CommandOutcome<V>) -> Result<Recorded<Enforced>, Problem> {
        self.enforced_with(done, |_, enforced| enforced).await
    }

    /// The same, with more to say.
    ///
    /// # Errors
    /// See [`App::enforced`].
    pub async fn enforced_with<V, T>(
        &self,
        done: CommandOutcome<V>,
        body: impl FnOnce(V, Enforced) -> T,
    ) -> Result<Recorded<T>, Problem> {
        let unknown = || {
            let problem =
                Problem::unavailable(Duration::from_secs(2)).with_code(Code::ENFORCEMENT_UNKNOWN).with_detail(
                    "It is recorded; which nodes enforce it is not known. The same Idempotency-Key asks again.",
                );
            done.position.map_or_else(|| problem.clone(), |position| problem.clone().with_position(position))
        };
        // Where nothing was left to record, what did it before is somewhere in the log, and may not be everywhere yet.
        let position = match done.position {
            Some(position) => position,
            None => self.commands.log().size().await.map_err(|_| unknown())?.saturating_sub(1),
        };
        let enforcement = self.nodes.wait_until_enforced(position).await.map_err(|error| {
            tracing::warn!(position, %error, "where a change is in force is not known");
            unknown()
        })?;
        let down: Vec<String> = enforcement.down.iter().map(ToString::to_string).collect();
        let enforced = Enforced {
            position,
            enforced_on: enforcement.enforced_on as u64,
            nodes: (enforcement.enforced_on + down.len()) as u64,
            down,
            waited_ms: u64::try_from(enforcement.waited.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Recorded::of(done, |value| body(value, enforced)))
    }

    /// Waits until a read model has seen what the client has, by the position that it gives; else what this node knows to be
    /// committed, for 250 ms at most: what it has then is the answer.
    ///
    /// # Errors
    /// 503 when it has not seen the position within 2 seconds; 400 for a position that the log does not have.
    pub async fn caught_up(&self, projection: Projection, min_position: Option<u64>) -> Result<View, Problem> {
        let size = *self.head.borrow();
        match min_position {
            Some(position) => {
                // This node may not have heard of it yet; the database has.
                if position >= size && position >= self.commands.log().size().await.map_err(CommandError::from)? {
                    let fault = FieldError::new("/Log-Min-Position", "is beyond the end of the log");
                    return Err(Problem::invalid_input(vec![fault]));
                }
                let seen = self.progress.wait(projection, position, PATIENCE).await;
                seen.map_err(|_| behind(projection, position))?;
            }
            None => {
                if let Some(last) = size.checked_sub(1) {
                    let _ = self.progress.wait_unless_stopped(projection, last, UNASKED_PATIENCE).await;
                }
            }
        }
        Ok(self.view(projection))
    }

    /// The same for a view of the caller's own, which is also waited for to have seen their login; not for long, and where
    /// it has not, what it has will do.
    ///
    /// # Errors
    /// See [`App::caught_up`].
    pub async fn caught_up_for(
        &self,
        caller: &Caller,
        projection: Projection,
        min_position: Option<u64>,
    ) -> Result<View, Problem> {
        self.caught_up(projection, min_position).await?;
        let _ = self.progress.wait(projection, caller.position(), SHORT_PATIENCE).await;
        Ok(self.view(projection))
    }

    fn view(&self, projection: Projection) -> View {
        View { last: self.progress.of(projection).position.checked_sub(1) }
    }
}

/// A refusal of a new password, by the name that it has where there is a current one too, or a token.
pub fn about_the_new_password(error: CommandError) -> Problem {
    match error {
        CommandError::Password(violations) => {
            let broken = violations.into_iter().map(|broken| FieldError::new("/new_password", broken.as_str()));
            Problem::invalid_input(broken.collect())
        }
        error => error.into(),
    }
}

/// 503: a read model has not seen this position.
pub fn behind(projection: Projection, position: u64) -> Problem {
    Problem::unavailable(Duration::from_secs(1))
        .with_code(Code::BEHIND)
        .with_detail(format!("The {} read model has not seen position {position} yet.", projection.as_str()))
}

/// Each refusal of a command, as the client sees it. No catch-all: a new one has to be thought about.
impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::InvalidCredentials => Self::invalid_credentials(),
            CommandError::EmailTaken => {
                Self::conflict("Another account has this e-mail address.").with_code(Code::EMAIL_TAKEN)
            }
            CommandError::Password(violations) => {
                let broken = violations.into_iter().map(|violation| FieldError::new("/password", violation.as_str()));
                Self::invalid_input(broken.collect())
            }
            CommandError::Account(AccountError::Unknown)
            | CommandError::Session(_)
            | CommandError::NoSuchDevice
            | CommandError::Role(RoleError::Unknown)
            | CommandError::ApiKey(ApiKeyError::Unknown) => Self::not_found(),
            CommandError::Account(AccountError::NoSuchRole) => {
                Self::invalid_input(vec![FieldError::new("/role", "there is no such role")])
            }
            CommandError::Account(AccountError::RoleHeld) => {
                Self::conflict("The account holds this role already.").with_code(Code::ROLE_HELD)
            }
            CommandError::Account(AccountError::RoleNotHeld) => {
                Self::conflict("The account does not hold this role.").with_code(Code::ROLE_NOT_HELD)
            }
            CommandError::Account(AccountError::AlreadySuspended) => {
                Self::conflict("The account is suspended already.").with_code(Code::ALREADY_SUSPENDED)
            }
            // Whoever asks is its owner, in a session that has ended with the suspension.
            CommandError::Account(AccountError::Suspended) => Self::invalid_token(),
            CommandError::Account(AccountError::NotSuspended) => {
                Self::conflict("The account is not suspended.").with_code(Code::NOT_SUSPENDED)
            }
            CommandError::Account(AccountError::AlreadyRegistered) => {
                Self::conflict("The account is registered already.").with_code(Code::ALREADY_REGISTERED)
            }
            CommandError::Account(AccountError::NoSecondFactor) => {
                Self::conflict("The account has no second factor.").with_code(Code::NO_SECOND_FACTOR)
            }
            CommandError::Account(AccountError::NotEnrolling) => {
                Self::conflict("No enrolment of a second factor was started.").with_code(Code::NOT_ENROLLING)
            }
            CommandError::Role(RoleError::BuiltIn) => {
                Self::conflict("A built-in role is not changed.").with_code(Code::BUILT_IN_ROLE)
            }
            CommandError::Role(RoleError::Retired) => {
                Self::conflict("A role of this name was retired; take another name.").with_code(Code::ROLE_RETIRED)
            }
            CommandError::RoleInUse => {
                Self::conflict("Accounts hold this role; revoke it first.").with_code(Code::ROLE_IN_USE)
            }
            CommandError::Policy(PolicyError::Replaced(version)) => {
                Self::conflict(format!("The policy in force is version {version}; read it again."))
                    .with_code(Code::POLICY_REPLACED)
            }
            CommandError::Policy(PolicyError::OutOfBounds(found)) => Self::invalid_input(
                found.into_iter().map(|found| FieldError::new(found.pointer, found.bounds)).collect(),
            ),
            CommandError::ApiKey(ApiKeyError::AlreadyCreated) => {
                Self::conflict("The API key was made already.").with_code(Code::ALREADY_CREATED)
            }
            CommandError::ApiKeyLife => {
                Self::invalid_input(vec![FieldError::new("/expires_at", "must be in the future, and within 366 days")])
            }
            CommandError::TooMany => {
                Self::conflict("There are too many of these; remove some first.").with_code(Code::TOO_MANY)
            }
            CommandError::WrongCode => {
                Self::invalid_input(vec![FieldError::new("/code", "is not the current code, or was used before")])
            }
            CommandError::SecondFactorRequired => {
                Self::conflict("A role of this account requires a second factor; enrol another one in its place.")
                    .with_code(Code::SECOND_FACTOR_REQUIRED)
            }
            CommandError::GrantExceedsOwn => Self::permission_denied()
                .with_code(Code::GRANT_EXCEEDS_OWN)
                .with_detail("This takes somebody who holds all the permissions concerned."),
            CommandError::LastAdministrator => {
                Self::conflict("This is the last account in use that may grant roles.").with_code(Code::LAST_ADMIN)
            }
            CommandError::IdempotencyKeyReused => {
                Self::conflict("The Idempotency-Key was used for another request.").with_code(Code::IDEMPOTENCY_KEY_REUSED)
            }
            CommandError::OutcomeExpired => Self::conflict(
                "This request was carried out before. Its tokens or secrets are not shown again: more than 10 minutes have \
                 passed, or the account's password or second factor has changed. Send a new Idempotency-Key.",
            )
            .with_code(Code::OUTCOME_EXPIRED),
            CommandError::CodeRequired => Self::permission_denied()
                .with_code(Code::CODE_REQUIRED)
                .with_detail("The account has a second factor: send a code of it, or a recovery code, as `code`."),
            CommandError::Contended => {
                Self::conflict("Others kept changing the same thing; try again.").with_code(Code::CONTENDED)
            }
            CommandError::Lockdown(LockdownError::AlreadyStarted) => {
                Self::conflict("There is a lockdown of this scope already.").with_code(Code::LOCKDOWN_ACTIVE)
            }
            CommandError::Lockdown(LockdownError::NotStarted) => {
                Self::conflict("There is no lockdown.").with_code(Code::NO_LOCKDOWN)
            }
            CommandError::LockedDown => Self::locked_down(),
            CommandError::QuotaSpent(spent) => Self::from(*spent),
            CommandError::Overloaded => Self::overloaded(Duration::from_secs(2)),
            CommandError::Unavailable => Self::unavailable(Duration::from_secs(2)),
            CommandError::Internal(text) => Self::internal(text),
        }
    }
}

/// A query that the database did not answer.
pub fn query_failed(error: sqlx::Error) -> Problem {
    if is_unavailable(&error) {
        tracing::warn!(%error, "a query cannot be answered");
        return Problem::unavailable(Duration::from_secs(1));
    }
    Problem::internal(error)
}
