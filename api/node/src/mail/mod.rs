//! Mail: what it says, and how it is sent. What is mailed, to whom and when is decided in `commands`.

pub mod texts;
pub mod transport;
pub mod worker;

pub use self::transport::{Letter, SendError, Transport};
