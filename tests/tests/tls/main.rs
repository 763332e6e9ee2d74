//! HTTPS from outside: handshakes, certificates that come and go under load, the way from HTTP to it, and certificates
//! from a real ACME server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod acme;
mod address;
mod files;
mod handshake;
mod log;
mod pebble;
mod pki;
mod redirect;
mod replacement;
mod serve;
mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;

use fulexo_tests::{Client, Database, Node};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pki::{Authority, CertificateFiles, Issued};

/// A node with a certificate for `localhost` and 127.0.0.1, and the certificate's authority and files.
struct Served {
    node: Node,
    authority: Authority,
    files: CertificateFiles,
}

impl Served {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(more: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let files = CertificateFiles::new(&authority.issue(&["localhost", "127.0.0.1"]));
        let database = Arc::new(Database::create().await);
        let node = Node::with(&database, files.env(&database, more)).await;
        Self { node, authority, files }
    }

    /// Returns a client that is not logged in, and trusts the authority.
    fn anonymous(&self) -> Client {
        Client { tls: Some(self.authority.believed()), ..self.node.anonymous() }
    }
}

impl CertificateFiles {
    fn env(&self, database: &Database, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut env = database.env();
        env.insert("TLS_CERT".into(), self.cert.to_str().unwrap().into());
        env.insert("TLS_KEY".into(), self.key.to_str().unwrap().into());
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        env
    }
}

/// Makes a handshake with the server on this port of loopback, under this name.
async fn connect(port: u16, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// Returns the certificate that the service shows.
async fn shown(port: u16, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<CertificateDer<'static>> {
    let stream = connect(port, name, config).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

/// `true` if it shows this one.
async fn shows(node: &Node, issued: &Issued, config: &Arc<ClientConfig>) -> bool {
    shown(node.port(), "localhost", config).await.is_ok_and(|certificate| certificate == issued.der)
}
