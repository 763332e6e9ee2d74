//! The servers of NATS, each asked for a connection with the node's credentials.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::{ConnectOptions, ServerAddr};
use futures_util::future::join_all;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The most servers that are asked.
const MOST: usize = 16;
/// The length of the longest credentials file, in bytes.
const MAX_CREDENTIALS: u64 = 64 * 1_024;

/// The configuration of NATS. It has no `Debug`: it contains credentials.
pub struct NatsAccess {
    /// The URLs, separated by commas.
    pub urls: Zeroizing<String>,
    /// The credentials file.
    pub credentials: Option<PathBuf>,
}

/// A server as it answered.
pub struct ObservedNats {
    /// Host and port.
    pub server: String,
    /// The time that a connection took, or the reason for which there is none.
    pub answer: Result<Duration, String>,
}

/// Asks all servers at once.
pub async fn ask(access: &NatsAccess, patience: Duration) -> Result<Vec<ObservedNats>, String> {
    let parsed = |url: &str| url.trim().parse::<ServerAddr>().ok();
    let servers: Option<Vec<ServerAddr>> = access.urls.split(',').map(parsed).collect();
    let servers = servers.ok_or("NATS_URL is not a URL of NATS, or a list of them")?;
    let Some(first) = servers.first() else { return Ok(Vec::new()) };
    // User and password are those of the first, as for a node.
    let mut options = match (first.username(), first.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        (Some(token), None) => ConnectOptions::with_token(token.to_owned()),
        (None, _) => ConnectOptions::new(),
    };
    if let Some(path) = &access.credentials {
        let text = credentials(path.clone(), patience).await.map_err(|error| format!("NATS_CREDS: {error}"))?;
        options = options.credentials(&text).map_err(|_| "NATS_CREDS has no credentials")?;
    }
    let options =
        options.name("fulexo health-check").max_reconnects(1).connection_timeout(patience).ignore_discovered_servers();
    let asked = servers.iter().take(MOST).map(|server| ask_one(server, options.clone(), patience));
    Ok(join_all(asked).await)
}

async fn credentials(path: PathBuf, patience: Duration) -> Result<Zeroizing<String>, String> {
    use std::io::Read;
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(path)?.take(MAX_CREDENTIALS).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    match timeout(patience, reading).await {
        Ok(Ok(read)) => read.map_err(|error| error.to_string()),
        Ok(Err(_)) => Err("the file could not be read".to_owned()),
        Err(_) => Err("the file was not read in time".to_owned()),
    }
}

async fn ask_one(server: &ServerAddr, options: ConnectOptions, patience: Duration) -> ObservedNats {
    let began = Instant::now();
    // A connection is there once the server has answered the first ping.
    let answer = match timeout(patience, options.connect(server.clone())).await {
        Ok(Ok(client)) => {
            drop(client);
            Ok(began.elapsed())
        }
        Ok(Err(error)) => Err(error.kind().to_string()),
        Err(_) => Err(format!("no answer within {:.1} seconds", patience.as_secs_f32())),
    };
    ObservedNats { server: format!("{}:{}", server.host(), server.port()), answer }
}
