//! The judgement of a drill: how long a recovery took, and how much of the log would be lost, against the goals.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::opened::OpenedBackup;
use crate::finding::{Rule, Severity};
use crate::report::Check;

/// The checks of a drill: the name, and the title.
const RECOVERY_TIME: (&str, &str) = ("recovery-time", "the service would be back within the goal");
const RECOVERY_POINT: (&str, &str) = ("recovery-point", "no more would be lost than the goal allows");

const TOO_SLOW: Rule = Rule {
    id: "backup.recovery-time",
    title: "a recovery takes longer than its goal",
    severity: Severity::High,
    remedy: "Restore on a faster machine or from a nearer place, or keep a standby; or set another goal.",
    reference: "docs/backups.md",
};
const TOO_OLD: Rule = Rule {
    id: "backup.recovery-point",
    title: "the newest backup is older than its goal",
    severity: Severity::High,
    remedy: "Back up more often, or find out why backups fail.",
    reference: "docs/backups.md",
};

/// The goals of a recovery.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrillGoals {
    /// The longest recovery.
    pub time: Option<Duration>,
    /// The oldest backup.
    pub point: Option<Duration>,
}

/// The measurements of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrillMeasures {
    /// The time from the first byte of the backup to the restored database; `None` if it was not restored.
    pub time: Option<Duration>,
    /// The age of the backup when the drill began.
    pub point: Duration,
    /// The number of events in the log of the service that the backup does not have; `None` if the service was not asked.
    pub lost: Option<u64>,
}

impl DrillMeasures {
    /// Returns the age of a backup at a time. One from the future is new.
    #[must_use]
    pub fn age(backup: &OpenedBackup, now: DateTime<Utc>) -> Duration {
        (now - backup.manifest.began_at).to_std().unwrap_or_default()
    }

    /// Judges them.
    #[must_use]
    pub fn judge(&self, goals: DrillGoals, subject: &str) -> [Check; 2] {
        let (id, title) = RECOVERY_TIME;
        let time = match (self.time, goals.time) {
            (None, _) => Check::not_checked(id, title, "the backup was not restored"),
            (Some(time), Some(goal)) if time > goal => {
                let evidence = format!("{}, and the goal is {}", seconds(time), seconds(goal));
                Check::of(id, title, "", vec![TOO_SLOW.finding(subject, evidence)])
            }
            (Some(time), goal) => Check::passed(id, title, format!("{}{}", seconds(time), within(goal))),
        };
        let (id, title) = RECOVERY_POINT;
        let lost = match self.lost {
            Some(lost) => format!("; {lost} events would be lost"),
            None => String::new(),
        };
        let point = match goals.point {
            Some(goal) if self.point > goal => {
                let evidence = format!("{} old, and the goal is {}{lost}", seconds(self.point), seconds(goal));
                Check::of(id, title, "", vec![TOO_OLD.finding(subject, evidence)])
            }
            goal => Check::passed(id, title, format!("{} old{}{lost}", seconds(self.point), within(goal))),
        };
        [time, point]
    }
}

fn within(goal: Option<Duration>) -> String {
    goal.map_or_else(|| "; there is no goal".to_owned(), |goal| format!(", and the goal is {}", seconds(goal)))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::CheckResult;

    #[test]
    fn a_goal_that_is_missed_is_a_finding_and_none_is_said() {
        let second = Duration::from_secs(1);
        let measures = DrillMeasures { time: Some(second * 10), point: second * 3_600, lost: Some(7) };
        let results = |measures: DrillMeasures, time: Option<u64>, point: Option<u64>| {
            let goals = DrillGoals { time: time.map(Duration::from_secs), point: point.map(Duration::from_secs) };
            measures.judge(goals, "b").map(|check| match check.result {
                CheckResult::Passed { detail } => format!("passed: {detail}"),
                CheckResult::Found { findings } => format!("found: {}", findings[0].evidence),
                CheckResult::NotChecked { reason } => format!("not checked: {reason}"),
            })
        };
        assert_eq!(
            results(measures, Some(10), Some(3_600)),
            [
                "passed: 10.0 s, and the goal is 10.0 s",
                "passed: 3600.0 s old, and the goal is 3600.0 s; 7 events would be lost"
            ]
        );
        assert_eq!(
            results(measures, Some(9), Some(3_599)),
            [
                "found: 10.0 s, and the goal is 9.0 s",
                "found: 3600.0 s old, and the goal is 3599.0 s; 7 events would be lost"
            ]
        );
        let unknown = DrillMeasures { time: None, lost: None, ..measures };
        assert_eq!(
            results(unknown, None, None),
            ["not checked: the backup was not restored", "passed: 3600.0 s old; there is no goal"]
        );
    }
}
