//! The events of an export, page by page: a range of positions that is fixed when the export begins, so that it ends while
//! the log grows. Between two pages no connection is held.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::format::ExportError;
use crate::as_of::first_position;
use crate::feed::FeedError;
use crate::page::{MAX_PAGE_SIZE, Paging, SortOrder};
use crate::read_models::audit::{self, AuditEntry, AuditFilter};
use crate::to_i64;
use crate::tree::TreeReader;

/// The events of a page that is read by position alone. Of the longest leaves that is 16 MiB.
const PAGE: u16 = 256;

/// The part of the log that is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportWindow {
    /// After this position.
    pub after: Option<u64>,
    /// Recorded at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before this time.
    pub to: Option<DateTime<Utc>>,
}

/// The positions of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportRange {
    /// The first position.
    pub first: u64,
    /// The last position.
    pub last: u64,
}

impl ExportRange {
    /// Finds the positions of a window in the log, whose last event that counts is `end`. `None` if the window has none.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn of(pool: &PgPool, window: ExportWindow, end: Option<u64>) -> Result<Option<Self>, FeedError> {
        let ExportWindow { after, from, to } = window;
        let Some(mut last) = end else { return Ok(None) };
        let mut first = match after {
            Some(after) if after >= last => return Ok(None),
            Some(after) => after + 1,
            None => 0,
        };
        if let Some(from) = from {
            first = first.max(first_position(pool, |time| time >= from).await?);
        }
        if let Some(to) = to {
            match first_position(pool, |time| time >= to).await?.checked_sub(1) {
                Some(before) => last = last.min(before),
                None => return Ok(None),
            }
        }
        Ok((first <= last).then_some(Self { first, last }))
    }

    /// The number of positions.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Reads the events of a range that match a filter, in the order of the log.
pub struct ExportReader {
    pool: PgPool,
    filter: AuditFilter,
    next: u64,
    last: u64,
}

impl ExportReader {
    /// Starts before the first event; without a range there are none. The range of the filter itself is not used.
    #[must_use]
    pub fn new(pool: PgPool, range: Option<ExportRange>, filter: AuditFilter) -> Self {
        let ExportRange { first, last } = range.unwrap_or(ExportRange { first: 1, last: 0 });
        let filter = AuditFilter { from: None, to: None, after: None, until: None, ..filter };
        Self { pool, filter, next: first, last }
    }

    /// The next events; `None` at the end. A page may be empty, and is bounded in bytes by what 256 leaves can have.
    ///
    /// # Errors
    /// [`ExportError`]; an event that is missing is one.
    pub async fn next(&mut self) -> Result<Option<Vec<AuditEntry>>, ExportError> {
        if self.next > self.last {
            return Ok(None);
        }
        let page = if self.filter.is_given() { self.matching().await? } else { self.all().await? };
        self.proven(page).await.map(Some)
    }

    /// The entries with the hashes that the tree has for them, where it has any: whoever changes a leaf may have changed the
    /// hash next to it, too.
    async fn proven(&self, mut page: Vec<AuditEntry>) -> Result<Vec<AuditEntry>, ExportError> {
        let positions: Vec<u64> = page.iter().map(|entry| entry.position.unsigned_abs()).collect();
        let mut connection = self.pool.acquire().await.map_err(FeedError::from)?;
        let mut tree = TreeReader::open(&mut connection).await.map_err(FeedError::from)?;
        let known = tree.leaf_hashes_of(&positions).await?;
        for (entry, position) in page.iter_mut().zip(positions) {
            if let Some(hash) = known.get(&position) {
                entry.leaf_hash.clear();
                entry.leaf_hash.extend_from_slice(&hash.0);
            }
        }
        Ok(page)
    }

    /// The position up to which events were read, if any were.
    #[must_use]
    pub const fn read_up_to(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    async fn all(&mut self) -> Result<Vec<AuditEntry>, ExportError> {
        let end = self.next.saturating_add(u64::from(PAGE)).min(self.last + 1);
        let mut page = audit::range(&self.pool, self.next..end).await.map_err(FeedError::from)?;
        let is_next = |(position, entry): &(u64, &AuditEntry)| entry.position == to_i64(*position);
        let sound = (self.next..end).zip(&page).take_while(is_next).count();
        // What is before a missing event is sound, and the next page begins with that event.
        if sound == 0 {
            return Err(FeedError::Gap { position: self.next }.into());
        }
        page.truncate(sound);
        self.next += sound as u64;
        Ok(page)
    }

    /// The index selects them, and says which positions the log must have.
    async fn matching(&mut self) -> Result<Vec<AuditEntry>, ExportError> {
        let (after, until) = (self.next.checked_sub(1).map(to_i64), Some(to_i64(self.last)));
        let filter = AuditFilter { after, until, ..self.filter.clone() };
        let paging = Paging { after: None, order: SortOrder::Ascending, limit: MAX_PAGE_SIZE };
        let page = audit::list(&self.pool, &filter, &paging).await.map_err(FeedError::from)?;
        self.next = page.next.map_or(self.last, i64::unsigned_abs) + 1;
        Ok(page.items)
    }
}
