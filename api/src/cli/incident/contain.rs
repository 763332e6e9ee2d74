//! `fulexo incident contain`: the measures against an incident, each waited for until every node enforces it.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;
use fulexo_database::chain;
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Address, ApiKeyId, IncidentId, InvalidValue, Reason, parse_timestamp};
use fulexo_node::containment::{ContainmentError, ContainmentPlan, MAX_NAMED, ReplacedKey};
use fulexo_node::http::problem::Code;
use fulexo_node::keys::rotation::RotationStep;
use fulexo_node::state::App;
use fulexo_projections::read_models::sessions::SessionSelection;
use serde_json::json;
use uuid::Uuid;

use super::input::read_bounded;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::process::{operator, parsed};

/// The most bytes of a file with an address.
const MAX_ADDRESS: u64 = 256;

#[derive(Args)]
pub(super) struct IncidentContainArgs {
    /// The id of the incident.
    incident: Uuid,
    /// Record this reason, 1 to 500 characters. It is sealed alongside the events.
    #[arg(long, value_name = "TEXT", value_parser = parsed(Reason::parse))]
    reason: Reason,
    /// Impose a lockdown: logins or all.
    #[arg(long, value_name = "SCOPE", value_parser = parsed(LockdownScope::parse))]
    lockdown: Option<LockdownScope>,
    /// Suspend this account. Repeat it for several.
    #[arg(long, value_name = "ACCOUNT")]
    suspend: Vec<Uuid>,
    /// Revoke this API key. Repeat it for several.
    #[arg(long, value_name = "KEY")]
    revoke_key: Vec<Uuid>,
    /// Revoke the sessions of this account. Repeat it for several.
    #[arg(long, value_name = "ACCOUNT")]
    sessions_of: Vec<Uuid>,
    /// Revoke the sessions that began at this time (RFC 3339) or later.
    ///
    /// With --sessions-of or --sessions-at only those that meet all conditions.
    #[arg(long, value_name = "TIME", value_parser = parsed(time))]
    sessions_since: Option<DateTime<Utc>>,
    /// Revoke the sessions that began or were refreshed at the IP address in this file; `-` for standard input.
    ///
    /// The search for the address is recorded, without the address.
    #[arg(long, value_name = "FILE")]
    sessions_at: Option<PathBuf>,
    /// Replace a key of the service: signing or encryption. Repeat it for both.
    ///
    /// Taken last, as the user who owns the files of keys. `signing` counts as leaked: tokens of the keys so far get 401. An
    /// encryption key is replaced as by `fulexo keys rotate encryption`. Replace the log's key with `fulexo keys rotate log` where
    /// the signer's file is.
    #[arg(long, value_name = "KEY", value_parser = parsed(ReplacedKey::parse))]
    rotate: Vec<ReplacedKey>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// A time, as the API reads it.
fn time(text: &str) -> Result<DateTime<Utc>, InvalidValue> {
    parse_timestamp(text).map_err(|_| InvalidValue("must be a time such as 2026-12-01T03:00:00Z (RFC 3339)"))
}

impl IncidentContainArgs {
    /// Reads the address of --sessions-at. It is personal data: no argument has it, and no refusal repeats it.
    pub(super) fn address(&self) -> Result<Option<Address>, Failure> {
        let Some(path) = &self.sessions_at else { return Ok(None) };
        let text = read_bounded(path, "the address", MAX_ADDRESS + 1)?;
        match Address::parse(text.trim()) {
            Ok(address @ Address::Ip(_)) if text.len() as u64 <= MAX_ADDRESS => Ok(Some(address)),
            Ok(Address::Ip(_) | Address::Email(_)) | Err(_) => {
                let path = path.display();
                Err(Failure::Misused(format!("{path} must have one IP address, and nothing else")))
            }
        }
    }
}

/// Contains an incident, and prints each measure.
pub(super) async fn contain(
    app: &App,
    out: &mut Output,
    args: IncidentContainArgs,
    address: Option<Address>,
) -> Result<(), Failure> {
    let accounts: Vec<AccountId> = args.sessions_of.into_iter().map(AccountId).collect();
    if [args.suspend.len(), args.revoke_key.len(), accounts.len()].into_iter().any(|length| length > MAX_NAMED) {
        return Err(Failure::Misused(format!(
            "a containment names at most {MAX_NAMED} accounts or API keys of each kind"
        )));
    }
    let mut keys = args.rotate;
    keys.sort_unstable();
    keys.dedup();
    let context = operator();
    let address = match address {
        Some(address) => {
            let searched = app.commands.digest_address(&context, &address, args.reason.clone()).await;
            let failed = |error| Failure::Failed(format!("nothing was recorded: {}", chain(&error)));
            Some(searched.map_err(failed)?.value)
        }
        None => None,
    };
    let is_asked = !accounts.is_empty() || args.sessions_since.is_some() || address.is_some();
    let sessions = is_asked.then(|| SessionSelection {
        accounts: (!accounts.is_empty()).then_some(accounts),
        since: args.sessions_since,
        address,
        except: None,
    });
    let plan = ContainmentPlan {
        lockdown: args.lockdown,
        accounts: args.suspend.into_iter().map(AccountId).collect(),
        api_keys: args.revoke_key.into_iter().map(ApiKeyId).collect(),
        sessions,
        keys,
        reason: args.reason,
        own: Permissions::of(&Permission::ALL),
    };
    let mut tell = |step| {
        if let RotationStep::Note(text) = step {
            note(text);
        }
    };
    let replace_keys = app.replace_keys(&context, &plan.keys, &mut tell);
    let done = app.contain(&context, IncidentId(args.incident), &plan, replace_keys).await.map_err(|error| {
        let problem = match error {
            ContainmentError::Refused(problem) => problem,
            ContainmentError::Rotation(error) => {
                let advice = "Run the command again to continue";
                return Failure::Failed(format!("the incident is not contained: {}. {advice}", chain(&error)));
            }
        };
        let (code, meaning) = (problem.code(), problem.meaning());
        let is_final = [Code::NOT_FOUND.name, Code::INCIDENT_PHASE.name].contains(&code);
        let advice = if is_final { "" } else { " Run the command again to continue." };
        Failure::Failed(format!("the incident is not contained ({code}). {meaning}{advice}"))
    })?;
    let position = done.position.unwrap_or_default();
    if args.json {
        return out.line(json!({
            "incident": args.incident, "position": position, "measures": done.value.measures,
        }));
    }
    for measure in done.value.measures {
        let nodes = measure.enforced_on + measure.down.len() as u64;
        out.line(format_args!(
            "{}: {} at position {}, enforced on {} of {nodes} nodes",
            measure.kind.as_str(),
            measure.count,
            measure.position,
            measure.enforced_on
        ))?;
        for target in measure.refused {
            out.line(format_args!("  refused: {} ({})", target.id, target.code))?;
        }
        for name in measure.down {
            out.line(format_args!(
                "  {name} does not respond. Until it has caught up, it asks the database about each request, or refuses it"
            ))?;
        }
        if measure.more {
            out.line("  more sessions match: run the command again")?;
        }
    }
    out.line(format_args!("contained at position {position}"))
}
