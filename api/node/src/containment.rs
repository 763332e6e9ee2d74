//! The containment of an incident: a lockdown, the end of sessions, of accounts, of API keys and of the service's keys, one
//! measure after the other, each waited for until every node enforces it. The incident is contained when all are.
//!
//! Each measure is a command of its own, which the log records whatever happens next. A containment that was interrupted is
//! repeated with the same `Idempotency-Key` and continues: what was done is found done, and sessions are selected again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_commands::context::Context;
use fulexo_commands::{CommandError, CommandOutcome};
use fulexo_database::chain;
use fulexo_domain::account::AccountError;
use fulexo_domain::api_key::ApiKeyError;
use fulexo_domain::incident::ContainmentMeasures;
use fulexo_domain::lockdown::{LockdownError, LockdownScope};
use fulexo_domain::permission::Permissions;
use fulexo_domain::values::{AccountId, ApiKeyId, IncidentId, InvalidValue, Reason};
use fulexo_projections::nodes::Enforcement;
use fulexo_projections::read_models::sessions::{self, SessionSelection};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::answer::query_failed;
use crate::http::problem::{Code, Problem};
use crate::keys::rotation::{Rotation, RotationError, RotationStep};
use crate::keys::{compromise, encryption};
use crate::state::App;

/// The most accounts, or API keys, that one containment names of each kind.
pub const MAX_NAMED: usize = 100;
/// The most sessions that one containment revokes.
const MAX_SESSIONS: usize = 1_000;
/// The time that nodes have for each step of the replacement of a key.
const KEY_PATIENCE: Duration = Duration::from_secs(60);
/// The commands of a measure that run at once. The log commits them in groups.
const AT_ONCE: usize = 8;

/// The measures to take.
pub struct ContainmentPlan {
    /// The lockdown to impose, unless one is in force that denies as much.
    pub lockdown: Option<LockdownScope>,
    /// The accounts to suspend.
    pub accounts: Vec<AccountId>,
    /// The API keys to revoke.
    pub api_keys: Vec<ApiKeyId>,
    /// The sessions to revoke.
    pub sessions: Option<SessionSelection>,
    /// The keys of the service to replace, by purpose. Only who has the operator's files can.
    pub keys: Vec<ReplacedKey>,
    /// The reason for all of them.
    pub reason: Reason,
    /// The permissions of the actor. They bound whose accounts are suspended.
    pub own: Permissions,
}

/// A key of the service that a containment replaces, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplacedKey {
    /// The key that signs access tokens: it counts as leaked.
    Signing,
    /// The key that wraps the keys of the vault.
    Encryption,
}

impl ReplacedKey {
    /// Reads a name.
    ///
    /// # Errors
    /// No containment replaces such a key.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "signing" => Ok(Self::Signing),
            "encryption" => Ok(Self::Encryption),
            _ => Err(InvalidValue("must be signing or encryption")),
        }
    }
}

/// The failure of a containment. Measures that were taken until then are recorded, and a repetition continues.
#[derive(Debug, thiserror::Error)]
pub enum ContainmentError {
    /// The refusal, as a call gets it.
    #[error("{}", .0.code())]
    Refused(Problem),
    /// A key could not be replaced.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

impl From<Problem> for ContainmentError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<CommandError> for ContainmentError {
    fn from(error: CommandError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<ContainmentError> for Problem {
    fn from(error: ContainmentError) -> Self {
        match error {
            ContainmentError::Refused(problem) => problem,
            ContainmentError::Rotation(error) => Self::internal(error),
        }
    }
}

/// The result of a containment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainmentResult {
    /// The measures, in the order in which they were taken.
    pub measures: Vec<MeasureResult>,
}

/// A kind of measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasureKind {
    /// A lockdown.
    Lockdown,
    /// The revocation of API keys.
    RevokeApiKeys,
    /// The suspension of accounts.
    SuspendAccounts,
    /// The revocation of sessions.
    RevokeSessions,
    /// The replacement of keys of the service.
    RotateKeys,
}

impl MeasureKind {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lockdown => "lockdown",
            Self::RevokeApiKeys => "revoke_api_keys",
            Self::SuspendAccounts => "suspend_accounts",
            Self::RevokeSessions => "revoke_sessions",
            Self::RotateKeys => "rotate_keys",
        }
    }
}

/// The result of a measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeasureResult {
    /// The measure.
    pub kind: MeasureKind,
    /// The number of targets that are out now, those included that were so before.
    pub count: u32,
    /// The targets that were refused, with the code of each refusal.
    pub refused: Vec<RefusedTarget>,
    /// `true` if more sessions match than one call revokes: repeat the containment, with another key.
    pub more: bool,
    /// The position of the last event of the measure, or of the end of the log if it changed nothing.
    pub position: u64,
    /// The number of nodes that enforce it.
    pub enforced_on: u64,
    /// The names of the other nodes.
    pub down: Vec<String>,
}

