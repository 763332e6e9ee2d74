//! `fulexo register`: the registration of an account by the operator.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::{CommandError, NewAccount};
use fulexo_database::chain;
use fulexo_domain::account::AccountError;
use fulexo_domain::password::Password;
use fulexo_domain::permission::built_in_roles;
use fulexo_domain::values::{DisplayName, EmailAddress, RoleName};
use fulexo_node::config::Config;
use fulexo_node::log_size::log_size;
use fulexo_node::spelling::did_you_mean;
use fulexo_node::start::Core;
use fulexo_node::state::App;
use fulexo_projections::read_models::roles;
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::process::{block_on, operator, parsed, start_logging};

#[derive(Args)]
pub struct RegisterArgs {
    /// Register this e-mail address.
    #[arg(long, value_parser = parsed(EmailAddress::parse))]
    email: EmailAddress,
    /// Grant this role, for example admin. Repeat the option for several roles.
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = parsed(RoleName::parse))]
    roles: Vec<RoleName>,
    /// Set this display name, 1 to 100 characters.
    #[arg(long, value_parser = parsed(DisplayName::parse))]
    display_name: Option<DisplayName>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl RegisterArgs {
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
        let secret = random_bytes::<15>().map_err(|error| error.to_string())?;
        // Random, with a suffix that has the required kinds of characters.
        let password = format!("{}-aA1", URL_SAFE_NO_PAD.encode(secret));
        let roles = self.roles.clone();
        let new = NewAccount {
            email: self.email,
            password: Password::new(password.clone()),
            display_name: self.display_name,
            roles: self.roles,
        };
        match app.commands.register(&operator(), new).await {
            Ok(done) => {
                let mut out = Output::new();
                if self.json {
                    return out.line(json!({"account_id": done.value, "password": password}));
                }
                out.line(format_args!("account   {}", done.value))?;
                out.line(format_args!("password  {password}"))?;
                out.line("The password is not shown again. Change it after the first login.")
            }
            Err(CommandError::EmailTaken) => {
                Err(Failure::Failed("--email: an account with this address already exists".to_owned()))
            }
            Err(CommandError::Account(AccountError::RoleNotFound)) => Err(no_such_role(app, &roles).await?),
            Err(error) => Err(Failure::Failed(format!("the account was not registered: {}", chain(&error)))),
        }
    }
}

/// Returns a failure that names the missing roles and the existing ones.
async fn no_such_role(app: &App, wanted: &[RoleName]) -> Result<Failure, Failure> {
    let end = i64::try_from(log_size(&app.pool).await?).unwrap_or(i64::MAX) - 1;
    let defined = roles::defined(&app.pool, end).await?;
    let defined = defined.iter().filter(|role| !role.retired).map(|role| role.role.as_str());
    let built_in: Vec<RoleName> = built_in_roles().collect();
    let known: Vec<&str> = built_in.iter().map(RoleName::as_str).chain(defined).collect();
    let missing: Vec<String> = wanted
        .iter()
        .filter(|role| !known.contains(&role.as_str()))
        .map(|role| format!("`{}`{}", role.as_str(), did_you_mean(role.as_str(), known.iter().copied())))
        .collect();
    Ok(Failure::Misused(format!("--role: there is no role {}. The roles are {}", missing.join(", "), known.join(", "))))
}
