//! The edge as clients meet it: whole requests over a real socket, through the listener and the stack.
//!
//! This file is the service under test and a client for it; the claims are in the files alongside it.

mod account_pages;
mod bodies;
mod connections;
mod dressing;
mod log;
mod refusals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fulexo_node::http::listener;
use fulexo_node::http::listener_options::ListenerOptions;
use fulexo_node::http::{ClientAddress, EdgeOptions, FormBody, JsonBody, Operations, Problem, RequestId, files, stack};
use futures_util::stream;
use poem::middleware::Cors;
use poem::web::Data;
use poem::{Body, EndpointExt, Request};
use poem_openapi::auth::Bearer;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::{Binary, Json, PlainText};
use poem_openapi::{Object, OpenApi, OpenApiService, SecurityScheme};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time;

use crate::pages::{account, docs};

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct LoginBody {
    email: String,
    #[oai(validator(min_length = 12))]
    password: String,
}

#[derive(Object, serde::Deserialize)]
struct Introspect {
    token: String,
}

#[derive(SecurityScheme)]
#[oai(ty = "bearer", checker = "check")]
struct TestCaller(String);

async fn check(_: &Request, bearer: Bearer) -> poem::Result<String> {
    if ["good", "great"].contains(&bearer.token.as_str()) {
        Ok(bearer.token)
    } else {
        Err(Problem::invalid_token().into())
    }
}

struct Api;

#[OpenApi]
impl Api {
    #[oai(path = "/v1/login", method = "post", operation_id = "login")]
    async fn login(&self, body: JsonBody<LoginBody>) -> Result<Json<String>, Problem> {
        let LoginBody { email, password } = body.read()?;
        if email == "taken@example.org" { Err(Problem::invalid_credentials()) } else { Ok(Json(password)) }
    }

    #[oai(path = "/v1/guarded", method = "post", operation_id = "guarded")]
    async fn guarded(&self, caller: TestCaller, body: JsonBody<LoginBody>) -> Result<(), Problem> {
        if caller.0 != "great" {
            return Err(Problem::permission_denied());
        }
        body.read().map(|_| ())
    }

    #[oai(path = "/v1/introspect", method = "post", operation_id = "introspect")]
    async fn introspect(&self, request: &Request, body: FormBody<Introspect>) -> Result<PlainText<String>, Problem> {
        Ok(PlainText(body.read(request).await?.token))
    }

    #[oai(path = "/v1/things/:thing/parts/:part", method = "get", operation_id = "get_part")]
    async fn get_part(
        &self,
        thing: Path<String>,
        part: Path<uuid::Uuid>,
        #[oai(validator(maximum(value = "200")))] limit: Query<Option<u32>>,
    ) -> Result<PlainText<String>, Problem> {
        Ok(PlainText(format!("{} {} {:?}", thing.0, part.0, limit.0)))
    }

    #[oai(path = "/v1/things/:thing/parts/:part", method = "delete", operation_id = "delete_part")]
    async fn delete_part(&self, thing: Path<String>, part: Path<String>, caller: TestCaller) -> Result<(), Problem> {
        let _ = (thing, part, caller);
        Ok(())
    }

    #[oai(path = "/v1/whoami", method = "get", operation_id = "whoami")]
    async fn whoami(&self, id: Data<&RequestId>, address: Data<&ClientAddress>) -> Result<PlainText<String>, Problem> {
        Ok(PlainText(format!("{} {}", id.0.0, address.0.0)))
    }

    #[oai(path = "/v1/fail/:how", method = "get", operation_id = "fail")]
    async fn fail(&self, how: Path<String>) -> poem::Result<PlainText<String>> {
        match how.0.as_str() {
            "internal" => Err(Problem::internal("database db-prod is gone").into()),
            "foreign" => Err(poem::error::InternalServerError(io::Error::other("database db-prod is gone"))),
            "bare" => Err(poem::http::StatusCode::GONE.into()),
            "panic" => panic!("database db-prod is gone"),
            "slow" => std::future::pending().await,
            "limited" => Err(Problem::rate_limited(Duration::from_secs(1)).into()),
            _ => Err(Problem::unavailable(Duration::from_secs(3)).into()),
        }
    }
}

struct Slow {
    /// A permit for each request that hangs.
    hanging: Arc<Semaphore>,
}

impl Slow {
    fn new() -> Self {
        Self { hanging: Arc::new(Semaphore::new(0)) }
    }
}

#[OpenApi]
impl Slow {
    #[oai(path = "/v1/hang", method = "get", operation_id = "hang")]
    async fn hang(&self) -> Result<(), Problem> {
        self.hanging.add_permits(1);
        std::future::pending().await
    }

    /// Ten ticks, one every 30 ms or as often as asked.
    #[oai(path = "/v1/ticks", method = "get", operation_id = "ticks")]
    async fn ticks(&self, every_ms: Query<Option<u64>>) -> Result<Binary<Body>, Problem> {
        let pause = Duration::from_millis(every_ms.0.unwrap_or(30));
        let ticks = stream::unfold(0, move |tick| async move {
            // Slow is what it is for.
            time::sleep(pause).await;
            (tick < 10).then_some((Ok::<_, io::Error>("tick "), tick + 1))
        });
        Ok(Binary(Body::from_bytes_stream(ticks)))
    }
}

/// A running edge; stops when dropped.
struct EdgeServer {
    address: SocketAddr,
    task: JoinHandle<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    hanging: Arc<Semaphore>,
}

async fn start(edge: EdgeOptions, bounds: ListenerOptions) -> EdgeServer {
    let slow = Slow::new();
    let hanging = Arc::clone(&slow.hanging);
    let service = OpenApiService::new(Operations((Api, slow)), "Test", "1");
    let spec = service.spec();
    let files = docs::files(spec).unwrap().into_iter().chain(account::files());
    let app = files::beside(service, files).with(Cors::new().allow_origin("https://app.example"));
    let acceptor = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener::port(&acceptor).unwrap()));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(listener::serve(acceptor, stack(app, edge), bounds, async {
        let _ = stopped.await;
    }));
    EdgeServer { address, task, stop: Some(stop), hanging }
}

async fn server() -> EdgeServer {
    start(EdgeOptions::default(), ListenerOptions::default()).await
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct TestResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl TestResponse {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(is, _)| is == name).map(|(_, value)| value.as_str())
    }

    fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["instance"], format!("urn:uuid:{}", self.header("request-id").unwrap()));
        problem
    }

    fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap().to_owned()
    }

    fn faults(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let errors = self.problem()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| (text(&error["pointer"]), text(&error["detail"]))).collect()
    }
}

impl EdgeServer {
    /// Returns when a request to `/v1/hang` is under way, one more each time.
    async fn hangs(&self) {
        let arrival = time::timeout(Duration::from_secs(10), self.hanging.acquire()).await;
        arrival.expect("it does not arrive").unwrap().forget();
    }

    async fn raw(&self, request: &str) -> TestResponse {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("no end");
        TestResponse::parse(&String::from_utf8_lossy(&answer))
    }

    async fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> TestResponse {
        let mut lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        if !body.is_empty() {
            lines.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.raw(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n{body}")).await
    }

    async fn get(&self, path: &str) -> TestResponse {
        self.send("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &str) -> TestResponse {
        self.send("POST", path, &["content-type: application/json"], body).await
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

const PART: &str = "/v1/things/a/parts/018f0000-0000-7000-8000-000000000000";
