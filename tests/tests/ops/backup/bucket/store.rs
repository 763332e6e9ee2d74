//! A store of somebody else (s3s, on a directory), which verifies signatures; and what goes wrong on the way to it.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fulexo_dev_servers::DataDir;
use fulexo_tests::{eventually, own_dir};
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

pub const KEY_ID: &str = "AKIATESTS";
pub const SECRET: &str = "wJalrXUtnFEMI-tests-secret";
pub const BUCKET: &str = "backups";

/// A thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The store answers with a refusal, and does nothing.
    Refuse(u16, &'static str),
    /// The connection ends before the store has seen the request.
    Lose,
    /// The store does what it is asked to, and the connection ends before its answer.
    LoseAnswer,
    /// A bit of the body is another one when it arrives.
    Alter,
    /// Nothing arrives, and the connection stays.
    Hang,
    /// The answer comes late.
    Delay,
    /// Another answer with this body.
    Answer(String),
    /// An answer whose body does not end.
    Endless,
    /// The condition of a request is not known.
    Unconditional,
}

struct PlannedFault {
    /// The beginning of the request: the method, and a part of the path and query.
    method: &'static str,
    part: String,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct Plan {
    faults: Vec<PlannedFault>,
    seen: Vec<String>,
}

/// A running store.
pub struct Store {
    pub port: u16,
    root: DataDir,
    plan: Arc<Mutex<Plan>>,
}

impl Store {
    pub async fn start() -> Self {
        let root = own_dir();
        fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let (service, plan) = (builder.build(), Arc::new(Mutex::new(Plan::default())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let of_server = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, plan) = (service.clone(), Arc::clone(&of_server));
                tokio::spawn(async move {
                    let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&plan), request));
                    let builder = Builder::new(TokioExecutor::new());
                    // The client may leave at any moment.
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { port, root, plan }
    }

    /// Returns the variables that lead to it.
    pub fn env(&self) -> Vec<(String, String)> {
        let place = format!("s3://{BUCKET}/of/fulexo");
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        [
            ("FULEXO_BACKUP_TO", place.as_str()),
            ("AWS_ENDPOINT_URL", &endpoint),
            ("AWS_REGION", "eu-tests-1"),
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Lets this go wrong with the next so many requests of this method whose path and query have this part.
    pub fn plan(&self, method: &'static str, part: &str, times: usize, fault: Fault) {
        self.plan.lock().unwrap().faults.push(PlannedFault { method, part: part.to_owned(), left: times, fault });
    }

    /// Lets everything go well again.
    pub fn mend(&self) {
        self.plan.lock().unwrap().faults.clear();
    }

    /// Returns the requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.plan.lock().unwrap().seen.clone()
    }

    /// Waits for such a request.
    pub async fn sees(&self, method: &str, part: &str) {
        eventually(&format!("{method} {part} is asked for"), async || {
            self.seen().iter().any(|request| request.starts_with(method) && request.contains(part))
        })
        .await;
    }

    /// Returns the directory that has the objects of the tests.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join(BUCKET).join("of/fulexo")
    }

    /// Returns the keys of all objects, but for the lock.
    pub fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir()).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let files = fs::read_dir(&entry).into_iter().flatten().map(|file| file.unwrap().path());
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            found.extend(files.map(|file| format!("{}/{}", name(&entry), name(&file))));
        }
        found.sort();
        found
    }

    /// Returns the ids of uploads that were neither completed nor given up.
    pub fn uploads(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = entries.filter_map(|name| name.to_str()?.strip_prefix(".upload_id-").map(str::to_owned));
        let mut ids: Vec<_> = names.filter_map(|name| name.get(..36).map(str::to_owned)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Makes the lock one that was not renewed for its time.
    pub fn age_lock(&self) {
        let lock = fs::File::options().write(true).open(self.dir().join("lock")).unwrap();
        lock.set_modified(SystemTime::now() - Duration::from_secs(301)).unwrap();
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, s3s::StdError>>;

async fn answer(
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
    request: Request<Incoming>,
) -> Result<Answer, s3s::StdError> {
    let label = format!("{} {}", request.method(), request.uri());
    let fault = {
        let mut plan = plan.lock().unwrap();
        let fits = |fault: &&mut PlannedFault| {
            fault.left > 0 && label.starts_with(fault.method) && label.contains(&fault.part)
        };
        let fault = plan.faults.iter_mut().find(fits).map(|fault| {
            fault.left -= 1;
            fault.fault.clone()
        });
        plan.seen.push(label);
        fault
    };
    let xml = |status: u16, body: String| {
        let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
        Ok(Response::builder().status(status).body(body).unwrap())
    };
    match fault {
        Some(Fault::Refuse(status, code)) => {
            // Some stores repeat what was signed.
            let body = format!("<Error><Code>{code}</Code><StringToSign>{SECRET}</StringToSign></Error>");
            request.into_body().collect().await?;
            return xml(status, body);
        }
        Some(Fault::Answer(body)) => return xml(200, body),
        Some(Fault::Lose) => return Err("lost".into()),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Endless) => {
            let piece = Bytes::from(vec![b'<'; 64 << 10]);
            let frames = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            return Ok(Response::new(StreamBody::new(frames).boxed_unsync()));
        }
        // The time is what is tested: longer than a connection takes, shorter than anybody's patience.
        Some(Fault::Delay) => tokio::time::sleep(Duration::from_secs(2)).await,
        Some(Fault::LoseAnswer | Fault::Alter | Fault::Unconditional) | None => {}
    }
    let (mut head, body) = request.into_parts();
    let body = match fault {
        Some(Fault::Alter) => {
            let mut bytes = body.collect().await?.to_bytes().to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            s3s::Body::from(bytes)
        }
        _ => s3s::Body::from(body),
    };
    if matches!(fault, Some(Fault::Unconditional)) {
        head.headers.remove("if-none-match");
    }
    let answered = service.call(Request::from_parts(head, body)).await;
    if matches!(fault, Some(Fault::LoseAnswer)) {
        return Err("lost".into());
    }
    let answered = answered.map_err(|error| format!("{error:?}"))?;
    Ok(answered.map(BodyExt::boxed_unsync))
}
