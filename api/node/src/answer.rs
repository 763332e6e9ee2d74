//! The responses of commands and queries, with the position of the log, and the problems of refused commands.

use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::{CommandError, CommandOutcome};
use fulexo_database::{DatabaseFailure, chain};
use fulexo_domain::account::AccountError;
use fulexo_domain::api_key::ApiKeyError;
use fulexo_domain::incident::IncidentError;
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
use tokio::time::timeout;

use crate::caller::Caller;
use crate::checkpoints::CheckpointState;
use crate::clock;
use crate::http::headers::{CHECKPOINT_SIZE, LOG_POSITION};
use crate::http::problem::{Code, FieldError, Problem};
use crate::state::App;

/// The time that a privileged command waits for a checkpoint that covers it.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(2);
/// The time after which a command does not wait for a checkpoint that others wait for already: one is due each second.
const OVERDUE: TimeDelta = TimeDelta::seconds(10);
/// The time that a query waits for a read model to apply `Log-Min-Position`.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time that a query of the caller's own account waits for the caller's login.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);
/// The time that a query without `Log-Min-Position` waits.
const UNASKED_PATIENCE: Duration = Duration::from_millis(250);

/// The response of a command: `STATUS`, a JSON body and `Log-Position`.
pub struct CommandResponse<T, const STATUS: u16 = 200> {
    body: T,
    position: Option<u64>,
    checkpoint_size: Option<u64>,
    cookies: Vec<HeaderValue>,
}

/// The response of a query: a JSON body, and in `Log-Position` the last event that its read model had applied before.
pub struct QueryResponse<T> {
    body: T,
    view: ReadPosition,
}

/// The part of the log that a read model had applied.
#[derive(Clone, Copy)]
pub struct ReadPosition {
    last: Option<u64>,
}

/// The response of a command without a result: 204 and `Log-Position`.
pub struct NoContent {
    position: Option<u64>,
    checkpoint_size: Option<u64>,
    cookies: Vec<HeaderValue>,
}

/// The enforcement of a change. The response waits until every node has applied the change or has lost its lease.
#[derive(Object)]
#[oai(rename = "Enforcement")]
pub struct EnforcementResource {
    /// The position of the change in the log.
    position: u64,
    /// The number of nodes that enforce the change.
    enforced_on: u64,
    /// The number of nodes.
    nodes: u64,
    /// The names of the other nodes. A node listed in `down` has stopped, hung, or fallen behind. It makes no decisions from
    /// memory until it has caught up.
    down: Vec<String>,
    /// The time that the response waited for the nodes, in milliseconds.
    waited_ms: u64,
    /// The size of a signed checkpoint that covers the change. `null` if none did within 2 seconds, or nothing signs the log.
    checkpoint_size: Option<u64>,
    /// The size of the newest checkpoint that as many witnesses have cosigned as the policy asks for, at the time of the response.
    /// `null` if no witnesses are asked, or too few have cosigned one.
    anchored_size: Option<u64>,
}

impl<T, const STATUS: u16> CommandResponse<T, STATUS> {
    /// Creates the response from the result of a command.
    pub fn of<V>(done: CommandOutcome<V>, body: impl FnOnce(V) -> T) -> Self {
        Self { body: body(done.value), position: done.position, checkpoint_size: None, cookies: Vec::new() }
    }

    /// Adds cookies to the response.
    pub fn with_cookies(self, cookies: Vec<HeaderValue>) -> Self {
        Self { cookies, ..self }
    }

    /// Adds the size of a checkpoint that covers the command.
    pub fn with_checkpoint(self, checkpoint_size: Option<u64>) -> Self {
        Self { checkpoint_size, ..self }
    }
}

impl NoContent {
    /// Adds the size of a checkpoint that covers the command.
    pub const fn with_checkpoint(mut self, size: Option<u64>) -> Self {
        self.checkpoint_size = size;
        self
    }

    /// Adds cookies to the response.
    pub fn with_cookies(self, cookies: Vec<HeaderValue>) -> Self {
        Self { cookies, ..self }
    }
}

impl ReadPosition {
    /// The position of the last event that was applied.
    #[must_use]
    pub const fn last(self) -> Option<u64> {
        self.last
    }

