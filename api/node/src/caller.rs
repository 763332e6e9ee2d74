//! The authentication of callers: the only place that turns a token into an authority. A handler takes one of the types below
//! and asks it for the permissions that the call needs.
//!
//! | type | accepted credentials |
//! |---|---|
//! | [`Bearer`] | an access token |
//! | [`BearerOrKey`] | an access token or the secret of an API key; never for sensitive calls |
//! | [`BearerOrAuditor`] | an access token |
//! | [`Introspector`] | as `BearerOrKey`, and an API key in HTTP Basic |
//! | [`BearerBeforeStepUp`] | an access token, also of a session that requires a step-up |
//! | [`LogoutCaller`] | as `BearerBeforeStepUp`, and the refresh cookie after the access token has expired |
//! | [`EnrolmentCaller`], [`PasswordChangeCaller`] | an access token, or the challenge token of a login that needs this step |
//!
//! In a replay of the trail nobody has a session or an API key. The door (`auditor.rs`) has let the auditor in, whom `BearerOrKey`
//! and `BearerOrAuditor` accept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_commands::access_token::Claims;
use fulexo_commands::context::{Context, RequestOrigin};
use fulexo_commands::{ChallengePurpose, Commands, PendingLogin};
use fulexo_database::chain;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::event::Actor;
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, ApiKeyId, RoleName, SessionId};
use fulexo_projections::access;
use fulexo_projections::gate::{ApiKeyVerdict, SessionVerdict, TokenClaims, locked_out, session_permissions};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::Registry;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, SecurityScheme, auth};
use uuid::Uuid;

use crate::clock;
use crate::http::basic;
use crate::http::cookies::{ByCookie, CSRF_TOKEN, Cookie, Foreign};
use crate::http::operations::AccountQuotas;
use crate::http::{BadParameters, ClientAddress, Problem, RequestId};
use crate::state::App;

/// An access token.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", bearer_format = "JWT", key_name = "Authorization", checker = "bearer")]
pub struct Bearer(pub Caller);

/// An access token, or an API key.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", key_name = "Authorization", checker = "bearer_or_key")]
pub struct BearerOrKey(pub Authority);

/// An access token. In a replay of the trail, the auditor's token.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", bearer_format = "JWT", key_name = "Authorization", checker = "bearer_or_auditor")]
pub struct BearerOrAuditor(pub Authority);

/// An access token, or an API key, also in HTTP Basic.
pub struct Introspector(pub Authority);

/// An access token, also of a session that requires a step-up.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", bearer_format = "JWT", key_name = "Authorization", checker = "bearer_before_step_up")]
pub struct BearerBeforeStepUp(pub Caller);

/// An access token, also of a session that requires a step-up. In cookie mode also the refresh cookie after the access token
/// has expired, so that a page that was left open can log out.
pub enum LogoutCaller {
    /// A caller with a session.
    Session {
        /// The account of the session.
        account: AccountId,
        /// The session.
        session: SessionId,
    },
    /// A caller whose cookies name a session that has ended.
    Ended,
}

/// An access token, or the `challenge_token` of a login with status `second_factor_enrolment_required`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", key_name = "Authorization", checker = "enrolment_caller")]
pub struct EnrolmentCaller(pub Step);

/// An access token, or the `challenge_token` of a login with status `password_change_required`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", key_name = "Authorization", checker = "password_change_caller")]
pub struct PasswordChangeCaller(pub Step);

/// An authenticated account with its current authority.
#[derive(Clone)]
pub struct Caller {
    /// The account.
    pub account: AccountId,
    /// The session.
    pub session: SessionId,
    /// The permissions of the current roles in this session.
    pub permissions: Permissions,
    /// The expiry of the access token.
    pub expires_at: DateTime<Utc>,
    /// The end of the elevation.
    pub elevated_until: DateTime<Utc>,
    /// `true` if the session accepts no calls until a step-up.
    pub step_up_required: bool,
    /// `true` if the session has a second factor that still counts.
    second_factor: bool,
    /// The claims of the access token.
    claims: Arc<Claims>,
    /// The current roles, if they differ from those of the token.
    changed_roles: Option<BTreeSet<RoleName>>,
}

/// An authenticated actor with its permissions.
pub struct Authority {
    /// The actor.
    pub actor: Actor,
    permissions: Permissions,
    /// The credential that the actor presented.
    pub(crate) credential: Credential,
}

