//! The vault holds everything that must never be in the log: keys, verifiers, personal data. The database stores it
//! sealed. The keys that open it (key-encrypting keys, "KEK") come from the environment or a file.
//!
//! ```text
//! ENCRYPTION_KEY --wraps--> service key  --derives--> keyed digests (unique keys, refresh tokens, devices, addresses)
//!                --wraps--> subject keys --seal-----> personal data and verifiers of one person
//!                --wraps--> period keys  --seal-----> network data that belongs to no account, for one month
//! ```
//! A wrapping key lives for an epoch. `fulexo keys rotate encryption` puts another one in use, wraps the keys with it that the
//! one before wraps, and destroys that one; sealed data does not change. Forgetting a person destroys one key, and old pages and
//! backups hold nothing readable of it once the keys that wrapped it are destroyed.

pub mod acme;
mod address_key;
pub(crate) mod copy_holders;
pub mod crypto;
pub mod key_epochs;
mod key_hierarchy;
pub mod personal;
mod rewrapping;
mod subject;
pub mod write;

pub use self::crypto::{RandomnessError, SymmetricKey, UnsealError};
pub use self::key_hierarchy::{Kek, KeyReload, Vault, VaultError};
pub use self::personal::{AddressDigests, PersonalData};
pub use self::rewrapping::RewrappedBatch;
pub use self::subject::DataKey;
