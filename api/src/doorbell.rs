//! The doorbell between nodes: after a commit a node tells the others, over NATS, that there is something to read.
//!
//! It carries no event and nothing depends on it: with NATS down every node looks by itself, five times a second.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::connection::State;
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::sleep;

const SUBJECT: &str = "fulexo.doorbell";

/// Rings other nodes, and is rung by them. Cheap to clone.
#[derive(Clone)]
pub struct Doorbell {
    rung: Arc<Notify>,
    ours: Arc<Notify>,
    client: Option<async_nats::Client>,
}

impl Doorbell {
    /// Connects in the background, now and whenever the connection breaks. Without a URL only this node's own rings
    /// are heard.
    ///
    /// # Errors
    /// Only when URL or credentials cannot be read.
    pub async fn open(url: Option<&str>, credentials: Option<&str>) -> Result<Self, String> {
        let client = match url {
            Some(url) => Some(connect(url, credentials).await?),
            None => None,
        };
        Ok(Self { rung: Arc::new(Notify::new()), ours: Arc::new(Notify::new()), client })
    }

    /// Something was committed here.
    pub fn ring(&self) {
        self.rung.notify_one();
        self.ours.notify_one();
    }

    /// There is something to do here, and nowhere else.
    pub fn ring_here(&self) {
        self.rung.notify_one();
    }

    /// Resolves once for any number of rings since it last did.
    #[must_use]
    pub fn rung(&self) -> Arc<Notify> {
        Arc::clone(&self.rung)
    }

    /// Whether NATS is configured, and reached.
    #[must_use]
    pub fn is_connected(&self) -> Option<bool> {
        self.client.as_ref().map(|client| client.connection_state() == State::Connected)
    }

    /// Passes rings on, both ways, until cancelled.
    pub async fn run(self) {
        let Some(client) = self.client else { return };
        let outward = async {
            loop {
                self.ours.notified().await;
                // Rings that cannot be sent are not kept: the others look by themselves.
                if client.connection_state() == State::Connected {
                    let _ = client.publish(SUBJECT, Vec::new().into()).await;
                }
            }
        };
        let inward = async {
            loop {
                if let Ok(mut rings) = client.subscribe(SUBJECT).await {
                    while rings.next().await.is_some() {
                        self.rung.notify_one();
                    }
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::join!(outward, inward);
    }
}

async fn connect(url: &str, credentials: Option<&str>) -> Result<async_nats::Client, String> {
    // The URL may hold a password, which no error may repeat.
    let address: async_nats::ServerAddr = url.parse().map_err(|_| "NATS_URL is not a URL of NATS".to_owned())?;
    let mut options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        (Some(token), None) => ConnectOptions::with_token(token.to_owned()),
        (None, _) => ConnectOptions::new(),
    };
    if let Some(path) = credentials {
        options =
            options.credentials_file(path).await.map_err(|error| format!("NATS_CREDS cannot be read: {error}"))?;
    }
    let options = options.name("fulexo").retry_on_initial_connect().client_capacity(64);
    options.connect(address).await.map_err(|error| format!("NATS cannot be set up: {}", error.kind()))
}
