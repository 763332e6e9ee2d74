//! The copies of events that go on, or are taken piece by piece: their record in the log stands for an hour.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fulexo_commands::EventCopy;
use fulexo_domain::audit::{CopyFilter, CopyForm};
use tokio::time::Instant;
use uuid::Uuid;

/// The time for which the record of a copy that goes on stands.
const STANDS: Duration = Duration::from_secs(60 * 60);
/// The most records that are remembered. Beyond them a copy is recorded more often.
const MOST: usize = 10_000;

/// The copies that this node recorded within the last hour.
#[derive(Default)]
pub struct CopyRecords(Mutex<HashMap<(Uuid, CopyForm, CopyFilter), RecordedCopy>>);

#[derive(Clone, Copy)]
struct RecordedCopy {
    at: Instant,
    first: u64,
}

impl CopyRecords {
    /// `true` if the log says already that this holder takes such a copy, from this position or an earlier one.
    pub fn stands(&self, holder: Uuid, copy: &EventCopy, now: Instant) -> bool {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.get(&(holder, copy.form, copy.filter.clone()));
        record.is_some_and(|record| now.duration_since(record.at) < STANDS && record.first <= copy.first)
    }

    /// Remembers that the log says so.
    pub fn remember(&self, holder: Uuid, copy: EventCopy, now: Instant) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= MOST {
            records.retain(|_, record| now.duration_since(record.at) < STANDS);
        }
        if records.len() < MOST {
            records.insert((holder, copy.form, copy.filter), RecordedCopy { at: now, first: copy.first });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(first: u64, subject: Option<Uuid>) -> EventCopy {
        let filter = CopyFilter { subject, ..CopyFilter::default() };
        EventCopy { form: CopyForm::Stream, first, last: None, filter }
    }

    #[test]
    fn a_record_stands_for_an_hour_from_its_position_on_for_its_holder_and_filter() {
        let (records, now) = (CopyRecords::default(), Instant::now());
        let [ann, bob] = [1, 2].map(Uuid::from_u128);
        records.remember(ann, stream(10, None), now);
        assert!(records.stands(ann, &stream(10, None), now));
        assert!(records.stands(ann, &stream(11, None), now + STANDS - Duration::from_secs(1)));
        assert!(!records.stands(ann, &stream(9, None), now), "it begins earlier");
        assert!(!records.stands(ann, &stream(10, Some(bob)), now), "it has another filter");
        assert!(!records.stands(bob, &stream(10, None), now), "it is another's");
        assert!(!records.stands(ann, &stream(10, None), now + STANDS), "it was long ago");
    }

    #[test]
    fn records_are_bounded_and_old_ones_make_room() {
        let (records, now) = (CopyRecords::default(), Instant::now());
        for holder in 0..=u128::try_from(MOST).unwrap() {
            records.remember(Uuid::from_u128(holder), stream(0, None), now);
        }
        let last = Uuid::from_u128(u128::try_from(MOST).unwrap());
        assert!(!records.stands(last, &stream(0, None), now));
        records.remember(last, stream(0, None), now + STANDS);
        assert!(records.stands(last, &stream(0, None), now + STANDS));
    }
}
