//! `fulexo lockdown`: a lockdown by the operator, also when no administrator can log in.

use clap::{Args, ValueEnum};
use fulexo_commands::CommandError;
use fulexo_database::chain;
use fulexo_domain::lockdown::{LockdownError, LockdownScope};
use fulexo_domain::values::Reason;
use fulexo_node::config::Config;
use fulexo_node::start::Core;
use fulexo_node::state::App;
use fulexo_projections::nodes::Enforcement;
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::process::{block_on, operator, parsed, start_logging};

#[derive(Args)]
pub struct LockdownArgs {
    /// Impose a lockdown of this scope, or lift it with `off`.
    scope: LockdownSetting,
    /// Record this reason, 1 to 500 characters. It is sealed alongside the event.
    #[arg(long, value_name = "TEXT", value_parser = parsed(Reason::parse))]
    reason: Reason,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LockdownSetting {
    /// Refuse logins, refreshes and registrations; active sessions continue.
    Logins,
    /// Also refuse every request of active sessions and API keys.
    All,
    /// Lift the lockdown.
    Off,
}

impl LockdownArgs {
    pub fn run(self) -> Result<(), Failure> {
        let config = Config::from_env()?;
        start_logging(config.environment, "warn");
        block_on(async {
            let core = Core::start(config).await?;
            let changed = self.change(&core.app).await;
            core.stop().await;
            changed
        })
    }

    async fn change(self, app: &App) -> Result<(), Failure> {
        let reason = self.reason;
        let done = match self.scope {
            LockdownSetting::Logins => app.commands.start_lockdown(&operator(), LockdownScope::Logins, reason).await,
            LockdownSetting::All => app.commands.start_lockdown(&operator(), LockdownScope::All, reason).await,
            LockdownSetting::Off => app.commands.lift_lockdown(&operator(), reason).await,
        };
        match done {
            Ok(done) => {
                let position = done.position.unwrap_or_default();
                let mut out = Output::new();
                let is_json = self.json;
                let scope = match self.scope {
                    LockdownSetting::Off => "off",
                    LockdownSetting::Logins => "logins",
                    LockdownSetting::All => "all",
                };
                match self.scope {
                    _ if is_json => {}
                    LockdownSetting::Off => out.line(format_args!("lifted the lockdown at position {position}"))?,
                    LockdownSetting::Logins => {
                        out.line(format_args!("imposed a lockdown of logins at position {position}"))?
                    }
                    LockdownSetting::All => {
                        out.line(format_args!("imposed a lockdown of all requests at position {position}"))?
                    }
                }
                let enforcement = app.nodes.wait_until_enforced(position).await;
                let Enforcement { enforced_on, down, .. } = enforcement.map_err(|error| {
                    format!("the change is recorded, but not known to be enforced: {}", chain(&error))
                })?;
                if is_json {
                    let nodes = enforced_on + down.len();
                    return out.line(json!({
                        "lockdown": scope, "position": position, "enforced_on": enforced_on, "nodes": nodes, "down": down,
                    }));
                }
                out.line(format_args!("enforced on {enforced_on} of {} nodes", enforced_on + down.len()))?;
                for name in down {
                    out.line(format_args!(
                        "{name} does not respond. Until it has caught up, it asks the database about each request, or \
                         refuses it"
                    ))?;
                }
                Ok(())
            }
            Err(CommandError::Lockdown(LockdownError::AlreadyStarted)) => {
                Err(Failure::Failed("a lockdown of this scope is already in force".to_owned()))
            }
            Err(CommandError::Lockdown(LockdownError::NotStarted)) => {
                Err(Failure::Failed("no lockdown is in force".to_owned()))
            }
            Err(error) => Err(Failure::Failed(format!("the lockdown was not changed: {}", chain(&error)))),
        }
    }
}