impl From<Caller> for Authority {
    fn from(caller: Caller) -> Self {
        let (actor, permissions) = (caller.actor(), caller.permissions);
        Self { actor, permissions, credential: Credential::AccessToken(caller.claims) }
    }
}

/// A credential that was verified. Its standing can be judged again.
pub(crate) enum Credential {
    /// An access token.
    AccessToken(Arc<Claims>),
    /// The secret of an API key.
    ApiKey(ApiKeyId),
    /// The token of the auditor of a replay.
    AuditorToken,
}

/// The mark of a request of the auditor of a replay, in its extensions. The door sets it.
#[derive(Clone, Copy)]
pub struct Auditor {
    /// The id under which the requests of this run are counted.
    pub id: Uuid,
}

/// The caller of one step of a login.
pub enum Step {
    /// A caller with a session.
    LoggedIn(Caller),
    /// A caller whose login needs this step.
    PendingLogin(PendingLogin),
}

impl Caller {
    /// Returns the current roles.
    pub fn roles(&self) -> Vec<&RoleName> {
        self.changed_roles.as_ref().map_or_else(|| self.claims.roles.iter().collect(), |roles| roles.iter().collect())
    }

    /// Returns the position of the last login or refresh. Queries of the caller's own account include it.
    pub fn position(&self) -> u64 {
        self.claims.pos
    }

    /// Returns the authentication methods of the session that still count.
    pub fn methods(&self) -> Vec<AuthenticationMethod> {
        let counts = |method: &AuthenticationMethod| *method != AuthenticationMethod::OneTime || self.second_factor;
        self.claims.amr.iter().copied().filter(counts).collect()
    }

    /// Returns the actor.
    pub const fn actor(&self) -> Actor {
        Actor::Account { id: self.account.0 }
    }

    /// # Errors
    /// 403 without the permission.
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.permissions.contains(permission) { Ok(()) } else { Err(Problem::lacks(permission)) }
    }

    /// # Errors
    /// 403 if the session is not elevated.
    pub fn require_elevated(&self) -> Result<(), Problem> {
        if clock::now() < self.elevated_until { Ok(()) } else { Err(Problem::step_up_required()) }
    }
}

impl Authority {
    /// # Errors
    /// 403 without the permission.
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.permissions.contains(permission) { Ok(()) } else { Err(Problem::lacks(permission)) }
    }

    /// # Errors
    /// 403 without one of the permissions.
    pub fn require_all(&self, needs: Permissions) -> Result<(), Problem> {
        require_all(self.permissions, needs)
    }
}

pub(crate) fn require_all(permissions: Permissions, needs: Permissions) -> Result<(), Problem> {
    let missing = needs.iter().find(|permission| !permissions.contains(*permission));
    missing.map_or(Ok(()), |missing| Err(Problem::lacks(missing)))
}

impl Auditor {
    /// The permissions that allow to read. That nothing is changed with the others is up to the door.
    pub(crate) fn permissions() -> Permissions {
        Permissions::of(&[
            Permission::AccountsRead,
            Permission::SessionsRead,
            Permission::RolesRead,
            Permission::PolicyRead,
            // The list of API keys, and the lockdown, need these.
            Permission::ApiKeysManage,
            Permission::LockdownManage,
            Permission::AuditRead,
            Permission::MetricsRead,
        ])
    }

    fn authority(self) -> Authority {
        let actor = Actor::ApiKey { id: self.id };
        Authority { actor, permissions: Self::permissions(), credential: Credential::AuditorToken }
    }

    /// 403: the call concerns the caller's own account or session.
    fn has_no_account() -> Problem {
        Problem::permission_denied().with_detail("The auditor of a replay has neither an account nor a session.")
    }
}

impl Step {
    /// Returns the account.
    pub const fn account(&self) -> AccountId {
        match self {
            Self::LoggedIn(caller) => caller.account,
            Self::PendingLogin(pending_login) => pending_login.account(),
        }
    }

    /// Returns the session, if there is one.
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::LoggedIn(caller) => Some(caller.session),
            Self::PendingLogin(_) => None,
        }
    }

    /// Returns the actor.
    pub const fn actor(&self) -> Actor {
        Actor::Account { id: self.account().0 }
    }

    /// # Errors
    /// 403 if the session is not elevated. A login that needs another step counts as elevated.
    pub fn require_elevated(&self) -> Result<(), Problem> {
        match self {
            Self::LoggedIn(caller) => caller.require_elevated(),
            Self::PendingLogin(_) => Ok(()),
        }
    }
}

