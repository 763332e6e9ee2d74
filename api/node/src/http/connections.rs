//! The connections of a listener: at most so many in all, at most so many of one address. A full listener gives a new
//! connection the place of the one that has been idle longest. If none is idle, it lets a few more in, for health
//! checks alone, so that a busy node is not taken for a dead one.
//!
//! It closes nothing itself: a connection is told to go, and its task does.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client_address::is_trusted;
use super::listener_options::ListenerOptions;
use crate::limits::RequestSource;

/// Idle connections that one look finds: the next ones need not look.
const FOUND: usize = 64;
/// Microseconds between two looks that found nothing.
const PAUSE: u64 = 10_000;

/// The connections of one listener.
pub(super) struct Connections {
    options: Arc<ListenerOptions>,
    began: Instant,
    table: Mutex<ConnectionTable>,
}

#[derive(Default)]
struct ConnectionTable {
    open: HashMap<u64, Arc<State>>,
    /// The number of connections that each address holds, of the addresses that hold any.
    of: HashMap<RequestSource, usize>,
    next: u64,
    /// Connections that were idle longest, and since when, as of the last look.
    idle: VecDeque<(u64, u64)>,
    /// The time of the last look, if it found nothing.
    in_vain: Option<u64>,
}

struct State {
    /// The origin. `None` for a proxy of ours, which speaks for many.
    origin: Option<RequestSource>,
    under_way: AtomicUsize,
    /// The requests under way whose answers have an end, and those whose answers have none: event streams.
    ending: AtomicUsize,
    endless: AtomicUsize,
    /// The time at which the last request ended, or the connection was accepted; microseconds of this listener.
    idle_since: AtomicU64,
    displaced: AtomicBool,
    leave: Notify,
}

/// A connection's place; given back when dropped.
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    id: u64,
    state: Arc<State>,
    /// `true` if it is one of the few beyond the bound: it is answered once, and about health alone.
    pub(super) is_reserved: bool,
}

impl Connections {
    pub(super) fn new(options: Arc<ListenerOptions>) -> Arc<Self> {
        Arc::new(Self { options, began: Instant::now(), table: Mutex::default() })
    }

