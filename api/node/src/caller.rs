//! Who calls: the only place that turns a token into an authority. Handlers take one of the types below and ask it for
//! what the call needs; everything that is not asked for is not given.
//!
//! | type | who gets in |
//! |---|---|
//! | [`Bearer`] | somebody logged in |
//! | [`BearerOrKey`] | the same, or a service by its API key; never for sensitive calls |
//! | [`Introspector`] | the same, the key also by HTTP Basic |
//! | [`HeldBearer`] | somebody logged in, also where their session is held until they prove themselves |
//! | [`SigningOut`] | the same, also by the refresh cookie where the access token has run out |
//! | [`Enrolling`], [`ChangingPassword`] | somebody logged in, or whose login leads to this one step |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_commands::access_token::Claims;
use fulexo_commands::context::{Context, RequestOrigin};
use fulexo_commands::{ChallengePurpose, Commands, PendingLogin};
use fulexo_domain::authentication::Method;
use fulexo_domain::event::Actor;
use fulexo_domain::lockdown::Scope;
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

/// An access token, or an API key, which may come by HTTP Basic.
pub struct Introspector(pub Authority);

/// An access token, also of a session that is held until its owner has proved themselves.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", bearer_format = "JWT", key_name = "Authorization", checker = "held_bearer")]
pub struct HeldBearer(pub Caller);

/// An access token, also of a held session. In cookie mode the refresh cookie does where the access token has run out: whoever
/// comes back to a page that was left open is to be able to leave.
pub enum SigningOut {
    /// Somebody in a session.
    From {
        /// The account of the session.
        account: AccountId,
        /// The session.
        session: SessionId,
    },
    /// Somebody whose cookies name a session that has ended.
    Ended,
}

/// An access token, or the `challenge_token` of a login with status `second_factor_enrolment_required`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", key_name = "Authorization", checker = "enrolling")]
pub struct Enrolling(pub Step);

/// An access token, or the `challenge_token` of a login with status `password_change_required`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", key_name = "Authorization", checker = "changing_password")]
pub struct ChangingPassword(pub Step);

/// Somebody logged in, judged now.
#[derive(Clone)]
pub struct Caller {
    /// Who.
    pub account: AccountId,
    /// In which session.
    pub session: SessionId,
    /// What the roles held now allow together in this session.
    pub permissions: Permissions,
    /// When the access token ends.
    pub expires_at: DateTime<Utc>,
    /// Until then sensitive calls are allowed.
    pub elevated_until: DateTime<Utc>,
    /// Whether the session is of no use until its owner has proved themselves.
    pub held: bool,
    /// Whether a second factor was presented that still counts.
    second_factor: bool,
    /// What the access token says.
    claims: Arc<Claims>,
    /// Roles held now, where they are not those of the token.
    changed_roles: Option<BTreeSet<RoleName>>,
}

/// Whoever acts, and what they may do.
pub struct Authority {
    /// Who.
    pub actor: Actor,
    permissions: Permissions,
}

/// Somebody who may take one step.
pub enum Step {
    /// Logged in.
    LoggedIn(Caller),
    /// Whose login leads to it.
    PendingLogin(PendingLogin),
}

impl Caller {
    /// Roles held now.
    pub fn roles(&self) -> Vec<&RoleName> {
        self.changed_roles.as_ref().map_or_else(|| self.claims.roles.iter().collect(), |roles| roles.iter().collect())
    }

    /// Where in the log their login or last refresh stands; their own views are to have seen it.
    pub fn position(&self) -> u64 {
        self.claims.pos
    }

    /// How the session's owner logged in, and proved themselves since, as far as it still counts.
    pub fn methods(&self) -> Vec<Method> {
        let counts = |method: &Method| *method != Method::OneTime || self.second_factor;
        self.claims.amr.iter().copied().filter(counts).collect()
    }

    /// Who acts.
    pub const fn actor(&self) -> Actor {
        Actor::Account { id: self.account.0 }
    }

    /// # Errors
    /// 403 without the permission.
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.permissions.contains(permission) { Ok(()) } else { Err(Problem::lacks(permission)) }
    }

    /// # Errors
    /// 403 when the login is too long ago for a sensitive call.
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
}

impl Step {
    /// Whose account it is about.
    pub const fn account(&self) -> AccountId {
        match self {
            Self::LoggedIn(caller) => caller.account,
            Self::PendingLogin(pending_login) => pending_login.account(),
        }
    }

    /// The session of somebody logged in.
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::LoggedIn(caller) => Some(caller.session),
            Self::PendingLogin(_) => None,
        }
    }

    /// Who acts.
    pub const fn actor(&self) -> Actor {
        Actor::Account { id: self.account().0 }
    }

    /// # Errors
    /// 403 when the login is too long ago for a sensitive call; one that is half way is not.
    pub fn require_elevated(&self) -> Result<(), Problem> {
        match self {
            Self::LoggedIn(caller) => caller.require_elevated(),
            Self::PendingLogin(_) => Ok(()),
        }
    }
}

