//! The certificate that new handshakes are answered with. Replacing it touches no connection that is there already.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::certificate::Certificate;

/// One certificate, or none yet: then a handshake ends in an alert.
#[derive(Default)]
pub struct Current(watch::Sender<Option<Arc<Certificate>>>);

impl Current {
    /// Answers new handshakes with this one from now on.
    pub fn replace(&self, certificate: Certificate) {
        self.0.send_replace(Some(Arc::new(certificate)));
    }

    /// The one in use.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Certificate>> {
        self.0.borrow().clone()
    }
}

impl ResolvesServerCert for Current {
    /// Returns it for any name that the client asks for. If the certificate is not for that name, the client refuses
    /// it.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get().map(|certificate| Arc::clone(certificate.certified_key()))
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Current")
    }
}
