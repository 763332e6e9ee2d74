//! The keys: which one opens which, and where the first one comes from.

use sqlx::PgPool;

use super::crypto::{RandomnessError, SymmetricKey, UnsealError};

/// A key-encrypting key and the name that wrapped rows know it by.
pub struct Kek {
    /// Its id in `ENCRYPTION_KEYS`, or `default`.
    pub id: String,
    /// The key.
    pub key: SymmetricKey,
}

/// Opens and seals. Cheap to share.
pub struct Vault {
    pub(super) pool: PgPool,
    /// The first one wraps; the others only open.
    keks: Vec<Kek>,
    pub(super) service: SymmetricKey,
}

/// Why the vault could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The configured keys do not open what the database holds.
    #[error("no configured encryption key opens the {0} in the database: is ENCRYPTION_KEY the one it was made with?")]
    WrongKey(&'static str),
    /// No key was configured.
    #[error("no encryption key is configured")]
    NoKey,
    /// A seal does not open.
    #[error(transparent)]
    Unopenable(#[from] UnsealError),
    /// No randomness.
    #[error(transparent)]
    NoRandomness(#[from] RandomnessError),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Vault {
    /// Opens the vault, drawing its service key the first time.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] when the keys given are not those the vault was made with.
    pub async fn open(pool: PgPool, keks: Vec<Kek>) -> Result<Self, VaultError> {
        const CONTEXT: &[u8] = b"fulexo/service-key/1";
        let kek = keks.first().ok_or(VaultError::NoKey)?;
        let fresh = kek.key.wrap(CONTEXT, &SymmetricKey::random()?)?;
        // Two nodes may open a new vault at once: whoever inserts first draws the key, both read it.
        sqlx::query!(
            "insert into vault.service_key (purpose, wrapped, kek_id) values ('service', $1, $2)
             on conflict on constraint service_key_pkey do nothing",
            fresh,
            kek.id
        )
        .execute(&pool)
        .await?;
        let row = sqlx::query!("select wrapped, kek_id from vault.service_key where purpose = 'service'")
            .fetch_one(&pool)
            .await?;
        let service = unwrap_with(&keks, &row.kek_id, CONTEXT, &row.wrapped, "service key")?;
        Ok(Self { pool, keks, service })
    }

    /// A keyed digest for one purpose.
    #[must_use]
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.derive("fulexo/digest/1").digest(purpose, parts)
    }

    /// A key for one purpose, the same at every node.
    pub(crate) fn derive(&self, purpose: &str) -> SymmetricKey {
        self.service.derive(purpose)
    }

    pub(super) fn primary(&self) -> Result<&Kek, VaultError> {
        self.keks.first().ok_or(VaultError::NoKey)
    }

    pub(super) fn unwrap_data_key(
        &self,
        kek_id: &str,
        context: &[u8],
        wrapped: &[u8],
        what: &'static str,
    ) -> Result<SymmetricKey, VaultError> {
        unwrap_with(&self.keks, kek_id, context, wrapped, what)
    }
}

fn unwrap_with(
    keks: &[Kek],
    id: &str,
    context: &[u8],
    wrapped: &[u8],
    what: &'static str,
) -> Result<SymmetricKey, VaultError> {
    let kek = keks.iter().find(|kek| kek.id == id).ok_or(VaultError::WrongKey(what))?;
    kek.key.unwrap_key(context, wrapped).map_err(|UnsealError| VaultError::WrongKey(what))
}