async fn bearer(request: &Request, bearer: auth::Bearer) -> poem::Result<Caller> {
    sound(request, unheld(authenticate(app(request)?, request, &bearer.token).await?)?)
}

async fn held_bearer(request: &Request, bearer: auth::Bearer) -> poem::Result<Caller> {
    sound(request, authenticate(app(request)?, request, &bearer.token).await?)
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
        // By which scheme there is, and no other is tried.
        match basic::credentials(request.headers()) {
            Some(presented) => {
                let app = app(request)?;
                let presented = presented.ok_or_else(Problem::invalid_client)?;
                let key = app.commands.api_key(&presented.secret).filter(|key| presented.is_id(key.0));
                let key = key.ok_or_else(Problem::invalid_client)?;
                sound(request, Self(authority_of(app, request, key).await?.ok_or_else(Problem::invalid_client)?))
            }
            None => BearerOrKey::from_request(request, body, options).await.map(|caller| Self(caller.0)),
        }
    }
}

impl<'a> ApiExtractor<'a> for SigningOut {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        HeldBearer::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["SigningOut"]
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        // Whoever presents a token themselves is judged by that alone.
        let by_cookie = request.data::<ByCookie>().is_some() || !request.headers().contains_key(header::AUTHORIZATION);
        let error = match HeldBearer::from_request(request, body, options).await {
            Ok(HeldBearer(Caller { account, session, .. })) => return Ok(Self::From { account, session }),
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
            return sound(request, Self::Ended);
        };
        admit(app, request, Actor::Account { id: account.0 })?;
        sound(request, Self::From { account, session })
    }
}

async fn bearer_or_key(request: &Request, bearer: auth::Bearer) -> poem::Result<Authority> {
    let app = app(request)?;
    if let Some(key) = app.commands.api_key(&bearer.token) {
        return sound(request, authority_of(app, request, key).await?.ok_or_else(Problem::invalid_token)?);
    }
    let caller = unheld(authenticate(app, request, &bearer.token).await?)?;
    sound(request, Authority { actor: caller.actor(), permissions: caller.permissions })
}

/// The authority of an API key, if it is in use; counts its request.
async fn authority_of(app: &App, request: &Request, key: ApiKeyId) -> Result<Option<Authority>, Problem> {
    let Some((permissions, _)) = standing_of(app, key).await? else { return Ok(None) };
    let actor = Actor::ApiKey { id: key.0 };
    admit(app, request, actor)?;
    Ok(Some(Authority { actor, permissions }))
}

async fn enrolling(request: &Request, bearer: auth::Bearer) -> poem::Result<Step> {
    sound(request, step(app(request)?, request, &bearer.token, ChallengePurpose::Enrolment).await?)
}

async fn changing_password(request: &Request, bearer: auth::Bearer) -> poem::Result<Step> {
    sound(request, step(app(request)?, request, &bearer.token, ChallengePurpose::PasswordChange).await?)
}

async fn step(app: &App, request: &Request, token: &str, purpose: ChallengePurpose) -> poem::Result<Step> {
    // A JWT has dots, and what a login leads to has none.
    if token.contains('.') {
        return Ok(Step::LoggedIn(unheld(authenticate(app, request, token).await?)?));
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

fn unheld(caller: Caller) -> Result<Caller, Problem> {
    if caller.held { Err(Problem::step_up_required()) } else { Ok(caller) }
}

async fn authenticate(app: &App, request: &Request, token: &str) -> Result<Caller, Problem> {
    let claims = app.tokens.verify(app.commands.keys(), token, clock::now()).map_err(|_| Problem::invalid_token())?;
    let caller = judge(app, claims).await?.ok_or_else(Problem::invalid_token)?;
    if request.data::<ByCookie>().is_some() && !request.method().is_safe() {
        require_csrf_token(app, request, caller.session)?;
    }
    admit(app, request, caller.actor())?;
    Ok(caller)
}

/// A browser sends cookies along whoever has it send a request. Only the session's own page knows its token.
///
/// # Errors
/// 403 without the token, or where the browser says that a page of a foreign origin is behind the request.
pub fn require_csrf_token(app: &App, request: &Request, session: SessionId) -> Result<(), Problem> {
    let presented = request.headers().get(CSRF_TOKEN).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_right = app.commands.is_csrf_token(session, presented);
    if is_right && request.data::<Foreign>().is_none() { Ok(()) } else { Err(Problem::csrf_rejected()) }
}

/// Counts a request of whoever was recognised.
fn admit(app: &App, request: &Request, actor: Actor) -> Result<(), Problem> {
    let routes = request.data::<AccountQuotas>().map_or(&[][..], |quotas| quotas.0);
    app.limits.as_ref().map_or(Ok(()), |limits| limits.account(actor, routes))
}

/// Tells whoever was let in which parameters their request should not have.
///
/// # Errors
/// 400.
fn sound<T>(request: &Request, who: T) -> poem::Result<T> {
    request.data::<Arc<BadParameters>>().map_or(Ok(who), |bad| Err(bad.refusal().into()))
}

/// What an access token is worth now; nothing when its session has ended.
///
/// # Errors
/// 503 when neither memory nor the database can tell.
pub async fn judge(app: &App, claims: Arc<Claims>) -> Result<Option<Caller>, Problem> {
    let mut verdict = app.gate.judge(TokenClaims {
        account: claims.sub,
        session: claims.sid,
        position: claims.pos,
        epoch: claims.epoch,
        roles: &claims.roles,
        second_factor: claims.amr.contains(&Method::OneTime),
    });
    if verdict == SessionVerdict::Unknown {
        // Seldom; boxed, so that the others need not carry its state along.
        verdict = Box::pin(ask_the_tables(app, &claims)).await?;
    }
    let (roles, permissions, second_factor, elevated) = match verdict {
        SessionVerdict::Current { roles, permissions, second_factor, elevated } => {
            (roles, permissions, second_factor, elevated)
        }
        SessionVerdict::Ended => return Ok(None),
        SessionVerdict::LockedDown => return Err(Problem::locked_down()),
        // The tables always know.
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
        // Whoever proved themselves since the token was issued, where it is held, is held no longer.
        held: claims.held && elevated.released.is_none_or(|released| released <= claims.pos),
        claims,
    }))
}

