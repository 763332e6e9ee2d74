//! The versions of rows that a batch makes: what each row is after the batch, and everything that it was on the way there.
//! A history so written is the same however the log is cut into batches.

use std::collections::HashMap;
use std::hash::Hash;

use crate::to_i64;

/// A row of a table that has a history.
pub(crate) trait Row: Clone + PartialEq {
    /// What tells it from other rows.
    type Key: Eq + Hash + Ord;

    /// Its key.
    fn key(&self) -> Self::Key;

    /// The position of the event that made this version of it.
    fn since(&mut self) -> &mut i64;
}

/// A version that another one replaced.
pub(crate) struct Superseded<T> {
    /// As it was.
    pub row: T,
    /// The position of the event that ended it.
    pub until: i64,
}

/// Rows under a batch of events.
pub(crate) struct Versions<T: Row> {
    rows: HashMap<T::Key, (T, bool)>,
    ended: Vec<T::Key>,
    past: Vec<Superseded<T>>,
}

/// What a batch comes to, each part in the order of its keys: that of the index it goes into.
pub(crate) struct Made<T: Row> {
    /// Rows that are others than before.
    pub current: Vec<T>,
    /// Rows that were there for a while, and may have been before the batch.
    pub ended: Vec<T::Key>,
    /// What rows were before.
    pub past: Vec<Superseded<T>>,
}

impl<T: Row> Default for Versions<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), ended: Vec::new(), past: Vec::new() }
    }
}

impl<T: Row> FromIterator<(T::Key, T)> for Versions<T> {
    /// As they are before the batch.
    fn from_iter<I: IntoIterator<Item = (T::Key, T)>>(rows: I) -> Self {
        let rows = rows.into_iter().map(|(key, row)| (key, (row, false))).collect();
        Self { rows, ..Self::default() }
    }
}

impl<T: Row> Versions<T> {
    /// A row that was not there.
    pub fn begin(&mut self, row: T) {
        self.rows.insert(row.key(), (row, true));
    }

    /// An event about a row: a new version of it, unless it leaves everything as it was. A row that is not there is none.
    pub fn change(&mut self, key: &T::Key, position: u64, change: impl FnOnce(&mut T)) {
        let Some((row, is_changed)) = self.rows.get_mut(key) else { return };
        let mut next = row.clone();
        change(&mut next);
        if next == *row {
            return;
        }
        let until = to_i64(position);
        *next.since() = until;
        *is_changed = true;
        self.past.push(Superseded { row: std::mem::replace(row, next), until });
    }

    /// A row that is there no longer.
    pub fn end(&mut self, key: &T::Key, position: u64) {
        if let Some((row, _)) = self.rows.remove(key) {
            self.ended.push(row.key());
            self.past.push(Superseded { row, until: to_i64(position) });
        }
    }

    /// Whether the row is there.
    pub fn holds(&self, key: &T::Key) -> bool {
        self.rows.contains_key(key)
    }

    /// What is to be written.
    pub fn finish(self) -> Made<T> {
        let Self { rows, ended, mut past } = self;
        let changed = rows.into_values().filter(|(_, is_changed)| *is_changed);
        let mut current: Vec<T> = changed.map(|(row, _)| row).collect();
        current.sort_unstable_by_key(Row::key);
        past.sort_by_key(|past| past.row.key());
        Made { current, ended, past }
    }
}

/// One column of many rows, as `unnest` takes them.
pub(crate) fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
