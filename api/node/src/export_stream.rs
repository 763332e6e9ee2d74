//! The body of an export: lines that a task of its own reads and encodes, one chunk at a time, as the client takes them.
//!
//! The task and not the body reads the database, so that a read that has begun ends also where the client does not read on.
//! A body that ends without an error is whole: whatever else ends the task ends the body with an error, and with it the
//! connection, or the stream of HTTP/2.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use fulexo_database::chain;
use fulexo_domain::permission::Permission;
use fulexo_projections::export::{ExportError, ExportFormat, ExportReader};
use fulexo_projections::read_models::audit::AuditEntry;
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

/// The least length of a chunk, in bytes, but for the last one.
const CHUNK: usize = 64 * 1_024;
/// The time between two judgements of the caller.
const JUDGE_EVERY: Duration = Duration::from_secs(2);
/// The time that a client may take for a chunk.
const STALL: Duration = Duration::from_secs(60);

/// An export, ready to begin.
pub struct ExportStream {
    /// The state of the node.
    pub app: Arc<App>,
    /// The caller, who needs `audit.read` to the end.
    pub caller: Authority,
    /// The events.
    pub reader: ExportReader,
    /// The form of the lines.
    pub format: ExportFormat,
    /// `true` if the client takes gzip.
    pub is_compressed: bool,
    /// The place, held until the task has ended.
    pub permit: StreamPlace,
}

/// A message of the task to the body. Without the second one the body is not whole.
enum ExportPart {
    Lines(Bytes),
    End,
}

/// The reason why an export ends before its end.
#[derive(Debug, thiserror::Error)]
enum Incomplete {
    #[error("the client has left")]
    Left,
    #[error("the client has taken nothing for {} seconds", STALL.as_secs())]
    Stalled,
    #[error("the caller may no longer read the audit trail: {0}")]
    Ended(&'static str),
    #[error(transparent)]
    Log(#[from] ExportError),
    #[error("cannot compress: {0}")]
    Gzip(#[from] io::Error),
}

impl ExportStream {
    /// Starts the task, in the span of the request. It ends soon after the body is dropped.
    #[must_use]
    pub fn into_body(self) -> Body {
        let (parts, received) = mpsc::channel(1);
        tokio::spawn(ExportTask::new(self).run(parts).in_current_span());
        Body::from_bytes_stream(stream::unfold(Some(received), async |received| {
            let mut received = received?;
            match received.recv().await {
                Some(ExportPart::Lines(bytes)) => Some((Ok(bytes), Some(received))),
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

struct ExportTask {
    app: Arc<App>,
    caller: Authority,
    reader: ExportReader,
    format: ExportFormat,
    gzip: Option<GzEncoder<Vec<u8>>>,
    judge_at: Instant,
    _permit: StreamPlace,
}

impl ExportTask {
    fn new(export: ExportStream) -> Self {
        let ExportStream { app, caller, reader, format, is_compressed, permit } = export;
        let gzip = is_compressed.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Self { app, caller, reader, format, gzip, judge_at: Instant::now() + JUDGE_EVERY, _permit: permit }
    }

    async fn run(mut self, parts: mpsc::Sender<ExportPart>) {
        let read_up_to = |task: &Self| task.reader.read_up_to();
        match self.send(&parts).await {
            Ok(()) => tracing::info!(read_up_to = read_up_to(&self), "an export has ended"),
            Err(Incomplete::Left) => tracing::info!(read_up_to = read_up_to(&self), "the client of an export has left"),
            Err(error @ (Incomplete::Stalled | Incomplete::Ended(_))) => {
                tracing::warn!(%error, read_up_to = read_up_to(&self), "an export was ended");
            }
            Err(error @ (Incomplete::Log(_) | Incomplete::Gzip(_))) => {
                tracing::error!(error = %chain(&error), read_up_to = read_up_to(&self), "an export has failed");
            }
        }
    }

    async fn send(&mut self, parts: &mpsc::Sender<ExportPart>) -> Result<(), Incomplete> {
        let mut lines = Vec::new();
        let ended = self.send_pages(&mut lines, parts).await;
        // The lines before an event that cannot be written are sound.
        if matches!(ended, Ok(()) | Err(Incomplete::Log(_))) {
            self.send_lines(&mut lines, parts).await?;
        }
        ended?;
        if let Some(gzip) = self.gzip.take() {
            self.send_bytes(gzip.finish()?, parts).await?;
        }
        self.room(parts).await?.send(ExportPart::End);
        Ok(())
    }

    async fn send_pages(&mut self, lines: &mut Vec<u8>, parts: &mpsc::Sender<ExportPart>) -> Result<(), Incomplete> {
        while let Some(page) = self.page(parts).await? {
            for entry in page {
                self.format.append_line(&entry, lines)?;
                if lines.len() >= CHUNK {
                    self.send_lines(lines, parts).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads a page once there is room for its lines. Exports take turns at reading, together with other questions that read
    /// much of the database, so that connections are left for those who ask for less.
    async fn page(&mut self, parts: &mpsc::Sender<ExportPart>) -> Result<Option<Vec<AuditEntry>>, Incomplete> {
        drop(self.room(parts).await?);
        let _turn = tokio::select! {
            turn = self.app.turn_to_look_back() => turn,
            () = parts.closed() => return Err(Incomplete::Left),
        };
        Ok(self.reader.next().await?)
    }

    async fn send_lines(&mut self, lines: &mut Vec<u8>, parts: &mpsc::Sender<ExportPart>) -> Result<(), Incomplete> {
        let bytes = match &mut self.gzip {
            Some(gzip) => {
                gzip.write_all(lines)?;
                lines.clear();
                std::mem::take(gzip.get_mut())
            }
            None => std::mem::take(lines),
        };
        self.send_bytes(bytes, parts).await
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>, parts: &mpsc::Sender<ExportPart>) -> Result<(), Incomplete> {
        if !bytes.is_empty() {
            self.room(parts).await?.send(ExportPart::Lines(bytes.into()));
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
                let judged = self.caller.require_still(&self.app, Permission::AuditRead).await;
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
