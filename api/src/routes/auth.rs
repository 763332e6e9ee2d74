//! Registering, logging in, staying logged in, logging out.

use chrono::{DateTime, Utc};
use fulexo_commands::{Credentials, NewAccount, Tokens};
use fulexo_domain::password::Password;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress};
use poem::Request;
use poem_openapi::param::Header;
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::input::Input;
use crate::answer::{NoContent, Recorded};
use crate::caller::{Bearer, app, context};
use crate::http::Problem;

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
}

#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum LoginStatus {
    /// The tokens are in this answer.
    Authenticated,
}

#[derive(Object)]
struct TokenAnswer {
    status: LoginStatus,
    /// A JWT in the profile of RFC 9068.
    access_token: String,
    /// Good for one use; a spent one that comes back ends the session.
    refresh_token: String,
    /// `Bearer`.
    token_type: String,
    /// Life of the access token, in seconds.
    expires_in: i64,
    session_id: Uuid,
    /// To be kept by the device and sent with its next login; after a login alone.
    #[oai(skip_serializing_if_is_none)]
    device_token: Option<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Refresh {
    refresh_token: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct StepUp {
    password: String,
}

#[derive(Object)]
struct Elevated {
    /// Until then sensitive calls are allowed.
    elevated_until: DateTime<Utc>,
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
    expires_at: DateTime<Utc>,
    /// Until then sensitive calls are allowed.
    elevated_until: DateTime<Utc>,
}

#[OpenApi(prefix_path = "/v1/auth", tag = "Tag::Authentication")]
impl Auth {
    /// Register an account.
    #[oai(path = "/register", method = "post", operation_id = "create_registration")]
    async fn register(
        &self,
        request: &Request,
        body: Json<Registration>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<RegisteredAccount, 201>, Problem> {
        let app = app(request)?;
        if !app.registration {
            return Err(Problem::permission_denied()
                .with_code("registration_closed")
                .with_detail("Accounts are made by administrators here."));
        }
        let Json(Registration { email, password, display_name }) = body;
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
        let context = context(request, None, idempotency_key.0)?;
        let done = app.commands.register(&context, new).await?;
        Ok(Recorded::of(done, |account| RegisteredAccount { account_id: account.0, ..answer }))
    }

    /// Log in.
    ///
    /// Every refusal is the same 401, whether the address is unknown, the password wrong or the account locked; the
    /// reason is in the audit trail.
    #[oai(path = "/login", method = "post", operation_id = "create_login")]
    async fn login(
        &self,
        request: &Request,
        body: Json<Login>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<TokenAnswer>, Problem> {
        let Json(Login { email, password, device_token }) = body;
        let mut input = Input::default();
        let Some(email) = input.parse("/email", EmailAddress::parse(&email)) else { return Err(input.refused()) };
        let credentials = Credentials { email, password: Password::new(password), device_token };
        let context = context(request, None, idempotency_key.0)?;
        let done = app(request)?.commands.login(&context, credentials).await?;
        Ok(Recorded::of(done, TokenAnswer::of))
    }

    /// Exchange a refresh token for new tokens.
    ///
    /// A token that was spent before ends the session: somebody else holds a copy. Within ten seconds the one just
    /// spent is answered with its successor, for two tabs or a lost answer.
    #[oai(path = "/refresh", method = "post", operation_id = "create_refresh")]
    async fn refresh(
        &self,
        request: &Request,
        body: Json<Refresh>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<TokenAnswer>, Problem> {
        let context = context(request, None, idempotency_key.0)?;
        let done = app(request)?.commands.refresh(&context, &body.0.refresh_token).await?;
        Ok(Recorded::of(done, TokenAnswer::of))
    }

    /// End this session.
    ///
    /// Its tokens are refused from then on, this one included: a second call answers 401.
    #[oai(path = "/logout", method = "post", operation_id = "create_logout")]
    async fn logout(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let context = context(request, Some(&caller.0), idempotency_key.0)?;
        let done = app(request)?.commands.end_own_session(&context, caller.0.account, caller.0.session).await?;
        Ok(done.into())
    }

    /// Confirm the password, and make sensitive calls for ten minutes.
    ///
    /// A wrong password counts as a failed login.
    #[oai(path = "/step-up", method = "post", operation_id = "create_step_up")]
    async fn step_up(
        &self,
        request: &Request,
        caller: Bearer,
        body: Json<StepUp>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Elevated>, Problem> {
        let caller = caller.0;
        let context = context(request, Some(&caller), idempotency_key.0)?;
        let password = Password::new(body.0.password);
        let done = app(request)?.commands.step_up(&context, caller.account, caller.session, password).await?;
        Ok(Recorded::of(done, |elevated_until| Elevated { elevated_until }))
    }

    /// The caller, as judged now.
    ///
    /// Judged from the token and this node's memory of what has changed since; no database is read.
    #[oai(path = "/session", method = "get", operation_id = "get_current_session")]
    async fn session(&self, caller: Bearer) -> Result<Json<CurrentSession>, Problem> {
        let caller = caller.0;
        Ok(Json(CurrentSession {
            account_id: caller.account.0,
            session_id: caller.session.0,
            roles: caller.roles.iter().map(ToString::to_string).collect(),
            permissions: caller.permissions.iter().map(|permission| permission.as_str().to_owned()).collect(),
            methods: caller.methods.iter().map(|method| method.as_str().to_owned()).collect(),
            expires_at: caller.expires_at,
            elevated_until: caller.elevated_until,
        }))
    }
}

impl TokenAnswer {
    fn of(tokens: Tokens) -> Self {
        Self {
            status: LoginStatus::Authenticated,
            access_token: tokens.access_token.to_string(),
            refresh_token: tokens.refresh_token.to_string(),
            token_type: "Bearer".to_owned(),
            expires_in: tokens.expires_in,
            session_id: tokens.session.0,
            device_token: tokens.device_token.map(|token| token.to_string()),
        }
    }
}
