//! The content of an open stream: events as the audit read model shows them, the position that the client has seen, a
//! sign of life now and then; until the client leaves, may no longer read events, or the node stops.
//!
//! ```text
//! far behind the end: pages of its own, in turn with other streams
//! at the end:         `RecentEvents`, which one stream reads for all
//!                         │ blocks, a page of them at most
//!                         v
//!            judged, one chunk at a time ──> a channel for one chunk ──> the connection
//! ```
//! A task of its own sends: it holds neither a connection to the database nor a turn while it waits for the client, and judges
//! the caller however slowly the client reads.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fulexo_domain::permission::Permissions;
use fulexo_node::answer::query_failed;
use fulexo_node::caller::Authority;
use fulexo_node::http::Problem;
use fulexo_node::state::App;
use fulexo_node::streams::{KEPT, Looked, PAGE, RecentEvent, StreamPlace};
use fulexo_projections::page::Paging;
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::audit::{self, AuditEntry, AuditFilter};
use fulexo_projections::runner::ProjectionState;
use futures_util::stream;
use hyper::body::Bytes;
use poem::Body;
use poem_openapi::types::ToJSON;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::audit::AuditEvent;

/// The longest time between two judgements of the caller.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// The longest time without a block.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The time after which a client reconnects, in milliseconds.
const RETRY: u32 = 2_000;
/// The longest wait for a turn to read the past, before the caller is judged again.
const TURN_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two looks at a gate that lags behind the read model.
const GATE_PAUSE: Duration = Duration::from_millis(20);
/// The pause before events are looked for again that were shown and are not.
const GAP_PAUSE: Duration = Duration::from_millis(200);
/// The positions that one search of the past covers.
const SPAN: u64 = 20_000;
/// The bytes after which no more blocks of a page are kept.
const ENOUGH: usize = 128 * 1024;
/// The bytes after which a chunk takes no further block.
const CHUNK: usize = 16 * 1024;

/// A stream that is open.
pub struct LiveEvents {
    app: Arc<App>,
    caller: Authority,
    /// The permissions that the caller needs.
    needs: Permissions,
    /// The conditions that events must meet, without positions.
    filter: AuditFilter,
    /// The position of the event to look at next.
    next: u64,
    blocks: Blocks,
    progress: watch::Receiver<ProjectionState>,
    head: watch::Receiver<u64>,
    /// `true` once the caller was refused: what still waits is not sent.
    is_refused: Arc<AtomicBool>,
    _place: StreamPlace,
}

/// Blocks that are ready to be sent.
struct Blocks {
    ready: VecDeque<Block>,
    /// The position after which the client would resume.
    told: Option<u64>,
    sent_at: Instant,
}

struct Block {
    bytes: Bytes,
    is_event: bool,
}

impl LiveEvents {
    /// A stream of the events from `next` on that the filter admits.
    ///
    /// # Errors
    /// 500 if there is no audit read model.
    pub fn new(
        app: &Arc<App>,
        caller: Authority,
        needs: Permissions,
        filter: AuditFilter,
        next: u64,
        place: StreamPlace,
    ) -> Result<Self, Problem> {
        let progress =
            app.progress.follow(Projection::Audit).ok_or_else(|| Problem::internal("no audit read model"))?;
        let told = next.checked_sub(1);
        // From the first moment on: a client that loses its connection before the first event resumes here, too.
        let id = told.map(|told| format!("id: {told}\n")).unwrap_or_default();
        let first = Block { bytes: format!("retry: {RETRY}\n{id}\n").into(), is_event: false };
        let blocks = Blocks { ready: VecDeque::from([first]), told, sent_at: Instant::now() };
        let (app, head, is_refused) = (Arc::clone(app), app.head.clone(), Arc::default());
        Ok(Self { app, caller, needs, filter, next, blocks, progress, head, is_refused, _place: place })
    }

    /// Starts to send; returns what is sent, as the body of the answer.
    pub fn start(self) -> Body {
        let (chunks, received) = mpsc::channel::<Bytes>(1);
        let is_refused = Arc::clone(&self.is_refused);
        tokio::spawn(async move {
            let app = Arc::clone(&self.app);
            tokio::select! {
                () = chunks.closed() => {}
                () = app.streams.closed() => {}
                () = self.send(&chunks) => {}
            }
        });
        Body::from_bytes_stream(stream::unfold((received, is_refused), async |(mut received, is_refused)| {
            let chunk = received.recv().await?;
            (!is_refused.load(Ordering::Acquire)).then_some((Ok::<_, io::Error>(chunk), (received, is_refused)))
        }))
    }

