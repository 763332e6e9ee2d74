//! The disclosure of what is sealed alongside an event, and of the digest by which events of an address are found: with a
//! reason, recorded before it is disclosed.

use fulexo_domain::audit::AuditTrailEvent;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Address, AddressDigest, Reason};

use crate::authorization::roles;
use crate::context::Context;
use crate::disclosure;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::reason;
use crate::vault::{PersonalData, Vault};
use crate::write_side::WriteSide;

pub(crate) async fn unseal(
    side: &WriteSide,
    context: &Context,
    position: u64,
    reason: Reason,
) -> Result<CommandOutcome<PersonalData>, CommandError> {
    let at = position.to_be_bytes();
    let content = [at.as_slice(), reason.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "unseal", &content);
    let done = disclosure::run_once(side, context, idempotency.as_ref(), async {
        let sealed = side.log.event(position).await?.ok_or(CommandError::NoSuchEvent)?;
        let fields: Vec<_> = open(&side.vault, position).await?.fields().collect();
        if fields.is_empty() {
            return Err(CommandError::NothingSealed);
        }
        let subject = sealed.subject.map(AccountId);
        let sealing = match subject {
            Some(account) => reason::sealing_for_account(&side.vault, account, &reason).await?,
            None => reason::sealing_for_actor(&side.vault, context, &reason).await?,
        };
        execute::decide(side, idempotency.as_ref(), async || {
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_granter(side, &mut unit, context, Permissions::of(&[Permission::AuditUnseal])).await?;
            unit.record(sealed.id, subject, [AuditTrailEvent::Unsealed { position, fields: fields.clone() }])?;
            Ok((unit, disclosure::bind_to_factors(side, context, ()).await?))
        })
        .await
    })
    .await?;
    // Opened again now that it is on record: what was destroyed meanwhile stays closed.
    let opened = open(&side.vault, position).await?;
    Ok(done.map(|()| opened))
}

/// Discloses the digest of an address. It is the same whether or not any event has the address.
pub(crate) async fn digest_address(
    side: &WriteSide,
    context: &Context,
    address: &Address,
    reason: Reason,
) -> Result<CommandOutcome<AddressDigest>, CommandError> {
    let digest = side.vault.address_digest(address);
    let content = [digest.0.as_slice(), reason.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "digest-address", &content);
    let done = disclosure::run_once(side, context, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_actor(&side.vault, context, &reason).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_granter(side, &mut unit, context, Permissions::of(&[Permission::AuditUnseal])).await?;
            let searched = AuditTrailEvent::AddressSearched { kind: address.kind() };
            unit.record(context.new_id(), None, [searched])?;
            Ok((unit, disclosure::bind_to_factors(side, context, ()).await?))
        })
        .await
    })
    .await?;
    Ok(done.map(|()| digest))
}

async fn open(vault: &Vault, position: u64) -> Result<PersonalData, CommandError> {
    let Ok(position) = i64::try_from(position) else { return Ok(PersonalData::default()) };
    Ok(vault.open_personal(&[position]).await?.remove(&position).unwrap_or_default())
}