/// A target of a measure that was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedTarget {
    /// The id of the target.
    pub id: Uuid,
    /// The code of the problem.
    pub code: String,
}

/// The result for one target: a position if it changed, and the number of those that are out, or its refusal.
type TargetResult = Result<(Option<u64>, u32), RefusedTarget>;

impl App {
    /// Contains an incident. Returns when every measure is in force on every node, and recorded. The caller says how the keys of
    /// the plan are replaced.
    ///
    /// # Errors
    /// Those of the commands; 503 `enforcement_unknown` if the nodes cannot be asked. What was recorded until then stays, and
    /// a repetition continues.
    pub async fn contain(
        &self,
        context: &Context,
        incident: IncidentId,
        plan: &ContainmentPlan,
        replace_keys: impl Future<Output = Result<(), RotationError>>,
    ) -> Result<CommandOutcome<ContainmentResult>, ContainmentError> {
        let content = plan.content();
        if let Some(done) = self.commands.containment_outcome(context, incident, content.as_bytes()).await? {
            return Ok(done);
        }
        let (sessions, more) = self.selected_sessions(plan.sessions.as_ref(), context.now).await?;
        let targets = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let asked = ContainmentMeasures {
            accounts: targets(plan.accounts.len()),
            api_keys: targets(plan.api_keys.len()),
            keys: targets(plan.keys.len()),
            lockdown: plan.lockdown,
            sessions: targets(sessions.len()),
        };
        self.commands.start_containment(context, incident, asked, &plan.reason).await?;

        let mut measures = Vec::new();
        if let Some(scope) = plan.lockdown {
            let started =
                self.commands.tighten_lockdown(&derived(context, "lockdown"), scope, plan.reason.clone()).await;
            let position = match started {
                Ok(done) => done.position,
                Err(CommandError::Lockdown(LockdownError::AlreadyStarted)) => None,
                Err(error) => return Err(error.into()),
            };
            measures.push(self.enforce(MeasureKind::Lockdown, vec![Ok((position, 1))], false).await?);
        }
        if !plan.api_keys.is_empty() {
            let results = each(&plan.api_keys, |key| self.revoke_key(context, key, plan)).await?;
            measures.push(self.enforce(MeasureKind::RevokeApiKeys, results, false).await?);
        }
        if !plan.accounts.is_empty() {
            let results = each(&plan.accounts, |account| self.suspend(context, account, plan)).await?;
            measures.push(self.enforce(MeasureKind::SuspendAccounts, results, false).await?);
        }
        if plan.sessions.is_some() {
            let results = each(&sessions, |session| async move {
                let done = self.commands.end_session(context, session, Some(plan.reason.clone())).await;
                target(session.0, done.map(|done| (done.position, 1)))
            });
            measures.push(self.enforce(MeasureKind::RevokeSessions, results.await?, more).await?);
        }
        if !plan.keys.is_empty() {
            replace_keys.await?;
            let replaced = plan.keys.iter().map(|_| Ok((None, 1))).collect();
            measures.push(self.enforce(MeasureKind::RotateKeys, replaced, false).await?);
        }
        let count = |kind| measures.iter().filter(|measure| measure.kind == kind).map(|measure| measure.count).sum();
        let taken = ContainmentMeasures {
            accounts: count(MeasureKind::SuspendAccounts),
            api_keys: count(MeasureKind::RevokeApiKeys),
            keys: count(MeasureKind::RotateKeys),
            lockdown: plan.lockdown,
            sessions: count(MeasureKind::RevokeSessions),
        };
        let result = ContainmentResult { measures };
        Ok(self.commands.record_containment(context, incident, content.as_bytes(), taken, result).await?)
    }

    /// The sessions to revoke, and `true` if there are more of them.
    async fn selected_sessions(
        &self,
        selection: Option<&SessionSelection>,
        now: DateTime<Utc>,
    ) -> Result<(Vec<fulexo_domain::values::SessionId>, bool), Problem> {
        let Some(selection) = selection else { return Ok((Vec::new(), false)) };
        let _permit = self.look_back().await?;
        let limit = i64::try_from(MAX_SESSIONS).unwrap_or(i64::MAX) + 1;
        let mut found = sessions::selected(&self.pool, selection, now, limit).await.map_err(query_failed)?;
        let more = found.len() > MAX_SESSIONS;
        found.truncate(MAX_SESSIONS);
        Ok((found, more))
    }

