//! A log, and the client that submits its checkpoints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::notes::{PLAIN_ED25519, Signer};
use super::tree::{Hash, continued, head, sha256};

/// A log: its leaves and its Ed25519 key, whose name is the origin. Two logs of one origin and one seed are a fork.
pub struct SecondLog {
    signer: Signer,
    leaves: Vec<Hash>,
}

impl SecondLog {
    /// Returns an empty log.
    #[must_use]
    pub fn new(origin: &str, seed: [u8; 32]) -> Self {
        Self { signer: Signer::new(origin, PLAIN_ED25519, seed), leaves: Vec::new() }
    }

    /// Returns the verifier key.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.signer.vkey()
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: &[u8]) {
        self.leaves.push(sha256(&[&[0], leaf]));
    }

    /// Returns the number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Returns the root of the first `size` leaves.
    #[must_use]
    pub fn root(&self, size: u64) -> Hash {
        head(self.first(size))
    }

    /// Returns the proof that the tree of size `new` continues that of size `old`, which is neither empty nor larger.
    #[must_use]
    pub fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
        assert!(0 < old && old <= new, "there is no proof from {old} to {new}");
        continued(usize::try_from(old).unwrap(), self.first(new), true)
    }

    /// Returns the text of a checkpoint, unsigned.
    #[must_use]
    pub fn text(&self, size: u64) -> String {
        format!("{}\n{size}\n{}\n", self.signer.name, STANDARD.encode(self.root(size)))
    }

    /// Returns the signed checkpoint of a size.
    #[must_use]
    pub fn note(&self, size: u64) -> String {
        self.sign(&self.text(size))
    }

    /// Signs any text, be it true or not, and returns the note.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        format!("{text}\n{}", self.signer.line(&self.signer.sign(text.as_bytes())))
    }

    /// Returns the body that submits the checkpoint of `size` to a witness that knows `old`. It has no proof if `old`
    /// is 0 or `size`, or larger, where none exists.
    #[must_use]
    pub fn body(&self, old: u64, size: u64) -> String {
        let proof = if 0 < old && old < size { self.consistency(old, size) } else { Vec::new() };
        submission(old, &proof, &self.note(size))
    }

    fn first(&self, size: u64) -> &[Hash] {
        &self.leaves[..usize::try_from(size).unwrap()]
    }
}

/// Returns the body of any submission, be it right or not.
#[must_use]
pub fn submission(old: u64, proof: &[Hash], note: &str) -> String {
    let proof: String = proof.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
    format!("old {old}\n{proof}\n{note}")
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct SecondAnswer {
    /// The status.
    pub status: u16,
    /// The media type, as it was sent.
    pub content_type: Option<String>,
    /// The body.
    pub body: String,
}

/// Sends a POST over plain HTTP/1.1; panics if it is not answered.
pub async fn post(url: &str, body: impl Into<Vec<u8>>) -> SecondAnswer {
    ask(Method::POST, url, body.into()).await
}

/// Sends a GET over plain HTTP/1.1; panics if it is not answered.
pub async fn get(url: &str) -> SecondAnswer {
    ask(Method::GET, url, Vec::new()).await
}

async fn ask(method: Method, url: &str, body: Vec<u8>) -> SecondAnswer {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("not plain HTTP: {url}"));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let stream = TcpStream::connect(authority).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(format!("/{path}")).header(HOST, authority);
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let content_type = parts.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
    let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
    SecondAnswer { status: parts.status.as_u16(), content_type, body }
}