    /// Creates the response from a result that was read after this view.
    pub const fn of<T>(self, body: T) -> QueryResponse<T> {
        QueryResponse { body, view: self }
    }
}

impl<V> From<CommandOutcome<V>> for NoContent {
    fn from(done: CommandOutcome<V>) -> Self {
        Self { position: done.position, checkpoint_size: None, cookies: Vec::new() }
    }
}

impl<T: ToJSON + Send, const STATUS: u16> IntoResponse for CommandResponse<T, STATUS> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        response.set_status(StatusCode::from_u16(STATUS).unwrap_or_default());
        stamp(response, self.position, self.checkpoint_size, self.cookies)
    }
}

impl<T: ToJSON + Send> IntoResponse for QueryResponse<T> {
    fn into_response(self) -> Response {
        stamp(Json(self.body).into_response(), self.view.last, None, Vec::new())
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        stamp(StatusCode::NO_CONTENT.into_response(), self.position, self.checkpoint_size, self.cookies)
    }
}

fn stamp(
    mut response: Response,
    position: Option<u64>,
    checkpoint_size: Option<u64>,
    cookies: Vec<HeaderValue>,
) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    if let Some(position) = position {
        response.headers_mut().insert(LOG_POSITION, HeaderValue::from(position));
    }
    if let Some(size) = checkpoint_size {
        response.headers_mut().insert(CHECKPOINT_SIZE, HeaderValue::from(size));
    }
    response
}

impl<T: ToJSON + Type, const STATUS: u16> ApiResponse for CommandResponse<T, STATUS> {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: Json::<T>::schema_ref() };
        documented(STATUS, vec![content], RECORDED)
    }

    fn register(registry: &mut Registry) {
        <Json<T> as Payload>::register(registry);
    }
}

impl<T: ToJSON + Type> ApiResponse for QueryResponse<T> {
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

/// The description of `Log-Position` in the response of a command.
const RECORDED: &str = "The position of the last recorded event. Send it as `Log-Min-Position` to read your own write.";
/// The description of `Log-Checkpoint-Size`.
const COVERED: &str = "The size of a signed checkpoint that covers the event. Present in answers of privileged calls, if one covered it within 2 seconds.";
/// The description of `Log-Position` in the response of a query.
const VIEWED: &str = "The position of the last event that the response is sure to include.";

fn documented(status: u16, content: Vec<MetaMediaType>, position: &str) -> MetaResponses {
    let covered = (position == RECORDED).then(|| MetaHeader {
        name: "Log-Checkpoint-Size".to_owned(),
        description: Some(COVERED.to_owned()),
        required: false,
        deprecated: false,
        schema: u64::schema_ref(),
    });
    let position = MetaHeader {
        name: "Log-Position".to_owned(),
        description: Some(position.to_owned()),
        required: false,
        deprecated: false,
        schema: u64::schema_ref(),
    };
    let mut headers = vec![position];
    headers.extend(covered);
    let response = MetaResponse { description: "", status: Some(status), status_range: None, content, headers };
    MetaResponses { responses: vec![response] }
}

impl App {
    /// Creates the response of a command that takes access away, when every node enforces it.
    ///
    /// # Errors
    /// 503 `enforcement_unknown` if the nodes cannot be asked. The change is recorded all the same.
    pub async fn enforced<V>(&self, done: CommandOutcome<V>) -> Result<CommandResponse<EnforcementResource>, Problem> {
        self.enforced_with(done, |_, enforced| enforced).await
    }