async fn bearer(request: &Request, bearer: auth::Bearer) -> poem::Result<Caller> {
    with_valid_parameters(request, require_stepped_up(authenticate(app(request)?, request, &bearer.token).await?)?)
}

async fn bearer_before_step_up(request: &Request, bearer: auth::Bearer) -> poem::Result<Caller> {
    with_valid_parameters(request, authenticate(app(request)?, request, &bearer.token).await?)
}

impl<'a> ApiExtractor<'a> for Introspector {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        BearerOrKey::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["Introspector"]
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        // The scheme of the request decides. No other scheme is tried.
        match basic::credentials(request.headers()) {
            Some(presented) => {
                let app = app(request)?;
                let presented = presented.ok_or_else(Problem::invalid_client)?;
                let key = app.commands.api_key(&presented.secret).filter(|key| presented.is_id(key.0));
                let key = key.ok_or_else(Problem::invalid_client)?;
                with_valid_parameters(
                    request,
                    Self(authority_of(app, request, key).await?.ok_or_else(Problem::invalid_client)?),
                )
            }
            None => BearerOrKey::from_request(request, body, options).await.map(|caller| Self(caller.0)),
        }
    }
}

impl<'a> ApiExtractor<'a> for LogoutCaller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        BearerBeforeStepUp::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["LogoutCaller"]
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        // A token in the Authorization header takes precedence over cookies.
        let by_cookie = request.data::<ByCookie>().is_some() || !request.headers().contains_key(header::AUTHORIZATION);
        let error = match BearerBeforeStepUp::from_request(request, body, options).await {
            Ok(BearerBeforeStepUp(Caller { account, session, .. })) => return Ok(Self::Session { account, session }),
            Err(error) => error,
        };
        let token = Cookie::Refresh.of(request.headers());
        let named = token.and_then(|token| Some((token, Commands::named_session(token)?)));
        let (Some((token, session)), true, StatusCode::UNAUTHORIZED) = (named, by_cookie, error.status()) else {
            return Err(error);
        };
        let app = app(request)?;
        require_csrf_token(app, request, session)?;
        let Some((account, session)) = app.commands.session_of(token).await.map_err(Problem::from)? else {
            return with_valid_parameters(request, Self::Ended);
        };
        admit(app, request, Actor::Account { id: account.0 })?;
        with_valid_parameters(request, Self::Session { account, session })
    }
}

async fn bearer_or_key(request: &Request, bearer: auth::Bearer) -> poem::Result<Authority> {
    let app = app(request)?;
    if let Some(auditor) = request.data::<Auditor>() {
        return with_valid_parameters(request, auditor.authority());
    }
    if let Some(key) = app.commands.api_key(&bearer.token) {
        return with_valid_parameters(
            request,
            authority_of(app, request, key).await?.ok_or_else(Problem::invalid_token)?,
        );
    }
    by_access_token(app, request, &bearer.token).await
}

async fn bearer_or_auditor(request: &Request, bearer: auth::Bearer) -> poem::Result<Authority> {
    match request.data::<Auditor>() {
        Some(auditor) => with_valid_parameters(request, auditor.authority()),
        None => by_access_token(app(request)?, request, &bearer.token).await,
    }
}

async fn by_access_token(app: &App, request: &Request, token: &str) -> poem::Result<Authority> {
    let caller = require_stepped_up(authenticate(app, request, token).await?)?;
    with_valid_parameters(request, Authority::from(caller))
}

/// Returns the authority of an active API key, and counts its request.
async fn authority_of(app: &App, request: &Request, key: ApiKeyId) -> Result<Option<Authority>, Problem> {
    let Some((permissions, _)) = standing_of(app, key).await? else { return Ok(None) };
    let actor = Actor::ApiKey { id: key.0 };
    admit(app, request, actor)?;
    Ok(Some(Authority { actor, permissions, credential: Credential::ApiKey(key) }))
}

async fn enrolment_caller(request: &Request, bearer: auth::Bearer) -> poem::Result<Step> {
    with_valid_parameters(request, step(app(request)?, request, &bearer.token, ChallengePurpose::Enrolment).await?)
}

async fn password_change_caller(request: &Request, bearer: auth::Bearer) -> poem::Result<Step> {
    with_valid_parameters(request, step(app(request)?, request, &bearer.token, ChallengePurpose::PasswordChange).await?)
}

