//! `fulexo register`: an account made by the operator.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::{CommandError, NewAccount};
use fulexo_domain::account::AccountError;
use fulexo_domain::password::Password;
use fulexo_domain::values::{DisplayName, EmailAddress, RoleName};

use super::output::Output;
use super::{Failure, block_on, operator, start_logging};
use crate::app::{App, Core};
use crate::config::Config;

#[derive(Args)]
pub struct Register {
    /// The account's e-mail address.
    #[arg(long)]
    email: String,
    /// A role, for example admin; may be given several times.
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// How its owner wants to be called.
    #[arg(long)]
    display_name: Option<String>,
}

impl Register {
    pub fn run(self) -> Result<(), Failure> {
        let config = Config::from_env()?;
        start_logging(config.environment, "warn");
        block_on(async {
            let core = Core::start(config).await?;
            let registered = self.register(&core.app).await;
            core.stop().await;
            registered
        })
    }

    async fn register(self, app: &App) -> Result<(), Failure> {
        let invalid = |error: fulexo_domain::values::InvalidValue| Failure::Failed(error.to_string());
        let secret = random_bytes::<15>().map_err(|error| error.to_string())?;
        // Random, and with a suffix that has what the policy asks for.
        let password = format!("{}-aA1", URL_SAFE_NO_PAD.encode(secret));
        let new = NewAccount {
            email: EmailAddress::parse(&self.email).map_err(invalid)?,
            password: Password::new(password.clone()),
            display_name: self.display_name.as_deref().map(DisplayName::parse).transpose().map_err(invalid)?,
            roles: self.roles.iter().map(|role| RoleName::parse(role)).collect::<Result<_, _>>().map_err(invalid)?,
        };
        match app.commands.register(&operator(), new).await {
            Ok(done) => {
                let mut out = Output::new();
                out.line(format_args!("account   {}", done.value))?;
                out.line(format_args!("password  {password}"))?;
                out.line("It is shown once: change it after the first login.")
            }
            Err(CommandError::EmailTaken) => Err(Failure::Failed(format!("{} has an account already", self.email))),
            Err(CommandError::Account(AccountError::NoSuchRole)) => {
                Err(Failure::Failed("there is no such role".to_owned()))
            }
            Err(error) => Err(Failure::Failed(format!("nothing was registered: {error}"))),
        }
    }
}
