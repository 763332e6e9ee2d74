//! The security policy, changed with a reason. A change is in force at once on this node, and a moment later on the
//! others.

use fulexo_domain::Aggregate;
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::policy::{ChangePolicy, Policy, SecurityPolicy};
use fulexo_domain::snapshot::PolicySnapshot;
use fulexo_domain::values::Reason;
use uuid::Uuid;

use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::{ExpectedVersion, LoadedStream};
use crate::reason;
use crate::write_side::WriteSide;

/// The single stream of the policy.
const STREAM: Stream = Stream { category: Category::Policy, id: Uuid::nil() };

pub(crate) async fn change_policy(
    side: &WriteSide,
    context: &Context,
    replaces: Option<u32>,
    proposed: Policy,
    reason: Reason,
) -> Result<CommandOutcome<Policy>, CommandError> {
    let text = serde_json::to_vec(&(replaces, &proposed))?;
    let content = [text.as_slice(), reason.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "change_policy", &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_actor(&side.vault, context, &reason).await?;
        execute::decide(side, idempotency.as_ref(), || async {
            let LoadedStream { snapshot, version, .. } = side.log.snapshot::<PolicySnapshot>(STREAM.id).await?;
            let state = snapshot.state;
            let known = state.as_ref().unwrap_or(&side.first_policy).second_factor.required_for.clone();
            let mut preconditions = Vec::new();
            // A retired role may stay in the list: it grants nothing.
            for role in proposed.second_factor.required_for.difference(&known) {
                let (_, on) =
                    roles::find_role(&side.log, role).await?.ok_or(fulexo_domain::role::RoleError::NotFound)?;
                preconditions.extend(on);
            }
            let command = ChangePolicy {
                initial: side.first_policy.clone(),
                expected_version: replaces,
                proposed: proposed.clone(),
            };
            let events = SecurityPolicy::handle_command(&state, command)?;
            let after = events.iter().cloned().fold(state, SecurityPolicy::apply_event);
            let after = after.unwrap_or_else(|| side.first_policy.clone());
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_granter(side, &mut unit, context, Permissions::of(&[Permission::PolicyChange])).await?;
            for (stream, expected) in preconditions {
                unit.expect(stream.category, stream.id, expected);
            }
            unit.expect(STREAM.category, STREAM.id, ExpectedVersion::Exact(version));
            unit.record(STREAM.id, None, events)?;
            Ok((unit, after))
        })
        .await
    })
    .await
}
