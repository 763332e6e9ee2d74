//! HTTPS: the source of the certificate, its replacement, and TLS on the listener's connections.
//!
//! ```text
//! files.rs ──┐                            acceptor.rs: one handshake per connection
//!            ├─> Current (current.rs) <── rustls asks at each handshake
//! acme.rs  ──┘
//! ```
//! Versions 1.2 and 1.3, rustls's own choice of suites, one crypto provider. No client certificates, no early data.

pub mod acceptor;
pub mod acme;
pub mod certificate;
pub mod current;
mod directory;
pub mod files;
pub(crate) mod provider;
pub mod redirect;

use std::sync::Arc;

use fulexo_commands::vault::Vault;
use rustls::ServerConfig;
use tokio::task::JoinHandle;

use self::acme::{Acme, AcmeOptions, Answers};
use self::current::Current;
use self::files::CertificateFiles;
use self::provider::provider;

/// The source of the certificate.
#[derive(Clone)]
pub enum Source {
    /// CertificateFiles, renewed by somebody else.
    CertificateFiles(CertificateFiles),
    /// An ACME directory.
    Acme(AcmeOptions),
}

/// TLS as the service has it. Dropping it ends the task that keeps the certificate current.
pub struct Tls {
    /// The certificate that new handshakes are answered with.
    pub current: Arc<Current>,
    /// The names that a certificate is to be had for, even before there is one.
    pub names: Vec<String>,
    /// The answers to ACME challenges, if there are any.
    pub answers: Option<Arc<Answers>>,
    follower: JoinHandle<()>,
}

impl Tls {
    /// Reads the certificate, and follows it from then on. From files it must be there; a directory may take its time.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn open(source: Source, vault: &Vault) -> Result<Self, String> {
        let current = Arc::new(Current::default());
        match source {
            Source::CertificateFiles(files) => {
                current.replace(files.load()?);
                let follower = tokio::spawn(files::follow(files, Arc::clone(&current)));
                Ok(Self { current, names: Vec::new(), answers: None, follower })
            }
            Source::Acme(options) => {
                let names = options.names.clone();
                let store = vault.acme(&options.directory, &options.names);
                let answers = Some(Arc::new(Answers::new(store.clone())));
                let acme = Acme::open(options, store, Arc::clone(&current)).await?;
                Ok(Self { current, names, answers, follower: tokio::spawn(acme.run()) })
            }
        }
    }

    /// Returns the configuration that the listener needs.
    ///
    /// # Errors
    /// If the crypto provider lacks what TLS needs.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        server_config(Arc::clone(&self.current))
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// TLS 1.2 and 1.3 with the certificate that is current at each handshake; HTTP/2 and HTTP/1.1 by ALPN (RFC 7301).
///
/// # Errors
/// If the crypto provider lacks what TLS needs.
pub fn server_config(current: Arc<Current>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
