//! The restore of a database: into a new one beside that which it replaces, which is put aside under another name. Also the
//! account of what a restore loses. Knows nothing of the node.
//!
//! ```text
//! NAME_restoring  <- pg_restore, then everything that makes it fit to serve
//! NAME            -> NAME_until_20261201t061402123, where nobody but a superuser connects  } one transaction
//! NAME_restoring  -> NAME                                                                               }
//! ```

mod lost;
mod rules;
mod server;

pub use self::lost::{LostEvents, LostRevocation, WITHDRAWALS};
pub use self::rules::*;
pub use self::server::{ReplacedDatabase, RestoreServer, database_name, database_url};
