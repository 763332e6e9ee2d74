//! NATS, as a stranger finds it: whether it lets anybody in, and whether it speaks TLS. Only the configured addresses are asked.

use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, ServerAddr};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#nats";

const ANONYMOUS: Rule = Rule {
    id: "nats.anonymous",
    title: "NATS lets in whoever connects",
    severity: Severity::Critical,
    remedy: "Configure users, or credentials, at the server: the copy of the log can be read and deleted there.",
    reference: REFERENCE,
};
const PLAIN: Rule = Rule {
    id: "nats.plain",
    title: "NATS speaks plain text over a network",
    severity: Severity::High,
    remedy: "Configure tls at the server, and write tls:// in NATS_URL.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "nats", title: "NATS asks for credentials and encrypts", rules: &[ANONYMOUS, PLAIN] };

/// The most servers that are asked.
const MOST: usize = 16;
/// The longest greeting of a server, in bytes.
const GREETING: u64 = 64 * 1_024;
/// The longest wait for a server, at each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// The address of a server, without credentials.
pub struct NatsAddress(ServerAddr);

impl NatsAddress {
    /// Reads a URL of a server, and forgets its credentials.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let mut url = url.trim().parse::<ServerAddr>().ok()?.into_inner();
        url.set_password(None).and_then(|()| url.set_username("")).ok()?;
        ServerAddr::from_url(url).ok().map(Self)
    }
}

/// The greeting of a server.
#[derive(Deserialize)]
struct Greeting {
    #[serde(default)]
    tls_required: bool,
}

/// Makes the check.
pub async fn check(addresses: &[NatsAddress]) -> Check {
    let (mut findings, mut silent) = (AuditFindings::default(), Vec::new());
    for NatsAddress(address) in addresses.iter().take(MOST) {
        let subject = format!("{}:{}", address.host(), address.port());
        match ask(address).await {
            Ok(server) => {
                if server.lets_in {
                    findings.push(&ANONYMOUS, subject.as_str(), "a connection without credentials was accepted");
                }
                if !server.is_encrypted && !is_loopback(address.host()) {
                    findings.push(&PLAIN, subject, "the server does not require TLS");
                }
            }
            Err(reason) => silent.push(format!("{subject} {reason}")),
        }
    }
    if findings.is_empty() && !silent.is_empty() {
        return CHECK.unchecked(silent.join("; "));
    }
    CHECK.with(findings, format!("servers asked: {}", addresses.len().min(MOST)))
}

/// A server as a stranger finds it.
struct NatsServer {
    lets_in: bool,
    is_encrypted: bool,
}

async fn ask(address: &ServerAddr) -> Result<NatsServer, String> {
    let is_encrypted = greeting(address).await?.tls_required || address.tls_required();
    let connecting = ConnectOptions::new().name("fulexo security-audit").max_reconnects(1).connection_timeout(PATIENCE);
    let connecting = connecting.ignore_discovered_servers();
    // `connect` returns after the server has answered the first ping.
    match timeout(2 * PATIENCE, connecting.connect(address.clone())).await {
        Ok(Ok(client)) => {
            drop(client);
            Ok(NatsServer { lets_in: true, is_encrypted })
        }
        Ok(Err(error)) => match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                Ok(NatsServer { lets_in: false, is_encrypted })
            }
            kind => Err(format!("refuses the connection for another reason than credentials: {kind}")),
        },
        Err(_) => Err("does not answer in time".to_owned()),
    }
}

/// Reads the greeting, which every server sends in plain text.
async fn greeting(address: &ServerAddr) -> Result<Greeting, String> {
    let reading = async {
        let stream =
            TcpStream::connect((address.host(), address.port())).await.map_err(|error| error.kind().to_string())?;
        let mut line = String::new();
        let mut stream = BufReader::new(stream).take(GREETING);
        stream.read_line(&mut line).await.map_err(|error| error.kind().to_string())?;
        let greeting = line.strip_prefix("INFO ").and_then(|text| serde_json::from_str(text.trim_end()).ok());
        greeting.ok_or_else(|| "does not greet as NATS does".to_owned())
    };
    timeout(PATIENCE, reading).await.map_err(|_| "does not answer in time".to_owned())?
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
