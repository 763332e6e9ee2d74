//! `fulexo lockdown`: started and lifted by the operator, also when no administrator gets in.

use clap::{Args, ValueEnum};
use fulexo_commands::CommandError;
use fulexo_domain::lockdown::{LockdownError, Scope};
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
pub struct Lockdown {
    /// What it closes to everybody without `lockdown.manage`; `off` lifts it.
    scope: Wanted,
    /// Why; kept sealed beside the event.
    #[arg(long, value_name = "TEXT", value_parser = parsed(Reason::parse))]
    reason: Reason,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    /// Nobody logs in, refreshes or registers; who is in stays in.
    Logins,
    /// In addition, requests of those who are in are refused.
    All,
    /// Nothing any more.
    Off,
}

impl Lockdown {
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
            Wanted::Logins => app.commands.start_lockdown(&operator(), Scope::Logins, reason).await,
            Wanted::All => app.commands.start_lockdown(&operator(), Scope::All, reason).await,
            Wanted::Off => app.commands.lift_lockdown(&operator(), reason).await,
        };
        match done {
            Ok(done) => {
                let position = done.position.unwrap_or_default();
                let mut out = Output::new();
                let is_json = self.json;
                let scope = match self.scope {
                    Wanted::Off => "off",
                    Wanted::Logins => "logins",
                    Wanted::All => "all",
                };
                match self.scope {
                    _ if is_json => {}
                    Wanted::Off => out.line(format_args!("the lockdown is lifted, at position {position}"))?,
                    Wanted::Logins => out.line(format_args!("locked down (logins), at position {position}"))?,
                    Wanted::All => out.line(format_args!("locked down (all), at position {position}"))?,
                }
                let enforcement = app.nodes.wait_until_enforced(position).await;
                let Enforcement { enforced_on, down, .. } = enforcement
                    .map_err(|error| format!("it is recorded; where it is in force is not known: {error}"))?;
                if is_json {
                    let nodes = enforced_on + down.len();
                    return out.line(json!({
                        "lockdown": scope, "position": position, "enforced_on": enforced_on, "nodes": nodes, "down": down,
                    }));
                }
                out.line(format_args!("in force on {enforced_on} of {} nodes", enforced_on + down.len()))?;
                for name in down {
                    out.line(format_args!(
                        "{name} does not answer; it asks the database about each request, or refuses it, until it has \
                         caught up"
                    ))?;
                }
                Ok(())
            }
            Err(CommandError::Lockdown(LockdownError::AlreadyStarted)) => {
                Err(Failure::Failed("there is a lockdown of this scope already".to_owned()))
            }
            Err(CommandError::Lockdown(LockdownError::NotStarted)) => {
                Err(Failure::Failed("there is no lockdown to lift".to_owned()))
            }
            Err(error) => Err(Failure::Failed(format!("nothing was changed: {error}"))),
        }
    }
}
