//! Asks services for their versions: PostgreSQL after its handshake, NATS in its greeting, nginx in a header or as a program.
//!
//! No credential is sent to anybody but PostgreSQL, and no answer is read without a bound in size and time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_database::chain;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::service_table::{ReleaseNumber, ScannedService, ServiceVersion};

/// The time that a service has for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest greeting of NATS, in bytes.
const GREETING_BOUND: u64 = 64 << 10;
/// The most servers of a NATS cluster.
const SERVERS_BOUND: usize = 16;

/// The services to ask.
#[derive(Debug, Default)]
pub struct ServicePlaces {
    /// The URL of the database.
    pub database_url: Option<String>,
    /// The URLs of NATS servers, separated by commas.
    pub nats_url: Option<String>,
    /// A URL that nginx answers.
    pub nginx_url: Option<Url>,
    /// The program nginx, asked if there is no URL.
    pub nginx_program: Option<PathBuf>,
}

impl ServicePlaces {
    /// Asks all of them, one after another.
    pub async fn ask(&self) -> Vec<ServiceVersion> {
        let mut asked = Vec::new();
        if let Some(url) = &self.database_url {
            asked.push(postgresql(url).await);
        }
        for server in self.nats_url.iter().flat_map(|urls| urls.split(',')).take(SERVERS_BOUND) {
            asked.push(nats(server.trim()).await);
        }
        if let Some(url) = &self.nginx_url {
            asked.push(nginx_at(url).await);
        } else if let Some(program) = &self.nginx_program {
            let version = nginx_program(program);
            let place = "this machine".to_owned();
            asked.push(ServiceVersion { service: ScannedService::Nginx, id: "scan.nginx".to_owned(), place, version });
        }
        asked
    }
}

/// Finds a program on the path.
#[must_use]
pub fn find_program(name: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

async fn postgresql(url: &str) -> ServiceVersion {
    let (mut place, mut version) =
        ("DATABASE_URL".to_owned(), Err("DATABASE_URL is not a URL of PostgreSQL".to_owned()));
    if let Ok(options) = url.parse::<PgConnectOptions>() {
        place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        version = match timeout(PATIENCE, options.disable_statement_logging().connect()).await {
            Err(_) => Err(no_answer()),
            Ok(Err(error)) => Err(chain(&error).to_string()),
            Ok(Ok(connection)) => {
                let number = connection.server_version_num();
                // The server has said what was asked.
                let _ = timeout(PATIENCE, connection.close()).await;
                number.map(ReleaseNumber::of_postgresql).ok_or_else(|| "the server does not say its version".to_owned())
            }
        };
    }
    ServiceVersion { service: ScannedService::Postgresql, id: "scan.postgresql".to_owned(), place, version }
}

/// Reads the greeting of a server, which precedes TLS and any credential.
async fn nats(server: &str) -> ServiceVersion {
    let with_scheme = if server.contains("://") { server.to_owned() } else { format!("nats://{server}") };
    let url = Url::parse(&with_scheme).ok();
    let host = url.as_ref().and_then(Url::host_str);
    let port = url.as_ref().and_then(Url::port).unwrap_or(4222);
    let place = host.map_or_else(|| "NATS_URL".to_owned(), |host| format!("{host}:{port}"));
    let is_websocket = url.as_ref().is_some_and(|url| url.scheme().starts_with("ws"));
    let version = match (host, is_websocket) {
        (Some(_), true) => Err("a server behind a WebSocket has no greeting".to_owned()),
        (Some(_), false) => match timeout(PATIENCE, greeting(&place)).await {
            Ok(version) => version,
            Err(_) => Err(format!("{}; a server that begins with TLS has no greeting", no_answer())),
        },
        (None, _) => Err("NATS_URL is not a URL of NATS, or a list of them".to_owned()),
    };
    ServiceVersion { service: ScannedService::Nats, id: format!("scan.nats {place}"), place, version }
}

async fn greeting(place: &str) -> Result<ReleaseNumber, String> {
    let stream = TcpStream::connect(place).await.map_err(|error| error.to_string())?;
    let mut line = Vec::new();
    let mut greeting = BufReader::new(stream.take(GREETING_BOUND));
    greeting.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    let info = line.strip_prefix(b"INFO ").ok_or("the server does not greet as NATS does")?;
    let info: serde_json::Value =
        serde_json::from_slice(info).map_err(|_| "the server's greeting is not JSON".to_owned())?;
    let version = info.get("version").and_then(serde_json::Value::as_str).and_then(ReleaseNumber::parse);
    version.ok_or_else(|| "the server does not say its version".to_owned())
}

async fn nginx_at(url: &Url) -> ServiceVersion {
    let place = match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(_) | None, _) => "the URL".to_owned(),
    };
    let version = match timeout(PATIENCE, server_header(url)).await {
        Ok(header) => header.and_then(|header| of_nginx(&header)),
        Err(_) => Err(no_answer()),
    };
    ServiceVersion { service: ScannedService::Nginx, id: "scan.nginx".to_owned(), place, version }
}

/// Reads the version in `nginx/1.30.4`.
fn of_nginx(text: &str) -> Result<ReleaseNumber, String> {
    let Some((_, version)) = text.split_once("nginx") else {
        return Err("what answers is not nginx, or hides it".to_owned());
    };
    let version = version.strip_prefix('/').and_then(ReleaseNumber::parse);
    version
        .ok_or_else(|| "nginx hides its version (server_tokens off). Scan on its own machine, without --url".to_owned())
}

async fn server_header(url: &Url) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_native_roots()
        .map_err(|error| format!("this machine has no root certificates: {error}"))?
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::builder()
        .method(Method::HEAD)
        .uri(url.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| chain(&error).to_string())?;
    let header = answer.headers().get(header::SERVER).and_then(|it| it.to_str().ok());
    header.map(str::to_owned).ok_or_else(|| "the answer has no Server header".to_owned())
}

/// Runs `nginx -v`, which writes on standard error.
fn nginx_program(program: &Path) -> Result<ReleaseNumber, String> {
    let mut child = Command::new(program)
        .arg("-v")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let began = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(_)) => break true,
            Ok(None) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => break false,
        }
    };
    if !ended {
        // It may have ended by now.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("`nginx -v`: {}", no_answer()));
    }
    let mut said = Vec::new();
    if let Some(errors) = child.stderr {
        errors.take(4096).read_to_end(&mut said).map_err(|error| error.to_string())?;
    }
    // `nginx version: nginx/1.30.4`: the name occurs twice.
    let said = String::from_utf8_lossy(&said).into_owned();
    of_nginx(said.strip_prefix("nginx version: ").unwrap_or(&said))
}

fn no_answer() -> String {
    format!("no answer within {} seconds", PATIENCE.as_secs())
}
