//! An authenticator app.

use std::time::{SystemTime, UNIX_EPOCH};

use totp_rs::{Builder, Secret, Totp};

/// An app that shows codes of one seed.
pub struct Authenticator(Totp);

impl Authenticator {
    /// Creates one from the base32 secret that the service shows.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        Self(Builder::new().with_secret(secret.as_bytes().to_vec()).build().unwrap())
    }

    /// Returns the code that it shows now, or this many steps of 30 seconds later or earlier. The service accepts the
    /// steps -1, 0 and 1, each once, and none older than one that it has accepted.
    #[must_use]
    pub fn code(&self, steps: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.0.generate(now.checked_add_signed(steps * 30).unwrap()).to_string()
    }
}
