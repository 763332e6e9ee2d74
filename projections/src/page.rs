//! Pages by key: each page says where the next begins, so nothing is skipped or shown twice while rows come and go. A page
//! reads a bounded number of rows: where a filter passes over many, it ends early, and says so by its next key.

use sqlx::FromRow;

/// Most items on a page.
pub const LARGEST: u16 = 200;

/// Most rows that a page reads to find its items, where no index knows them.
pub(crate) const WALK: i64 = 1_000;
/// The same in a statement.
pub(crate) const WALK_SQL: &str = "1000";

/// The direction of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

impl Order {
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }

    /// The comparison of a key with the last one of the page before.
    pub(crate) const fn beyond(self) -> &'static str {
        match self {
            Self::Ascending => " > ",
            Self::Descending => " < ",
        }
    }
}

/// The part of a list that is asked for.
#[derive(Debug, Clone)]
pub struct Paging<K> {
    /// The key that it begins after; the first one in its order when there is none.
    pub after: Option<K>,
    /// Its direction.
    pub order: Order,
    /// Most items.
    pub limit: u16,
}

impl<K> Paging<K> {
    /// The first page, oldest first.
    #[must_use]
    pub const fn first(limit: u16) -> Self {
        Self { after: None, order: Order::Ascending, limit }
    }

    /// How many rows to fetch: at least one more, which tells whether there are more. Few different numbers, so that they can be
    /// a part of the statement: of a limit that it does not know the planner takes it that it is a tenth of the table.
    pub(crate) const fn fetch(&self) -> &'static str {
        match self.limit {
            0..=1 => "2",
            2..=50 => "51",
            _ => "201",
        }
    }
}

/// Some items, and where the next ones begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, K> {
    /// In the order of their keys.
    pub items: Vec<T>,
    /// The key that the next page begins after, when there may be more.
    pub next: Option<K>,
}

/// A row that a page passes over or shows.
#[derive(FromRow)]
pub(crate) struct Walked<T> {
    #[sqlx(flatten)]
    pub row: T,
    /// `true` if it is an item.
    pub matches: bool,
    /// Its number among the rows that the page reads, from 1.
    pub nth: i64,
}

impl<T, K> Page<T, K> {
    /// Makes a page of at most `limit` from rows of which at least one more was fetched.
    #[must_use]
    pub fn of(mut items: Vec<T>, limit: u16, key: impl Fn(&T) -> K) -> Self {
        let limit = usize::from(limit);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// The same from a walk that shows what matches and, in any case, the last row that it may read.
    pub(crate) fn of_walk(rows: Vec<Walked<T>>, limit: u16, key: impl Fn(&T) -> K) -> Self {
        let end = rows.last().filter(|walked| walked.nth == WALK).map(|walked| key(&walked.row));
        let items = rows.into_iter().filter(|walked| walked.matches).map(|walked| walked.row).collect();
        let Self { items, next } = Self::of(items, limit, key);
        Self { items, next: next.or(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_with_more_after_it_says_where_the_next_begins() {
        let page = |rows| Page::of(rows, 2, |row: &i32| *row);
        assert_eq!(page(vec![1, 2, 3]), Page { items: vec![1, 2], next: Some(2) });
        assert_eq!(page(vec![1, 2]), Page { items: vec![1, 2], next: None });
        assert_eq!(page(vec![]), Page { items: vec![], next: None });
    }

    #[test]
    fn a_walk_goes_on_from_the_last_row_that_it_read() {
        let walk = |rows: &[(i64, bool)]| {
            let rows = rows.iter().map(|(nth, matches)| Walked { row: *nth, matches: *matches, nth: *nth });
            Page::of_walk(rows.collect(), 2, |row: &i64| *row)
        };
        assert_eq!(walk(&[(3, true), (7, true), (9, true)]), Page { items: vec![3, 7], next: Some(7) });
        assert_eq!(walk(&[(3, true), (WALK, false)]), Page { items: vec![3], next: Some(WALK) });
        assert_eq!(walk(&[(3, true), (WALK, true)]), Page { items: vec![3, WALK], next: Some(WALK) });
        assert_eq!(walk(&[(WALK, false)]), Page { items: vec![], next: Some(WALK) });
        assert_eq!(walk(&[(3, true)]), Page { items: vec![3], next: None });
    }
}
