//! E-mail: texts, transport and worker. `commands` decides which e-mail is sent to whom.

pub mod texts;
pub mod transport;
pub mod worker;

pub use self::transport::{Letter, SendError, Transport};
