//! Registration, login, refresh, step-up, introspection and logout.

use std::sync::Arc;

use fulexo_commands::access_token::acr;
use fulexo_commands::{CommandOutcome, Commands, Credentials, Evidence, NewAccount};
use fulexo_domain::event::Actor;
use fulexo_domain::password::Password;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, CodeInput, DisplayName, EmailAddress, SessionId};
use fulexo_node::answer::{CommandResponse, NoContent};
use fulexo_node::caller::{
    BearerBeforeStepUp, Introspector, LogoutCaller, app, context, judge, require_csrf_token, standing_of,
    unless_locked_down,
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
use super::tokens::{LoginResponse, RefreshResponse, TokenDelivery};

pub struct Auth;

/// A registration of an account.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RegistrationRequest {
    /// The account's e-mail address: unique, compared without regard to case.
    email: String,
    /// The password: 12 characters to 72 bytes, with a lower-case letter, an upper-case letter, a digit and a symbol. Common
    /// passwords, and passwords that resemble the e-mail address or the display name, are refused.
    password: String,
    /// The display name, 1 to 100 characters.
    display_name: Option<String>,
}

/// A registered account.
#[derive(Object)]
struct RegisteredAccount {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
    roles: Vec<String>,
}

/// A login with e-mail address and password.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct LoginRequest {
    email: String,
    password: String,
    /// The `device_token` of this device's last login. It identifies the device as a known one.
    device_token: Option<String>,
    /// `true` to receive the tokens in `HttpOnly` cookies instead of the response body. For browsers.
    cookies: Option<bool>,
}

/// The second step of a login.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SecondFactorRequest {
    challenge_token: String,
    /// The six-digit code of the authenticator app, or a recovery code. Spaces and dashes are ignored; digits of any script
    /// are accepted.
    code: String,
    /// `true` to receive the tokens in `HttpOnly` cookies instead of the response body. For browsers.
    cookies: Option<bool>,
}

/// A refresh of the tokens of a session.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RefreshRequest {
    /// The refresh token. Omit it to use the refresh cookie; the new tokens are then set as cookies, too.
    refresh_token: Option<String>,
    /// The `device_token` of this device. If you send it, it must be the device that logged in.
    device_token: Option<String>,
}

/// A step-up: exactly one of `password` and `code`.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct StepUpRequest {
    /// The password, for an account without a second factor.
    password: Option<String>,
    /// The six-digit code of the authenticator app, or a recovery code. Spaces and dashes are ignored; digits of any script
    /// are accepted.
    code: Option<String>,
}

/// The elevation of a session.
#[derive(Object)]
#[oai(rename = "Elevation")]
struct ElevationResource {
    /// The end of the elevation. Sensitive calls are allowed until then.
    elevated_until: Timestamp,
}

/// The session of the access token, as of now.
#[derive(Object)]
struct CurrentSession {
    account_id: Uuid,
    session_id: Uuid,
    /// The account's current roles.
    roles: Vec<String>,
    /// The permissions of these roles in this session.
    permissions: Vec<String>,
    /// The authentication methods of the session (RFC 8176).
    methods: Vec<String>,
    /// The expiry of the access token.
    expires_at: Timestamp,
    /// The end of the elevation. Sensitive calls are allowed until then.
    elevated_until: Timestamp,
    /// `true` if every other call is refused until a step-up, because the tokens were refreshed from another browser or
    /// device.
    step_up_required: bool,
    /// The value of `X-CSRF-Token` for every call except GET. Present if the access token came in a cookie.
    #[oai(skip_serializing_if_is_none)]
    csrf_token: Option<String>,
}

/// An introspection request (RFC 7662, section 2.1).
#[derive(Object, Deserialize)]
struct IntrospectionRequest {
    /// The access token or the API key's secret to introspect.
    token: String,
    /// A hint about the token's type. It is ignored.
    token_type_hint: Option<String>,
}

/// An introspection response (RFC 7662, section 2.2). For an inactive token it has no member except `active`.
#[derive(Object, Default)]
#[oai(skip_serializing_if_is_none)]
struct IntrospectionResponse {
    active: bool,
    /// The current permissions, separated by spaces.
    scope: Option<String>,
    /// The type of the token: `Bearer` or `api_key`.
    token_type: Option<String>,
    /// The id of the account or of the API key.
    sub: Option<Uuid>,
    /// The id of the session.
    sid: Option<Uuid>,
    /// The client that the token was issued to.
    client_id: Option<String>,
    iss: Option<String>,
    aud: Option<String>,
    jti: Option<Uuid>,
    /// The expiry, in seconds since 1970-01-01T00:00:00Z.
    exp: Option<i64>,
    /// The time of issue, in seconds since 1970-01-01T00:00:00Z.
    iat: Option<i64>,
    /// The time of the login, in seconds since 1970-01-01T00:00:00Z.
    auth_time: Option<i64>,
    /// The authentication methods of the session (RFC 8176).
    amr: Option<Vec<String>>,
    acr: Option<String>,
    /// The account's current roles.
    roles: Option<Vec<String>>,
}

