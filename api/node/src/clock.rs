//! The only place that reads the clock. Everything below takes time as an argument.

use chrono::{DateTime, Utc};

/// Returns the current time, cut to the microseconds that the log keeps.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> DateTime<Utc> {
    fulexo_domain::leaf::to_micros(Utc::now())
}
