//! The key hierarchy: the configured keys wrap the service key and the data keys. Which of them wraps new keys is in the
//! database (`key_epochs`), so that it changes on all nodes at once, and only when all of them have the key.

use std::sync::{Arc, PoisonError, RwLock};

use sqlx::PgPool;

use super::address_key::AddressKey;
use super::crypto::{RandomnessError, SymmetricKey, UnsealError};

/// A key-encrypting key, and the id under which wrapped rows refer to it.
#[derive(Clone)]
pub struct Kek {
    /// Its id in `ENCRYPTION_KEYS` or its file, or `default`.
    pub id: String,
    /// The key.
    pub key: SymmetricKey,
}

/// The vault: seals and opens secrets. Cheap to share.
pub struct Vault {
    pub(super) pool: PgPool,
    keys: RwLock<Arc<WrappingKeys>>,
    pub(super) service: SymmetricKey,
    addresses: AddressKey,
}

/// The keys that this node has.
struct WrappingKeys {
    /// All of them unwrap.
    keks: Vec<Kek>,
    /// The id of the one that wraps.
    wraps: String,
}

/// The result of a reload of the keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeyReload {
    /// The keys that are no longer configured and still needed. The vault keeps them until it ends.
    pub kept: Vec<String>,
    /// The keys that wrap what is in the database, and that this node does not have.
    pub missing: Vec<String>,
}

/// The reason for which the vault failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The configured keys do not open the keys in the database.
    #[error(
        "no configured encryption key opens the {0} in the database: set ENCRYPTION_KEY to the key that the database was created with"
    )]
    WrongKey(&'static str),
    /// The key in use is not configured.
    #[error(
        "no configured encryption key has the id {0:?}, and that one is in use: copy the file of keys from another node, or set \
         ENCRYPTION_KEYS as there. If that key was destroyed, this database is older than its end, and opens no more"
    )]
    MissingKey(String),
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

/// The context of the wrapped service key.
pub(super) const SERVICE_CONTEXT: &[u8] = b"fulexo/service-key/1";

impl Vault {
    /// Opens the vault. The first call draws its service key, and puts the first of these keys in use.
    ///
    /// # Errors
    /// [`VaultError::MissingKey`] if the key in use is not among these, [`VaultError::WrongKey`] if it is another one.
    pub async fn open(pool: PgPool, keks: Vec<Kek>) -> Result<Self, VaultError> {
        let first = keks.first().ok_or(VaultError::NoKey)?;
        // Two nodes may open a new vault at once. The first insert wins, here and below, and both read what it wrote.
        sqlx::query!(
            "insert into vault.key_epoch (kind, key_id, held_at, first_used_at)
             values ('encryption', $1, clock_timestamp(), clock_timestamp()) on conflict do nothing",
            first.id
        )
        .execute(&pool)
        .await?;
        let wraps = in_use(&pool).await?;
        let kek = keks.iter().find(|kek| kek.id == wraps).ok_or_else(|| VaultError::MissingKey(wraps.clone()))?;
        let fresh = kek.key.wrap(SERVICE_CONTEXT, &SymmetricKey::random()?)?;
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
        let service = unwrap_with(&keks, &row.kek_id, SERVICE_CONTEXT, &row.wrapped, "service key")?;
        let addresses = AddressKey::of(&service);
        Ok(Self { pool, keys: RwLock::new(Arc::new(WrappingKeys { keks, wraps })), service, addresses })
    }

    /// Takes these keys in place of those before, and learns from the database which one wraps. `None` leaves them. Keys that
    /// are still needed stay.
    ///
    /// # Errors
    /// [`VaultError::Database`]; then nothing has changed.
    pub async fn reload(&self, keks: Option<Vec<Kek>>) -> Result<KeyReload, VaultError> {
        let needed = sqlx::query_scalar!(
            r#"select key_id from vault.key_epoch e
               where kind = 'encryption' and retired_at is null and (
                   first_used_at is not null and replaced_at is null
                   or exists (select from vault.subject_key where wrapped_by = e.key_id)
                   or exists (select from vault.service_key where kek_id = e.key_id)
                   or exists (select from vault.period_key where kek_id = e.key_id))"#
        )
        .fetch_all(&self.pool)
        .await?;
        let in_use = in_use(&self.pool).await?;
        let known = self.keys();
        let mut keks = keks.unwrap_or_else(|| known.keks.clone());
        let mut reload = KeyReload::default();
        for id in needed {
            if keks.iter().any(|kek| kek.id == id) {
                continue;
            }
            match known.keks.iter().find(|kek| kek.id == id) {
                Some(kek) => {
                    keks.push(kek.clone());
                    reload.kept.push(id);
                }
                None => reload.missing.push(id),
            }
        }
        let wraps = if keks.iter().any(|kek| kek.id == in_use) { in_use } else { known.wraps.clone() };
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(WrappingKeys { keks, wraps });
        Ok(reload)
    }

    /// Returns the id of the key that wraps new keys on this node.
    #[must_use]
    pub fn wraps_with(&self) -> String {
        self.keys().wraps.clone()
    }

    /// Returns the id of each key that this node has, with a check value: equal on two nodes only if the keys are. It says
    /// nothing about the key to those who do not have the service key.
    #[must_use]
    pub fn key_checks(&self) -> Vec<(String, String)> {
        self.keys().keks.iter().map(|kek| (kek.id.clone(), self.key_check(kek))).collect()
    }

    fn key_check(&self, kek: &Kek) -> String {
        let own = kek.key.digest("fulexo/key-check/1", &[]);
        let check = self.digest("key-check", &[kek.id.as_bytes(), &own]);
        fulexo_domain::jetstream::hex(check.split_at(8).0)
    }

    /// Creates a vault that knows no key and opens nothing: for a copy of the log without what is sealed alongside it.
    ///
    /// # Errors
    /// [`VaultError::Randomness`].
    pub fn without_keys(pool: PgPool) -> Result<Self, VaultError> {
        // Digests under this key, such as those of e-mail addresses, are nobody's.
        let keys = WrappingKeys { keks: Vec::new(), wraps: String::new() };
        let service = SymmetricKey::random()?;
        let addresses = AddressKey::of(&service);
        Ok(Self { pool, keys: RwLock::new(Arc::new(keys)), service, addresses })
    }

    /// Computes a keyed digest for one purpose.
    #[must_use]
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.derive("fulexo/digest/1").digest(purpose, parts)
    }

    /// Returns the key of the digests of addresses.
    pub(crate) const fn address_key(&self) -> &AddressKey {
        &self.addresses
    }

    /// Derives a key for one purpose, the same on every node.
    pub(crate) fn derive(&self, purpose: &str) -> SymmetricKey {
        self.service.derive(purpose)
    }

    fn keys(&self) -> Arc<WrappingKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the key that wraps.
    pub(super) fn primary(&self) -> Result<Kek, VaultError> {
        let keys = self.keys();
        keys.keks.iter().find(|kek| kek.id == keys.wraps).cloned().ok_or(VaultError::NoKey)
    }

    pub(super) fn unwrap_data_key(
        &self,
        kek_id: &str,
        context: &[u8],
        wrapped: &[u8],
        what: &'static str,
    ) -> Result<SymmetricKey, VaultError> {
        unwrap_with(&self.keys().keks, kek_id, context, wrapped, what)
    }
}

async fn in_use(pool: &PgPool) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(
        "select key_id from vault.key_epoch
         where kind = 'encryption' and first_used_at is not null and replaced_at is null"
    )
    .fetch_one(pool)
    .await
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
