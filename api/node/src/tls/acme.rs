//! A certificate from an ACME directory (RFC 8555), shared by all nodes through the vault: one account, one
//! certificate, one order at a time, and every node can answer for it. Renewed when two thirds of its life are over.
//!
//! ```text
//! every two seconds, each node:
//!   a newer certificate in the vault? ──> in use
//!   none, or due? ── my turn? ──> order ──> vault
//!                                  └─ failed: nobody's turn for a while
//! ```
//! `directory.rs` speaks to a directory.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::vault::VaultError;
use fulexo_commands::vault::acme::AcmeStore;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_database::chain;
use instant_acme::Account;
use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::certificate::Certificate;
use super::current::Current;
use super::directory::{Directory, is_unknown_account, order};
use crate::clock;

/// The pause between two looks at the vault.
const LOOK: Duration = Duration::from_secs(2);
/// The time limit of an order.
const ORDER: Duration = Duration::from_secs(3 * 60);
/// The time for which a node that says no more keeps its turn: longer than an order may take.
const TURN: TimeDelta = TimeDelta::minutes(4);
/// The wait after the first failure. It doubles with each further one.
const FIRST_WAIT: TimeDelta = TimeDelta::minutes(1);
/// The longest wait after a failure, but for a random quarter more.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);
/// The time for which a thumbprint that was read is good.
const FRESH: Duration = Duration::from_secs(1);
/// The time for which the lack of a thumbprint is believed: an account may be registered just now, for an order that
/// follows.
const FRESH_NOTHING: Duration = Duration::from_millis(100);

/// The directory to order a certificate from, and the names to order it for.
#[derive(Clone)]
pub struct AcmeOptions {
    /// `ACME_DOMAINS`, in lower case, sorted: the same list at every node.
    pub names: Vec<String>,
    /// `ACME_DIRECTORY`.
    pub directory: String,
    /// `ACME_CONTACT`, an e-mail address.
    pub contact: Option<String>,
    /// `ACME_ROOT`: what the directory's own certificate is checked by, if not by the machine's roots.
    pub roots: Vec<CertificateDer<'static>>,
}

/// This node's part in having a certificate.
pub struct Acme {
    options: AcmeOptions,
    directory: Directory,
    store: AcmeStore,
    current: Arc<Current>,
    /// The version of the certificate in use.
    version: i64,
    renew_at: Option<DateTime<Utc>>,
    /// The time of the next order as the log was last told, in seconds.
    told: Option<i64>,
}

