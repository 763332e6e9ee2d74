//! A certificate chain with its key, checked before it is served: it can be read, the key is its own, its time has
//! come and is not over. Does not ask who issued it: that is for clients to judge.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_cert::der::Decode;

/// The most by which this machine's clock may lag the issuer's: a certificate that is just issued is good.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// A certificate that is shown to clients. No `Debug`: it holds the private key.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
}

/// The fault of a chain or a key, for the operator. It repeats neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The chain.
    #[error("does not contain a valid PEM certificate")]
    Chain,
    /// The key.
    #[error("does not contain a private key in PEM that TLS supports: PKCS#8, PKCS#1 or SEC1, not encrypted")]
    Key,
    /// The key is another certificate's.
    #[error("is not the key of the first certificate in the chain")]
    Mismatch,
    /// Its end has passed.
    #[error("contains a certificate that expired on {0}. Renew it")]
    Expired(DateTime<Utc>),
    /// Its beginning has not come.
    #[error("contains a certificate that is not valid before {0}. Check the clock of this machine")]
    Early(DateTime<Utc>),
}

impl Unfit {
    /// `true` if the key, and not the chain, has to change.
    #[must_use]
    pub const fn is_of_the_key(&self) -> bool {
        matches!(self, Self::Key | Self::Mismatch)
    }
}

/// The nearness of a certificate's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Not near.
    Far,
    /// 30 days, or the last third of a shorter life.
    Near,
    /// 7 days, or the last tenth.
    Imminent,
}

impl Certificate {
    /// Reads a chain, the certificate of the service first, and its key.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn from_pem(chain: &[u8], key: &[u8], now: DateTime<Utc>) -> Result<Self, Unfit> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| Unfit::Chain)?;
        let first = chain.first().ok_or(Unfit::Chain)?;
        // As clients will read it, and for its times, which rustls keeps to itself.
        ParsedCertificate::try_from(first).map_err(|_| Unfit::Chain)?;
        let parsed = x509_cert::Certificate::from_der(first).map_err(|_| Unfit::Chain)?;
        let validity = parsed.tbs_certificate.validity;
        let not_before = DateTime::UNIX_EPOCH + validity.not_before.to_unix_duration();
        let not_after = DateTime::UNIX_EPOCH + validity.not_after.to_unix_duration();

        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unfit::Key)?;
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).map_err(|_| Unfit::Key)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| Unfit::Mismatch)?;
        if now >= not_after {
            return Err(Unfit::Expired(not_after));
        }
        if now + CLOCK_SKEW < not_before {
            return Err(Unfit::Early(not_before));
        }
        Ok(Self { key: Arc::new(key), not_before, not_after })
    }

    /// Returns it in the form that rustls takes.
    #[must_use]
    pub const fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Returns the time at which it expires.
    #[must_use]
    pub const fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }

    /// Returns the time at which two thirds of its life are over.
    #[must_use]
    pub fn renewal_due(&self) -> DateTime<Utc> {
        self.not_after - self.life() / 3
    }

    /// Returns the nearness of its end.
    #[must_use]
    pub fn nearness(&self, now: DateTime<Utc>) -> Nearness {
        let left = self.not_after - now;
        if left <= TimeDelta::days(7).min(self.life() / 10) {
            Nearness::Imminent
        } else if left <= TimeDelta::days(30).min(self.life() / 3) {
            Nearness::Near
        } else {
            Nearness::Far
        }
    }

    /// `true` if clients accept it for this name or address, wildcards included.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let Some(first) = self.key.cert.first() else { return false };
        ParsedCertificate::try_from(first).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }

    fn life(&self) -> TimeDelta {
        self.not_after - self.not_before
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A chain and its key, good from 2026-01-01 to 2026-12-31.
    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 12, 31);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn day(text: &str) -> DateTime<Utc> {
        format!("{text}T00:00:00Z").parse().unwrap()
    }

    fn read(chain: &str, key: &str, now: &str) -> Result<Certificate, Unfit> {
        Certificate::from_pem(chain.as_bytes(), key.as_bytes(), day(now))
    }

    #[test]
    fn a_pair_is_taken_within_its_time_alone() {
        let (chain, key) = pair(&["a.example"]);
        assert_eq!(read(&chain, &key, "2026-06-01").unwrap().not_after(), day("2026-12-31"));
        assert_eq!(read(&chain, &key, "2026-12-31").err(), Some(Unfit::Expired(day("2026-12-31"))));
        assert_eq!(read(&chain, &key, "2025-12-31").err(), Some(Unfit::Early(day("2026-01-01"))));
    }

    #[test]
    fn what_is_broken_is_named() {
        let ((chain, key), (_, other)) = (pair(&["a.example"]), pair(&["a.example"]));
        let half = &chain[..chain.len() / 2];
        let body = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for broken in ["", "nonsense", half, body, &key] {
            assert_eq!(read(broken, &key, "2026-06-01").err(), Some(Unfit::Chain), "{broken}");
        }
        for broken in ["", "nonsense", &key[..key.len() / 2], &chain] {
            assert_eq!(read(&chain, broken, "2026-06-01").err(), Some(Unfit::Key), "{broken}");
        }
        assert_eq!(read(&chain, &other, "2026-06-01").err(), Some(Unfit::Mismatch));
    }

    #[test]
    fn the_end_comes_near_in_two_steps() {
        let (chain, key) = pair(&["a.example"]);
        let certificate = read(&chain, &key, "2026-06-01").unwrap();
        assert_eq!(certificate.nearness(day("2026-11-30")), Nearness::Far);
        assert_eq!(certificate.nearness(day("2026-12-01")), Nearness::Near);
        assert_eq!(certificate.nearness(day("2026-12-23")), Nearness::Near);
        assert_eq!(certificate.nearness(day("2026-12-24")), Nearness::Imminent);
        assert_eq!(certificate.renewal_due().date_naive().to_string(), "2026-08-31");
    }

    #[test]
    fn it_is_for_its_names_alone() {
        let (chain, key) = pair(&["a.example", "*.b.example", "127.0.0.1"]);
        let certificate = read(&chain, &key, "2026-06-01").unwrap();
        for host in ["a.example", "A.example", "x.b.example", "127.0.0.1"] {
            assert!(certificate.is_for(host), "{host}");
        }
        for host in ["b.example", "x.y.b.example", "a.example.evil.example", "evil.example", "", "127.0.0.2", "a b"] {
            assert!(!certificate.is_for(host), "{host}");
        }
    }
}
