//! A witness (C2SP tlog-witness), which can be told to misbehave.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::notes::{COSIGNED_ED25519, Checkpoint, Line, Signer, Verifier};
use super::tree::{Hash, continues, decimal, hash, head, hex, sha256};

const TEXT: &str = "text/plain; charset=utf-8";

/// The witness's treatment of requests.
#[derive(Debug, Clone)]
pub enum Scripted {
    /// It does as the specification says.
    Honest,
    /// It answers every request with this status, media type and body.
    Status(u16, &'static str, String),
    /// It is honest, but cosigns with a key that nobody knows.
    OtherKey,
    /// It is honest, but one bit of its signatures is flipped.
    BadSignature,
    /// It reads requests, and never answers.
    Silent,
    /// It answers 200 with lines of unknown cosigners that never end.
    Endless,
}

/// A submission that the witness received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The old size; 0 if the submission is malformed.
    pub old: u64,
    /// The size of the checkpoint; 0 if the submission is malformed.
    pub size: u64,
    /// The number of hashes in the proof; 0 if the submission is malformed.
    pub proof_lines: usize,
    /// The status that was answered; 0 if there was no answer.
    pub status: u16,
}

/// A witness with an Ed25519 key; it ends when this is dropped.
pub struct SecondWitness {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl SecondWitness {
    /// Starts a witness on a free port of loopback that knows these logs, whose key names are their origins.
    pub async fn start(name: &str, seed: [u8; 32], log_vkeys: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = |vkey: &String| Verifier::read(vkey).unwrap_or_else(|| panic!("not a verifier key: {vkey}"));
        let shared = Arc::new(Shared {
            signer: Signer::new(name, COSIGNED_ED25519, seed),
            other: Signer::new(name, COSIGNED_ED25519, seed.map(|byte| !byte)),
            logs: log_vkeys.iter().map(log).collect(),
            state: Mutex::new(State { seen: HashMap::new(), scripted: Scripted::Honest, requests: Vec::new() }),
        });
        let for_all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            // The connections end with the witness.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&for_all);
                connections.spawn(async move {
                    let service = service_fn(|request| shared.serve(request));
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
        Self { address, shared, task }
    }

    /// Returns the submission prefix, which is also the monitoring prefix, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/w", self.address)
    }

    /// Returns the verifier key.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.shared.signer.vkey()
    }

    /// Returns the size that it holds of a log; 0 if it has seen none.
    #[must_use]
    pub fn size(&self, origin: &str) -> u64 {
        self.shared.state.lock().unwrap().seen.get(origin).map_or(0, |seen| seen.size)
    }

    /// Returns the checkpoint that it cosigned last, as monitors are given it.
    #[must_use]
    pub fn latest(&self, origin: &str) -> Option<String> {
        self.shared.state.lock().unwrap().seen.get(origin)?.note.clone()
    }

    /// Makes it hold another tree of a log than the one it cosigned. `latest` stays as it is.
    pub fn set_size_and_root(&self, origin: &str, size: u64, root: Hash) {
        let mut state = self.shared.state.lock().unwrap();
        let note = state.seen.remove(origin).and_then(|seen| seen.note);
        state.seen.insert(origin.to_owned(), Seen { size, root, note });
    }

    /// Shows monitors this note of a log, or none.
    pub fn show(&self, origin: &str, note: Option<String>) {
        if let Some(seen) = self.shared.state.lock().unwrap().seen.get_mut(origin) {
            seen.note = note;
        }
    }

    /// Sets how requests are answered from now on.
    pub fn answers(&self, scripted: Scripted) {
        self.shared.state.lock().unwrap().scripted = scripted;
    }

    /// Returns the submissions that it received, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.shared.state.lock().unwrap().requests.clone()
    }
}

impl Drop for SecondWitness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    signer: Signer,
    other: Signer,
    logs: Vec<Verifier>,
    state: Mutex<State>,
}

struct State {
    seen: HashMap<String, Seen>,
    scripted: Scripted,
    requests: Vec<Received>,
}

/// The latest tree of a log, and the note that monitors are given.
struct Seen {
    size: u64,
    root: Hash,
    note: Option<String>,
}

/// An answer of the witness; a body of `None` never ends.
struct Reply {
    status: u16,
    content_type: &'static str,
    body: Option<String>,
}

impl Reply {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: Some(body.into()) }
    }

    fn into_response(self) -> Response<BoxBody<Bytes, Infallible>> {
        let body = self.body.map_or_else(
            || {
                let lines = Bytes::from("— nobody.example/w bm9ib2R5\n".repeat(256));
                BodyExt::boxed(StreamBody::new(stream::repeat_with(move || Ok(Frame::data(lines.clone())))))
            },
            |body| Full::new(Bytes::from(body)).boxed(),
        );
        Response::builder().status(self.status).header(CONTENT_TYPE, self.content_type).body(body).unwrap()
    }
}

