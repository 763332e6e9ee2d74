//! The key hierarchy: the configured keys wrap the service key and the data keys.

use sqlx::PgPool;

use super::crypto::{RandomnessError, SymmetricKey, UnsealError};

/// A key-encrypting key, and the id under which wrapped rows refer to it.
pub struct Kek {
    /// Its id in `ENCRYPTION_KEYS`, or `default`.
    pub id: String,
    /// The key.
    pub key: SymmetricKey,
}

/// The vault: seals and opens secrets. Cheap to share.
pub struct Vault {
    pub(super) pool: PgPool,
    /// The first wraps new keys. All of them unwrap.
    keks: Vec<Kek>,
    pub(super) service: SymmetricKey,
}

/// The reason for which the vault failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The configured keys do not open the keys in the database.
    #[error(
        "no configured encryption key opens the {0} in the database: set ENCRYPTION_KEY to the key that the database was created with"
    )]
    WrongKey(&'static str),
    /// No key was configured.
    #[error("no encryption key is configured")]
    NoKey,
    /// A sealed value does not open.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
    /// The operating system returned no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Vault {
    /// Opens the vault. The first call draws its service key.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] if the configured keys are not those that the vault was created with.
    pub async fn open(pool: PgPool, keks: Vec<Kek>) -> Result<Self, VaultError> {
        const CONTEXT: &[u8] = b"fulexo/service-key/1";
        let kek = keks.first().ok_or(VaultError::NoKey)?;
        let fresh = kek.key.wrap(CONTEXT, &SymmetricKey::random()?)?;
        // Two nodes may open a new vault at once. The first insert wins, and both read its key.
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

    /// Creates a vault that knows no key and opens nothing: for a copy of the log without what is sealed alongside it.
    ///
    /// # Errors
    /// [`VaultError::Randomness`].
    pub fn without_keys(pool: PgPool) -> Result<Self, VaultError> {
        // Digests under this key, such as those of e-mail addresses, are nobody's.
        Ok(Self { pool, keks: Vec::new(), service: SymmetricKey::random()? })
    }

    /// Computes a keyed digest for one purpose.
    #[must_use]
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.derive("fulexo/digest/1").digest(purpose, parts)
    }

    /// Derives a key for one purpose, the same on every node.
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