    /// Sends until the caller is refused, the client has left, or something fails that has been logged.
    async fn send(mut self, chunks: &mpsc::Sender<Bytes>) {
        loop {
            // Positions of another history would mean other events.
            if self.app.gate.is_replaced() || !self.is_admitted().await {
                return;
            }
            self.blocks.keep_alive(self.next);
            if !self.blocks.ready.is_empty() {
                match timeout(JUDGED_EVERY, chunks.reserve()).await {
                    Ok(Ok(room)) => {
                        // Waiting took a while, perhaps.
                        if !self.is_admitted().await {
                            return;
                        }
                        let (chunk, events) = self.blocks.take();
                        room.send(chunk);
                        self.app.streams.count_sent(events);
                    }
                    Ok(Err(_)) => return,
                    // The client does not read.
                    Err(_) => {}
                }
                continue;
            }
            match self.read().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(problem) => {
                    tracing::warn!(error = %problem, "an event stream ends, since events cannot be read");
                    return;
                }
            }
            // Without any for a while, the caller is judged in any case.
            let _ = timeout(JUDGED_EVERY, self.news()).await;
        }
    }

    /// Waits until there is something to read.
    async fn news(&mut self) {
        while self.next >= self.visible() {
            let is_gate_behind = self.app.gate.applied() <= self.next && self.progress.borrow().position > self.next;
            let pause = if is_gate_behind { GATE_PAUSE } else { JUDGED_EVERY };
            let changed = async {
                tokio::select! {
                    Ok(()) = self.progress.changed() => {}
                    Ok(()) = self.head.changed() => {}
                    // The senders are gone with the application.
                    else => pending().await,
                }
            };
            let _ = timeout(pause, changed).await;
        }
    }

    /// The end of what may be sent: shown by the read model, and known to the gate. An event that takes the caller's access
    /// away is judged by before a later one is sent, also where another node has recorded it.
    fn visible(&mut self) -> u64 {
        self.head.borrow_and_update();
        let shown = self.progress.borrow_and_update().position;
        shown.min(self.app.gate.applied())
    }

    /// Judges the caller again, as a new request would be.
    async fn is_admitted(&self) -> bool {
        let judged = self.caller.require_still(&self.app, self.needs).await;
        if judged.is_err() {
            self.is_refused.store(true, Ordering::Release);
        }
        judged.is_ok()
    }

    /// Reads on; returns `false` if there is nothing to read.
    async fn read(&mut self) -> Result<bool, Problem> {
        let visible = self.visible();
        if self.next >= visible {
            return Ok(false);
        }
        if self.filter.address.is_some() {
            // The events that all streams share are without what is sealed alongside them.
            return self.search(visible).await;
        }
        match self.app.streams.recent.look(self.next) {
            Looked::Here(events) => {
                self.take(&events);
                Ok(true)
            }
            Looked::NotYet if visible - self.next <= KEPT => {
                let app = &self.app;
                app.streams.recent.read_on(self.next, |from| recorded(app, from, visible)).await?;
                if !matches!(app.streams.recent.look(self.next), Looked::Here(_)) {
                    // The read model does not show what it did, for a moment: another version of it takes over.
                    sleep(GAP_PAUSE).await;
                }
                Ok(true)
            }
            Looked::NotYet | Looked::Gone => self.search(visible).await,
        }
    }

    /// Takes events that one stream has read for all.
    fn take(&mut self, events: &[Arc<RecentEvent>]) {
        for event in events {
            let position = event.indexed.position;
            if self.filter.admits(&event.indexed) {
                self.blocks.push_event(position, event.frame.clone());
            }
            self.next = position + 1;
            if self.blocks.are_enough() {
                return;
            }
        }
    }

    /// Searches the next positions, in turn with other streams.
    async fn search(&mut self, visible: u64) -> Result<bool, Problem> {
        let end = visible.min(self.next.saturating_add(SPAN));
        // Each new event is searched for then, and a block for each that is not wanted would be too many.
        let is_at_end = self.filter.address.is_some() && end - self.next <= KEPT;
        let filter =
            AuditFilter { after: position_before(self.next), until: position_before(end), ..self.filter.clone() };
        let page = {
            // One stream at a time, and it waits like others who ask for much: they come to their turn.
            let Ok(Ok(_turn)) = timeout(TURN_PATIENCE, self.app.streams.reading.acquire()).await else {
                return Ok(true);
            };
            let Ok(_few) = self.app.look_back().await else { return Ok(true) };
            audit::list(&self.app.pool, &filter, &Paging::first(PAGE)).await.map_err(query_failed)?
        };
        let found = !page.items.is_empty();
        for entry in &page.items {
            let event = rendered(entry)?;
            self.blocks.push_event(event.indexed.position, event.frame);
            self.next = event.indexed.position + 1;
            if self.blocks.are_enough() {
                return Ok(true);
            }
        }
        if page.next.is_none() {
            self.next = end;
            if !found && !is_at_end {
                self.blocks.push_position(self.next);
            }
        }
        Ok(true)
    }
}

