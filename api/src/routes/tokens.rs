//! How tokens are handed over: in the answer, or to browsers in cookies that no script can read.

use fulexo_commands::{ChallengePurpose, IssuedChallenge, LoginResult, Tokens};
use fulexo_node::http::Problem;
use fulexo_node::http::cookies::{Cookie, Foreign};
use fulexo_node::state::App;
use poem::Request;
use poem::http::HeaderValue;
use poem_openapi::{Enum, Object, Union};
use uuid::Uuid;

/// How long a browser keeps what its device is known by, in seconds: as long as browsers keep anything, 400 days.
const DEVICE_LIFETIME: i64 = 400 * 24 * 60 * 60;

/// Hands tokens over, as the client asked for it.
pub struct Handover<'a> {
    app: &'a App,
    by_cookie: bool,
    /// What is to be set with the answer.
    pub cookies: Vec<HeaderValue>,
}

#[derive(Enum)]
#[oai(rename_all = "snake_case")]
pub enum LoginStatus {
    /// The tokens are in this answer.
    Authenticated,
}

#[derive(Object)]
pub struct TokenAnswer {
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

/// The tokens are in cookies that no script can read.
#[derive(Object)]
pub struct CookieAnswer {
    /// To be sent as `X-CSRF-Token` with every call that is not a GET; the same for all of the session.
    csrf_token: String,
    /// Life of the access token, in seconds.
    expires_in: i64,
    session_id: Uuid,
}

/// What a refresh leads to.
#[derive(Union)]
#[oai(discriminator_name = "status", one_of)]
pub enum RefreshAnswer {
    /// New tokens.
    #[oai(mapping = "authenticated")]
    Authenticated(TokenAnswer),
    /// New tokens, in cookies.
    #[oai(mapping = "authenticated_by_cookie")]
    ByCookie(CookieAnswer),
}

#[derive(Object)]
pub struct SecondFactorChallenge {
    /// To be presented with a code at `/v1/auth/second-factor`.
    challenge_token: String,
    /// What may be presented: `totp`, `recovery_code`.
    methods: Vec<String>,
    /// Life of the challenge, in seconds.
    expires_in: i64,
}

#[derive(Object)]
pub struct NextStep {
    /// The bearer token of the next step, and good for that alone.
    challenge_token: String,
    /// Where the next step is taken.
    next: String,
    /// Life of the token, in seconds.
    expires_in: i64,
}

/// What a login leads to.
#[derive(Union)]
#[oai(discriminator_name = "status", one_of)]
pub enum LoginAnswer {
    /// A session.
    #[oai(mapping = "authenticated")]
    Authenticated(TokenAnswer),
    /// A session, its tokens in cookies.
    #[oai(mapping = "authenticated_by_cookie")]
    ByCookie(CookieAnswer),
    /// A code of the second factor is asked for.
    #[oai(mapping = "second_factor_required")]
    SecondFactor(SecondFactorChallenge),
    /// The password must be changed, at `/v1/me/password`, and then the login made again.
    #[oai(mapping = "password_change_required")]
    PasswordChange(PasswordChangeDue),
    /// A second factor must be set up, at `/v1/me/second-factor/totp`, and then the login made again.
    #[oai(mapping = "second_factor_enrolment_required")]
    Enrolment(EnrolmentDue),
}

#[derive(Object)]
pub struct PasswordChangeDue {
    #[oai(flatten)]
    step: NextStep,
}

#[derive(Object)]
pub struct EnrolmentDue {
    #[oai(flatten)]
    step: NextStep,
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

impl LoginAnswer {
    pub fn of(logged_in: LoginResult, handover: &mut Handover<'_>) -> Self {
        let IssuedChallenge { purpose, token, expires_in } = match logged_in {
            LoginResult::Session(tokens) => {
                return match handover.kept(&tokens) {
                    Some(answer) => Self::ByCookie(answer),
                    None => Self::Authenticated(TokenAnswer::of(tokens)),
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
                Self::PasswordChange(PasswordChangeDue { step: step("/v1/me/password") })
            }
            ChallengePurpose::Enrolment => Self::Enrolment(EnrolmentDue { step: step("/v1/me/second-factor/totp") }),
        }
    }
}

impl RefreshAnswer {
    pub fn of(tokens: Tokens, handover: &mut Handover<'_>) -> Self {
        match handover.kept(&tokens) {
            Some(answer) => Self::ByCookie(answer),
            None => Self::Authenticated(TokenAnswer::of(tokens)),
        }
    }
}

impl<'a> Handover<'a> {
    /// # Errors
    /// 403 where a page of a foreign origin asks for cookies: whoever is logged in by it would act as somebody else.
    pub fn new(app: &'a App, request: &Request, by_cookie: bool) -> Result<Self, Problem> {
        if by_cookie && request.data::<Foreign>().is_some() {
            return Err(Problem::csrf_rejected());
        }
        Ok(Self { app, by_cookie, cookies: Vec::new() })
    }

    fn kept(&mut self, tokens: &Tokens) -> Option<CookieAnswer> {
        if !self.by_cookie {
            return None;
        }
        let idle = self.app.commands.policy().sessions.idle_lifetime.num_seconds();
        let device = tokens.device_token.as_ref().and_then(|token| Cookie::Device.set(token, DEVICE_LIFETIME));
        self.cookies.extend(Cookie::Access.set(&tokens.access_token, tokens.expires_in));
        self.cookies.extend(Cookie::Refresh.set(&tokens.refresh_token, idle));
        self.cookies.extend(device);
        let csrf_token = self.app.commands.csrf_token(tokens.session);
        Some(CookieAnswer { csrf_token, expires_in: tokens.expires_in, session_id: tokens.session.0 })
    }
}
