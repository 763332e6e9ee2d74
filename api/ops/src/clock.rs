//! The only place of this crate that reads the clock.

use chrono::{DateTime, Utc};

/// Returns the current time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