/// This node cannot prove that its memory is current: the database knows, or nobody is let in.
async fn ask_the_tables(app: &App, claims: &Claims) -> Result<SessionVerdict, Problem> {
    let standing = access::session_access(&app.judging, claims.sub, claims.sid).await.map_err(unjudged)?;
    if !standing.is_live {
        return Ok(SessionVerdict::Ended);
    }
    let policy = standing.policy.as_ref().unwrap_or(&app.first_policy);
    let second_factor =
        claims.amr.contains(&Method::OneTime) && standing.second_factor.is_valid_for(claims.sid, claims.pos);
    let permissions = session_permissions(&standing.roles, &standing.custom, policy, second_factor);
    if locked_out(standing.lockdown, permissions) {
        return Ok(SessionVerdict::LockedDown);
    }
    let elevated =
        standing.second_factor.session_elevation(claims.sid, second_factor, standing.step_up, &policy.sessions);
    Ok(SessionVerdict::Current { roles: Some(standing.roles), permissions, second_factor, elevated })
}

/// What an API key may do, and until when, if it is in use.
///
/// # Errors
/// 503 when neither memory nor the database can tell.
pub async fn standing_of(app: &App, key: ApiKeyId) -> Result<Option<(Permissions, DateTime<Utc>)>, Problem> {
    let now = clock::now();
    match app.gate.judge_api_key(key, now) {
        ApiKeyVerdict::Current(permissions, expires_at) => Ok(Some((permissions, expires_at))),
        ApiKeyVerdict::Ended => Ok(None),
        ApiKeyVerdict::LockedDown => Err(Problem::locked_down()),
        ApiKeyVerdict::Unknown => {
            match Box::pin(access::api_key_access(&app.judging, key, now)).await.map_err(unjudged)? {
                Some(key)
                    if key.maker_suspended
                        && key.ends_with_suspension.unwrap_or(app.first_policy.api_keys.end_with_suspension) =>
                {
                    Ok(None)
                }
                Some(key) if locked_out(key.lockdown, key.permissions) => Err(Problem::locked_down()),
                found => Ok(found.map(|key| (key.permissions, key.expires_at))),
            }
        }
    }
}

/// What a lockdown closes.
async fn lockdown(app: &App) -> Result<Option<Scope>, Problem> {
    if let Ok(scope) = app.gate.lockdown() {
        return Ok(scope);
    }
    let mut connection = app.judging.acquire().await.map_err(unjudged)?;
    Ok(access::lockdown(&mut connection).await.map_err(unjudged)?.and_then(|lockdown| lockdown.scope))
}

/// For what strangers may do, and nobody during a lockdown.
///
/// # Errors
/// 503 during a lockdown.
pub async fn unless_locked_down(app: &App) -> Result<(), Problem> {
    match lockdown(app).await? {
        Some(Scope::Logins | Scope::All) => Err(Problem::locked_down()),
        None => Ok(()),
    }
}

fn unjudged(error: sqlx::Error) -> Problem {
    tracing::warn!(%error, "a caller cannot be judged");
    Problem::unavailable(Duration::from_secs(1))
}

/// The application behind a request.
///
/// # Errors
/// 500 when the endpoint was put together without it.
pub fn app(request: &Request) -> Result<&Arc<App>, Problem> {
    request.data::<Arc<App>>().ok_or_else(|| Problem::internal("the application is not attached to the request"))
}

/// What commands need to know of a request.
///
/// # Errors
/// 400 for an idempotency key that is empty or longer than 255 bytes.
pub fn context(request: &Request, actor: Actor, idempotency_key: Option<String>) -> Result<Context, Problem> {
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        let error = crate::http::problem::FieldError::new("/Idempotency-Key", "must be 1 to 255 bytes long");
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
