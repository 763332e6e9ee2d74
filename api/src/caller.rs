//! Who calls: the only place that turns a token into an authority. Handlers take a [`Bearer`] and ask it for what the
//! call needs; everything that is not asked for is not given.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_commands::context::{Context, Origin};
use fulexo_domain::authentication::Method;
use fulexo_domain::event::Actor;
use fulexo_domain::permission::{Permission, Permissions, permissions_of_all};
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_projections::access;
use fulexo_projections::gate::{Claim, Verdict};
use poem::Request;
use poem::http::header;
use poem_openapi::{SecurityScheme, auth};
use uuid::Uuid;

use crate::app::App;
use crate::clock;
use crate::http::{ClientAddress, Problem, RequestId};

/// A caller with a valid access token, judged now.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", bearer_format = "JWT", key_name = "Authorization", checker = "authenticate")]
pub struct Bearer(pub Caller);

/// Somebody logged in.
#[derive(Clone)]
pub struct Caller {
    /// Who.
    pub account: AccountId,
    /// In which session.
    pub session: SessionId,
    /// Roles held now.
    pub roles: Vec<RoleName>,
    /// What they allow together.
    pub permissions: Permissions,
    /// How the session's owner logged in.
    pub methods: Vec<Method>,
    /// When the access token ends.
    pub expires_at: DateTime<Utc>,
    /// Until then sensitive calls are allowed.
    pub elevated_until: DateTime<Utc>,
}

impl Caller {
    /// # Errors
    /// 403 without the permission.
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.permissions.contains(permission) { Ok(()) } else { Err(Problem::permission_denied()) }
    }

    /// # Errors
    /// 403 when the login is too long ago for a sensitive call.
    pub fn require_elevated(&self) -> Result<(), Problem> {
        if clock::now() < self.elevated_until { Ok(()) } else { Err(Problem::step_up_required()) }
    }
}

async fn authenticate(request: &Request, bearer: auth::Bearer) -> poem::Result<Caller> {
    let app = app(request)?;
    let now = clock::now();
    let claims = app.tokens.verify(app.commands.keys(), &bearer.token, now).map_err(|_| Problem::invalid_token())?;
    let claim = Claim { account: claims.sub, session: claims.sid, position: claims.pos, roles: &claims.roles };
    let (roles, stepped_up) = match app.gate.judge(claim) {
        Verdict::Current { roles, elevated_until } => (roles, elevated_until),
        Verdict::Ended => return Err(Problem::invalid_token().into()),
        Verdict::Unknown => {
            // This node cannot prove that its memory is current: the database knows, or nobody is let in.
            let standing = access::standing(&app.pool, claims.sub, claims.sid).await.map_err(|error| {
                tracing::warn!(%error, "a caller cannot be judged");
                Problem::unavailable(Duration::from_secs(1))
            })?;
            if !standing.is_live {
                return Err(Problem::invalid_token().into());
            }
            (standing.roles, standing.elevated_until)
        }
    };
    let roles: Vec<RoleName> = roles.into_iter().collect();
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    Ok(Caller {
        account: claims.sub,
        session: claims.sid,
        permissions: permissions_of_all(&roles),
        roles,
        methods: claims.amr.clone(),
        expires_at: at(claims.exp),
        elevated_until: stepped_up
            .unwrap_or_default()
            .max(at(claims.auth_time) + app.commands.policy().sessions.elevation),
    })
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
pub fn context(
    request: &Request,
    caller: Option<&Caller>,
    idempotency_key: Option<String>,
) -> Result<Context, Problem> {
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        let error = crate::http::problem::FieldError::new("/Idempotency-Key", "must be 1 to 255 bytes long");
        return Err(Problem::invalid_input(vec![error]));
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(Context {
        actor: caller.map_or(Actor::Anonymous, |caller| Actor::Account { id: caller.account.0 }),
        correlation: request.data::<RequestId>().map_or_else(Uuid::nil, |id| id.0),
        now: clock::now(),
        origin: Origin {
            ip: request.data::<ClientAddress>().map(|address| address.0),
            user_agent: header(header::USER_AGENT),
            accept_language: header(header::ACCEPT_LANGUAGE),
        },
        idempotency_key,
    })
}
