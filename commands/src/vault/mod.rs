//! The vault holds everything that must never be in the log: keys, verifiers, personal data. The database stores it
//! sealed. The keys that open it (key-encrypting keys, "KEK") come from the environment.
//!
//! ```text
//! ENCRYPTION_KEY --wraps--> service key  --derives--> keyed digests (unique keys, refresh tokens, devices)
//!                --wraps--> subject keys --seal-----> personal data and verifiers of one person
//!                --wraps--> period keys  --seal-----> network data that belongs to no account, for one month
//! ```
//! A new ENCRYPTION_KEY wraps the keys created from then on. The old one still opens what it wrapped, and sealed data does
//! not change. Forgetting a person destroys one key.

pub mod acme;
pub mod crypto;
mod key_hierarchy;
pub mod personal;
mod subject;
pub mod write;

pub use self::crypto::{RandomnessError, SymmetricKey, UnsealError};
pub use self::key_hierarchy::{Kek, Vault, VaultError};
pub use self::personal::PersonalData;
pub use self::subject::DataKey;
