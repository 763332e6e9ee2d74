//! The variables of HTTPS: a certificate from files or from an ACME directory, and the plain listener.

use std::net::IpAddr;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use zeroize::Zeroizing;

use super::reader::EnvironmentReader;
use crate::clock;
use crate::tls::Source;
use crate::tls::acme::AcmeOptions;
use crate::tls::certificate::Certificate;
use crate::tls::files::CertificateFiles;

/// The default ACME directory: Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The maximum number of names in one certificate of Let's Encrypt.
const MOST_NAMES: usize = 100;

impl EnvironmentReader {
    pub(super) fn tls(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<Source> {
        let files = self.tls_files(read_file);
        let acme = self.acme(read_file);
        if files.is_some() && acme.is_some() {
            self.problem("TLS_CERT and ACME_DOMAINS are both set. Set only one of them");
        }
        acme.or(files)
    }

    pub(super) fn http_port(&mut self, port: u16, tls: Option<&Source>) -> Option<u16> {
        self.optional("FULEXO_HTTP_PORT")?;
        let http_port = self.parsed("FULEXO_HTTP_PORT", 0, "a port from 0 to 65535");
        if tls.is_none() {
            self.problem("FULEXO_HTTP_PORT is set, but there is no HTTPS to redirect to. Set TLS_CERT or ACME_DOMAINS");
        }
        if http_port == port && port != 0 {
            self.problem("FULEXO_HTTP_PORT and FULEXO_PORT are equal. Set different ports");
        }
        Some(http_port)
    }

    fn tls_files(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<Source> {
        let (cert, key) = match (self.optional("TLS_CERT"), self.optional("TLS_KEY")) {
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => {
                self.problem("TLS_CERT is set without TLS_KEY. Set TLS_KEY to the PEM file of the private key");
                return None;
            }
            (None, Some(_)) => {
                self.problem("TLS_KEY is set without TLS_CERT. Set TLS_CERT to the PEM file of the certificate chain");
                return None;
            }
            (None, None) => return None,
        };
        let read =
            |path: &str| read_file(path).map(Zeroizing::new).map_err(|error| format!("cannot read {path}: {error}"));
        match (read(&cert), read(&key)) {
            (Ok(chain), Ok(pem)) => {
                if let Err(unfit) = Certificate::from_pem(chain.as_bytes(), pem.as_bytes(), clock::now()) {
                    let (name, path) = if unfit.is_of_the_key() { ("TLS_KEY", &key) } else { ("TLS_CERT", &cert) };
                    self.problem(format!("{name}: {path} {unfit}"));
                }
            }
            (chain, pem) => {
                for (name, read) in [("TLS_CERT", chain), ("TLS_KEY", pem)] {
                    if let Err(error) = read {
                        self.problem(format!("{name}: {error}"));
                    }
                }
            }
        }
        Some(Source::CertificateFiles(CertificateFiles { cert: cert.into(), key: key.into() }))
    }

    fn acme(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<Source> {
        let Some(domains) = self.optional("ACME_DOMAINS") else {
            for name in ["ACME_DIRECTORY", "ACME_CONTACT", "ACME_ROOT"] {
                if self.optional(name).is_some() {
                    self.problem(format!(
                        "{name} is set without ACME_DOMAINS. Set the domain names of the certificate, too"
                    ));
                }
            }
            return None;
        };
        if self.optional("FULEXO_HTTP_PORT").is_none() {
            self.problem(
                "ACME_DOMAINS is set without FULEXO_HTTP_PORT. Set it to 80, or to the port that receives the requests to \
                 port 80: the ACME directory sends its challenges there",
            );
        }
        let directory = self.text("ACME_DIRECTORY", DIRECTORY);
        // The vault separates the names with spaces.
        if !directory.starts_with("https://") || directory.contains(char::is_whitespace) {
            self.problem("ACME_DIRECTORY must be an https:// URL");
        }
        let contact = self.optional("ACME_CONTACT");
        if contact.as_ref().is_some_and(|contact| !contact.contains('@') || contact.contains([':', ',', '?', ' '])) {
            self.problem("ACME_CONTACT must be one e-mail address");
        }
        let names = self.domains(&domains);
        let roots = self.acme_roots(read_file);
        Some(Source::Acme(AcmeOptions { names, directory, contact, roots }))
    }

    fn domains(&mut self, text: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name = name.to_ascii_lowercase();
            if name.contains('*') {
                self.problem("ACME_DOMAINS must not contain a wildcard, which http-01 cannot validate");
            } else if DnsName::try_from(name.as_str()).is_err() || name.parse::<IpAddr>().is_ok() {
                self.problem(format!("ACME_DOMAINS contains {name:?}, which is not a domain name"));
            } else if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() || names.len() > MOST_NAMES {
            self.problem(format!("ACME_DOMAINS must have 1 to {MOST_NAMES} domain names, separated by commas"));
        }
        // Nodes find a shared certificate by its names.
        names.sort_unstable();
        names
    }

    fn acme_roots(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Vec<CertificateDer<'static>> {
        let Some(path) = self.optional("ACME_ROOT") else { return Vec::new() };
        let pem = match read_file(&path) {
            Ok(pem) => pem,
            Err(error) => {
                self.problem(format!("ACME_ROOT: cannot read {path}: {error}"));
                return Vec::new();
            }
        };
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        if roots.is_empty() {
            self.problem(format!("ACME_ROOT: {path} does not contain a valid PEM certificate"));
        }
        roots
    }
}
