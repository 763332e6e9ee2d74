//! TLS servers on loopback, each with one fault, and the certificates that they show.

use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use chrono::{Datelike, TimeDelta};
use fulexo_dev_servers::DataDir;
use fulexo_node::clock;
use fulexo_tests::free_port;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// An authority.
pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// The certificate of a server, and its key.
pub struct Shown {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

/// Makes an authority, issued by `above` or by itself.
pub fn authority(name: &str, above: Option<&Authority>) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    match above {
        Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
    }
}

/// Makes a certificate for a name, from so many days from now until so many, issued by `above` or by itself.
pub fn certificate(name: &str, (from, until): (i64, i64), above: Option<&Authority>) -> Shown {
    let date = |days: i64| {
        let day = clock::now() + TimeDelta::days(days);
        date_time_ymd(day.year(), day.month().try_into().unwrap(), day.day().try_into().unwrap())
    };
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, format!("the server {name}"));
    (params.not_before, params.not_after) = (date(from), date(until));
    let key = KeyPair::generate().unwrap();
    let made = match above {
        Some(above) => params.signed_by(&key, above).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Shown { der: made.der().clone(), pem: made.pem(), key }
}

/// A server on loopback; it ends when this is dropped.
pub struct Listening {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves these versions of TLS with this chain and any key, also that of another certificate.
pub async fn serve_versions(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    versions: &[&'static SupportedProtocolVersion],
) -> Listening {
    let key = any_ecdsa_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    // Unlike `with_single_cert` this does not compare the two.
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(resolver))));
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
    .await
}

/// A server of `openssl` with a short key, a signature with SHA-1 and no staple, which takes whatever openssl still knows.
pub struct OpenSsl {
    pub port: u16,
    process: Child,
}

impl OpenSsl {
    /// The rules of its faults.
    pub const FAULTS: [&'static str; 8] = [
        "tls.self_signed",
        "tls.weak_key",
        "tls.weak_signature",
        "tls.no_staple",
        "tls.old_version",
        "tls.broken_suite",
        "tls.no_forward_secrecy",
        "tls.weak_integrity",
    ];

    /// Starts it; `None` if this machine has no openssl.
    pub fn serve(dir: &DataDir) -> Option<Self> {
        let run = |arguments: &str| {
            // Not the machine's own settings, which forbid most of this.
            let mut command = Command::new("openssl");
            command.args(arguments.split(' ')).current_dir(dir.path()).env("OPENSSL_CONF", "/dev/null");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let certificate = "req -x509 -newkey rsa:1024 -nodes -sha1 -days 60 -subj /CN=localhost \
                           -addext subjectAltName=DNS:localhost -addext tlsfeature=status_request \
                           -addext basicConstraints=CA:FALSE -keyout openssl.key -out openssl.pem";
        let made = run(certificate).status();
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return None;
        }
        assert!(made.unwrap().success());
        let port = free_port();
        let serve = format!(
            "s_server -accept 127.0.0.1:{port} -key openssl.key -cert openssl.pem \
             -cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0 -www -quiet"
        );
        Some(Self { port, process: run(&serve).spawn().unwrap() })
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves TLS with this chain, and over it this answer to every request.
pub async fn serve(chain: Vec<CertificateDer<'static>>, key: &KeyPair, answer: &'static str) -> Listening {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    })
    .await
}

/// Serves whatever this does with each connection.
pub async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Listening { port, task }
}
