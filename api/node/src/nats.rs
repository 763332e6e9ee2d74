//! The one connection to NATS of a node: the doorbell, the relay and the feed share it. NATS may be down for as long as it
//! likes: the users of the connection work without it, or wait. The log says so once, not at every try.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr};

/// Connects in the background, now and whenever the connection breaks. `urls` names one server, or several of a
/// cluster, separated by commas; user and password are those of the first. `credentials` are what a file of them says.
///
/// # Errors
/// Only when URL or credentials cannot be read. No text repeats a password.
pub async fn connect(urls: &str, credentials: Option<&str>) -> Result<Client, String> {
    let addresses = addresses(urls).ok_or("NATS_URL is not a URL of NATS, or a list of them")?;
    let first = urls.split(',').next().and_then(|url| url.trim().parse::<ServerAddr>().ok());
    let first = first.as_ref();
    let (user, password) = (first.and_then(ServerAddr::username), first.and_then(ServerAddr::password));
    let mut options = match (user, password) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        (Some(token), None) => ConnectOptions::with_token(token.to_owned()),
        (None, _) => ConnectOptions::new(),
    };
    if let Some(credentials) = credentials {
        options = options
            .credentials(credentials)
            .map_err(|error| format!("NATS_CREDS: cannot read the credentials: {error}"))?;
    }
    let watch = Arc::new(Watch::over(&addresses));
    let options = options.event_callback(move |event| {
        watch.heed(&event);
        std::future::ready(())
    });
    let options = options.name("fulexo").retry_on_initial_connect().client_capacity(256);
    options.connect(addresses).await.map_err(|error| format!("cannot set up NATS: {}", error.kind()))
}

/// The servers that these URLs name, without credentials: those are what the log shows, and those that the cluster
/// gossips have no credentials either.
pub fn addresses(urls: &str) -> Option<Vec<ServerAddr>> {
    urls.split(',').map(|url| without_credentials(url.trim().parse().ok()?)).collect()
}

fn without_credentials(address: ServerAddr) -> Option<ServerAddr> {
    let mut url = address.into_inner();
    // Refused only for URLs that have no host to put credentials before.
    url.set_password(None).and_then(|()| url.set_username("")).ok()?;
    ServerAddr::from_url(url).ok()
}

/// The log's account of the connection: one line when NATS cannot be used, with what that costs, and one when it can again.
struct Watch {
    servers: String,
    is_told: AtomicBool,
}

impl Watch {
    fn over(addresses: &[ServerAddr]) -> Self {
        let servers: Vec<String> =
            addresses.iter().map(|address| format!("{}:{}", address.host(), address.port())).collect();
        Self { servers: servers.join(","), is_told: AtomicBool::new(false) }
    }

    fn heed(&self, event: &Event) {
        match event {
            Event::Connected => {
                if self.is_told.swap(false, Ordering::Relaxed) {
                    tracing::info!(servers = self.servers, "NATS is connected again");
                }
            }
            // One at each try to connect.
            Event::ClientError(ClientError::Other(reason)) => self.warn(cause(reason)),
            Event::ServerError(error) => self.warn(&error.to_string()),
            // A connection that was lost is tried at once: what comes of that is what matters.
            Event::Disconnected
            | Event::LameDuckMode
            | Event::Draining
            | Event::Closed
            | Event::SlowConsumer(_)
            | Event::ClientError(ClientError::MaxReconnects | ClientError::ServerNotInPool) => {
                tracing::debug!(servers = self.servers, %event, "NATS");
            }
        }
    }

    fn warn(&self, cause: &str) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                servers = self.servers,
                cause,
                "NATS cannot be used; retrying. Until it can, nodes look for each other's changes every 200 ms, and the \
                 log's copy in JetStream waits"
            );
        }
    }
}

/// Returns an operator's words for a kind of error that the client names.
fn cause(reason: &str) -> &str {
    match reason {
        "IO error" => "no server answers there",
        "DNS error" => "its name cannot be resolved",
        "authorization violation" => "it refuses the credentials",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_connected_to_shows_no_credentials() {
        for text in ["nats://user:hunter2@one.example:4223", "tls://hunter2@two.example", "hunter2:hunter2@[::1]:4222"]
        {
            let address = without_credentials(text.parse().unwrap()).unwrap();
            assert!(!format!("{address:?}").contains("hunter2") && !address.has_user_pass(), "{text}");
            assert!(!Watch::over(&[address]).servers.contains("hunter2"), "{text}");
        }
    }
}
