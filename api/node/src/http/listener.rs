//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, with a bound on everything a peer can hold.
//!
//! In place of `poem::Server`, which has no time limit for request headers (a byte now and then satisfies its idle
//! timeout), no bound on connections or on the size of HTTP/1.1 headers, and spins when `accept` fails for want of
//! file descriptors. It serves the same endpoints and takes the same acceptors, a TLS one among them.
//!
//! ```text
//! accepted ── more than its address, or all, may have ──> dropped (connections.rs)
//!    │
//!    ├──────── no request within header_timeout ──> dropped
//!    │
//! serving ─── peer reads nothing for write_timeout ──> dropped
//!    │
//!    │ no new request for header_timeout, an answer 429, displaced, lifetime over, or shutdown
//!    v
//! draining ── requests under way ended ──> closed
//!        └─── lifetime, or shutdown, and shutdown_grace over; displaced, or shut down with event streams alone, for a
//!             second ──> dropped
//! ```
//!
//! No timer is set for a request, only one for a connection: hyper's own limit for headers sets and boxes one for
//! each. A peer that dwells on its second request's headers counts as idle here, and draining ends it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, StatusCode, Version, header};
use poem::listener::{Acceptor, TcpAcceptor};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant, Sleep};

use super::connections::{AnswerBody, ConnectionPermit, ConnectionUse, Connections, UnderWay};
use super::headers;
use super::listener_options::ListenerOptions;
use super::problem::{Base, Problem};

/// The time that a connection has to end that others wait for.
const BRIEF_GRACE: Duration = Duration::from_secs(1);

/// A TCP address that nobody else can listen on, and that nobody is listened to on yet: a port that is taken is known before
/// anything else is begun.
pub struct Reserved(TcpSocket);

impl Reserved {
    /// Reserves it.
    ///
    /// # Errors
    /// If somebody listens there, or this process may not.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Connections that an earlier process left in TIME_WAIT do not block the address.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket))
    }

    /// The port, chosen by the system if it was 0.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.0.local_addr().ok().map(|address| address.port())
    }

    /// Listens, without Nagle's delay, which small answers and events would wait for.
    ///
    /// # Errors
    /// If somebody else has begun to listen there meanwhile.
    pub fn listen(self) -> io::Result<Tcp> {
        TcpAcceptor::from_tokio(self.0.listen(1_024)?).map(Tcp)
    }
}

/// Reserves an address and listens on it.
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<Tcp> {
    Reserved::new(address)?.listen()
}

/// A TCP acceptor; see [`Reserved`].
pub struct Tcp(TcpAcceptor);

impl Acceptor for Tcp {
    type Io = TcpStream;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(TcpStream, LocalAddr, RemoteAddr, Scheme)> {
        let accepted = self.0.accept().await?;
        // Fails only where the peer is gone already, and then the first read says so.
        let _ = accepted.0.set_nodelay(true);
        Ok(accepted)
    }
}

/// The port that an acceptor listens on; the one the system chose, if it was bound to port 0.
pub fn port(acceptor: &impl Acceptor) -> Option<u16> {
    acceptor.local_addr().iter().find_map(|address| address.as_socket_addr()).map(SocketAddr::port)
}

/// Serves `app` until `shutdown` completes, then lets the requests under way end.
pub async fn serve<A, E>(mut acceptor: A, app: E, options: ListenerOptions, shutdown: impl Future<Output = ()>)
where
    A: Acceptor,
    E: Endpoint<Output = Response> + 'static,
{
    let app = Arc::new(app);
    let options = Arc::new(options);
    let connections = Connections::new(Arc::clone(&options));
    // Each task has a sender: when none is left, all have ended.
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let (draining, drain) = watch::channel(false);
    let mut shutdown = pin!(shutdown);

    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((io, local, remote, scheme)) => {
                let address = remote.as_socket_addr().map(|address| address.ip());
                let Some(place) = connections.admit(address) else { continue };
                let peer = Peer { local, remote, scheme };
                let (app, options) = (Arc::clone(&app), Arc::clone(&options));
                let connection = serve_connection(io, peer, place, app, options, drain.clone());
                let alive = alive.clone();
                tokio::spawn(async move {
                    connection.await;
                    drop(alive);
                });
            }
            // The peer was gone before we turned to it.
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely. Trying again at once would only burn a core.
                tracing::error!(%error, "accepting failed");
                connections.make_room();
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    drop(acceptor);
    draining.send_replace(true);
    drop(alive);
    if time::timeout(options.shutdown_grace, ended.recv()).await.is_err() {
        tracing::warn!("connections cut at the end of the grace period");
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected].contains(&error.kind())
}

#[derive(Clone)]
struct Peer {
    local: LocalAddr,
    remote: RemoteAddr,
    scheme: Scheme,
}