    /// A place for a connection from this address, if it may have one.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<ConnectionPermit> {
        let peer = peer.map(|peer| peer.to_canonical()).filter(|peer| !is_trusted(*peer, &self.options.exempt));
        let origin = peer.map(RequestSource::of);
        let (now, mut table) = (self.now(), self.table());
        if let (Some(origin), Some(most)) = (origin, self.options.max_per_address)
            && table.of.get(&origin).is_some_and(|held| *held >= most)
        {
            return None;
        }
        let is_full = table.open.len() >= self.options.max_connections;
        let is_reserved = is_full && !table.displace(now);
        if is_reserved && table.open.len() >= self.options.max_connections.saturating_add(self.options.reserve) {
            return None;
        }
        let state = Arc::new(State {
            origin,
            under_way: AtomicUsize::new(0),
            ending: AtomicUsize::new(0),
            endless: AtomicUsize::new(0),
            idle_since: AtomicU64::new(now),
            displaced: AtomicBool::new(false),
            leave: Notify::new(),
        });
        let id = table.next;
        table.next += 1;
        table.open.insert(id, Arc::clone(&state));
        if let Some(origin) = origin {
            *table.of.entry(origin).or_default() += 1;
        }
        drop(table);
        Some(ConnectionPermit { connections: Arc::clone(self), id, state, is_reserved })
    }

    /// Tells the connection to go that has been idle longest: something that each of them takes has run out.
    pub(super) fn make_room(&self) {
        let now = self.now();
        self.table().displace(now);
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds of this listener.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl ConnectionTable {
    /// Takes the place of the one that has been idle longest. `false` if each has a request under way.
    fn displace(&mut self, now: u64) -> bool {
        loop {
            while let Some((id, since)) = self.idle.pop_front() {
                let Some(state) = self.open.get(&id) else { continue };
                // One that was used since is not idle as long as others.
                if state.idle() != Some(since) {
                    continue;
                }
                state.displaced.store(true, Ordering::Relaxed);
                state.leave.notify_one();
                self.remove(id);
                return true;
            }
            if self.in_vain.is_some_and(|then| now < then.saturating_add(PAUSE)) {
                return false;
            }
            let mut idle: Vec<(u64, u64)> =
                self.open.iter().filter_map(|(id, state)| Some((state.idle()?, *id))).collect();
            if idle.is_empty() {
                self.in_vain = Some(now);
                return false;
            }
            self.in_vain = None;
            if idle.len() > FOUND {
                idle.select_nth_unstable(FOUND);
                idle.truncate(FOUND);
            }
            idle.sort_unstable();
            self.idle = idle.into_iter().map(|(since, id)| (id, since)).collect();
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(origin) = self.open.remove(&id).and_then(|state| state.origin) else { return };
        let left = self.of.get(&origin).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            self.of.remove(&origin);
        } else {
            self.of.insert(origin, left);
        }
    }
}

impl State {
    /// The time since which no request has been under way, if none is.
    fn idle(&self) -> Option<u64> {
        (self.under_way.load(Ordering::Acquire) == 0).then(|| self.idle_since.load(Ordering::Acquire))
    }
}

impl ConnectionPermit {
    /// Returns once the connection is to go: displaced (`true`), or after an answer that ends it.
    pub(super) async fn told_to_go(&self) -> bool {
        self.state.leave.notified().await;
        self.state.displaced.load(Ordering::Relaxed)
    }

    /// `true` if the connection is open for event streams alone. A client that resumes one elsewhere loses nothing.
    pub(super) fn has_streams_alone(&self) -> bool {
        self.state.endless.load(Ordering::Acquire) > 0 && self.state.ending.load(Ordering::Acquire) == 0
    }

    /// Returns the handle for the service, which knows of requests.
    pub(super) fn user(&self) -> ConnectionUse {
        ConnectionUse { connections: Arc::clone(&self.connections), state: Arc::clone(&self.state) }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
    }
}

/// The handle by which the service uses a connection.
#[derive(Clone)]
pub(super) struct ConnectionUse {
    connections: Arc<Connections>,
    state: Arc<State>,
}

impl ConnectionUse {
    /// A request begins, and is under way until what this returns is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        self.state.ending.fetch_add(1, Ordering::AcqRel);
        self.begin_as(UnderWayKind::Ending)
    }

    /// A write waits for the peer, until what this returns is dropped: an answer is under way.
    pub(super) fn begin_write(&self) -> UnderWay {
        self.begin_as(UnderWayKind::Write)
    }

    fn begin_as(&self, kind: UnderWayKind) -> UnderWay {
        self.state.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay { user: self.clone(), kind }
    }

    /// `true` if many clients share it, so that none may end it for the others: it is from a proxy of ours.
    pub(super) fn is_shared(&self) -> bool {
        self.state.origin.is_none()
    }

    /// Ends the connection once its requests have.
    pub(super) fn leave(&self) {
        self.state.leave.notify_one();
    }
}

