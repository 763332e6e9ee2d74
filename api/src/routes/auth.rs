//! Registering, logging in, staying logged in, logging out.

use std::sync::Arc;

use fulexo_commands::access_token::acr;
use fulexo_commands::{CommandOutcome, Commands, Credentials, Evidence, NewAccount};
use fulexo_domain::event::Actor;
use fulexo_domain::password::Password;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, SessionId, TypedCode};
use fulexo_node::answer::{NoContent, Recorded};
use fulexo_node::caller::{
    HeldBearer, Introspector, SigningOut, app, context, judge, require_csrf_token, standing_of, unless_locked_down,
};
use fulexo_node::clock;
use fulexo_node::http::cookies::{ByCookie, Cookie};
use fulexo_node::http::problem::{Code, FieldError};
use fulexo_node::http::{FormBody, JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use poem::Request;
use poem::http::header;
use poem_openapi::param::Header;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;
use uuid::Uuid;

use super::input::Input;
use super::tag::Tag;
use super::tokens::{Handover, LoginAnswer, RefreshAnswer};

pub struct Auth;

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Registration {
    /// Where the account's owner can be reached; unique, without regard to case.
    email: String,
    /// 12 to 72 bytes with a lower-case letter, an upper-case letter, a digit and a symbol; not a common one, and not
    /// like the e-mail address or the name.
    password: String,
    /// How the owner wants to be called; 1 to 100 characters.
    display_name: Option<String>,
}

#[derive(Object)]
struct RegisteredAccount {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
    roles: Vec<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Login {
    email: String,
    password: String,
    /// What this device was given at an earlier login; by it the device is known again.
    device_token: Option<String>,
    /// For browsers: true has the tokens set as cookies that no script can read, and not in the answer.
    cookies: Option<bool>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SecondFactor {
    challenge_token: String,
    /// Six digits of the authenticator app, or a recovery code; spaces, dashes and the digits of any script are read.
    code: String,
    /// For browsers: true has the tokens set as cookies that no script can read, and not in the answer.
    cookies: Option<bool>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Refresh {
    /// May be missing where it is in its cookie; the new tokens are then set as cookies too.
    refresh_token: Option<String>,
    /// What this device was given at its login; if sent, it must be the one that logged in.
    device_token: Option<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct StepUp {
    /// The password of an account that has no second factor.
    password: Option<String>,
    /// Six digits of the authenticator app, or a recovery code; spaces, dashes and the digits of any script are read.
    code: Option<String>,
}

#[derive(Object)]
struct Elevated {
    /// Until then sensitive calls are allowed.
    elevated_until: Timestamp,
}

#[derive(Object)]
struct CurrentSession {
    account_id: Uuid,
    session_id: Uuid,
    /// Roles held now.
    roles: Vec<String>,
    /// What they allow together.
    permissions: Vec<String>,
    /// How the session's owner logged in (RFC 8176).
    methods: Vec<String>,
    /// When the access token ends.
    expires_at: Timestamp,
    /// Until then sensitive calls are allowed.
    elevated_until: Timestamp,
    /// Whether every other call is refused until the session's owner has proved themselves by a step-up: its tokens were
    /// refreshed from somewhere that looked different.
    held: bool,
    /// Where the access token came in a cookie: to be sent as `X-CSRF-Token` with every call that is not a GET.
    #[oai(skip_serializing_if_is_none)]
    csrf_token: Option<String>,
}

/// RFC 7662, section 2.1.
#[derive(Object, Deserialize)]
struct Introspection {
    /// An access token, or an API key.
    token: String,
    /// Not needed.
    token_type_hint: Option<String>,
}

/// RFC 7662, section 2.2. Of a token that is worth nothing, for whatever reason, `active` is all that is said.
#[derive(Object, Default)]
#[oai(skip_serializing_if_is_none)]
struct Introspected {
    active: bool,
    /// Permissions, separated by spaces.
    scope: Option<String>,
    /// `Bearer`, or `api_key`.
    token_type: Option<String>,
    /// The account, or the API key.
    sub: Option<Uuid>,
    /// The session.
    sid: Option<Uuid>,
    /// The client that the token was issued to.
    client_id: Option<String>,
    iss: Option<String>,
    aud: Option<String>,
    jti: Option<Uuid>,
    /// Seconds since 1970.
    exp: Option<i64>,
    /// Seconds since 1970.
    iat: Option<i64>,
    /// Seconds since 1970.
    auth_time: Option<i64>,
    /// How the session's owner logged in (RFC 8176).
    amr: Option<Vec<String>>,
    acr: Option<String>,
    /// Roles held now.
    roles: Option<Vec<String>>,
}

#[OpenApi(prefix_path = "/v1/auth", tag = "Tag::Authentication")]
impl Auth {
    /// Register an account
    ///
    /// Its owner can log in at once. A mail asks them to confirm the address, where the service sends mail. 403
    /// `registration_closed` where accounts are made by administrators alone.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(
        &self,
        request: &Request,
        body: JsonBody<Registration>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<RegisteredAccount, 201>, Problem> {
        let app = app(request)?;
        if !app.registration {
            return Err(Problem::permission_denied()
                .with_code(Code::REGISTRATION_CLOSED)
                .with_detail("Accounts are made by administrators here."));
        }
        unless_locked_down(app).await?;
        let Registration { email, password, display_name } = body.read()?;
        let mut input = Input::default();
        let parsed_email = input.parse("/email", EmailAddress::parse(&email));
        let parsed_name = input.parse_optional("/display_name", display_name.as_deref().map(DisplayName::parse));
        let Some(parsed_email) = parsed_email else { return Err(input.refused()) };
        input.check()?;
        let roles = AccountId::first_roles();
        let answer = RegisteredAccount {
            account_id: Uuid::nil(),
            email,
            display_name: parsed_name.as_ref().map(|name| name.as_str().to_owned()),
            roles: roles.iter().map(ToString::to_string).collect(),
        };
        let new =
            NewAccount { email: parsed_email, password: Password::new(password), display_name: parsed_name, roles };
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.register(&context, new).await?;
        Ok(Recorded::of(done, |account| RegisteredAccount { account_id: account.0, ..answer }))
    }

    /// Log in
    ///
    /// Every refusal is the same 401, whether the address is unknown, the password wrong, the account locked or
    /// suspended; the reason is in the audit trail. Where the password alone does not begin a session, `status` says what
    /// is left to do, and `challenge_token` is good for that alone.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        request: &Request,
        body: JsonBody<Login>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<LoginAnswer>, Problem> {
        let Login { email, password, device_token, cookies } = body.read()?;
        let app = app(request)?;
        let mut handover = Handover::new(app, request, cookies == Some(true))?;
        let device_token = device_token.or_else(|| Cookie::Device.of(request.headers()).map(str::to_owned));
        let mut input = Input::default();
        let Some(email) = input.parse("/email", EmailAddress::parse(&email)) else { return Err(input.refused()) };
        let credentials = Credentials { email, password: Password::new(password), device_token };
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.login(&context, credentials).await?;
        Ok(Recorded::of(done, |it| LoginAnswer::of(it, &mut handover)).with_cookies(handover.cookies))
    }

    /// Log in with a second factor
    ///
    /// A code is accepted once. A wrong one counts, and five within fifteen minutes lock the second factor for a while;
    /// every refusal is the same 401.
    #[oai(path = "/second-factor", method = "post", operation_id = "login_with_second_factor")]
    async fn second_factor(
        &self,
        request: &Request,
        body: JsonBody<SecondFactor>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<LoginAnswer>, Problem> {
        let SecondFactor { challenge_token, code, cookies } = body.read()?;
        let app = app(request)?;
        let mut handover = Handover::new(app, request, cookies == Some(true))?;
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.second_factor(&context, &challenge_token, &TypedCode::new(&code)).await?;
        Ok(Recorded::of(done, |it| LoginAnswer::of(it, &mut handover)).with_cookies(handover.cookies))
    }

    /// Exchange a refresh token for new tokens
    ///
    /// A token that was spent before ends the session: somebody else holds a copy. Within ten seconds the one just
    /// spent is answered with its successor, for two tabs or a lost answer. From another browser or device than
    /// before, the policy decides: by default the new tokens are good for a step-up alone. A `device_token` that the account
    /// knows says more than the browser does.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh_tokens")]
    async fn refresh(
        &self,
        request: &Request,
        body: JsonBody<Refresh>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<RefreshAnswer>, Problem> {
        let Refresh { refresh_token, device_token } = body.read()?;
        let app = app(request)?;
        let cookie = |cookie: Cookie| cookie.of(request.headers()).map(str::to_owned);
        let (refresh_token, device_token, by_cookie) = match (refresh_token, cookie(Cookie::Refresh)) {
            (Some(token), _) => (token, device_token, false),
            (None, Some(token)) => {
                // Whose session it is the token says; whether it is one, the command.
                let session = Commands::named_session(&token).unwrap_or(SessionId(Uuid::nil()));
                require_csrf_token(app, request, session)?;
                (token, device_token.or_else(|| cookie(Cookie::Device)), true)
            }
            (None, None) => {
                return Err(Problem::invalid_input(vec![FieldError::new("/refresh_token", "is missing")]));
            }
        };
        let mut handover = Handover::new(app, request, by_cookie)?;
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.refresh(&context, &refresh_token, device_token.as_deref()).await?;
        Ok(Recorded::of(done, |it| RefreshAnswer::of(it, &mut handover)).with_cookies(handover.cookies))
    }

    /// Log out
    ///
    /// Its tokens are refused from then on, this one included: a second call answers 401. Cookies are taken away.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(
        &self,
        request: &Request,
        caller: SigningOut,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let done = match caller {
            SigningOut::From { account, session } => {
                let context = context(request, Actor::Account { id: account.0 }, idempotency_key.0)?;
                app(request)?.commands.end_own_session(&context, account, session).await?
            }
            SigningOut::Ended => CommandOutcome { value: (), position: None },
        };
        // A client that presents its token itself keeps no cookies here.
        let presented = request.headers().contains_key(header::AUTHORIZATION);
        let by_cookie = request.data::<ByCookie>().is_some() || !presented;
        let cleared = [Cookie::Access, Cookie::Refresh].into_iter().filter(|_| by_cookie).filter_map(Cookie::clear);
        Ok(NoContent::from(done).with_cookies(cleared.collect()))
    }

    /// Step up
    ///
    /// Allows sensitive calls for ten minutes.
    /// Send the password, or a code. An account that has a second factor needs a code: its password is refused with
    /// `code_required`. What is wrong counts as a failed login from this device.
    #[oai(path = "/step-up", method = "post", operation_id = "step_up")]
    async fn step_up(
        &self,
        request: &Request,
        caller: HeldBearer,
        body: JsonBody<StepUp>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Elevated>, Problem> {
        let caller = caller.0;
        let evidence = match body.read()? {
            StepUp { password: Some(password), code: None } => Evidence::Password(Password::new(password)),
            StepUp { password: None, code: Some(code) } => Evidence::Code(TypedCode::new(&code)),
            StepUp { .. } => {
                return Err(Problem::invalid_input(vec![FieldError::new("", "must hold either password or code")]));
            }
        };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let done =
            app(request)?.commands.step_up(&context, caller.account, caller.session, caller.held, evidence).await?;
        Ok(Recorded::of(done, |elevated_until| Elevated { elevated_until: elevated_until.into() }))
    }

    /// Introspect a token (RFC 7662)
    ///
    /// For services that are handed access tokens or API keys by others. Needs `tokens.introspect`, which an API key may
    /// have. A key may be presented by HTTP Basic, too (RFC 6749, section 2.3.1): its id as the user, its secret as the
    /// password.
    #[oai(path = "/introspect", method = "post", operation_id = "introspect_token")]
    async fn introspect(
        &self,
        request: &Request,
        caller: Introspector,
        body: FormBody<Introspection>,
    ) -> Result<Json<Introspected>, Problem> {
        caller.0.require(Permission::TokensIntrospect)?;
        let Introspection { token, .. } = body.read(request).await?;
        let app = app(request)?;
        let token = token.as_str();
        if let Some(key) = app.commands.api_key(token) {
            let Some((permissions, expires_at)) = standing_of(app, key).await? else {
                return Ok(Json(Introspected::default()));
            };
            return Ok(Json(Introspected {
                active: true,
                scope: Some(scope(permissions)),
                token_type: Some("api_key".to_owned()),
                sub: Some(key.0),
                exp: Some(expires_at.timestamp()),
                ..Introspected::default()
            }));
        }
        let Ok(claims) = app.tokens.verify(app.commands.keys(), token, clock::now()) else {
            return Ok(Json(Introspected::default()));
        };
        let Some(caller) =
            judge(app, Arc::clone(&claims)).await?.filter(|caller| !caller.held && clock::now() < caller.expires_at)
        else {
            return Ok(Json(Introspected::default()));
        };
        let methods = caller.methods();
        Ok(Json(Introspected {
            active: true,
            scope: Some(scope(caller.permissions)),
            token_type: Some("Bearer".to_owned()),
            sub: Some(claims.sub.0),
            sid: Some(claims.sid.0),
            client_id: Some(claims.client_id.clone()),
            iss: Some(claims.iss.clone()),
            aud: Some(claims.aud.clone()),
            jti: Some(claims.jti),
            exp: Some(claims.exp),
            iat: Some(claims.iat),
            auth_time: Some(claims.auth_time),
            amr: Some(methods.iter().map(|method| method.as_str().to_owned()).collect()),
            acr: Some(acr(&methods).to_owned()),
            roles: Some(caller.roles().iter().map(ToString::to_string).collect()),
        }))
    }

    /// Get the current session
    ///
    /// Judged from the token and this node's memory of what has changed since; no database is read.
    #[oai(path = "/session", method = "get", operation_id = "get_current_session")]
    async fn session(&self, request: &Request, caller: HeldBearer) -> Result<Json<CurrentSession>, Problem> {
        let caller = caller.0;
        let csrf_token = match request.data::<ByCookie>() {
            Some(_) => Some(app(request)?.commands.csrf_token(caller.session)),
            None => None,
        };
        Ok(Json(CurrentSession {
            account_id: caller.account.0,
            session_id: caller.session.0,
            roles: caller.roles().iter().map(ToString::to_string).collect(),
            permissions: caller.permissions.iter().map(|permission| permission.as_str().to_owned()).collect(),
            methods: caller.methods().iter().map(|method| method.as_str().to_owned()).collect(),
            expires_at: caller.expires_at.into(),
            elevated_until: caller.elevated_until.into(),
            held: caller.held,
            csrf_token,
        }))
    }
}

fn scope(permissions: Permissions) -> String {
    permissions.iter().map(Permission::as_str).collect::<Vec<_>>().join(" ")
}
