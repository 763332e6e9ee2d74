//! Account recovery by e-mail: password reset, address verification, and the report of an intrusion.

use std::sync::Arc;
use std::time::Duration;

use fulexo_commands::CommandError;
use fulexo_commands::context::Context;
use fulexo_database::chain;
use fulexo_domain::account::AccountError;
use fulexo_domain::event::Actor;
use fulexo_domain::password::Password;
use fulexo_domain::values::EmailAddress;
use fulexo_node::answer::{NoContent, about_the_new_password};
use fulexo_node::caller::{Bearer, app, context, unless_locked_down};
use fulexo_node::http::problem::Code;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::state::App;
use poem::Request;
use poem_openapi::param::Header;
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::input::Input;
use super::tag::Tag;

pub struct Recovery;

/// A request for a password reset e-mail.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordResetRequest {
    email: String,
}

/// A new password, with the token of a password reset e-mail.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct NewPasswordRequest {
    /// The token of the e-mailed link: valid once, for 30 minutes.
    token: String,
    /// The new password: 12 characters to 72 bytes, with a lower-case letter, an upper-case letter, a digit and a symbol.
    /// Common passwords, the account's last passwords, and passwords that resemble the e-mail address or the display name
    /// are refused.
    new_password: String,
}

/// The token of an e-mail.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct EmailTokenRequest {
    /// The token of the e-mailed link: valid once.
    token: String,
}

#[derive(ApiResponse)]
enum Accepted {
    /// The request was accepted.
    #[oai(status = 202)]
    Accepted,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Recovery")]
impl Recovery {
    /// Request a password reset e-mail
    ///
    /// Sends a link that is valid once, for 30 minutes, if the address has an account. The response has the same content and
    /// timing if it does not. An account is sent at most three of these e-mails in 30 minutes.
    #[oai(path = "/auth/password-reset", method = "post", operation_id = "request_password_reset")]
    async fn request_reset(
        &self,
        request: &Request,
        body: JsonBody<PasswordResetRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Accepted, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        let mut input = Input::default();
        let Some(email) = input.parse("/email", EmailAddress::parse(&body.email)) else { return Err(input.refused()) };
        // After the response, whose timing would reveal the account.
        let Ok(place) = Arc::clone(&app.behind_answers).try_acquire_owned() else {
            return Err(Problem::overloaded(Duration::from_secs(5)));
        };
        let commands = Arc::clone(&app.commands);
        app.tasks.start(async move {
            if let Err(error) = commands.request_password_reset(&context, &email).await {
                tracing::warn!(error = %chain(&error), "a requested password reset could not be started");
            }
            drop(place);
        });
        Ok(Accepted::Accepted)
    }

    /// Reset a password
    ///
    /// Needs the token of a password reset e-mail. Sets the new password, revokes every session and lifts a lock of the
    /// password. A second factor stays enrolled.
    ///
    /// Answers 401 `invalid_token` if the token is unknown, used or expired. A password that is refused does not use the
    /// token up.
    #[oai(path = "/auth/password-reset/confirm", method = "post", operation_id = "reset_password")]
    async fn reset(
        &self,
        request: &Request,
        body: JsonBody<NewPasswordRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        unless_locked_down(app).await?;
        let NewPasswordRequest { token, new_password } = body;
        let done = app.commands.reset_password(&context, &token, Password::new(new_password)).await;
        Ok(done.map_err(spent)?.into())
    }

    /// Request a verification e-mail
    ///
    /// Sends another link that verifies your address, in addition to the one that was sent after the registration. Does
    /// nothing if the address is already verified.
    #[oai(path = "/me/email-verification", method = "post", operation_id = "request_email_verification")]
    async fn request_verification(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Accepted, Problem> {
        let (app, context) = mailing(request, caller.0.actor(), idempotency_key.0)?;
        app.commands.request_verification(&context, caller.0.account).await?;
        Ok(Accepted::Accepted)
    }

    /// Verify an e-mail address
    ///
    /// Needs the token of a verification e-mail, which is valid once, for 24 hours. Marks the address as verified.
    ///
    /// Answers 401 `invalid_token` if the token is unknown, used or expired.
    #[oai(path = "/auth/email-verification", method = "post", operation_id = "verify_email")]
    async fn verify(
        &self,
        request: &Request,
        body: JsonBody<EmailTokenRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        Ok(app.commands.verify_email(&context, &body.token).await.map_err(spent)?.into())
    }

    /// Report an intrusion from an e-mail link
    ///
    /// Needs the token of a security notice, which is valid once, for 7 days. Revokes every session, invalidates the
    /// password and e-mails a reset link.
    ///
    /// Answers 401 `invalid_token` if the token is unknown, used or expired.
    #[oai(path = "/auth/not-me", method = "post", operation_id = "report_intrusion")]
    async fn report(
        &self,
        request: &Request,
        body: JsonBody<EmailTokenRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        Ok(app.commands.report_intrusion(&context, &body.token).await.map_err(spent)?.into())
    }
}

/// Returns the application and the command context, if the service sends e-mail.
fn mailing(request: &Request, actor: Actor, key: Option<String>) -> Result<(&Arc<App>, Context), Problem> {
    let app = app(request)?;
    if app.commands.sends_mail() {
        return Ok((app, context(request, actor, key)?));
    }
    Err(Problem::permission_denied()
        .with_code(Code::MAIL_NOT_CONFIGURED)
        .with_detail("This service does not send e-mail. Ask an administrator for help with your account."))
}

/// Maps a refused link to one problem, for a token that is unknown, used, expired or of another purpose.
fn spent(error: CommandError) -> Problem {
    match error {
        CommandError::InvalidCredentials | CommandError::Account(AccountError::Suspended) => {
            Problem::invalid_token().with_detail("The link was already used, or it has expired. Request a new one.")
        }
        error => about_the_new_password(error),
    }
}
