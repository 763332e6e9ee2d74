//! The security policy, changed with a reason and in force at once, on this node and, a moment later, on every other.

use std::sync::Arc;

use fulexo_domain::Aggregate;
use fulexo_domain::event::{Category, Field, Stream};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::policy::{ChangePolicy, Policy, SecurityPolicy};
use fulexo_domain::record::PolicyRecord;
use fulexo_domain::values::Reason;
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::Idempotency;
use crate::log::{Expected, Loaded};
use crate::vault::{Personal, SubjectKey};
use crate::{Commands, Done};

/// There is one stream.
const STREAM: Stream = Stream { category: Category::Policy, id: Uuid::nil() };

impl Commands {
    /// Puts another policy in force; answers with it as it is then.
    ///
    /// # Errors
    /// [`CommandError::Policy`] when figures are out of bounds, or the policy has changed since the proposal was made.
    pub async fn change_policy(
        &self,
        context: &Context,
        replaces: Option<u32>,
        proposed: Policy,
        reason: Reason,
    ) -> Result<Done<Policy>, CommandError> {
        let text = serde_json::to_vec(&(replaces, &proposed))?;
        let content = [text.as_slice(), reason.as_str().as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "change_policy", &content);
        if let Some(policy) = self.before(idempotency.as_ref()).await? {
            return self.done_before(policy).await;
        }
        let sealing = self.own_sealing(context, &reason).await?;
        let decided = self.decide(idempotency.as_ref(), || async {
            let Loaded { record, version, .. } = self.log.record::<PolicyRecord>(STREAM.id).await?;
            let state = record.state;
            let known = state.as_ref().unwrap_or(&self.first_policy).second_factor.required_for.clone();
            let mut rests_on = Vec::new();
            // One that was retired since may stay: it allows nothing.
            for role in proposed.second_factor.required_for.difference(&known) {
                let (_, on) = self.role(role).await?.ok_or(fulexo_domain::role::RoleError::Unknown)?;
                rests_on.extend(on);
            }
            let command = ChangePolicy { first: self.first_policy.clone(), replaces, proposed: proposed.clone() };
            let events = SecurityPolicy::handle_command(&state, command)?;
            let after = events.iter().cloned().fold(state, SecurityPolicy::apply_event);
            let after = after.unwrap_or_else(|| self.first_policy.clone());
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_granter(&mut unit, context, Permissions::of(&[Permission::PolicyChange])).await?;
            for (stream, expected) in rests_on {
                unit.expect(stream.category, stream.id, expected);
            }
            unit.expect(STREAM.category, STREAM.id, Expected::Exact(version));
            unit.record(STREAM.id, None, events)?;
            Ok((unit, after))
        });
        self.done(decided.await?).await
    }

    /// The policy in force, also on a node that cannot follow the log: that one asks the database.
    pub(crate) async fn current_policy(&self) -> Result<Arc<Policy>, CommandError> {
        if !(self.is_current)() {
            let text = sqlx::query_scalar!("select policy from access.policy").fetch_optional(&self.pool).await?;
            if let Some(text) = text {
                self.policy.learn(&serde_json::from_str(&text)?);
            }
        }
        Ok(self.policy())
    }

    /// A reason that is about nobody is sealed under the key of whoever gives it.
    pub(crate) async fn own_sealing(
        &self,
        context: &Context,
        reason: &Reason,
    ) -> Result<Option<(SubjectKey, Personal)>, CommandError> {
        let key = match context.account() {
            Some(account) => self.vault.subject_key(account).await?,
            None => Some(self.vault.period_key(context.now).await?),
        };
        Ok(key.map(|key| (key, Personal::default().with(Field::Reason, Some(reason.as_str())))))
    }
}