#[OpenApi(prefix_path = "/v1/auth", tag = "Tag::Authentication")]
impl Auth {
    /// Register an account
    ///
    /// Creates an account with the role `customer`. Its owner can log in at once. If the service sends e-mail, it sends a
    /// link that verifies the address. Returns the account.
    ///
    /// Answers 403 `registration_closed` if only administrators create accounts.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(
        &self,
        request: &Request,
        body: JsonBody<RegistrationRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<RegisteredAccount, 201>, Problem> {
        let app = app(request)?;
        if !app.registration {
            return Err(Problem::permission_denied()
                .with_code(Code::REGISTRATION_CLOSED)
                .with_detail("Registration is closed. Ask an administrator for an account."));
        }
        unless_locked_down(app).await?;
        let RegistrationRequest { email, password, display_name } = body.read()?;
        let mut input = Input::default();
        let parsed_email = input.parse("/email", EmailAddress::parse(&email));
        let parsed_name = input.parse_optional("/display_name", display_name.as_deref().map(DisplayName::parse));
        let Some(parsed_email) = parsed_email else { return Err(input.refused()) };
        input.check()?;
        let roles = AccountId::initial_roles();
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
        Ok(CommandResponse::of(done, |account| RegisteredAccount { account_id: account.0, ..answer }))
    }

    /// Log in
    ///
    /// Starts a session and returns its tokens. If the login needs another step, `status` names the step, and the response
    /// has a `challenge_token` that is valid only for this step.
    ///
    /// Every refusal is the same 401 `invalid_credentials`, for an unknown address, a wrong password, a locked account and a
    /// suspended one. Only the audit trail has the reason.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        request: &Request,
        body: JsonBody<LoginRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<LoginResponse>, Problem> {
        let LoginRequest { email, password, device_token, cookies } = body.read()?;
        let app = app(request)?;
        let mut delivery = TokenDelivery::new(app, request, cookies == Some(true))?;
        let device_token = device_token.or_else(|| Cookie::Device.of(request.headers()).map(str::to_owned));
        let mut input = Input::default();
        let Some(email) = input.parse("/email", EmailAddress::parse(&email)) else { return Err(input.refused()) };
        let credentials = Credentials { email, password: Password::new(password), device_token };
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.login(&context, credentials).await?;
        Ok(CommandResponse::of(done, |it| LoginResponse::of(it, &mut delivery)).with_cookies(delivery.cookies))
    }

