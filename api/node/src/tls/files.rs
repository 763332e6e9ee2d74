//! A certificate from files that somebody else renews: looked at every second, taken when they have changed and are
//! sound. A pair that is not sound is refused with one line in the log, and the one in use stays.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::certificate::{Certificate, Nearness};
use super::current::Current;
use crate::clock;

/// The pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// The time between two reminders of a certificate that ends soon.
const REMINDER: Duration = Duration::from_secs(24 * 60 * 60);

/// The files of chain and key, in PEM.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// `TLS_CERT`.
    pub cert: PathBuf,
    /// `TLS_KEY`.
    pub key: PathBuf,
}

/// The contents of the files, and the digest that tells them from earlier contents.
struct Contents {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    digest: [u8; 32],
}

impl CertificateFiles {
    /// The certificate as it is now.
    ///
    /// # Errors
    /// In words for the operator: which variable, and what is wrong.
    pub fn load(&self) -> Result<Certificate, String> {
        self.certificate(&self.read()?)
    }

    fn certificate(&self, contents: &Contents) -> Result<Certificate, String> {
        Certificate::from_pem(&contents.chain, &contents.key, clock::now()).map_err(|unfit| {
            let (variable, path) =
                if unfit.is_of_the_key() { ("TLS_KEY", &self.key) } else { ("TLS_CERT", &self.cert) };
            format!("{variable}: {} {unfit}", path.display())
        })
    }

    fn read(&self) -> Result<Contents, String> {
        let chain = read("TLS_CERT", &self.cert)?;
        let key = read("TLS_KEY", &self.key)?;
        let mut digest = Sha256::new();
        digest.update((chain.len() as u64).to_be_bytes());
        digest.update(&*chain);
        digest.update(&*key);
        Ok(Contents { chain: chain.to_vec(), key, digest: digest.finalize().into() })
    }
}

/// A file of this size is not a certificate.
const MOST_BYTES: u64 = 1 << 20;

fn read(variable: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    read.map_err(|error| format!("{variable}: cannot read {}: {error}", path.display()))?;
    Ok(bytes)
}

/// Follows the files until cancelled.
pub async fn follow(files: CertificateFiles, current: Arc<Current>) {
    // The pair that was last taken or refused, and the pair that the last look saw. A pair counts once two looks in a
    // row saw the same: its two files do not change in one step.
    let mut settled = None;
    let mut seen = None;
    let mut reminded: Option<(Instant, Nearness)> = None;
    loop {
        let looking = files.clone();
        let look = spawn_blocking(move || looking.read()).await.unwrap_or_else(|error| Err(error.to_string()));
        let this = look.as_ref().map(|contents| contents.digest).map_err(Clone::clone);
        let is_stable = seen.replace(this.clone()).is_some_and(|last| last == this);
        if is_stable && settled.as_ref() != Some(&this) {
            let is_the_first = settled.is_none();
            settled = Some(this);
            match look.and_then(|contents| files.certificate(&contents)) {
                Ok(certificate) => {
                    let not_after = certificate.not_after();
                    current.replace(certificate);
                    reminded = None;
                    if !is_the_first {
                        tracing::info!(%not_after, "a new certificate is in use");
                    }
                }
                Err(reason) => tracing::error!(%reason, "the new certificate is refused; the one before stays in use"),
            }
        }
        remind(&current, &mut reminded);
        sleep(LOOK).await;
    }
}

/// Reminds of the end of the certificate once a day, and once more when it becomes urgent.
fn remind(current: &Current, last: &mut Option<(Instant, Nearness)>) {
    let Some(certificate) = current.get() else { return };
    let nearness = certificate.nearness(clock::now());
    let not_after = certificate.not_after();
    if last.is_some_and(|(at, before)| before >= nearness && at.elapsed() < REMINDER) {
        return;
    }
    match nearness {
        Nearness::Far => return,
        Nearness::Near => {
            tracing::warn!(%not_after, "the certificate expires soon: renew TLS_CERT and TLS_KEY")
        }
        Nearness::Imminent => {
            tracing::error!(%not_after, "the certificate is about to expire: renew TLS_CERT and TLS_KEY");
        }
    }
    *last = Some((Instant::now(), nearness));
}
