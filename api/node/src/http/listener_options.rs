//! The bounds of a listener.

use std::time::Duration;

use ipnet::IpNet;

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// The most connections at a time. A further one takes the place of the one that has been idle longest.
    pub max_connections: usize,
    /// The most connections of one address (IPv6: of one /64), if that is bounded. Further ones are closed at once.
    pub max_per_address: Option<usize>,
    /// Networks whose connections are not counted by address: our own proxies, which speak for many.
    pub exempt: Vec<IpNet>,
    /// Connections beyond `max_connections` where none of those is idle; each is answered once, and about health alone.
    pub reserve: usize,
    /// The time limit for the headers of the first request, TLS handshake included. Of later ones: a connection
    /// without a new request is looked at this often and closed the second time, headers half sent or not.
    pub header_timeout: Duration,
    /// The longest time for which a peer may read nothing of what is sent to it.
    pub write_timeout: Duration,
    /// The age at which a connection is asked to go and, `shutdown_grace` later, cut. Bounds what a peer can hold
    /// that plays by every other rule; event streams resume on a new connection.
    pub lifetime: Duration,
    /// The time that requests under way have to end once the listener shuts down.
    pub shutdown_grace: Duration,
    /// The most bytes of request line and headers.
    pub max_header_bytes: u32,
    /// The most concurrent streams of one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_per_address: Some(share(10_000)),
            exempt: Vec::new(),
            reserve: 64,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            lifetime: Duration::from_secs(60 * 60),
            shutdown_grace: Duration::from_secs(30),
            max_header_bytes: 16 * 1024,
            max_streams: 100,
        }
    }
}

/// Returns the share of one address in so many connections: 2 %, so that it takes fifty addresses to have them all.
#[must_use]
pub const fn share(max_connections: usize) -> usize {
    let share = max_connections / 50;
    if share < 16 { 16 } else { share }
}
