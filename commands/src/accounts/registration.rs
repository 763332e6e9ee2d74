//! Registration of accounts by their owners, provisioning by administrators, and changes of profiles.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountEvent, AccountState};
use fulexo_domain::event::Category;
use fulexo_domain::password::Password;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::snapshot::AccountSnapshot;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, RoleName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::accounts::password;
use crate::accounts::profile::{self, Profile};
use crate::authentication::password_hash::Verifier;
use crate::authentication::{attempts, credentials};
use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::{ExpectedVersion, LoadedStream};
use crate::unit_of_work::UnitOfWork;
use crate::vault::write::VaultWrite;
use crate::vault::{PersonalData, Vault};
use crate::write_side::WriteSide;
use crate::{disclosure, rate_limit};

/// A request to register an account.
pub struct NewAccount {
    /// The e-mail address; unique.
    pub email: EmailAddress,
    /// The password.
    pub password: Password,
    /// The display name.
    pub display_name: Option<DisplayName>,
    /// The roles that the account holds from the beginning.
    pub roles: Vec<RoleName>,
}

/// An administrator's request to create an account for another person.
pub struct ProvisioningRequest {
    /// The e-mail address; unique.
    pub email: EmailAddress,
    /// The display name.
    pub display_name: Option<DisplayName>,
    /// The roles that the account holds from the beginning.
    pub roles: Vec<RoleName>,
}

/// An account that an administrator created. No `Debug`; wiped when dropped.
pub struct ProvisionedAccount {
    /// The account.
    pub account: AccountId,
    /// The password of the first login, which requires a new one.
    pub initial_password: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct RegistrationOutcome {
    account: AccountId,
}

/// Returns the personal data of a profile.
fn profile_data(email: &EmailAddress, display_name: Option<&DisplayName>) -> PersonalData {
    let name = display_name.map(DisplayName::as_str);
    PersonalData::default().with(SealedField::Email, Some(email.as_str())).with(SealedField::DisplayName, name)
}

pub(crate) async fn register(
    side: &WriteSide,
    context: &Context,
    new: NewAccount,
) -> Result<CommandOutcome<AccountId>, CommandError> {
    let NewAccount { email, password, display_name, roles } = new;
    let name = display_name.as_ref().map(DisplayName::as_str);
    let content = [email.normalised().into_bytes(), password.expose().into(), name.unwrap_or_default().into()];
    let content: Vec<&[u8]> = content.iter().map(Vec::as_slice).collect();
    let idempotency = IdempotencyKey::of(&side.vault, context, "register", &content);
    let registered = execute::run_once(&side.log, idempotency.as_ref(), async {
        let permit = rate_limit::hashing_permit(side, context)?;
        let broken =
            password::broken_rules(&side.hasher, &password, &email, display_name.as_ref(), permit.clone()).await?;
        if !broken.is_empty() {
            return Err(CommandError::Password(broken));
        }
        let verifier = credentials::hash_password(&side.hasher, password, permit).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let mut preconditions = Vec::new();
            for role in &roles {
                preconditions.extend(roles::find_role(&side.log, role).await?.ok_or(AccountError::RoleNotFound)?.1);
            }
            let account = AccountId(context.new_id());
            let command = AccountCommand::Register { roles: roles.clone() };
            let mut unit =
                registration_unit(side, context, account, command, &verifier, &email, display_name.as_ref())?;
            for (stream, expected) in preconditions {
                unit.expect(stream.category, stream.id, expected);
            }
            Ok((unit, RegistrationOutcome { account }))
        })
        .await
    });
    Ok(registered.await?.map(|RegistrationOutcome { account }| account))
}

