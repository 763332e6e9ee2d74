//! The doorbell between nodes: after a commit a node tells the others, over NATS, that there is something to read.
//!
//! It carries no event and nothing depends on it: with NATS down every node looks by itself, five times a second.

use std::sync::Arc;
use std::time::Duration;

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
    /// Makes a doorbell. Without a connection to NATS it hears only this node's own rings.
    #[must_use]
    pub fn new(client: Option<async_nats::Client>) -> Self {
        Self { rung: Arc::new(Notify::new()), ours: Arc::new(Notify::new()), client }
    }

    /// Says that something was committed here.
    pub fn ring(&self) {
        self.rung.notify_one();
        self.ours.notify_one();
    }

    /// Says that there is something to do here, and nowhere else.
    pub fn ring_here(&self) {
        self.rung.notify_one();
    }

    /// Resolves once for any number of rings since it last did.
    #[must_use]
    pub fn rung(&self) -> Arc<Notify> {
        Arc::clone(&self.rung)
    }

    /// `true` if NATS is reached. `None` if it is not configured.
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