    async fn revoke_key(
        &self,
        context: &Context,
        key: ApiKeyId,
        plan: &ContainmentPlan,
    ) -> Result<TargetResult, CommandError> {
        let done = self.commands.revoke_api_key(context, key, Some(plan.reason.clone())).await;
        target(key.0, done.map(|done| (done.position, 1)))
    }

    async fn suspend(
        &self,
        context: &Context,
        account: AccountId,
        plan: &ContainmentPlan,
    ) -> Result<TargetResult, CommandError> {
        let context = derived(context, &format!("suspend {account}"));
        let done = self.commands.suspend(&context, plan.own, account, plan.reason.clone()).await;
        match done {
            Err(CommandError::Account(AccountError::AlreadySuspended)) => Ok(Ok((None, 1))),
            done => target(account.0, done.map(|done| (done.position, 1))),
        }
    }

    /// Replaces keys of the service, as the last measure of [`App::contain`]. Returns once every node has acknowledged it; the
    /// events are of the containment's request.
    ///
    /// # Errors
    /// [`RotationError`].
    pub async fn replace_keys(
        &self,
        context: &Context,
        keys: &[ReplacedKey],
        tell: &mut (dyn FnMut(RotationStep) + Send),
    ) -> Result<(), RotationError> {
        let mut rotation = Rotation::begin(self, KEY_PATIENCE, tell).await?;
        for key in keys {
            match key {
                ReplacedKey::Signing => drop(compromise::replace(&mut rotation, context).await?),
                ReplacedKey::Encryption => drop(encryption::rotate(&mut rotation, context).await?),
            }
        }
        Ok(())
    }

    /// Waits until every node enforces the results of a measure.
    async fn enforce(
        &self,
        kind: MeasureKind,
        results: Vec<TargetResult>,
        more: bool,
    ) -> Result<MeasureResult, Problem> {
        let unknown = || {
            Problem::unavailable(Duration::from_secs(2)).with_code(Code::ENFORCEMENT_UNKNOWN).with_detail(
                "Measures are recorded, but it is not known which nodes enforce them. Repeat the call with the same \
                 Idempotency-Key to continue.",
            )
        };
        let (mut count, mut refused, mut last) = (0, Vec::new(), None);
        for result in results {
            match result {
                Ok((position, targets)) => (count, last) = (count + targets, last.max(position)),
                Err(target) => refused.push(target),
            }
        }
        // Without a new event, an earlier event of the log made the change.
        let position = match last {
            Some(position) => position,
            None => self.commands.log().size().await.map_err(|_| unknown())?.saturating_sub(1),
        };
        let enforcement = self.nodes.wait_until_enforced(position).await;
        let Enforcement { enforced_on, down, .. } = enforcement.map_err(|error| {
            tracing::warn!(position, error = %chain(&error), "the enforcement of a containment is not known");
            unknown()
        })?;
        let down = down.iter().map(ToString::to_string).collect();
        Ok(MeasureResult { kind, count, refused, more, position, enforced_on: enforced_on as u64, down })
    }
}

impl ContainmentPlan {
    /// Returns what a repetition must have in common with the call.
    fn content(&self) -> String {
        let sessions = self.sessions.as_ref().map(|selection| {
            let address = selection.address.map(|digest| digest.0);
            json!([selection.accounts, selection.since.map(|since| since.timestamp_micros()), address])
        });
        let reason = self.reason.as_str();
        json!([self.lockdown, self.accounts, self.api_keys, sessions, reason]).to_string()
    }
}

/// Runs the command for each target, a few at once.
async fn each<T: Copy, F: Future<Output = Result<TargetResult, CommandError>>>(
    targets: &[T],
    run: impl Fn(T) -> F,
) -> Result<Vec<TargetResult>, CommandError> {
    stream::iter(targets.iter().copied()).map(run).buffered(AT_ONCE).try_collect().await
}

/// The context of a measure under a key of its own, which follows from the client's. No client's key has a line feed.
fn derived(context: &Context, measure: &str) -> Context {
    let key = context.idempotency_key.as_ref().map(|key| format!("{key}\n{measure}"));
    Context { idempotency_key: key, ..context.clone() }
}

/// The result for a target. A refusal of one target is no reason to spare the others; any other error ends the measure.
fn target(id: Uuid, done: Result<(Option<u64>, u32), CommandError>) -> Result<TargetResult, CommandError> {
    match done {
        Ok(done) => Ok(Ok(done)),
        // It ended by itself in the meantime.
        Err(CommandError::Session(_)) => Ok(Ok((None, 0))),
        Err(
            error @ (CommandError::Account(_)
            | CommandError::ApiKey(ApiKeyError::NotFound)
            | CommandError::GrantExceedsOwn
            | CommandError::LastAdministrator),
        ) => Ok(Err(RefusedTarget { id, code: Problem::from(error).code().to_owned() })),
        Err(error) => Err(error),
    }
}