/// A request under way.
pub(super) struct UnderWay {
    user: ConnectionUse,
    kind: UnderWayKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UnderWayKind {
    /// A request whose answer has an end.
    Ending,
    /// A request whose answer has none.
    Endless,
    /// A write of some answer.
    Write,
}

impl UnderWay {
    /// The answer of this request has no end.
    pub(super) fn set_endless(&mut self) {
        if self.kind == UnderWayKind::Ending {
            self.kind = UnderWayKind::Endless;
            self.user.state.endless.fetch_add(1, Ordering::AcqRel);
            self.user.state.ending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let ConnectionUse { connections, state } = &self.user;
        let counter = match self.kind {
            UnderWayKind::Ending => Some(&state.ending),
            UnderWayKind::Endless => Some(&state.endless),
            UnderWayKind::Write => None,
        };
        if let Some(counter) = counter {
            counter.fetch_sub(1, Ordering::AcqRel);
        }
        state.idle_since.store(connections.now(), Ordering::Release);
        state.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer. Its request ends with it.
pub(super) struct AnswerBody<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B> AnswerBody<B> {
    pub(super) const fn new(body: B, under_way: UnderWay) -> Self {
        Self { body, _under_way: under_way }
    }
}

impl<B: Body + Unpin> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max_connections: usize, max_per_address: usize, reserve: usize) -> Arc<Connections> {
        let exempt = vec!["10.0.0.0/8".parse().unwrap()];
        let max_per_address = Some(max_per_address);
        let options =
            ListenerOptions { max_connections, max_per_address, exempt, reserve, ..ListenerOptions::default() };
        Connections::new(Arc::new(options))
    }

    fn admit(connections: &Arc<Connections>, peer: &str) -> Option<ConnectionPermit> {
        connections.admit(Some(peer.parse().unwrap()))
    }

    fn is_displaced(place: &ConnectionPermit) -> bool {
        place.state.displaced.load(Ordering::Relaxed)
    }

    #[test]
    fn an_address_has_its_share_and_a_64_is_one_address() {
        let connections = connections(100, 2, 0);
        let own = [admit(&connections, "2001:db8::1"), admit(&connections, "2001:db8::2")];
        assert!(own.iter().all(Option::is_some) && admit(&connections, "2001:db8::3").is_none());
        assert!(admit(&connections, "2001:db8:0:1::1").is_some());
        drop(own);
        assert!(admit(&connections, "2001:db8::3").is_some());
        assert!(connections.table().of.is_empty() && connections.table().open.is_empty());
    }

    #[test]
    fn our_proxies_are_bounded_by_the_whole_alone() {
        let connections = connections(10, 2, 0);
        let proxied: Vec<_> = (0..10).map(|_| admit(&connections, "::ffff:10.1.2.3")).collect();
        assert!(proxied.iter().all(Option::is_some));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_makes_room_and_none_that_is_used() {
        let connections = connections(3, 100, 1);
        let mut places = Vec::new();
        for last in 1..4 {
            places.push(admit(&connections, &format!("192.0.2.{last}")).unwrap());
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        let busy = places[0].user().begin();
        drop(places[1].user().begin());
        let newcomer = admit(&connections, "192.0.2.4").unwrap();
        assert!(!newcomer.is_reserved);
        assert_eq!(places.iter().map(is_displaced).collect::<Vec<_>>(), [false, false, true]);
        let another = admit(&connections, "192.0.2.5").unwrap();
        assert!(is_displaced(&places[1]) && !is_displaced(&places[0]) && !another.is_reserved);
        drop(busy);
    }

    #[test]
    fn where_none_is_idle_a_few_are_let_in_for_health() {
        let connections = connections(2, 100, 1);
        let places = [admit(&connections, "192.0.2.1").unwrap(), admit(&connections, "192.0.2.2").unwrap()];
        let _busy = places.iter().map(|place| place.user().begin()).collect::<Vec<_>>();
        let reserved = admit(&connections, "192.0.2.3").unwrap();
        assert!(reserved.is_reserved);
        let under_way = reserved.user().begin();
        assert!(admit(&connections, "192.0.2.4").is_none());
        drop((under_way, reserved));
        assert!(admit(&connections, "192.0.2.4").is_some_and(|place| place.is_reserved));
    }

    #[test]
    fn a_connection_has_streams_alone_while_no_answer_with_an_end_is_under_way() {
        let connections = connections(2, 100, 0);
        let place = admit(&connections, "192.0.2.1").unwrap();
        assert!(!place.has_streams_alone());
        let mut stream = place.user().begin();
        assert!(!place.has_streams_alone());
        stream.set_endless();
        let write = place.user().begin_write();
        assert!(place.has_streams_alone(), "the write is the stream's");
        let other = place.user().begin();
        assert!(!place.has_streams_alone());
        drop(other);
        assert!(place.has_streams_alone());
        drop((stream, write));
        assert!(!place.has_streams_alone() && place.state.idle().is_some());
    }

    #[test]
    fn whatever_comes_and_goes_the_bounds_hold_and_nothing_is_left() {
        let connections = connections(20, 5, 3);
        let (mut places, mut seed) = (Vec::new(), 0x5eed_u64);
        let mut draw = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((seed >> 33) % bound).unwrap()
        };
        for _ in 0..20_000 {
            match draw(3) {
                0 | 1 => {
                    if let Some(place) = admit(&connections, &format!("192.0.2.{}", draw(12))) {
                        let busy = (draw(2) == 0).then(|| place.user().begin());
                        places.push((place, busy));
                    }
                }
                _ if places.is_empty() => {}
                _ => drop(places.swap_remove(draw(places.len() as u64))),
            }
            let table = connections.table();
            assert!(table.open.len() <= 23 && table.of.values().all(|held| *held <= 5));
            assert_eq!(table.of.values().sum::<usize>(), table.open.len());
        }
        drop(places);
        assert!(connections.table().open.is_empty() && connections.table().of.is_empty());
    }
}