    /// Log in with a second factor
    ///
    /// Needs the `challenge_token` of a login with status `second_factor_required`, and a code. Each code is accepted once.
    /// Starts a session and returns its tokens.
    ///
    /// Every refusal is the same 401 `invalid_credentials`. Wrong codes count as failed logins: the lockout policy locks the
    /// second factor after too many, by default after five within 15 minutes.
    #[oai(path = "/second-factor", method = "post", operation_id = "login_with_second_factor")]
    async fn second_factor(
        &self,
        request: &Request,
        body: JsonBody<SecondFactorRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<LoginResponse>, Problem> {
        let SecondFactorRequest { challenge_token, code, cookies } = body.read()?;
        let app = app(request)?;
        let mut delivery = TokenDelivery::new(app, request, cookies == Some(true))?;
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.second_factor(&context, &challenge_token, &CodeInput::new(&code)).await?;
        Ok(CommandResponse::of(done, |it| LoginResponse::of(it, &mut delivery)).with_cookies(delivery.cookies))
    }

    /// Exchange a refresh token for new tokens
    ///
    /// Needs a refresh token, which is valid for one use. Returns a new access token and a new refresh token.
    ///
    /// A spent refresh token revokes the session, because the token was copied. There is a grace period
    /// (`refresh_grace_seconds` of the policy, 10 seconds by default) in which the last spent token returns the same
    /// successor again, for concurrent tabs and lost responses.
    ///
    /// If the browser or device differs from the last one, `fingerprint` of the policy decides. By default the new tokens
    /// are valid only for a step-up. A known `device_token` takes precedence over the browser's name.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh_tokens")]
    async fn refresh(
        &self,
        request: &Request,
        body: JsonBody<RefreshRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<RefreshResponse>, Problem> {
        let RefreshRequest { refresh_token, device_token } = body.read()?;
        let app = app(request)?;
        let cookie = |cookie: Cookie| cookie.of(request.headers()).map(str::to_owned);
        let (refresh_token, device_token, by_cookie) = match (refresh_token, cookie(Cookie::Refresh)) {
            (Some(token), _) => (token, device_token, false),
            (None, Some(token)) => {
                // The token names the session. The command verifies the token.
                let session = Commands::named_session(&token).unwrap_or(SessionId(Uuid::nil()));
                require_csrf_token(app, request, session)?;
                (token, device_token.or_else(|| cookie(Cookie::Device)), true)
            }
            (None, None) => {
                return Err(Problem::invalid_input(vec![FieldError::new("/refresh_token", "is required")]));
            }
        };
        let mut delivery = TokenDelivery::new(app, request, by_cookie)?;
        let context = context(request, Actor::Anonymous, idempotency_key.0)?;
        let done = app.commands.refresh(&context, &refresh_token, device_token.as_deref()).await?;
        Ok(CommandResponse::of(done, |it| RefreshResponse::of(it, &mut delivery)).with_cookies(delivery.cookies))
    }

    /// Log out
    ///
    /// Ends the session. All of its tokens are refused from then on, including the one of this call: a second call answers
    /// 401. Clears the session's cookies.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(
        &self,
        request: &Request,
        caller: LogoutCaller,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let done = match caller {
            LogoutCaller::Session { account, session } => {
                let context = context(request, Actor::Account { id: account.0 }, idempotency_key.0)?;
                app(request)?.commands.end_own_session(&context, account, session).await?
            }
            LogoutCaller::Ended => CommandOutcome { value: (), position: None },
        };
        // A client that presents its token itself keeps no cookies here.
        let presented = request.headers().contains_key(header::AUTHORIZATION);
        let by_cookie = request.data::<ByCookie>().is_some() || !presented;
        let cleared = [Cookie::Access, Cookie::Refresh].into_iter().filter(|_| by_cookie).filter_map(Cookie::clear);
        Ok(NoContent::from(done).with_cookies(cleared.collect()))
    }

    /// Elevate the session (step-up)
    ///
    /// Needs the password, or a code if the account has a second factor; a password is then refused with 403
    /// `code_required`. A wrong password or code counts as a failed login from this device.
    ///
    /// Sensitive calls are allowed until `elevated_until`: for the `elevation_seconds` of the policy, 10 minutes by default.
    /// A login elevates the session in the same way.
    #[oai(path = "/step-up", method = "post", operation_id = "step_up")]
    async fn step_up(
        &self,
        request: &Request,
        caller: BearerBeforeStepUp,
        body: JsonBody<StepUpRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<ElevationResource>, Problem> {
        let caller = caller.0;
        let evidence = match body.read()? {
            StepUpRequest { password: Some(password), code: None } => Evidence::Password(Password::new(password)),
            StepUpRequest { password: None, code: Some(code) } => Evidence::Code(CodeInput::new(&code)),
            StepUpRequest { .. } => {
                return Err(Problem::invalid_input(vec![FieldError::new("", "must have either `password` or `code`")]));
            }
        };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let done = app(request)?
            .commands
            .step_up(&context, caller.account, caller.session, caller.step_up_required, evidence)
            .await?;
        Ok(CommandResponse::of(done, |elevated_until| ElevationResource { elevated_until: elevated_until.into() }))
    }

    /// Introspect a token (RFC 7662)
    ///
    /// Needs the permission `tokens.introspect`. For services that receive access tokens or API keys from their own clients.
    /// Returns the current state of the token: its session, roles and permissions as of now.
    ///
    /// You can send an API key by HTTP Basic (RFC 6749, section 2.3.1): its id as the user name, its secret as the password.
    #[oai(path = "/introspect", method = "post", operation_id = "introspect_token")]
    async fn introspect(
        &self,
        request: &Request,
        caller: Introspector,
        body: FormBody<IntrospectionRequest>,
    ) -> Result<Json<IntrospectionResponse>, Problem> {
        caller.0.require(Permission::TokensIntrospect)?;
        let IntrospectionRequest { token, .. } = body.read(request).await?;
        let app = app(request)?;
        let token = token.as_str();
        if let Some(key) = app.commands.api_key(token) {
            let Some((permissions, expires_at)) = standing_of(app, key).await? else {
                return Ok(Json(IntrospectionResponse::default()));
            };
            return Ok(Json(IntrospectionResponse {
                active: true,
                scope: Some(scope(permissions)),
                token_type: Some("api_key".to_owned()),
                sub: Some(key.0),
                exp: Some(expires_at.timestamp()),
                ..IntrospectionResponse::default()
            }));
        }
        let Ok(claims) = app.tokens.verify(app.commands.keys(), token, clock::now()) else {
            return Ok(Json(IntrospectionResponse::default()));
        };
        let Some(caller) = judge(app, Arc::clone(&claims))
            .await?
            .filter(|caller| !caller.step_up_required && clock::now() < caller.expires_at)
        else {
            return Ok(Json(IntrospectionResponse::default()));
        };
        let methods = caller.methods();
        Ok(Json(IntrospectionResponse {
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
    /// Returns the account, roles and permissions of the access token as of now. Reads no database: the node applies the
    /// changes of the log to the token's claims.
    #[oai(path = "/session", method = "get", operation_id = "get_current_session")]
    async fn session(&self, request: &Request, caller: BearerBeforeStepUp) -> Result<Json<CurrentSession>, Problem> {
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
            step_up_required: caller.step_up_required,
            csrf_token,
        }))
    }
}

fn scope(permissions: Permissions) -> String {
    permissions.iter().map(Permission::as_str).collect::<Vec<_>>().join(" ")
}
