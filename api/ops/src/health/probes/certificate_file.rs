//! The certificate file of a node. Judges nothing.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The length of the longest file of certificates, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most certificates that are judged.
const MOST: usize = 16;

/// The certificate file of a node.
pub struct CertificateFile {
    /// The chain, or the reason for which there is none.
    pub chain: Result<Vec<CertificateDer<'static>>, String>,
}

impl CertificateFile {
    /// Reads a file of PEM.
    pub async fn read(path: PathBuf, patience: Duration) -> Self {
        let reading = spawn_blocking(move || {
            use std::io::Read;
            let mut text = Vec::new();
            // Before it is opened: a pipe would be waited for.
            if !std::fs::metadata(&path)?.is_file() {
                return Err(std::io::Error::other("it is not a file"));
            }
            std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
            Ok(text)
        });
        let chain = match timeout(patience, reading).await {
            Ok(Ok(Ok(text))) => {
                let read: Vec<_> = CertificateDer::pem_slice_iter(&text).take(MOST).flatten().collect();
                if read.is_empty() { Err("it has no certificate in PEM".to_owned()) } else { Ok(read) }
            }
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err("it could not be read".to_owned()),
            Err(_) => Err("it was not read in time".to_owned()),
        };
        Self { chain }
    }
}