async fn step(app: &App, request: &Request, token: &str, purpose: ChallengePurpose) -> poem::Result<Step> {
    // A JWT has dots. A challenge token has none.
    if token.contains('.') {
        return Ok(Step::LoggedIn(require_stepped_up(authenticate(app, request, token).await?)?));
    }
    match app.commands.pending_login(token, purpose, clock::now()).await {
        Ok(pending_login) => {
            unless_locked_down(app).await?;
            let step = Step::PendingLogin(pending_login);
            admit(app, request, step.actor())?;
            Ok(step)
        }
        Err(fulexo_commands::CommandError::InvalidCredentials) => Err(Problem::invalid_token().into()),
        Err(error) => Err(Problem::from(error).into()),
    }
}

pub(crate) fn require_stepped_up(caller: Caller) -> Result<Caller, Problem> {
    if caller.step_up_required { Err(Problem::step_up_required()) } else { Ok(caller) }
}

async fn authenticate(app: &App, request: &Request, token: &str) -> Result<Caller, Problem> {
    if request.data::<Auditor>().is_some() {
        return Err(Auditor::has_no_account());
    }
    let claims = app.tokens.verify(app.commands.keys(), token, clock::now()).map_err(|_| Problem::invalid_token())?;
    let caller = judge(app, claims).await?.ok_or_else(Problem::invalid_token)?;
    if request.data::<ByCookie>().is_some() && !request.method().is_safe() {
        require_csrf_token(app, request, caller.session)?;
    }
    admit(app, request, caller.actor())?;
    Ok(caller)
}

/// Checks the CSRF token of a request by cookie. A browser sends cookies with requests of any page; only pages of the session
/// know its token.
///
/// # Errors
/// 403 without the token, or if a page of a foreign origin sent the request.
pub fn require_csrf_token(app: &App, request: &Request, session: SessionId) -> Result<(), Problem> {
    let presented = request.headers().get(CSRF_TOKEN).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_right = app.commands.is_csrf_token(session, presented);
    if is_right && request.data::<Foreign>().is_none() { Ok(()) } else { Err(Problem::csrf_rejected()) }
}

/// Counts the request of an authenticated actor.
fn admit(app: &App, request: &Request, actor: Actor) -> Result<(), Problem> {
    let routes = request.data::<AccountQuotas>().map_or(&[][..], |quotas| quotas.0);
    app.limits.as_ref().map_or(Ok(()), |limits| limits.account(actor, routes))
}

/// Reports the faults of the parameters, once the caller is authenticated.
///
/// # Errors
/// 400.
fn with_valid_parameters<T>(request: &Request, caller: T) -> poem::Result<T> {
    request.data::<Arc<BadParameters>>().map_or(Ok(caller), |bad| Err(bad.refusal().into()))
}

/// Returns the caller of an access token as of now, or `None` if the session has ended.
///
/// # Errors
/// 503 if neither the gate nor the database can decide.
pub async fn judge(app: &App, claims: Arc<Claims>) -> Result<Option<Caller>, Problem> {
    let mut verdict = app.gate.judge(TokenClaims {
        account: claims.sub,
        session: claims.sid,
        position: claims.pos,
        epoch: claims.epoch,
        roles: &claims.roles,
        second_factor: claims.amr.contains(&AuthenticationMethod::OneTime),
    });
    if verdict == SessionVerdict::Unknown {
        // Rare; boxed to keep the future of the common path small.
        verdict = Box::pin(authorise_by_tables(app, &claims)).await?;
    }
    let (roles, permissions, second_factor, elevated) = match verdict {
        SessionVerdict::Current { roles, permissions, second_factor, elevated } => {
            (roles, permissions, second_factor, elevated)
        }
        SessionVerdict::Ended => return Ok(None),
        SessionVerdict::LockedDown => return Err(Problem::locked_down()),
        // The tables always decide.
        SessionVerdict::Unknown => return Err(Problem::unavailable(Duration::from_secs(1))),
    };
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let since_login = elevated.after_login.map_or(DateTime::UNIX_EPOCH, |span| at(claims.auth_time) + span);
    Ok(Some(Caller {
        account: claims.sub,
        session: claims.sid,
        permissions,
        second_factor,
        changed_roles: roles,
        expires_at: at(claims.exp),
        elevated_until: elevated.until.map_or(since_login, |until| until.max(since_login)),
        // A step-up after the token was issued lifts the requirement.
        step_up_required: claims.step_up_required && elevated.restored.is_none_or(|restored| restored <= claims.pos),
        claims,
    }))
}

