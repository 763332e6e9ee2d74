//! The versions of rows over one or more batches: the current version of each row, and every version that was
//! superseded on the way. The resulting history does not depend on the division of the log into batches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use crate::to_i64;

/// The maximum number of rows in each of the two halves of the cache.
const CACHE_LIMIT: usize = 100_000;

/// A row of a table with a history.
pub(crate) trait VersionedRow: Clone + PartialEq {
    /// The key of the row.
    type Key: Eq + Hash + Ord + Clone;

    /// The row's key.
    fn key(&self) -> Self::Key;

    /// The position of the event that produced this version.
    fn since(&mut self) -> &mut i64;
}

/// A version that another one replaced.
pub(crate) struct SupersededVersion<T> {
    /// The replaced version.
    pub row: T,
    /// The position of the event that replaced or ended it.
    pub until: i64,
}

/// The state of a row since it was last written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RowState {
    /// The row did not exist.
    New,
    Changed,
    Unchanged,
}

/// The rows that a batch of events changes.
pub(crate) struct RowVersions<T: VersionedRow> {
    rows: HashMap<T::Key, (T, RowState)>,
    ended: Vec<T::Key>,
    past: Vec<SupersededVersion<T>>,
    /// The cache from earlier batches: the rows touched recently, and those touched before.
    recent: HashMap<T::Key, T>,
    older: HashMap<T::Key, T>,
}

/// The changes to write, with rows in the order of their keys, which is that of the index.
pub(crate) struct RowChanges<T: VersionedRow> {
    /// The current version of each new row, then of each changed row.
    pub current: Vec<T>,
    /// The number of new rows.
    pub new_rows: usize,
    /// The keys of the rows that ended. They may have existed before the batch.
    pub ended: Vec<T::Key>,
    /// The superseded versions.
    pub past: Vec<SupersededVersion<T>>,
}

impl<T: VersionedRow> Default for RowVersions<T> {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            ended: Vec::new(),
            past: Vec::new(),
            recent: HashMap::new(),
            older: HashMap::new(),
        }
    }
}

impl<T: VersionedRow> Extend<T> for RowVersions<T> {
    /// Adds rows as they were before the batch.
    fn extend<I: IntoIterator<Item = T>>(&mut self, rows: I) {
        self.rows.extend(rows.into_iter().map(|row| (row.key(), (row, RowState::Unchanged))));
    }
}

impl<T: VersionedRow> RowVersions<T> {
    /// The keys of the rows that must be read: those that neither begin in the batch nor are cached. `touched` is in
    /// the order of the events, with `true` for an event that begins its row.
    pub fn keys_to_read(&mut self, touched: impl Iterator<Item = (T::Key, bool)>) -> Vec<T::Key> {
        let (mut begun, mut unknown) = (HashSet::new(), BTreeSet::new());
        for (key, begins) in touched {
            if begins {
                begun.insert(key);
            } else if !begun.contains(&key) && !self.restore_from_cache(&key) {
                unknown.insert(key);
            }
        }
        unknown.into_iter().collect()
    }

    /// Adds a row as it was last written, unless a newer version is held here.
    pub fn insert_unless_known(&mut self, row: T) {
        let key = row.key();
        if !self.restore_from_cache(&key) {
            self.rows.insert(key, (row, RowState::Unchanged));
        }
    }

    /// Moves a row from the cache to the batch; returns `false` if it is not cached.
    fn restore_from_cache(&mut self, key: &T::Key) -> bool {
        if self.rows.contains_key(key) {
            return true;
        }
        let Some(row) = self.recent.remove(key).or_else(|| self.older.remove(key)) else { return false };
        self.rows.insert(key.clone(), (row, RowState::Unchanged));
        true
    }

    /// Adds a new row.
    pub fn insert(&mut self, row: T) {
        self.rows.insert(row.key(), (row, RowState::New));
    }

    /// Applies an event to a row and adds a version, unless the row stays the same. A missing row is ignored.
    pub fn change(&mut self, key: &T::Key, position: u64, change: impl FnOnce(&mut T)) {
        let Some((row, state)) = self.rows.get_mut(key) else { return };
        let mut next = row.clone();
        change(&mut next);
        if next == *row {
            return;
        }
        let until = to_i64(position);
        *next.since() = until;
        *state = (*state).min(RowState::Changed);
        self.past.push(SupersededVersion { row: std::mem::replace(row, next), until });
    }

    /// Ends a row.
    pub fn remove(&mut self, key: &T::Key, position: u64) {
        if let Some((row, _)) = self.rows.remove(key) {
            self.ended.push(row.key());
            self.past.push(SupersededVersion { row, until: to_i64(position) });
        }
    }

    /// `true` if the row exists.
    pub fn contains(&self, key: &T::Key) -> bool {
        self.rows.contains_key(key)
    }

    /// The number of rows touched since the last [`RowVersions::finish`].
    pub fn touched(&self) -> usize {
        self.rows.len()
    }

    /// The number of superseded versions that are not written yet.
    pub fn superseded(&self) -> usize {
        self.past.len()
    }

    /// Takes the superseded versions, to be written before the current ones.
    pub fn take_past(&mut self) -> RowChanges<T> {
        RowChanges { current: Vec::new(), new_rows: 0, ended: Vec::new(), past: std::mem::take(&mut self.past) }
    }

    /// Takes everything to write. The rows move to the cache, which forgets those touched longest ago.
    pub fn finish(&mut self) -> RowChanges<T> {
        let mut current = Vec::new();
        for (key, (row, state)) in self.rows.drain() {
            if state != RowState::Unchanged {
                current.push((state, row.clone()));
            }
            self.recent.insert(key, row);
        }
        if self.recent.len() > CACHE_LIMIT {
            self.older = std::mem::take(&mut self.recent);
        }
        current.sort_unstable_by_key(|(state, row)| (*state, row.key()));
        let new_rows = current.partition_point(|(state, _)| *state == RowState::New);
        let current = current.into_iter().map(|(_, row)| row).collect();
        let mut past = std::mem::take(&mut self.past);
        past.sort_by_key(|past| past.row.key());
        RowChanges { current, new_rows, ended: std::mem::take(&mut self.ended), past }
    }
}

/// One column of many rows, for `unnest`.
pub(crate) fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
