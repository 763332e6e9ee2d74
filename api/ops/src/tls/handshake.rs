//! A handshake that trusts everybody, so that the chain is seen and judged afterwards. Nothing is sent over it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Unreachable;

/// The most certificates that are judged: real chains have five at most.
pub const MOST_CERTIFICATES: usize = 16;

/// The result of a handshake.
pub struct Handshake {
    /// The certificates in the order in which the server sent them.
    pub chain: Vec<CertificateDer<'static>>,
    /// `true` if the server stapled an OCSP response.
    pub is_stapled: bool,
    /// The reason for which the server has not proved that it has the certificate's key.
    pub bad_proof: Option<String>,
    /// The version, such as `TLSv1_3`.
    pub version: String,
    /// The cipher suite.
    pub suite: String,
    /// The group of the key exchange.
    pub group: Option<String>,
    /// The connection.
    pub stream: TlsStream<TcpStream>,
}

/// A handshake that did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoHandshake {
    /// There is no connection.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The server does not answer in time.
    #[error("no end of the handshake in time: give a longer --timeout")]
    Silent,
    /// The server refuses, or does not speak TLS.
    #[error("{0}")]
    Refused(String),
}

/// Returns the one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Shakes hands in one of these versions.
///
/// # Errors
/// [`NoHandshake`].
pub async fn shake_hands(
    stream: TcpStream,
    name: &ServerName<'static>,
    versions: &[&'static SupportedProtocolVersion],
    patience: Duration,
) -> Result<Handshake, NoHandshake> {
    let recorder = Arc::new(Recorder { provider: provider(), sent: Mutex::default() });
    let verifier = Arc::<Recorder>::clone(&recorder);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| NoHandshake::Refused(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connecting = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
    let stream = match timeout(patience, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(NoHandshake::Refused(error.to_string())),
        Err(_) => return Err(NoHandshake::Silent),
    };
    let connection = stream.get_ref().1;
    let version = connection.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown").to_owned();
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    let named = |text: String| text.replace("TLS13_", "TLS_");
    let (suite, group) = (suite.map(|it| named(format!("{it:?}"))), group.map(|it| format!("{it:?}")));
    let sent = std::mem::take(&mut *recorder.sent.lock().unwrap_or_else(PoisonError::into_inner));
    let suite = suite.unwrap_or_else(|| "unknown".to_owned());
    Ok(Handshake {
        chain: sent.chain,
        is_stapled: sent.is_stapled,
        bad_proof: sent.bad_proof,
        version,
        suite,
        group,
        stream,
    })
}

/// A verifier that believes everybody, and keeps what it saw: the chain, and whether the server has proved that it has the key.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    chain: Vec<CertificateDer<'static>>,
    is_stapled: bool,
    bad_proof: Option<String>,
}

impl Recorder {
    fn note(&self, proof: Result<HandshakeSignatureValid, Error>) -> HandshakeSignatureValid {
        proof.unwrap_or_else(|error| {
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).bad_proof = Some(error.to_string());
            HandshakeSignatureValid::assertion()
        })
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(end_entity).chain(intermediates).take(MOST_CERTIFICATES);
        let chain = all.map(|certificate| certificate.clone().into_owned()).collect();
        let sent = Sent { chain, is_stapled: !ocsp_response.is_empty(), bad_proof: None };
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        Ok(self.note(rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        Ok(self.note(rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
