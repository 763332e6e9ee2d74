//! A transparency log's client side and a witness, written a second time: from C2SP's tlog-witness, tlog-checkpoint,
//! signed-note and tlog-cosignature and from RFC 6962, section 2.1, as the oracle that the service is compared with. It
//! shares no code with the service, and favours the plain recursion of the texts over speed. It keeps nothing on disk,
//! and signs no subtrees.

mod log;
mod notes;
mod tree;
mod witness;

pub use self::log::{SecondAnswer, SecondLog, get, post, submission};
pub use self::notes::verify_cosignature;
pub use self::tree::Hash;
pub use self::witness::{Received, Scripted, SecondWitness};
