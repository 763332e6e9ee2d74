//! The backups in the directory: the newest one, and the newest one that was verified by a restore.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::area::HealthArea;
use super::observations::{HealthObservations, counted, spoken};
use super::probes::backup_directory::{BackupList, BackupsSeen};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::backup::BackupName;
use crate::finding::{Rule, Severity};

const NONE: Rule = Rule {
    id: "backup.none",
    title: "there is no backup",
    severity: Severity::Critical,
    remedy: "Run `fulexo backup create --full`, and have cron run it.",
    reference: "docs/runbooks/backup-not-verified.md",
};
const UNVERIFIED: Rule = Rule {
    id: "backup.unverified",
    title: "no backup was ever restored and found to be good",
    severity: Severity::High,
    remedy: "Run `fulexo backup verify latest` on a machine with the identities.",
    reference: "docs/runbooks/backup-not-verified.md",
};
const OLD: Rule = Rule {
    id: "backup.old",
    title: "the newest verified backup is old",
    severity: Severity::High,
    remedy: "Find out why backups, or their verification, have stopped: run both by hand.",
    reference: "docs/runbooks/backup-not-verified.md",
};
const FUTURE: Rule = Rule {
    id: "backup.future",
    title: "a backup has a time in the future, so that its age is not known",
    severity: Severity::Medium,
    remedy: "Correct the clock of the machine that backs up, and write another backup.",
    reference: "docs/runbooks/clock-wrong.md",
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "backup", title: "a recent backup was verified", rules: &[NONE, UNVERIFIED, OLD, FUTURE] };

/// The time by which clocks may differ.
const MARGIN: TimeDelta = TimeDelta::hours(1);

pub(super) fn check(observations: &HealthObservations, most: TimeDelta, now: DateTime<Utc>) -> HealthArea {
    let list = match &observations.backups {
        BackupsSeen::NotGiven => return HealthArea::unchecked(&CHECK, "FULEXO_BACKUP_TO is not set"),
        BackupsSeen::Unread(reason) => return HealthArea::unchecked(&CHECK, reason.as_str()),
        BackupsSeen::Read(list) => list,
    };
    let (findings, summary) = judge(list, most, now);
    let shown = |name: BackupName| json!({"name": name.to_string(), "age_seconds": (now - name.time()).num_seconds()});
    HealthArea::of(&CHECK, findings, summary)
        .fact("backups", list.count)
        .fact("newest", list.newest.map_or(json!(null), shown))
        .fact("newest_verified", list.verified.map_or(json!(null), |(name, _)| shown(name)))
        .fact("verified_at", json!(list.verified.map(|(_, at)| at)))
}

fn judge(list: &BackupList, most: TimeDelta, now: DateTime<Utc>) -> (AuditFindings, String) {
    let mut findings = AuditFindings::default();
    let Some(newest) = list.newest else {
        findings.push(&NONE, "backups", "the directory has none");
        return (findings, "none".to_owned());
    };
    let age = |name: BackupName| (now - name.time()).as_seconds_f64();
    if newest.time() - now > MARGIN {
        findings.push(&FUTURE, newest.to_string(), format!("{} from now", spoken(-age(newest))));
    }
    let count = counted(list.count as u64, "backup");
    let Some((verified, _)) = list.verified else {
        findings.push(&UNVERIFIED, "backups", format!("{count}, the newest of {} ago", spoken(age(newest))));
        return (findings, format!("{count}, the newest {} old, none verified", spoken(age(newest))));
    };
    if now - verified.time() > most {
        let evidence = format!("it is {} old, of at most {} h", spoken(age(verified)), most.num_hours());
        findings.push(&OLD, verified.to_string(), evidence);
    }
    let (of_newest, of_verified) = (spoken(age(newest)), spoken(age(verified)));
    (findings, format!("{count}, the newest {of_newest} old, the newest verified {of_verified}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(newest: Option<i64>, verified: Option<i64>) -> Vec<String> {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let name = |hours: i64| BackupName::new(now - TimeDelta::hours(hours), 7);
        let list =
            BackupList { count: 3, newest: newest.map(name), verified: verified.map(|hours| (name(hours), now)) };
        let (findings, summary) = judge(&list, TimeDelta::hours(48), now);
        CHECK.with(findings, summary).findings().iter().map(|finding| finding.rule.to_string()).collect()
    }

    #[test]
    fn the_newest_verified_backup_counts_and_not_the_newest_one() {
        assert_eq!(rules(None, None), ["backup.none"]);
        assert_eq!(rules(Some(1), None), ["backup.unverified"]);
        assert_eq!(rules(Some(1), Some(49)), ["backup.old"]);
        assert_eq!(rules(Some(1), Some(48)), [""; 0]);
        assert_eq!(rules(Some(-30), Some(-30)), ["backup.future"], "it would be recent for ever");
    }
}