impl Blocks {
    fn push_event(&mut self, position: u64, bytes: Bytes) {
        self.told = Some(position);
        self.ready.push_back(Block { bytes, is_event: true });
    }

    /// Tells the client to resume with this position, though it is sent no event: browsers, too, keep an id without data.
    fn push_position(&mut self, next: u64) {
        let Some(last) = next.checked_sub(1).filter(|last| self.told != Some(*last)) else { return };
        self.told = Some(last);
        self.ready.push_back(Block { bytes: format!("id: {last}\n\n").into(), is_event: false });
    }

    /// Adds a sign of life if none was sent for a while: the position, if it has moved, or a comment.
    fn keep_alive(&mut self, next: u64) {
        if self.ready.is_empty() && self.sent_at.elapsed() >= KEEP_ALIVE {
            self.push_position(next);
            if self.ready.is_empty() {
                self.ready.push_back(Block { bytes: Bytes::from_static(b":\n\n"), is_event: false });
            }
        }
    }

    /// `true` if what is ready is as much as may wait for a client.
    fn are_enough(&self) -> bool {
        self.ready.iter().map(|block| block.bytes.len()).sum::<usize>() >= ENOUGH
    }

    /// Takes the next chunk, and the number of events in it.
    fn take(&mut self) -> (Bytes, u64) {
        self.sent_at = Instant::now();
        let Some(first) = self.ready.pop_front() else { return (Bytes::new(), 0) };
        let mut events = u64::from(first.is_event);
        let fits = |next: &mut Block, size: usize| size + next.bytes.len() <= CHUNK;
        // One event alone, which is what a stream at the end of the log has, is sent as it is.
        if !self.ready.front_mut().is_some_and(|next| fits(next, first.bytes.len())) {
            return (first.bytes, events);
        }
        let mut chunk = first.bytes.to_vec();
        while let Some(next) = self.ready.pop_front_if(|next| fits(next, chunk.len())) {
            events += u64::from(next.is_event);
            chunk.extend_from_slice(&next.bytes);
        }
        (chunk.into(), events)
    }
}

/// Reads the events from a position on, a page at most, and none that the read model does not show.
async fn recorded(app: &App, from: u64, visible: u64) -> Result<Vec<RecentEvent>, Problem> {
    let filter =
        AuditFilter { after: position_before(from), until: position_before(visible), ..AuditFilter::default() };
    let page = audit::list(&app.pool, &filter, &Paging::first(PAGE)).await.map_err(query_failed)?;
    page.items.iter().map(rendered).collect()
}

/// Renders an event as the block that is sent: its JSON has no line breaks.
fn rendered(entry: &AuditEntry) -> Result<RecentEvent, Problem> {
    let event = AuditEvent::read(entry)?;
    let indexed = event.indexed();
    let frame = format!("id: {}\ndata: {}\n\n", indexed.position, event.to_json_string()).into();
    Ok(RecentEvent { indexed, frame })
}

/// The position before one, as the database has it.
fn position_before(position: u64) -> Option<i64> {
    position.checked_sub(1).map(|before| i64::try_from(before).unwrap_or(i64::MAX))
}