/// The reason why a look at the vault, or an order, failed.
#[derive(Debug, thiserror::Error)]
enum AcmeFailure {
    #[error("the vault: {0}")]
    Vault(#[from] VaultError),
    #[error("the directory: {0}")]
    Directory(String),
    #[error("the order took longer than three minutes")]
    Slow,
    #[error("what the directory issued cannot be served: it {0}")]
    Unfit(#[from] super::certificate::Unfit),
}

impl From<instant_acme::Error> for AcmeFailure {
    /// Keeps the causes: "client error" alone helps nobody. The text is on one line, and no longer than one reads: a
    /// directory may quote what it was answered.
    fn from(error: instant_acme::Error) -> Self {
        let text = chain(&error).to_string();
        Self::Directory(text.chars().filter(|char| !char.is_control()).take(1_000).collect())
    }
}

impl Acme {
    /// Takes into use what the vault has; the rest is [`Acme::run`]'s.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn open(options: AcmeOptions, store: AcmeStore, current: Arc<Current>) -> Result<Self, String> {
        let directory = Directory::new(&options.directory, &options.roots)?;
        let mut acme = Self { options, directory, store, current, version: 0, renew_at: None, told: None };
        acme.look().await.map_err(|error| chain(&error).to_string())?;
        Ok(acme)
    }

    /// Keeps the certificate current, until cancelled.
    pub async fn run(mut self) {
        let mut failing = false;
        loop {
            let looked = self.turn().await;
            // Every two seconds the same line would help nobody.
            if let Err(error) = &looked
                && !failing
            {
                tracing::error!(error = %chain(error), "nothing is known of newer certificates");
            }
            failing = looked.is_err();
            sleep(LOOK).await;
        }
    }

    async fn turn(&mut self) -> Result<(), VaultError> {
        self.look().await?;
        let now = clock::now();
        if self.renew_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        let Some(failures) = self.store.claim(self.version, now, now + TURN).await? else {
            return self.tell().await;
        };
        tracing::info!(names = ?self.options.names, "ordering a certificate");
        let ordered = timeout(ORDER, self.order()).await.unwrap_or(Err(AcmeFailure::Slow));
        let Err(error) = ordered else { return self.look().await };
        let again = clock::now() + wait_after(failures);
        tracing::error!(error = %chain(&error), %again, "no certificate was issued; the one before, if any, stays in use");
        self.told = Some(again.timestamp());
        self.store.order_failed(again).await
    }

    /// Says, once, why there is nothing to serve with and nothing is done about it here.
    async fn tell(&mut self) -> Result<(), VaultError> {
        if self.current.get().is_some() {
            return Ok(());
        }
        let Some(until) = self.store.order_after().await? else { return Ok(()) };
        if self.told.replace(until.timestamp()) != Some(until.timestamp()) {
            let names = &self.options.names;
            tracing::info!(?names, %until, "no certificate yet: another node orders it, or the last order failed");
        }
        Ok(())
    }

    /// Takes a newer certificate into use.
    async fn look(&mut self) -> Result<(), VaultError> {
        let Some(kept) = self.store.certificate_after(self.version).await? else { return Ok(()) };
        self.version = kept.version;
        match Certificate::from_pem(&kept.pem, &kept.pem, clock::now()) {
            Ok(certificate) => {
                // Not all installations at once.
                let spread = (certificate.not_after() - certificate.renewal_due()) / 16;
                self.renew_at = Some(certificate.renewal_due() + part_of(spread));
                tracing::info!(not_after = %certificate.not_after(), "a certificate is in use");
                self.current.replace(certificate);
            }
            Err(unfit) => {
                self.renew_at = None;
                tracing::warn!("the certificate in the vault {unfit}");
            }
        }
        Ok(())
    }

    async fn order(&self) -> Result<(), AcmeFailure> {
        let account = self.account().await?;
        let pem = match order(&account, &self.options.names).await {
            Ok(pem) => pem,
            Err(error) => {
                if is_unknown_account(&error) {
                    self.store.forget_account(account.key_thumbprint()).await?;
                }
                return Err(error.into());
            }
        };
        let now = clock::now();
        // Nothing is kept that no node could serve.
        Certificate::from_pem(&pem, &pem, now)?;
        Ok(self.store.store_certificate(&pem, now).await?)
    }

    /// The account in the vault, registered the first time. Its thumbprint is there for every node before any challenge is.
    async fn account(&self) -> Result<Account, AcmeFailure> {
        if self.store.account().await?.is_none() {
            let (account, credentials) = self.directory.register(self.options.contact.as_deref()).await?;
            self.store.store_account(&credentials, account.key_thumbprint()).await?;
        }
        // Another node may have been faster, with another list of names; then that one's account counts.
        let kept = self.store.account().await?.map(|kept| kept.credentials).unwrap_or_default();
        Ok(self.directory.open(&kept).await?)
    }
}

/// Answers http-01 challenges (RFC 8555, section 8.3): the token, and the thumbprint of the account's key. Nothing is
/// kept of a challenge, so every node can answer; it serves nobody but the holder of the account's key.
pub struct Answers {
    store: AcmeStore,
    /// The thumbprint as it was read, and the time. It is under a lock, so that a flood of tokens costs few queries.
    thumbprint: Mutex<Option<(Instant, Option<String>)>>,
}

impl Answers {
    /// The answers for the account in this store.
    #[must_use]
    pub fn new(store: AcmeStore) -> Self {
        Self { store, thumbprint: Mutex::default() }
    }

    /// The key authorization (RFC 8555, section 8.1) for a token. `None` if it is not a token, or there is no account.
    pub async fn answer(&self, token: &str) -> Option<String> {
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(16..=256).contains(&token.len()) || !token.bytes().all(is_base64url) {
            return None;
        }
        let mut known = self.thumbprint.lock().await;
        let is_fresh = known
            .as_ref()
            .is_some_and(|(at, thumbprint)| at.elapsed() < if thumbprint.is_some() { FRESH } else { FRESH_NOTHING });
        // With the database away, what was known is still the likeliest.
        if !is_fresh && let Ok(thumbprint) = self.store.thumbprint().await {
            *known = Some((Instant::now(), thumbprint));
        }
        let thumbprint = known.as_ref().and_then(|(_, thumbprint)| thumbprint.as_ref());
        thumbprint.map(|thumbprint| format!("{token}.{thumbprint}"))
    }
}

fn wait_after(failures: i32) -> TimeDelta {
    let doublings = failures.clamp(0, 10).unsigned_abs();
    let wait = (FIRST_WAIT * 2_i32.pow(doublings)).min(LONGEST_WAIT);
    wait + part_of(wait / 4)
}

/// A random part of it.
fn part_of(whole: TimeDelta) -> TimeDelta {
    let [part] = random_bytes().unwrap_or([0]);
    whole * i32::from(part) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_an_hour_and_a_quarter() {
        for (failures, least) in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (1_000_000, 60), (-1, 1)] {
            let (wait, least) = (wait_after(failures), TimeDelta::minutes(least));
            assert!(least <= wait && wait < least * 5 / 4, "{failures}: {wait}");
        }
    }
}