async fn serve_connection<I, E>(
    io: I,
    peer: Peer,
    place: ConnectionPermit,
    app: Arc<E>,
    options: Arc<ListenerOptions>,
    mut drain: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    E: Endpoint<Output = Response> + 'static,
{
    let begun = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&begun);
    let (user, is_reserved) = (place.user(), place.is_reserved);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let (app, user, mut under_way) = (Arc::clone(&app), user.clone(), user.begin());
        let Peer { local, remote, scheme } = peer.clone();
        async move {
            let version = request.version();
            let is_served = !is_reserved || request.uri().path().starts_with("/health/");
            let mut response =
                if is_served { E::get_response(&app, (request, local, remote, scheme).into()).await } else { full() };
            // A client that sends too much has no other use for the connection, and does not keep it by sending on.
            let is_too_much = response.status() == StatusCode::TOO_MANY_REQUESTS && !user.is_shared();
            if is_reserved || is_too_much {
                user.leave();
                if version < Version::HTTP_2 {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
            }
            if response.content_type().is_some_and(|it| it.starts_with("text/event-stream")) {
                under_way.set_endless();
            }
            let response: hyper::Response<_> = response.into();
            Ok::<_, Infallible>(response.map(|body| AnswerBody::new(body, under_way)))
        }
    });

    let http = protocol(&options);
    let io = Unstalled { io, limit: options.write_timeout, user: place.user(), stalled: None };
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
    let accepted = Instant::now();
    let last = accepted + options.lifetime + options.shutdown_grace;
    let mut deadline = accepted + options.header_timeout;
    let mut seen = 0;
    let mut asked_to_go = false;
    let mut shut_down = false;
    loop {
        tokio::select! {
            biased;
            // Errors here are the peer's: resets, malformed heads, its timeouts. hyper has answered what it can.
            _ = connection.as_mut() => return,
            () = time::sleep_until(deadline) => {
                let now = begun.load(Ordering::Relaxed);
                if asked_to_go || now == 0 {
                    return;
                }
                if now == seen || accepted.elapsed() >= options.lifetime {
                    // hyper closes a connection without a request under way at once, and lets a request under way
                    // end first: an event stream lasts to the end of `lifetime`.
                    asked_to_go = true;
                    deadline = last;
                    connection.as_mut().graceful_shutdown();
                } else {
                    seen = now;
                    deadline = Instant::now() + options.header_timeout;
                }
            }
            displaced = place.told_to_go() => {
                if begun.load(Ordering::Relaxed) == 0 {
                    return;
                }
                asked_to_go = true;
                // The answer is still to be sent, but a place that others have is not kept for long.
                let grace = if displaced { BRIEF_GRACE } else { options.shutdown_grace };
                deadline = last.min(Instant::now() + grace);
                connection.as_mut().graceful_shutdown();
            }
            // An error says that the listener is gone, which is the same news.
            _ = drain.wait_for(|draining| *draining), if !shut_down => {
                shut_down = true;
                asked_to_go = true;
                // Event streams are told to end. One that is not read cannot be, and nothing is lost by cutting it.
                let grace = if place.has_streams_alone() { BRIEF_GRACE } else { options.shutdown_grace };
                deadline = last.min(Instant::now() + grace);
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The answer to other requests on a connection that is for health alone.
fn full() -> Response {
    let mut response = Problem::overloaded(Duration::from_secs(1)).respond(None, &Base::default());
    headers::secure(response.headers_mut());
    response
}

fn protocol(options: &ListenerOptions) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // hyper takes no less than 8 KiB, and panics when given less.
    http.http1().max_buf_size((options.max_header_bytes as usize).max(8 * 1024));
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(options.max_header_bytes)
        // The bytes that a peer may send unread: one body per stream, four bodies per connection.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        // Pings find a peer that has gone without a word, whose streams would never end.
        .keep_alive_interval(options.header_timeout)
        .keep_alive_timeout(options.header_timeout);
    http
}

/// A stream whose writes fail when the peer has read nothing for `limit`.
struct Unstalled<I> {
    io: I,
    limit: Duration,
    user: ConnectionUse,
    /// Set while a write waits: until it is sent, an answer is under way.
    stalled: Option<(Pin<Box<Sleep>>, UnderWay)>,
}

impl<I: Unpin> Unstalled<I> {
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = write(Pin::new(&mut self.io), context) {
            self.stalled = None;
            return Poll::Ready(result);
        }
        let Self { limit, user, stalled, .. } = self;
        let (stalled, _) = stalled.get_or_insert_with(|| (Box::pin(time::sleep(*limit)), user.begin_write()));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Unstalled<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Unstalled<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.bounded(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |io, context| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |io, context| io.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |io, context| io.poll_shutdown(context))
    }
}
