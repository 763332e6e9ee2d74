//! The names of backups: the time, and the number of events.

use std::fmt::{self, Display, Formatter};

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};

/// The form of the time.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// The name of a backup, such as `20261201T061402Z-4711`. Names sort by age.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BackupName {
    time: DateTime<Utc>,
    events: u64,
}

impl BackupName {
    /// Names a backup of so many events that begins at this time.
    #[must_use]
    pub fn new(time: DateTime<Utc>, events: u64) -> Self {
        Self { time: time.trunc_subsecs(0), events }
    }

    /// Reads a name; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (time, events) = text.split_once('-')?;
        let time = NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc();
        let name = Self { time, events: events.parse().ok()? };
        // One name per backup: no leading zeros, no signs.
        (name.to_string() == text).then_some(name)
    }

    /// Returns the time at which it began, in whole seconds.
    #[must_use]
    pub const fn time(&self) -> DateTime<Utc> {
        self.time
    }

    /// Returns the number of events in it.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }
}

impl Display for BackupName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time.format(TIME), self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written_and_sorts_by_age() {
        let at = |seconds| DateTime::from_timestamp(seconds, 999).unwrap();
        let name = BackupName::new(at(1_796_105_642), 4711);
        assert_eq!(name.to_string(), "20261201T061402Z-4711");
        assert_eq!(BackupName::parse("20261201T061402Z-4711"), Some(name));
        assert!(BackupName::new(at(1_796_105_643), 4) > name);
    }

    #[test]
    fn no_other_text_is_a_name() {
        for text in [
            "",
            "..",
            "20261201T061402Z",
            "20261201T061402Z-",
            "20261201T061402Z-04",
            "20261201T061402Z-+4",
            "20261301T061402Z-4",
            "20261201T061402Z-4/..",
            "20261201T061402Z-4.unfinished",
        ] {
            assert_eq!(BackupName::parse(text), None, "{text}");
        }
    }
}
