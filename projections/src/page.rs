//! Pages by key: each page says where the next begins, so nothing is skipped or shown twice while rows come and go.

/// Most items on a page.
pub const LARGEST: u16 = 200;

/// Some items, and where the next ones begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order of their keys.
    pub items: Vec<T>,
    /// Key of the last item when there are more; for the next call.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of at most `limit` from rows fetched with a limit of one more.
    #[must_use]
    pub fn of(mut items: Vec<T>, limit: u16, key: impl Fn(&T) -> String) -> Self {
        let limit = usize::from(limit);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// How many rows to fetch for a page of `limit`.
    #[must_use]
    pub fn fetch(limit: u16) -> i64 {
        i64::from(limit) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_with_more_behind_it_says_where_the_next_begins() {
        let page = |rows| Page::of(rows, 2, i32::to_string);
        assert_eq!(page(vec![1, 2, 3]), Page { items: vec![1, 2], next: Some("2".into()) });
        assert_eq!(page(vec![1, 2]), Page { items: vec![1, 2], next: None });
        assert_eq!(page(vec![]), Page { items: vec![], next: None });
    }
}
