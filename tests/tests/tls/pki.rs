//! A certificate authority for one test, and files to put its certificates in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{Datelike, TimeDelta};
use fulexo_node::clock;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// An authority that issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Issued {
    /// Its chain, and that of its issuer, in PEM.
    pub chain: String,
    /// Its key, in PEM.
    pub key: String,
    /// The certificate itself, in DER.
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Issues a certificate for these names, valid for a year.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.until(names, TimeDelta::days(365))
    }

    /// Issues one that began a year ago and ends (or ended) this far from today.
    pub fn until(&self, names: &[&str], left: TimeDelta) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let date = |from_now: TimeDelta| {
            let day = clock::now() + from_now;
            date_time_ymd(day.year(), day.month().try_into().unwrap(), day.day().try_into().unwrap())
        };
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date(TimeDelta::days(-365)), date(left));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let chain = format!("{}{}", certificate.pem(), self.0.pem());
        Issued { chain, key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// Returns its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns the settings of a client that trusts this authority alone.
    pub fn believed(&self) -> Arc<ClientConfig> {
        Arc::new(believing(self.0.der().clone(), rustls::ALL_VERSIONS))
    }

    /// Returns the same for some versions of TLS only.
    pub fn believed_by(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        believing(self.0.der().clone(), versions)
    }
}

/// Returns the settings of a client that trusts this root alone.
pub fn believing(
    root: CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The files `cert.pem` and `key.pem` in their own directory.
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl CertificateFiles {
    pub fn new(issued: &Issued) -> Self {
        let dir = directory();
        let files = Self { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        files.put(issued);
        files
    }

    /// Replaces both, one after the other.
    pub fn put(&self, issued: &Issued) {
        put(&self.cert, &issued.chain);
        put(&self.key, &issued.key);
    }
}

/// Replaces a file as a whole, as renewing programs do.
pub fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Creates a new directory, below those of the build.
pub fn directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("tls-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
