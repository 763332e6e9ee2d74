//! The target of a penetration test, and the operator's consent to it.
//!
//! An instance on loopback is the operator's own. Any other has to be named twice, and has to show the digest of a token
//! that the operator has configured on the node. A name is resolved once: the address that was judged is the one that every
//! request goes to.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use tokio::net::lookup_host;
use url::{Host, Url};
use zeroize::Zeroizing;

/// The path at which an instance shows the digest of the token.
pub const CONSENT: &str = "/.well-known/fulexo-penetration-test";
/// The least length of the token, in characters.
pub const LEAST_TOKEN: usize = 32;

/// A consent was not given, or the target cannot be tested.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The arguments are wrong.
    #[error("{0}")]
    Misused(String),
    /// The instance cannot be reached, or does not consent.
    #[error("{0}")]
    Refused(String),
}

/// An instance to test.
#[derive(Clone, Debug)]
pub struct TestTarget {
    /// The host, as the URL has it, without the brackets of an IPv6 address.
    pub host: String,
    /// Host and port, as the `Host` header has them.
    pub authority: String,
    /// `true` for HTTPS.
    pub is_tls: bool,
    /// The one address that requests go to.
    pub address: SocketAddr,
}

/// The words in which the operator consents to the test of an instance that is not on loopback.
#[derive(Default)]
pub struct Consent {
    /// The host, named again.
    pub host: Option<String>,
    /// The token that the node has, too.
    pub token: Option<Zeroizing<String>>,
}

impl TestTarget {
    /// Resolves the target.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn resolve(url: &str) -> Result<Self, TargetError> {
        let misused = |text: &str| TargetError::Misused(format!("URL: {text}"));
        let parsed = Url::parse(url).map_err(|_| misused("write it as https://host or http://127.0.0.1:8080"))?;
        let is_tls = match parsed.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(misused("only http:// and https:// can be tested")),
        };
        if parsed.path() != "/" || parsed.query().is_some() || parsed.fragment().is_some() || parsed.username() != "" {
            return Err(misused("name the instance alone, without a path, a query or a user"));
        }
        let host = match parsed.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(misused("has no host")),
        };
        let port = parsed.port_or_known_default().unwrap_or(if is_tls { 443 } else { 80 });
        let shown = parsed.host_str().unwrap_or(&host);
        let authority = parsed.port().map_or_else(|| shown.to_owned(), |port| format!("{shown}:{port}"));
        let unresolved = |error| TargetError::Refused(format!("cannot resolve {host}: {error}"));
        let mut addresses: Vec<_> = lookup_host((host.as_str(), port)).await.map_err(unresolved)?.collect();
        // A name of this machine that has another address as well is tested as what needs no consent.
        addresses.sort_by_key(|address| (!is_loopback(address), address.is_ipv6()));
        let address =
            addresses.into_iter().next().ok_or_else(|| TargetError::Refused(format!("{host} has no address")))?;
        Ok(Self { host, authority, is_tls, address })
    }

    /// `true` if the address is one of this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.address)
    }

    /// Returns the scheme.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// Returns the token whose digest the instance has to show, or `None` for loopback, which needs none.
    ///
    /// # Errors
    /// [`TargetError::Misused`] if the operator has not named the host and a token.
    pub fn token<'a>(&self, consent: &'a Consent) -> Result<Option<&'a str>, TargetError> {
        if self.is_loopback() {
            return Ok(None);
        }
        let host = &self.host;
        if consent.host.as_deref() != Some(host) {
            return Err(TargetError::Misused(format!(
                "{host} is not on loopback. Test only an instance of your own: confirm it with --confirm {host}"
            )));
        }
        match consent.token.as_deref() {
            Some(token) if token.chars().count() >= LEAST_TOKEN => Ok(Some(token)),
            Some(_) => Err(TargetError::Misused(format!("the token has fewer than {LEAST_TOKEN} characters"))),
            None => Err(TargetError::Misused(
                "an instance that is not on loopback needs a token, the same here and on its nodes: set \
                 FULEXO_PENETRATION_TEST_TOKEN, or name a file with --token-file"
                    .to_owned(),
            )),
        }
    }
}

/// Returns the digest of a token, as the instance shows it: SHA-256 in hex.
#[must_use]
pub fn digest(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `true` if an answer of the instance shows the digest of this token. Takes the same time for every answer of its length.
#[must_use]
pub fn is_shown(token: &str, answer: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(digest(token).as_bytes(), answer.trim_ascii()).is_ok()
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(url: &str) -> Result<TestTarget, TargetError> {
        TestTarget::resolve(url).await
    }

    #[tokio::test]
    async fn a_target_is_an_instance_and_nothing_below_it() {
        for wrong in ["", "127.0.0.1:80", "ftp://127.0.0.1", "http://127.0.0.1/v1", "http://u@127.0.0.1", "http://h?x"]
        {
            assert!(matches!(resolved(wrong).await, Err(TargetError::Misused(_))), "{wrong}");
        }
        let target = resolved("http://[::1]:8080").await.unwrap();
        assert_eq!((target.authority.as_str(), target.is_loopback()), ("[::1]:8080", true));
        assert!(resolved("http://[::ffff:127.0.0.1]:1").await.unwrap().is_loopback(), "mapped");
    }

    #[tokio::test]
    async fn a_host_that_is_not_on_loopback_needs_its_name_and_a_token() {
        let target = resolved("https://192.0.2.1").await.unwrap();
        let token = || Some(Zeroizing::new("x".repeat(LEAST_TOKEN)));
        let named = |host: &str| Some(host.to_owned());
        for refused in [
            Consent::default(),
            Consent { host: named("192.0.2.1"), token: None },
            Consent { host: None, token: token() },
            Consent { host: named("192.0.2.2"), token: token() },
            Consent { host: named("192.0.2.1"), token: Some(Zeroizing::new("short".to_owned())) },
        ] {
            assert!(matches!(target.token(&refused), Err(TargetError::Misused(_))));
        }
        let consent = Consent { host: named("192.0.2.1"), token: token() };
        assert!(target.token(&consent).unwrap().is_some());
        let here = resolved("http://127.0.0.1:1").await.unwrap();
        assert_eq!(here.token(&Consent::default()).unwrap(), None);
    }

    #[test]
    fn the_instance_shows_a_digest_of_the_token_and_never_the_token() {
        assert!(is_shown("token", format!("{}\n", digest("token")).as_bytes()));
        for other in [&b"token"[..], b"", digest("other").as_bytes()] {
            assert!(!is_shown("token", other));
        }
    }
}