/// Asks the database, when this node cannot prove that its memory is current.
async fn authorise_by_tables(app: &App, claims: &Claims) -> Result<SessionVerdict, Problem> {
    let standing = access::session_access(&app.judging, claims.sub, claims.sid).await.map_err(authorisation_failed)?;
    if !standing.is_live {
        return Ok(SessionVerdict::Ended);
    }
    let policy = standing.policy.as_ref().unwrap_or(&app.first_policy);
    let second_factor = claims.amr.contains(&AuthenticationMethod::OneTime)
        && standing.second_factor.is_valid_for(claims.sid, claims.pos);
    let permissions = session_permissions(&standing.roles, &standing.custom, policy, second_factor);
    if locked_out(standing.lockdown, permissions) {
        return Ok(SessionVerdict::LockedDown);
    }
    let elevated =
        standing.second_factor.session_elevation(claims.sid, second_factor, standing.step_up, &policy.sessions);
    Ok(SessionVerdict::Current { roles: Some(standing.roles), permissions, second_factor, elevated })
}

/// Returns the permissions and the expiry of an active API key.
///
/// # Errors
/// 503 if neither the gate nor the database can decide.
pub async fn standing_of(app: &App, key: ApiKeyId) -> Result<Option<(Permissions, DateTime<Utc>)>, Problem> {
    let now = clock::now();
    match app.gate.judge_api_key(key, now) {
        ApiKeyVerdict::Current(permissions, expires_at) => Ok(Some((permissions, expires_at))),
        ApiKeyVerdict::Ended => Ok(None),
        ApiKeyVerdict::LockedDown => Err(Problem::locked_down()),
        ApiKeyVerdict::Unknown => {
            match Box::pin(access::api_key_access(&app.judging, key, now)).await.map_err(authorisation_failed)? {
                Some(key)
                    if key.creator_suspended
                        && key.suspends_with_creator.unwrap_or(app.first_policy.api_keys.suspend_with_creator) =>
                {
                    Ok(None)
                }
                Some(key) if locked_out(key.lockdown, key.permissions) => Err(Problem::locked_down()),
                found => Ok(found.map(|key| (key.permissions, key.expires_at))),
            }
        }
    }
}

/// Returns the scope of the lockdown in force.
async fn lockdown(app: &App) -> Result<Option<LockdownScope>, Problem> {
    if let Ok(scope) = app.gate.lockdown() {
        return Ok(scope);
    }
    let mut connection = app.judging.acquire().await.map_err(authorisation_failed)?;
    Ok(access::lockdown(&mut connection).await.map_err(authorisation_failed)?.and_then(|lockdown| lockdown.scope))
}

/// Checks that no lockdown is in force, for calls without authentication.
///
/// # Errors
/// 503 during a lockdown.
pub async fn unless_locked_down(app: &App) -> Result<(), Problem> {
    match lockdown(app).await? {
        Some(LockdownScope::Logins | LockdownScope::All) => Err(Problem::locked_down()),
        None => Ok(()),
    }
}

fn authorisation_failed(error: sqlx::Error) -> Problem {
    tracing::warn!(error = %chain(&error), "cannot authorise a caller");
    Problem::unavailable(Duration::from_secs(1))
}

/// Returns the application of a request.
///
/// # Errors
/// 500 if the endpoint has no application.
pub fn app(request: &Request) -> Result<&Arc<App>, Problem> {
    request.data::<Arc<App>>().ok_or_else(|| Problem::internal("the application is not attached to the request"))
}

/// Returns the context of a command.
///
/// # Errors
/// 400 for an idempotency key that is empty or longer than 255 bytes.
pub fn context(request: &Request, actor: Actor, idempotency_key: Option<String>) -> Result<Context, Problem> {
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        let error = crate::http::problem::FieldError::new("/Idempotency-Key", "must have 1 to 255 bytes");
        return Err(Problem::invalid_input(vec![error]));
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(Context {
        actor,
        correlation: request.data::<RequestId>().map_or_else(Uuid::nil, |id| id.0),
        now: clock::now(),
        origin: RequestOrigin {
            ip: request.data::<ClientAddress>().map(|address| address.0),
            user_agent: header(header::USER_AGENT),
        },
        idempotency_key,
    })
}
