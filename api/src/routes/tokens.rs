//! The delivery of tokens: in the response body, or in `HttpOnly` cookies for browsers.

use fulexo_commands::{ChallengePurpose, IssuedChallenge, LoginResult, Tokens};
use fulexo_node::http::Problem;
use fulexo_node::http::cookies::{Cookie, Foreign};
use fulexo_node::state::App;
use poem::Request;
use poem::http::HeaderValue;
use poem_openapi::{Enum, Object, Union};
use uuid::Uuid;

/// The lifetime of the device cookie, in seconds: 400 days, the most that browsers allow.
const DEVICE_LIFETIME: i64 = 400 * 24 * 60 * 60;

/// The delivery of one response's tokens, as the client asked for it.
pub struct TokenDelivery<'a> {
    app: &'a App,
    by_cookie: bool,
    /// The cookies to set with the response.
    pub cookies: Vec<HeaderValue>,
}

/// The status of a response with tokens.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
pub enum LoginStatus {
    /// The tokens are in this response.
    Authenticated,
}

/// A session with its tokens.
#[derive(Object)]
pub struct TokenResponse {
    status: LoginStatus,
    /// The access token: a JWT in the profile of RFC 9068.
    access_token: String,
    /// The refresh token, valid for one use. A second use revokes the session.
    refresh_token: String,
    /// The type of the access token: `Bearer`.
    token_type: String,
    /// The lifetime of the access token, in seconds.
    expires_in: i64,
    session_id: Uuid,
    /// The token that identifies this device at its next login. Store it on the device. Present only after a login.
    #[oai(skip_serializing_if_is_none)]
    device_token: Option<String>,
}

/// A session with its tokens in `HttpOnly` cookies.
#[derive(Object)]
pub struct CookieResponse {
    /// The value of `X-CSRF-Token` for every call except GET. It is the same for the whole session.
    csrf_token: String,
    /// The lifetime of the access token, in seconds.
    expires_in: i64,
    session_id: Uuid,
}

/// The response to a refresh.
#[derive(Union)]
#[oai(discriminator_name = "status", one_of)]
pub enum RefreshResponse {
    /// New tokens.
    #[oai(mapping = "authenticated")]
    Authenticated(TokenResponse),
    /// New tokens, in cookies.
    #[oai(mapping = "authenticated_by_cookie")]
    ByCookie(CookieResponse),
}

/// A login that needs a code of the second factor.
#[derive(Object)]
pub struct SecondFactorChallenge {
    /// The challenge token. Send it with a code to `POST /v1/auth/second-factor`.
    challenge_token: String,
    /// The accepted second factors: `totp`, `recovery_code`.
    methods: Vec<String>,
    /// The lifetime of the challenge token, in seconds.
    expires_in: i64,
}

/// The next step of a login.
#[derive(Object)]
pub struct NextStep {
    /// The bearer token of the next step. It is valid only for this step.
    challenge_token: String,
    /// The path of the next step.
    next: String,
    /// The lifetime of the challenge token, in seconds.
    expires_in: i64,
}

/// The response to a login.
#[derive(Union)]
#[oai(discriminator_name = "status", one_of)]
pub enum LoginResponse {
    /// A session.
    #[oai(mapping = "authenticated")]
    Authenticated(TokenResponse),
    /// A session, its tokens in cookies.
    #[oai(mapping = "authenticated_by_cookie")]
    ByCookie(CookieResponse),
    /// A challenge for the second factor.
    #[oai(mapping = "second_factor_required")]
    SecondFactor(SecondFactorChallenge),
    /// A required password change at `/v1/me/password`. Log in again after it.
    #[oai(mapping = "password_change_required")]
    PasswordChange(PasswordChangeRequired),
    /// A required enrolment of a second factor at `/v1/me/second-factor/totp`. Log in again after it.
    #[oai(mapping = "second_factor_enrolment_required")]
    Enrolment(EnrolmentRequired),
}

/// A login that needs a password change.
#[derive(Object)]
pub struct PasswordChangeRequired {
    #[oai(flatten)]
    step: NextStep,
}

/// A login that needs the enrolment of a second factor.
#[derive(Object)]
pub struct EnrolmentRequired {
    #[oai(flatten)]
    step: NextStep,
}

impl TokenResponse {
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

impl LoginResponse {
    pub fn of(logged_in: LoginResult, delivery: &mut TokenDelivery<'_>) -> Self {
        let IssuedChallenge { purpose, token, expires_in } = match logged_in {
            LoginResult::Session(tokens) => {
                return match delivery.set_cookies(&tokens) {
                    Some(answer) => Self::ByCookie(answer),
                    None => Self::Authenticated(TokenResponse::of(tokens)),
                };
            }
            LoginResult::Challenge(challenged) => challenged,
        };
        let challenge_token = token.to_string();
        let step =
            |next: &str| NextStep { challenge_token: challenge_token.clone(), next: next.to_owned(), expires_in };
        match purpose {
            ChallengePurpose::SecondFactor => {
                let methods = ["totp", "recovery_code"].map(str::to_owned).into();
                Self::SecondFactor(SecondFactorChallenge { challenge_token, methods, expires_in })
            }
            ChallengePurpose::PasswordChange => {
                Self::PasswordChange(PasswordChangeRequired { step: step("/v1/me/password") })
            }
            ChallengePurpose::Enrolment => {
                Self::Enrolment(EnrolmentRequired { step: step("/v1/me/second-factor/totp") })
            }
        }
    }
}

impl RefreshResponse {
    pub fn of(tokens: Tokens, delivery: &mut TokenDelivery<'_>) -> Self {
        match delivery.set_cookies(&tokens) {
            Some(answer) => Self::ByCookie(answer),
            None => Self::Authenticated(TokenResponse::of(tokens)),
        }
    }
}

impl<'a> TokenDelivery<'a> {
    /// # Errors
    /// 403 if a page of a foreign origin asks for cookies: it could log its visitor in to another person's account.
    pub fn new(app: &'a App, request: &Request, by_cookie: bool) -> Result<Self, Problem> {
        if by_cookie && request.data::<Foreign>().is_some() {
            return Err(Problem::csrf_rejected());
        }
        Ok(Self { app, by_cookie, cookies: Vec::new() })
    }

    fn set_cookies(&mut self, tokens: &Tokens) -> Option<CookieResponse> {
        if !self.by_cookie {
            return None;
        }
        let idle = self.app.commands.policy().sessions.idle_timeout.num_seconds();
        let device = tokens.device_token.as_ref().and_then(|token| Cookie::Device.set(token, DEVICE_LIFETIME));
        self.cookies.extend(Cookie::Access.set(&tokens.access_token, tokens.expires_in));
        self.cookies.extend(Cookie::Refresh.set(&tokens.refresh_token, idle));
        self.cookies.extend(device);
        let csrf_token = self.app.commands.csrf_token(tokens.session);
        Some(CookieResponse { csrf_token, expires_in: tokens.expires_in, session_id: tokens.session.0 })
    }
}
