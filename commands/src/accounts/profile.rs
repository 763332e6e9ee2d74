//! Profiles of accounts, opened from sealed data.

use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::snapshot::AccountSnapshot;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress};

use crate::authentication::credentials;
use crate::error::CommandError;
use crate::vault::{PersonalData, Vault};
use crate::write_side::WriteSide;

/// The profile of an account, for its owner and for callers who may read it.
#[derive(Clone)]
pub struct Profile {
    /// The e-mail address.
    pub email: EmailAddress,
    /// The display name.
    pub display_name: Option<DisplayName>,
}

impl Profile {
    /// Reads a profile from opened personal data. Returns `None` without an e-mail address.
    #[must_use]
    pub fn read(personal: &PersonalData) -> Option<Self> {
        let email = EmailAddress::from_stored(personal.get(SealedField::Email)?);
        let display_name = personal.get(SealedField::DisplayName).map(DisplayName::from_stored);
        Some(Self { email, display_name })
    }
}

pub(crate) async fn profile(side: &WriteSide, account: AccountId) -> Result<Option<Profile>, CommandError> {
    profile_in(&side.vault, &side.log.snapshot::<AccountSnapshot>(account.0).await?.snapshot).await
}

pub(crate) async fn profile_in(vault: &Vault, snapshot: &AccountSnapshot) -> Result<Option<Profile>, CommandError> {
    let Some(position) = snapshot.profile_position.and_then(|position| i64::try_from(position).ok()) else {
        return Ok(None);
    };
    let mut opened = vault.open_personal(&[position]).await?;
    Ok(opened.remove(&position).and_then(|personal| Profile::read(&personal)))
}

pub(crate) async fn account_of(side: &WriteSide, email: &EmailAddress) -> Result<Option<AccountId>, CommandError> {
    let hash = credentials::email_hash(&side.vault, email);
    let holder = sqlx::query_scalar!(
        "select stream_id from log.unique_key where scope = 'email' and key_hash = $1",
        hash.as_slice()
    )
    .fetch_optional(&side.pool)
    .await?;
    Ok(holder.map(AccountId))
}