pub(crate) async fn create_account(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    new: ProvisioningRequest,
) -> Result<CommandOutcome<ProvisionedAccount>, CommandError> {
    let ProvisioningRequest { email, display_name, roles } = new;
    let name = display_name.as_ref().map(DisplayName::as_str).unwrap_or_default();
    let listed = roles.iter().map(RoleName::as_str).collect::<Vec<_>>().join(" ");
    let content = [email.normalised().into_bytes(), name.into(), listed.into_bytes()];
    let content: Vec<&[u8]> = content.iter().map(Vec::as_slice).collect();
    let idempotency = IdempotencyKey::of(&side.vault, context, "create_account", &content);
    let registered = disclosure::run_once(side, context, idempotency.as_ref(), async {
        let account = AccountId(context.new_id());
        let password = Password::new(provisioned_account(&side.vault, account).initial_password.to_string());
        let verifier =
            credentials::hash_password(&side.hasher, password, rate_limit::hashing_permit(side, context)?).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let (mut needed, mut preconditions) = (Permissions::of(&[Permission::AccountsManage]), Vec::new());
            for role in &roles {
                let (permissions, on) = roles::find_role(&side.log, role).await?.ok_or(AccountError::RoleNotFound)?;
                needed = needed.union(permissions);
                preconditions.extend(on);
                if !AccountId::initial_roles().contains(role) {
                    needed = needed.union(Permissions::of(&[Permission::RolesGrant]));
                }
            }
            if !own.covers(needed) {
                return Err(CommandError::GrantExceedsOwn);
            }
            let command = AccountCommand::Register { roles: roles.clone() };
            let mut unit =
                registration_unit(side, context, account, command, &verifier, &email, display_name.as_ref())?;
            for (stream, expected) in preconditions {
                unit.expect(stream.category, stream.id, expected);
            }
            roles::require_granter(side, &mut unit, context, needed).await?;
            unit.record(account.0, Some(account), [AccountEvent::PasswordExpired {}])?;
            Ok((unit, disclosure::bind_to_factors(side, context, RegistrationOutcome { account }).await?))
        })
        .await
    });
    Ok(registered.await?.map(|RegistrationOutcome { account }| provisioned_account(&side.vault, account)))
}

/// Returns the unit of work that registers an account.
fn registration_unit<'a>(
    side: &WriteSide,
    context: &'a Context,
    account: AccountId,
    command: AccountCommand,
    verifier: &Verifier,
    email: &EmailAddress,
    display_name: Option<&DisplayName>,
) -> Result<UnitOfWork<'a>, CommandError> {
    let events = Account::handle_command(&AccountState::default(), command)?;
    let (key, wrapped) = side.vault.new_subject_key(account)?;
    let verifier = key.seal_verifier("password", verifier.expose())?;
    let mut unit = side.unit_of_work(context).sealing(Some((key, profile_data(email, display_name))));
    unit.expect(Category::Account, account.0, ExpectedVersion::New);
    unit.claim("email", credentials::email_hash(&side.vault, email), account.0);
    unit.vault(attempts::forget_address(&side.vault, &email.normalised()));
    unit.vault(VaultWrite::SubjectKey(wrapped));
    unit.vault(VaultWrite::Password { account, verifier, keep: password::history_length(side) });
    unit.record(account.0, Some(account), events)?;
    Ok(unit)
}

/// Derives the initial password from the account's id, so that a repeated call returns the same one. It is invalid
/// after the first login has changed it.
fn provisioned_account(vault: &Vault, account: AccountId) -> ProvisionedAccount {
    let digest = vault.digest("initial-password", &[account.0.as_bytes()]);
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(digest.split_at(15).0));
    // The suffix satisfies the policy's character classes.
    ProvisionedAccount { account, initial_password: Zeroizing::new(format!("{}-aA1", *secret)) }
}

pub(crate) async fn change_profile(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    display_name: Option<DisplayName>,
) -> Result<CommandOutcome<Profile>, CommandError> {
    let name = display_name.as_ref().map(DisplayName::as_str).unwrap_or_default();
    let content = [account.0.as_bytes().as_slice(), name.as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "change_profile", &content);
    let before = side.log.snapshot::<AccountSnapshot>(account.0).await?.snapshot;
    let known = profile::profile_in(&side.vault, &before).await?.ok_or(AccountError::NotFound)?;
    let profile = Profile { display_name, ..known.clone() };
    let changed = execute::run_once(&side.log, idempotency.as_ref(), async {
        let key = side.vault.subject_key(account).await?.ok_or(AccountError::NotFound)?;
        let sealing = Some((key, profile_data(&profile.email, profile.display_name.as_ref())));
        execute::decide(side, idempotency.as_ref(), async || {
            let LoadedStream { snapshot, version, last_position } =
                side.log.snapshot::<AccountSnapshot>(account.0).await?;
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            if context.account() == Some(account) {
                if snapshot.state.suspended {
                    return Err(AccountError::Suspended.into());
                }
            } else {
                roles::require_rank(side, &mut unit, context, own, account, &snapshot.state).await?;
            }
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            let now = if snapshot.profile_position == before.profile_position {
                known.clone()
            } else {
                profile::profile_in(&side.vault, &snapshot).await?.ok_or(AccountError::NotFound)?
            };
            // An unchanged name records no event. Only the sealed data says what the name is.
            if now.display_name == profile.display_name {
                return Ok((unit, last_position));
            }
            unit.record(
                account.0,
                Some(account),
                Account::handle_command(&snapshot.state, AccountCommand::ChangeProfile)?,
            )?;
            Ok((unit, None))
        })
        .await
    });
    let CommandOutcome { value: unchanged, position } = changed.await?;
    Ok(CommandOutcome { value: profile, position: position.or(unchanged) })
}
