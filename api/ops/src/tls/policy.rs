//! The measure of a TLS server.

use std::time::Duration;

use chrono::TimeDelta;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The measure of a server.
pub struct TlsPolicy {
    /// The authorities that are trusted.
    pub roots: RootCertStore,
    /// The time before a certificate's end from which on it ends soon.
    pub horizon: TimeDelta,
    /// The time for a connection, and for each answer. All answers together have six times as long.
    pub patience: Duration,
}

/// Returns the authorities that this machine trusts. Those that cannot be read are left out, so that there may be none.
#[must_use]
pub fn machine_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Reads authorities; `None` if there are none, or one cannot be trusted.
#[must_use]
pub fn roots_from_pem(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}
