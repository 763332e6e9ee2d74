//! The versions of rows that a batch makes, or several: what each row is after them, and everything that it was on the way there.
//! A history so written is the same however the log is cut into batches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use crate::to_i64;

/// Most rows in each of the two halves of what is kept from batch to batch.
const KEPT: usize = 100_000;

/// A row of a table that has a history.
pub(crate) trait Row: Clone + PartialEq {
    /// What tells it from other rows.
    type Key: Eq + Hash + Ord + Clone;

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

/// What became of a row since it was last written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It was not there.
    Begun,
    Changed,
    AsRead,
}

/// Rows under a batch of events.
pub(crate) struct Versions<T: Row> {
    rows: HashMap<T::Key, (T, State)>,
    ended: Vec<T::Key>,
    past: Vec<Superseded<T>>,
    /// What earlier batches left: rows touched of late, and those before them.
    late: HashMap<T::Key, T>,
    before: HashMap<T::Key, T>,
}

/// What a batch comes to; what rows are in the order of their keys, that of the index they go into.
pub(crate) struct Made<T: Row> {
    /// Rows that were not there, and then those that are others than before.
    pub current: Vec<T>,
    /// How many were not there.
    pub begun: usize,
    /// Rows that were there for a while, and may have been before the batch.
    pub ended: Vec<T::Key>,
    /// What rows were before.
    pub past: Vec<Superseded<T>>,
}

impl<T: Row> Default for Versions<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), ended: Vec::new(), past: Vec::new(), late: HashMap::new(), before: HashMap::new() }
    }
}

impl<T: Row> Extend<T> for Versions<T> {
    /// Rows as they are before the batch.
    fn extend<I: IntoIterator<Item = T>>(&mut self, rows: I) {
        self.rows.extend(rows.into_iter().map(|row| (row.key(), (row, State::AsRead))));
    }
}

impl<T: Row> Versions<T> {
    /// Which of the rows that a batch touches have to be read: those that neither begin in it nor were left by an earlier one.
    /// `touched` is in the order of the events, and says of each whether it begins the row.
    pub fn missing(&mut self, touched: impl Iterator<Item = (T::Key, bool)>) -> Vec<T::Key> {
        let (mut begun, mut unknown) = (HashSet::new(), BTreeSet::new());
        for (key, begins) in touched {
            if begins {
                begun.insert(key);
            } else if !begun.contains(&key) && !self.recall(&key) {
                unknown.insert(key);
            }
        }
        unknown.into_iter().collect()
    }

    /// A row as it was last written, unless what became of it since is held here.
    pub fn add_unless_known(&mut self, row: T) {
        let key = row.key();
        if !self.recall(&key) {
            self.rows.insert(key, (row, State::AsRead));
        }
    }

    /// Whether an earlier batch has left this row.
    fn recall(&mut self, key: &T::Key) -> bool {
        if self.rows.contains_key(key) {
            return true;
        }
        let Some(row) = self.late.remove(key).or_else(|| self.before.remove(key)) else { return false };
        self.rows.insert(key.clone(), (row, State::AsRead));
        true
    }

    /// A row that was not there.
    pub fn begin(&mut self, row: T) {
        self.rows.insert(row.key(), (row, State::Begun));
    }

    /// An event about a row: a new version of it, unless it leaves everything as it was. A row that is not there is none.
    pub fn change(&mut self, key: &T::Key, position: u64, change: impl FnOnce(&mut T)) {
        let Some((row, state)) = self.rows.get_mut(key) else { return };
        let mut next = row.clone();
        change(&mut next);
        if next == *row {
            return;
        }
        let until = to_i64(position);
        *next.since() = until;
        *state = (*state).min(State::Changed);
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

    /// Rows that were touched since the last [`Versions::finish`].
    pub fn touched(&self) -> usize {
        self.rows.len()
    }

    /// Versions of them that were superseded, and are not written yet.
    pub fn superseded(&self) -> usize {
        self.past.len()
    }

    /// What rows were before, to be written ahead of what they are.
    pub fn take_past(&mut self) -> Made<T> {
        Made { current: Vec::new(), begun: 0, ended: Vec::new(), past: std::mem::take(&mut self.past) }
    }

    /// What is to be written. The rows are kept, as if they were: those that were touched longest ago are forgotten.
    pub fn finish(&mut self) -> Made<T> {
        let mut current = Vec::new();
        for (key, (row, state)) in self.rows.drain() {
            if state != State::AsRead {
                current.push((state, row.clone()));
            }
            self.late.insert(key, row);
        }
        if self.late.len() > KEPT {
            self.before = std::mem::take(&mut self.late);
        }
        current.sort_unstable_by_key(|(state, row)| (*state, row.key()));
        let begun = current.partition_point(|(state, _)| *state == State::Begun);
        let current = current.into_iter().map(|(_, row)| row).collect();
        let mut past = std::mem::take(&mut self.past);
        past.sort_by_key(|past| past.row.key());
        Made { current, begun, ended: std::mem::take(&mut self.ended), past }
    }
}

/// One column of many rows, as `unnest` takes them.
pub(crate) fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
