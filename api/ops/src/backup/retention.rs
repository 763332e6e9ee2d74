//! The retention of backups: by number and by age, and that of the wrapped keys by age alone. The last good one stays.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::error::BackupError;
use super::manifest::PartKind;
use super::name::BackupName;
use super::target::{BackupTarget, TargetLock};

/// The retention.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackupRetention {
    /// The number of backups to keep.
    pub count: Option<usize>,
    /// The age up to which backups are kept.
    pub age: Option<TimeDelta>,
    /// The age up to which the wrapped keys are kept.
    pub keys: Option<TimeDelta>,
}

/// The removed backups and parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RemovedBackups {
    /// The backups that were removed.
    pub backups: Vec<BackupName>,
    /// The backups whose wrapped keys were removed.
    pub keys: Vec<BackupName>,
}

/// Removes what the retention does not keep. Nobody may write in the target meanwhile.
///
/// # Errors
/// [`BackupError`].
pub fn prune(
    target: &BackupTarget,
    lock: &TargetLock,
    retention: BackupRetention,
    now: DateTime<Utc>,
) -> Result<RemovedBackups, BackupError> {
    let names: Vec<BackupName> = target.list()?.into_iter().map(|backup| backup.name).collect();
    let mut last_good = None;
    // A record that cannot be read may be the one that decides.
    for name in names.iter().rev() {
        if target.verification(*name)?.is_some_and(|record| record.is_good()) {
            last_good = Some(*name);
            break;
        }
    }
    let mut removed = RemovedBackups { backups: outdated(&names, last_good, retention, now), keys: Vec::new() };
    for name in &removed.backups {
        lock.remove(*name)?;
    }
    let gone: BTreeSet<_> = removed.backups.iter().copied().collect();
    let newest = names.last().copied();
    for name in names.into_iter().filter(|name| !gone.contains(name)) {
        let is_old = retention.keys.is_some_and(|age| now - name.time() > age);
        if is_old && newest != Some(name) && lock.remove_part(name, PartKind::Keys)? {
            removed.keys.push(name);
        }
    }
    Ok(removed)
}

/// Returns the backups to remove: those that neither the number nor the age keeps. The newest one and the last good one stay.
fn outdated(
    names: &[BackupName],
    last_good: Option<BackupName>,
    retention: BackupRetention,
    now: DateTime<Utc>,
) -> Vec<BackupName> {
    if retention.count.is_none() && retention.age.is_none() {
        return Vec::new();
    }
    let by_age_of_names = names.iter().rev().enumerate();
    let mut outdated: Vec<_> = by_age_of_names
        .filter(|(rank, name)| {
            let is_counted = retention.count.is_some_and(|count| *rank < count);
            let is_young = retention.age.is_some_and(|age| now - name.time() <= age);
            *rank > 0 && !is_counted && !is_young && last_good != Some(**name)
        })
        .map(|(_, name)| *name)
        .collect();
    outdated.reverse();
    outdated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(day)
    }

    fn left(retention: BackupRetention, good: Option<i64>, today: i64) -> Vec<i64> {
        let names: Vec<_> = (0..5).map(|number| BackupName::new(day(number), 7)).collect();
        let removed = outdated(&names, good.map(|number| BackupName::new(day(number), 7)), retention, day(today));
        (0..5).filter(|number| !removed.contains(&BackupName::new(day(*number), 7))).collect()
    }

    #[test]
    fn a_backup_is_kept_by_its_rank_or_by_its_age() {
        let (count, age) = (Some(2), Some(TimeDelta::days(3)));
        assert_eq!(left(BackupRetention { count, ..BackupRetention::default() }, None, 4), [3, 4]);
        assert_eq!(left(BackupRetention { age, ..BackupRetention::default() }, None, 5), [2, 3, 4]);
        assert_eq!(left(BackupRetention { count, age, keys: None }, None, 100), [3, 4]);
        assert_eq!(left(BackupRetention::default(), None, 100), [0, 1, 2, 3, 4], "nothing was asked for");
    }

    #[test]
    fn the_last_good_one_and_the_newest_one_stay_whatever_is_asked_for() {
        let retention = BackupRetention { count: Some(0), age: Some(TimeDelta::zero()), keys: None };
        assert_eq!(left(retention, Some(1), 100), [1, 4]);
        assert_eq!(left(retention, None, 100), [4]);
    }

    #[test]
    fn a_clock_that_was_set_back_removes_nothing_by_age() {
        let retention = BackupRetention { age: Some(TimeDelta::days(1)), ..BackupRetention::default() };
        assert_eq!(left(retention, None, -100), [0, 1, 2, 3, 4]);
    }
}
