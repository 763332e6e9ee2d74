//! A wire between one node and its NATS or Postgres that can be cut, left hanging, and healed.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    Cut,
    Hanging,
}

/// A wire that listens on its own port until the test ends.
pub struct Cut {
    /// The port on which it listens, on 127.0.0.1.
    pub port: u16,
    wire: watch::Sender<Wire>,
    /// The number of times that the current connections were forgotten.
    forgotten: watch::Sender<u64>,
    server: Arc<AtomicU16>,
    /// The number of pieces that pass before one is lost with its connection; 0 if none is to be lost.
    countdown: Arc<AtomicU64>,
}

impl Cut {
    /// Starts an intact wire to this port of 127.0.0.1.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = watch::Sender::new(Wire::Whole);
        let forgotten = watch::Sender::new(0);
        let (states, forgets) = (wire.subscribe(), forgotten.subscribe());
        let server = Arc::new(AtomicU16::new(server));
        let leads_to = Arc::clone(&server);
        let countdown = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&countdown);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (states, mut forgets, counted) = (states.clone(), forgets.clone(), Arc::clone(&counted));
                let server = leads_to.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    forgets.mark_unchanged();
                    let mut passing = pin!(connect(client, server, states, &counted));
                    tokio::select! {
                        () = &mut passing => {}
                        // Both ends stay open, and nothing is read from either.
                        Ok(()) = forgets.changed() => pending().await,
                    }
                });
            }
        });
        Self { port, wire, forgotten, server, countdown }
    }

    /// Starts a wire to a server on 127.0.0.1; returns the wire, and the server's URL over it.
    pub async fn of(url: &str) -> (Self, String) {
        let address = url.rsplit_once("127.0.0.1:").unwrap().1;
        let digits: String = address.chars().take_while(char::is_ascii_digit).collect();
        let cut = Self::before(digits.parse().unwrap()).await;
        let url = url.replace(&format!("127.0.0.1:{digits}"), &format!("127.0.0.1:{}", cut.port));
        (cut, url)
    }

    /// Leads new connections to this port.
    pub fn lead_to(&self, server: u16) {
        self.server.store(server, Ordering::Relaxed);
    }

    /// Ends all connections; new ones end at once.
    pub fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Stops all traffic without telling either end.
    pub fn hang(&self) {
        self.wire.send_replace(Wire::Hanging);
    }

    /// Stops all traffic on the current connections without telling either end, like a firewall that has forgotten
    /// them.
    pub fn forget(&self) {
        self.forgotten.send_modify(|times| *times += 1);
    }

    /// Ends one connection at the piece of traffic that follows this many others, in either direction: a request that does not
    /// arrive, or an answer.
    pub fn lose_after(&self, pieces: u64) {
        self.countdown.store(pieces + 1, Ordering::SeqCst);
    }

    /// `true` once it has happened.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.countdown.load(Ordering::SeqCst) == 0
    }

    /// Restores the wire, except for connections that were cut.
    pub fn heal(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

async fn connect(mut client: TcpStream, server: u16, mut wire: watch::Receiver<Wire>, countdown: &AtomicU64) {
    if *wire.borrow_and_update() == Wire::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let (mut up, mut down) = ([0; 16_384], [0; 16_384]);
    loop {
        if *wire.borrow_and_update() == Wire::Hanging {
            match wire.wait_for(|wire| *wire != Wire::Hanging).await.map(|wire| *wire) {
                Ok(Wire::Whole) => {}
                Ok(Wire::Cut | Wire::Hanging) | Err(_) => return,
            }
        }
        let passed = tokio::select! {
            changed = wire.changed() => match changed {
                Ok(()) if *wire.borrow() == Wire::Cut => return,
                Ok(()) => continue,
                Err(_) => return,
            },
            read = client.read(&mut up) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if is_lost(countdown) => return,
                Ok(length) => server.write_all(&up[..length]).await,
            },
            read = server.read(&mut down) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if is_lost(countdown) => return,
                Ok(length) => client.write_all(&down[..length]).await,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}

fn is_lost(countdown: &AtomicU64) -> bool {
    // Of those that count at once, one loses.
    let counted = countdown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    counted == Ok(1)
}
