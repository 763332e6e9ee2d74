//! Pagination by key. Each page names the key after which the next one begins, so no row is skipped or shown twice
//! while rows come and go. A page reads a bounded number of rows: if a filter rejects many, the page ends early and
//! still names the next key.

use sqlx::FromRow;

/// The maximum number of items on a page.
pub const MAX_PAGE_SIZE: u16 = 200;

/// The maximum number of rows that a page scans for its items if no index selects them.
pub(crate) const SCAN_LIMIT: i64 = 1_000;
/// The same number, for use in a statement.
pub(crate) const SCAN_LIMIT_SQL: &str = "1000";

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

impl SortOrder {
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }

    /// The operator that compares a key with the last one of the previous page.
    pub(crate) const fn after_operator(self) -> &'static str {
        match self {
            Self::Ascending => " > ",
            Self::Descending => " < ",
        }
    }
}

/// The part of a list that is requested.
#[derive(Debug, Clone)]
pub struct Paging<K> {
    /// The key after which the page begins; `None` for the first page.
    pub after: Option<K>,
    /// The order of the list.
    pub order: SortOrder,
    /// The maximum number of items.
    pub limit: u16,
}

impl<K> Paging<K> {
    /// The first page, oldest first.
    #[must_use]
    pub const fn first(limit: u16) -> Self {
        Self { after: None, order: SortOrder::Ascending, limit }
    }

    /// The number of rows to fetch: at least one more than the limit, to learn whether there is another page. There are
    /// only a few values, so that each can be a literal in the statement: of a limit that the planner does not know, it
    /// assumes a tenth of the table.
    pub(crate) const fn fetch_limit(&self) -> &'static str {
        match self.limit {
            0..=1 => "2",
            2..=50 => "51",
            _ => "201",
        }
    }
}

/// A page of items, and the key of the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, K> {
    /// The items, in the order of their keys.
    pub items: Vec<T>,
    /// The key after which the next page begins; `None` if there are no more items.
    pub next: Option<K>,
}

/// A row that a page scanned.
#[derive(FromRow)]
pub(crate) struct ScannedRow<T> {
    #[sqlx(flatten)]
    pub row: T,
    /// `true` if the row is an item.
    pub matches: bool,
    /// The row's number among those that the page scanned, from 1.
    pub nth: i64,
}

impl<T, K> Page<T, K> {
    /// Creates a page of at most `limit` items from rows that include at least one more, if there is one.
    #[must_use]
    pub fn from_rows(mut items: Vec<T>, limit: u16, key: impl Fn(&T) -> K) -> Self {
        let limit = usize::from(limit);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// Creates a page from a scan that returns the matching rows and, in any case, the last row that it may read.
    pub(crate) fn from_scan(rows: Vec<ScannedRow<T>>, limit: u16, key: impl Fn(&T) -> K) -> Self {
        let end = rows.last().filter(|scanned| scanned.nth == SCAN_LIMIT).map(|scanned| key(&scanned.row));
        let items = rows.into_iter().filter(|scanned| scanned.matches).map(|scanned| scanned.row).collect();
        let Self { items, next } = Self::from_rows(items, limit, key);
        Self { items, next: next.or(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_with_more_after_it_has_a_next_key() {
        let page = |rows| Page::from_rows(rows, 2, |row: &i32| *row);
        assert_eq!(page(vec![1, 2, 3]), Page { items: vec![1, 2], next: Some(2) });
        assert_eq!(page(vec![1, 2]), Page { items: vec![1, 2], next: None });
        assert_eq!(page(vec![]), Page { items: vec![], next: None });
    }

    #[test]
    fn a_scan_continues_after_the_last_row_that_it_read() {
        let scan = |rows: &[(i64, bool)]| {
            let rows = rows.iter().map(|(nth, matches)| ScannedRow { row: *nth, matches: *matches, nth: *nth });
            Page::from_scan(rows.collect(), 2, |row: &i64| *row)
        };
        assert_eq!(scan(&[(3, true), (7, true), (9, true)]), Page { items: vec![3, 7], next: Some(7) });
        assert_eq!(scan(&[(3, true), (SCAN_LIMIT, false)]), Page { items: vec![3], next: Some(SCAN_LIMIT) });
        assert_eq!(scan(&[(3, true), (SCAN_LIMIT, true)]), Page { items: vec![3, SCAN_LIMIT], next: Some(SCAN_LIMIT) });
        assert_eq!(scan(&[(SCAN_LIMIT, false)]), Page { items: vec![], next: Some(SCAN_LIMIT) });
        assert_eq!(scan(&[(3, true)]), Page { items: vec![3], next: None });
    }
}