    /// Creates the response of [`App::enforced`] with a body of its own.
    ///
    /// # Errors
    /// See [`App::enforced`].
    pub async fn enforced_with<V, T>(
        &self,
        done: CommandOutcome<V>,
        body: impl FnOnce(V, EnforcementResource) -> T,
    ) -> Result<CommandResponse<T>, Problem> {
        let unknown = || {
            let problem =
                Problem::unavailable(Duration::from_secs(2)).with_code(Code::ENFORCEMENT_UNKNOWN).with_detail(
                    "The change is recorded, but it is not known which nodes enforce it. Repeat the call with the same \
                     Idempotency-Key to ask again.",
                );
            done.position.map_or_else(|| problem.clone(), |position| problem.clone().with_position(position))
        };
        // Without a new event, an earlier event of the log made the change. It may not be enforced everywhere yet.
        let position = match done.position {
            Some(position) => position,
            None => self.commands.log().size().await.map_err(|_| unknown())?.saturating_sub(1),
        };
        let waited = tokio::join!(self.nodes.wait_until_enforced(position), self.checkpoint_for(position));
        let (enforcement, checkpoint_size) = waited;
        let enforcement = enforcement.map_err(|error| {
            tracing::warn!(position, error = %chain(&error), "the enforcement of a change is not known");
            unknown()
        })?;
        let down: Vec<String> = enforcement.down.iter().map(ToString::to_string).collect();
        let enforced = EnforcementResource {
            position,
            enforced_on: enforcement.enforced_on as u64,
            nodes: (enforcement.enforced_on + down.len()) as u64,
            down,
            waited_ms: u64::try_from(enforcement.waited.as_millis()).unwrap_or(u64::MAX),
            checkpoint_size,
            anchored_size: self.anchored_size(),
        };
        Ok(CommandResponse::of(done, |value| body(value, enforced)).with_checkpoint(checkpoint_size))
    }

    /// The size of the newest checkpoint that enough witnesses have cosigned, as far as this node knows.
    #[must_use]
    pub fn anchored_size(&self) -> Option<u64> {
        self.cosigning.as_ref()?.borrow().anchored.as_ref().map(|anchored| anchored.size)
    }

    /// Waits as [`App::checkpoint_for`] does for the last event of a command; `None` if it recorded none.
    pub async fn checkpoint_over<T>(&self, done: &CommandOutcome<T>) -> Option<u64> {
        match done.position {
            Some(position) => self.checkpoint_for(position).await,
            None => None,
        }
    }

    /// Waits until a signed checkpoint covers the event at this position, at most 2 seconds, and returns the checkpoint's size.
    /// `None` if none does, and at once if nothing signs the log, or its signer refuses it or is late.
    pub async fn checkpoint_for(&self, position: u64) -> Option<u64> {
        let mut states = self.checkpoint.clone();
        let is_awaited = {
            let state = states.borrow();
            let is_late = state.waiting_since.is_some_and(|since| clock::now() - since > OVERDUE);
            state.published.note.is_some() && state.published.refused_because.is_none() && !is_late
        };
        if !is_awaited {
            return None;
        }
        let ended =
            |state: &CheckpointState| state.published.size > position || state.published.refused_because.is_some();
        let size = match timeout(CHECKPOINT_PATIENCE, states.wait_for(ended)).await {
            Ok(Ok(state)) => state.published.size,
            Ok(Err(_)) | Err(_) => return None,
        };
        (size > position).then_some(size)
    }

