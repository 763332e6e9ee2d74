//! The body of an export: text that a task of its own reads and encodes, one chunk at a time, as the client takes it.
//!
//! The task and not the body reads the database, so that a read that has begun ends also where the client does not read on.
//! A body that ends without an error is whole: whatever else ends the task ends the body with an error, and with it the
//! connection, or the stream of HTTP/2.

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use fulexo_database::chain;
use fulexo_domain::permission::Permissions;
use futures_util::stream;
use hyper::body::Bytes;
use poem::Body;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use crate::caller::Authority;
use crate::http::Problem;
use crate::state::App;
use crate::streams::StreamPlace;

/// The time between two judgements of the caller.
const JUDGE_EVERY: Duration = Duration::from_secs(2);
/// The time that a client may take for a chunk.
const STALL: Duration = Duration::from_secs(60);

/// The reason why an export cannot be read to its end.
pub type ExportFailure = Box<dyn Error + Send + Sync>;

/// The text of an export, read piece by piece.
pub trait ExportSource: Send + 'static {
    /// Reads the next piece; `None` at the end. What was returned before a failure is sound.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, ExportFailure>> + Send;

    /// The position of the last event that was read.
    fn read_up_to(&self) -> Option<u64>;
}

/// An export, ready to begin.
pub struct ExportStream<S> {
    /// The state of the node.
    pub app: Arc<App>,
    /// The caller, who is judged again to the end.
    pub caller: Authority,
    /// The permissions that the caller needs; none for the caller's own data.
    pub needs: Permissions,
    /// The text.
    pub source: S,
    /// `true` if the client takes gzip.
    pub is_compressed: bool,
    /// The place, held until the task has ended.
    pub permit: StreamPlace,
}

/// A message of the task to the body. Without the second one the body is not whole.
enum ExportPart {
    Text(Bytes),
    End,
}

/// The reason why an export ends before its end.
#[derive(Debug, thiserror::Error)]
enum Incomplete {
    #[error("the client has left")]
    Left,
    #[error("the client has taken nothing for {} seconds", STALL.as_secs())]
    Stalled,
    #[error("the caller may no longer read it: {0}")]
    Ended(&'static str),
    #[error(transparent)]
    Source(ExportFailure),
    #[error("cannot compress: {0}")]
    Gzip(#[from] io::Error),
}

impl<S: ExportSource> ExportStream<S> {
    /// Starts the task, in the span of the request. It ends soon after the body is dropped.
    #[must_use]
    pub fn into_body(self) -> Body {
        let (parts, received) = mpsc::channel(1);
        tokio::spawn(ExportTask::new(self).run(parts).in_current_span());
        Body::from_bytes_stream(stream::unfold(Some(received), async |received| {
            let mut received = received?;
            match received.recv().await {
                Some(ExportPart::Text(bytes)) => Some((Ok(bytes), Some(received))),
                Some(ExportPart::End) => None,
                None => {
                    // What was sent before is written first: an error drops what is not.
                    yield_now().await;
                    Some((Err(io::Error::other("the export is not whole")), None))
                }
            }
        }))
    }
}

struct ExportTask<S> {
    app: Arc<App>,
    caller: Authority,
    needs: Permissions,
    source: S,
    gzip: Option<GzEncoder<Vec<u8>>>,
    judge_at: Instant,
    _permit: StreamPlace,
}

impl<S: ExportSource> ExportTask<S> {
    fn new(export: ExportStream<S>) -> Self {
        let ExportStream { app, caller, needs, source, is_compressed, permit } = export;
        let gzip = is_compressed.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Self { app, caller, needs, source, gzip, judge_at: Instant::now() + JUDGE_EVERY, _permit: permit }
    }

    async fn run(mut self, parts: mpsc::Sender<ExportPart>) {
        let read_up_to = |task: &Self| task.source.read_up_to();
        match self.send(&parts).await {
            Ok(()) => tracing::info!(read_up_to = read_up_to(&self), "an export has ended"),
            Err(Incomplete::Left) => tracing::info!(read_up_to = read_up_to(&self), "the client of an export has left"),
            Err(error @ (Incomplete::Stalled | Incomplete::Ended(_))) => {
                tracing::warn!(%error, read_up_to = read_up_to(&self), "an export was ended");
            }
            Err(error @ (Incomplete::Source(_) | Incomplete::Gzip(_))) => {
                tracing::error!(error = %chain(&error), read_up_to = read_up_to(&self), "an export has failed");
            }
        }
    }

    async fn send(&mut self, parts: &mpsc::Sender<ExportPart>) -> Result<(), Incomplete> {
        while let Some(text) = self.read(parts).await? {
            let bytes = match &mut self.gzip {
                Some(gzip) => {
                    gzip.write_all(&text)?;
                    std::mem::take(gzip.get_mut())
                }
                None => text,
            };
            self.send_bytes(bytes, parts).await?;
        }
        if let Some(gzip) = self.gzip.take() {
            self.send_bytes(gzip.finish()?, parts).await?;
        }
        self.room(parts).await?.send(ExportPart::End);
        Ok(())
    }

    /// Reads a piece once there is room for it. Exports take turns at reading, together with other questions that read much of the
    /// database, so that connections are left for those who ask for less.
    async fn read(&mut self, parts: &mpsc::Sender<ExportPart>) -> Result<Option<Vec<u8>>, Incomplete> {
        drop(self.room(parts).await?);
        let _turn = tokio::select! {
            turn = self.app.turn_to_look_back() => turn,
            () = parts.closed() => return Err(Incomplete::Left),
        };
        self.source.next().await.map_err(Incomplete::Source)
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>, parts: &mpsc::Sender<ExportPart>) -> Result<(), Incomplete> {
        if !bytes.is_empty() {
            self.room(parts).await?.send(ExportPart::Text(bytes.into()));
        }
        Ok(())
    }

    /// Waits until the client has taken what was sent before, and judges the caller meanwhile.
    async fn room<'a>(
        &mut self,
        parts: &'a mpsc::Sender<ExportPart>,
    ) -> Result<mpsc::Permit<'a, ExportPart>, Incomplete> {
        let stalled_at = Instant::now() + STALL;
        loop {
            if Instant::now() >= self.judge_at {
                let judged = self.caller.require_still(&self.app, self.needs).await;
                judged.map_err(|problem: Problem| Incomplete::Ended(problem.code()))?;
                self.judge_at = Instant::now() + JUDGE_EVERY;
            }
            tokio::select! {
                biased;
                room = parts.reserve() => return room.map_err(|_| Incomplete::Left),
                () = sleep_until(self.judge_at.min(stalled_at)) => {}
            }
            if Instant::now() >= stalled_at {
                return Err(Incomplete::Stalled);
            }
        }
    }
}
