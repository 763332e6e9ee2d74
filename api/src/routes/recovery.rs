//! Back into an account by mail, and out of it with whoever else got in.

use std::sync::Arc;
use std::time::Duration;

use fulexo_commands::CommandError;
use fulexo_commands::context::Context;
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

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordReset {
    email: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct NewPassword {
    /// What the mailed link holds: good once, for 30 minutes.
    token: String,
    /// 12 to 72 bytes with a lower-case letter, an upper-case letter, a digit and a symbol; not a common one, none of the
    /// last five, and not like the e-mail address or the name.
    new_password: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct MailedToken {
    /// What the mailed link holds; good once.
    token: String,
}

#[derive(ApiResponse)]
enum Accepted {
    /// Taken note of, whatever comes of it.
    #[oai(status = 202)]
    Accepted,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Recovery")]
impl Recovery {
    /// Request a password reset e-mail
    ///
    /// The answer is the same, and as fast, whether there is such an account or not. An account gets three such mails at
    /// most within half an hour.
    #[oai(path = "/auth/password-reset", method = "post", operation_id = "request_password_reset")]
    async fn request_reset(
        &self,
        request: &Request,
        body: JsonBody<PasswordReset>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Accepted, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        let mut input = Input::default();
        let Some(email) = input.parse("/email", EmailAddress::parse(&body.email)) else { return Err(input.refused()) };
        // Apart from the answer, which would tell by its time.
        let Ok(place) = Arc::clone(&app.behind_answers).try_acquire_owned() else {
            return Err(Problem::overloaded(Duration::from_secs(5)));
        };
        let commands = Arc::clone(&app.commands);
        app.tasks.start(async move {
            if let Err(error) = commands.request_password_reset(&context, &email).await {
                tracing::warn!(%error, "a password reset that was asked for could not be begun");
            }
            drop(place);
        });
        Ok(Accepted::Accepted)
    }

    /// Reset a password
    ///
    /// Every session ends, and a lock of the password lifts. A second factor stays, and the next login asks for it. A
    /// password that breaks the rules spends nothing.
    #[oai(path = "/auth/password-reset/confirm", method = "post", operation_id = "reset_password")]
    async fn reset(
        &self,
        request: &Request,
        body: JsonBody<NewPassword>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        unless_locked_down(app).await?;
        let NewPassword { token, new_password } = body;
        let done = app.commands.reset_password(&context, &token, Password::new(new_password)).await;
        Ok(done.map_err(spent)?.into())
    }

    /// Request a verification e-mail
    ///
    /// One was mailed after the registration. Of a verified address this does nothing.
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
    /// The token is good once, for 24 hours; after that it is 401 `invalid_token`.
    #[oai(path = "/auth/email-verification", method = "post", operation_id = "verify_email")]
    async fn verify(
        &self,
        request: &Request,
        body: JsonBody<MailedToken>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        Ok(app.commands.verify_email(&context, &body.token).await.map_err(spent)?.into())
    }

    /// Report an intrusion from an e-mail link
    ///
    /// Every session ends, the password opens nothing any more, and a way to a new one is mailed.
    #[oai(path = "/auth/not-me", method = "post", operation_id = "report_intrusion")]
    async fn report(
        &self,
        request: &Request,
        body: JsonBody<MailedToken>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let body = body.read()?;
        let (app, context) = mailing(request, Actor::Anonymous, idempotency_key.0)?;
        Ok(app.commands.report_intrusion(&context, &body.token).await.map_err(spent)?.into())
    }
}

/// Where mail is sent: the application, and what a command needs to know of the request.
fn mailing(request: &Request, actor: Actor, key: Option<String>) -> Result<(&Arc<App>, Context), Problem> {
    let app = app(request)?;
    if app.commands.sends_mail() {
        return Ok((app, context(request, actor, key)?));
    }
    Err(Problem::permission_denied()
        .with_code(Code::MAIL_NOT_CONFIGURED)
        .with_detail("No mail is sent here; ask an administrator."))
}

/// Unknown, spent, too old, for something else: one refusal.
fn spent(error: CommandError) -> Problem {
    match error {
        CommandError::InvalidCredentials | CommandError::Account(AccountError::Suspended) => {
            Problem::invalid_token().with_detail("The link was used already, or is too old. Ask for a new one.")
        }
        error => about_the_new_password(error),
    }
}