    /// Waits until a read model has applied `min_position`. Without one it waits at most 250 ms for the events that this node
    /// knows to be committed.
    ///
    /// # Errors
    /// 503 if the read model has not applied the position within 2 seconds; 400 for a position beyond the end of the log.
    pub async fn caught_up(&self, projection: Projection, min_position: Option<u64>) -> Result<ReadPosition, Problem> {
        let size = *self.head.borrow();
        match min_position {
            Some(position) => {
                // This node may not know the position yet. The database does.
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

    /// Waits like [`App::caught_up`], then at most one second for the caller's last login or refresh.
    ///
    /// # Errors
    /// See [`App::caught_up`].
    pub async fn caught_up_for(
        &self,
        caller: &Caller,
        projection: Projection,
        min_position: Option<u64>,
    ) -> Result<ReadPosition, Problem> {
        self.caught_up(projection, min_position).await?;
        let _ = self.progress.wait(projection, caller.position(), SHORT_PATIENCE).await;
        Ok(self.view(projection))
    }

    fn view(&self, projection: Projection) -> ReadPosition {
        ReadPosition { last: self.progress.of(projection).position.checked_sub(1) }
    }
}

/// Maps a refused command to a problem. The faults of a password point to `/new_password`.
pub fn about_the_new_password(error: CommandError) -> Problem {
    match error {
        CommandError::Password(violations) => {
            let broken = violations.into_iter().map(|broken| FieldError::new("/new_password", broken.as_str()));
            Problem::invalid_input(broken.collect())
        }
        error => error.into(),
    }
}

/// 503: the read model has not applied this position.
pub fn behind(projection: Projection, position: u64) -> Problem {
    Problem::unavailable(Duration::from_secs(1)).with_code(Code::BEHIND).with_detail(format!(
        "The read model `{}` has not applied position {position} yet. Repeat the query after Retry-After.",
        projection.as_str()
    ))
}

/// The problem of each refused command. There is no catch-all: each new error needs a decision.
impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::InvalidCredentials => Self::invalid_credentials(),
            CommandError::EmailTaken => {
                Self::conflict("Another account has this e-mail address. Log in to it, or use another address.").with_code(Code::EMAIL_TAKEN)
            }
            CommandError::Password(violations) => {
                let broken = violations.into_iter().map(|violation| FieldError::new("/password", violation.as_str()));
                Self::invalid_input(broken.collect())
            }
            CommandError::Account(AccountError::NotFound)
            | CommandError::Session(_)
            | CommandError::NoSuchDevice
            | CommandError::NoSuchEvent
            | CommandError::Role(RoleError::NotFound)
            | CommandError::ApiKey(ApiKeyError::NotFound)
            | CommandError::Incident(IncidentError::NotFound) => Self::not_found(),
            CommandError::Account(AccountError::RoleNotFound) => {
                Self::invalid_input(vec![FieldError::new(
                    "/role",
                    "must name an existing role; list roles with GET /v1/roles",
                )])
            }
            CommandError::Account(AccountError::RoleAlreadyGranted) => {
                Self::conflict("The account already has this role.").with_code(Code::ROLE_HELD)
            }
            CommandError::Account(AccountError::RoleNotGranted) => {
                Self::conflict("The account does not have this role.").with_code(Code::ROLE_NOT_HELD)
            }
            CommandError::Account(AccountError::AlreadySuspended) => {
                Self::conflict("The account is already suspended.").with_code(Code::ALREADY_SUSPENDED)
            }
            // The caller is the owner, and the suspension has ended their session.
            CommandError::Account(AccountError::Suspended) => Self::invalid_token(),
            CommandError::Account(AccountError::NotSuspended) => {
                Self::conflict("The account is not suspended.").with_code(Code::NOT_SUSPENDED)
            }
            CommandError::Account(AccountError::Erased) => {
                Self::conflict("The account was erased.").with_code(Code::ACCOUNT_ERASED)
            }
            CommandError::Account(AccountError::ErasureNotStarted) => {
                Self::conflict("Nobody has asked for the erasure of the account.").with_code(Code::ERASURE_NOT_STARTED)
            }
            CommandError::Account(AccountError::AlreadyRegistered) => {
                Self::conflict("The account is already registered.").with_code(Code::ALREADY_REGISTERED)
            }
            CommandError::Account(AccountError::NoSecondFactor) => {
                Self::conflict("The account has no second factor. Enrol one first.").with_code(Code::NO_SECOND_FACTOR)
            }
            CommandError::Account(AccountError::EnrolmentNotStarted) => {
                Self::conflict(
                    "The account has not started the enrolment of a second factor. Start with POST \
                     /v1/me/second-factor/totp.",
                ).with_code(Code::NOT_ENROLLING)
            }
            CommandError::Role(RoleError::BuiltIn) => {
                Self::conflict("A built-in role cannot be changed. Define a role with another name.").with_code(Code::BUILT_IN_ROLE)
            }
            CommandError::Role(RoleError::Retired) => {
                Self::conflict("A role with this name was retired. Use another name.").with_code(Code::ROLE_RETIRED)
            }
            CommandError::RoleInUse => {
                Self::conflict("Accounts have this role. Revoke it from them first: GET /v1/grants lists them.").with_code(Code::ROLE_IN_USE)
            }
            CommandError::Policy(PolicyError::VersionConflict(version)) => {
                Self::conflict(format!(
                    "The policy was changed: version {version} is in force. Read it and repeat your change."
                ))
                    .with_code(Code::POLICY_REPLACED)
            }
            CommandError::Policy(PolicyError::OutOfBounds(found)) => Self::invalid_input(
                found.into_iter().map(|found| FieldError::new(found.pointer, found.bounds)).collect(),
            ),
            CommandError::ApiKey(ApiKeyError::AlreadyCreated) => {
                Self::conflict("The API key already exists.").with_code(Code::ALREADY_CREATED)
            }
            CommandError::ApiKeyExpiry => {
                Self::invalid_input(vec![FieldError::new("/expires_at", "must be in the future, at most 366 days from now")])
            }
            CommandError::LimitReached => {
                Self::conflict(
                    "The maximum number of roles or API keys is reached. Retire or revoke some first.",
                ).with_code(Code::TOO_MANY)
            }
            CommandError::WrongCode => {
                Self::invalid_input(vec![FieldError::new("/code", "must be the current code, and not one that was used before")])
            }
            CommandError::SecondFactorRequired => {
                Self::conflict("A role of this account requires a second factor. Enrol another one to replace it.")
                    .with_code(Code::SECOND_FACTOR_REQUIRED)
            }
            CommandError::GrantExceedsOwn => Self::permission_denied()
                .with_code(Code::GRANT_EXCEEDS_OWN)
                .with_detail("You must hold every permission involved."),
            CommandError::LastAdministrator => {
                Self::conflict(
                    "This is the last active account that can grant roles. Grant such a role to another account first.",
                ).with_code(Code::LAST_ADMIN)
            }
            CommandError::IdempotencyKeyReused => {
                Self::conflict("The Idempotency-Key was used for another request. Use a new key.").with_code(Code::IDEMPOTENCY_KEY_REUSED)
            }
            CommandError::OutcomeExpired => Self::conflict(
                "This request was already carried out. Its tokens or secrets are not shown again, because more than 10 \
                 minutes have passed, or the account's password or second factor has changed. Use a new Idempotency-Key to \
                 repeat the call.",
            )
            .with_code(Code::OUTCOME_EXPIRED),
            CommandError::CodeRequired => Self::permission_denied()
                .with_code(Code::CODE_REQUIRED)
                .with_detail("The account has a second factor. Send its current code, or a recovery code, in `code`."),
            CommandError::Conflict => {
                Self::conflict("Concurrent changes prevented this one. Repeat the call.").with_code(Code::CONTENDED)
            }
            CommandError::Lockdown(LockdownError::AlreadyStarted) => {
                Self::conflict("A lockdown with this scope is already in force.").with_code(Code::LOCKDOWN_ACTIVE)
            }
            CommandError::Lockdown(LockdownError::NotStarted) => {
                Self::conflict("No lockdown is in force.").with_code(Code::NO_LOCKDOWN)
            }
            CommandError::Incident(IncidentError::AlreadyOpened) => {
                Self::conflict("The incident is already open.").with_code(Code::ALREADY_CREATED)
            }
            CommandError::Incident(IncidentError::OutOfOrder(phase)) => {
                Self::conflict(format!(
                    "The incident is {}. The phases follow each other: identified, contained, eradicated, recovered, closed.",
                    phase.as_str()
                ))
                    .with_code(Code::INCIDENT_PHASE)
            }
            CommandError::Incident(IncidentError::Full) => {
                Self::conflict(
                    "An incident has at most 100 accounts, events, findings and sessions, and 1,000 notes. Open another one.",
                ).with_code(Code::INCIDENT_FULL)
            }
            CommandError::NoSuchOwner => {
                Self::invalid_input(vec![FieldError::new("/owner", "must be the id of an account")])
            }
            CommandError::NothingSealed => {
                Self::conflict("Nothing is sealed alongside this event, or it was destroyed.").with_code(Code::NOTHING_SEALED)
            }
            CommandError::LockedDown => Self::locked_down(),
            CommandError::QuotaExceeded(spent) => Self::from(*spent),
            CommandError::Overloaded => Self::overloaded(Duration::from_secs(2)),
            CommandError::Unavailable(cause) => {
                if let Some(cause) = cause {
                    tracing::warn!(error = %chain(&cause), "a command cannot be carried out");
                }
                Self::unavailable(Duration::from_secs(2))
            }
            CommandError::Internal(cause) => Self::internal(cause),
        }
    }
}

/// Maps a failed query to a problem: 503 if the database is unavailable, otherwise 500.
pub fn query_failed(error: sqlx::Error) -> Problem {
    if DatabaseFailure::of(&error).is_unavailable() {
        tracing::warn!(error = %chain(&error), "a query cannot be answered");
        return Problem::unavailable(Duration::from_secs(1));
    }
    Problem::internal(error)
}