impl Shared {
    async fn serve(&self, request: Request<Incoming>) -> hyper::Result<Response<BoxBody<Bytes, Infallible>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        match self.reply(&parts.method, parts.uri.path(), &body) {
            Some(reply) => Ok(reply.into_response()),
            None => std::future::pending().await,
        }
    }

    /// Decides under one lock, so that no other submission comes between the check and the update.
    fn reply(&self, method: &Method, path: &str, body: &[u8]) -> Option<Reply> {
        let mut state = self.state.lock().unwrap();
        let State { seen, scripted, requests } = &mut *state;
        let (adds, submission) = (path == "/w/add-checkpoint", Submission::read(body));
        let reply = match scripted {
            Scripted::Silent => None,
            Scripted::Endless => Some(Reply { status: 200, content_type: TEXT, body: None }),
            Scripted::Status(status, content_type, body) => {
                Some(Reply { status: *status, content_type, body: Some(body.clone()) })
            }
            Scripted::Honest | Scripted::OtherKey | Scripted::BadSignature => Some(match *method {
                Method::POST if adds => self.add(seen, scripted, submission.as_ref()),
                Method::GET if !adds => monitored(seen, path),
                _ => Reply::new(if adds { 405 } else { 404 }, "there is no such call\n"),
            }),
        };
        if adds {
            let (old, size, proof_lines) = submission.map_or((0, 0, 0), |s| (s.old, s.checkpoint.size, s.proof.len()));
            requests.push(Received { old, size, proof_lines, status: reply.as_ref().map_or(0, |reply| reply.status) });
        }
        reply
    }

    fn add(&self, all: &mut HashMap<String, Seen>, scripted: &Scripted, submission: Option<&Submission>) -> Reply {
        let Some(Submission { old, proof, checkpoint, lines }) = submission else {
            return Reply::new(400, "malformed\n");
        };
        let Checkpoint { text, origin, size, root } = *checkpoint;
        let trusted: Vec<&Verifier> = self.logs.iter().filter(|key| key.name == origin).collect();
        if trusted.is_empty() {
            return Reply::new(404, "an unknown log\n");
        }
        let mut verified = String::new();
        for line in lines {
            if let Some(key) = trusted.iter().find(|key| key.is_named_by(line)) {
                if key.verify(checkpoint, &line.signature).is_none() {
                    return Reply::new(403, "a signature that fails\n");
                }
                verified += &format!("{}\n", line.whole);
            }
        }
        if verified.is_empty() {
            return Reply::new(403, "no signature by a trusted key\n");
        }
        if *old > size {
            return Reply::new(400, "the old size is above the new one\n");
        }
        let (seen_size, seen_root) = all.get(origin).map_or_else(|| (0, head(&[])), |seen| (seen.size, seen.root));
        if *old != seen_size {
            return Reply { content_type: "text/x.tlog.size", ..Reply::new(409, format!("{seen_size}\n")) };
        }
        if (size == 0 && root != head(&[])) || !continues((*old, seen_root), (size, root), proof) {
            return Reply::new(422, "inconsistent\n");
        }
        let signer = if matches!(scripted, Scripted::OtherKey) { &self.other } else { &self.signer };
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let signature = signer.sign(format!("cosignature/v1\ntime {timestamp}\n{text}").as_bytes());
        let mut signature = [timestamp.to_be_bytes().as_slice(), &signature].concat();
        if matches!(scripted, Scripted::BadSignature) {
            signature[8] ^= 1;
        }
        let line = signer.line(&signature);
        let note = Some(format!("{text}\n{verified}{line}"));
        all.insert(origin.to_owned(), Seen { size, root, note });
        Reply::new(200, line)
    }
}

fn monitored(all: &HashMap<String, Seen>, path: &str) -> Reply {
    let asked = path.strip_prefix("/w/").and_then(|rest| rest.strip_suffix("/checkpoint"));
    let of = all.iter().find(|(origin, _)| asked == Some(&hex(&sha256(&[origin.as_bytes()]))));
    let note = of.and_then(|(_, seen)| seen.note.clone());
    note.map_or_else(|| Reply::new(404, "never cosigned\n"), |note| Reply::new(200, note))
}

/// The body of add-checkpoint.
struct Submission<'a> {
    old: u64,
    proof: Vec<Hash>,
    checkpoint: Checkpoint<'a>,
    lines: Vec<Line<'a>>,
}

impl<'a> Submission<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let (opening, note) = std::str::from_utf8(body).ok()?.split_once("\n\n")?;
        let mut opening = opening.split('\n');
        let old = decimal(opening.next()?.strip_prefix("old ")?)?;
        let proof: Vec<Hash> = opening.map(hash).collect::<Option<_>>()?;
        if proof.len() > 63 || note.contains(|c: char| c < ' ' && c != '\n') {
            return None;
        }
        // The text keeps the newline before the blank line.
        let text = note.rfind("\n\n")? + 1;
        let lines = note[text + 1..].strip_suffix('\n')?.split('\n').map(Line::read).collect::<Option<_>>()?;
        Some(Self { old, proof, checkpoint: Checkpoint::read(&note[..text])?, lines })
    }
}
