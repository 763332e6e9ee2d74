//! The backups in a directory: their age, their last verification, the retention of wrapped keys, and the strength of their
//! recipients. Decrypts nothing: `fulexo backup verify` does, and its record is believed here.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_tlog::key::VerifierKey;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::age::Recipient;
use crate::backup::{
    BackupName, BackupTarget, PartKind, StoredBackup, TargetAddress, VerificationRecord, verify_signature,
};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#backups";

const NONE: Rule = Rule {
    id: "backups.none",
    title: "there is no backup",
    severity: Severity::High,
    remedy: "Run `fulexo backup create` from cron, and find out why it wrote nothing.",
    reference: REFERENCE,
};
const OLD: Rule = Rule {
    id: "backups.old",
    title: "the newest backup is too old",
    severity: Severity::High,
    remedy: "Run `fulexo backup create` from cron at least once a day, and look into its output.",
    reference: REFERENCE,
};
const UNVERIFIED: Rule = Rule {
    id: "backups.unverified",
    title: "no recent backup was restored to see that it can be",
    severity: Severity::Medium,
    remedy: "Run `fulexo backup verify latest` at least once a month.",
    reference: REFERENCE,
};
const FAILED: Rule = Rule {
    id: "backups.failed",
    title: "the verification of a backup found something",
    severity: Severity::High,
    remedy: "Run `fulexo backup verify` on it again, and do not rely on it until it finds nothing.",
    reference: REFERENCE,
};
const UNSIGNED: Rule = Rule {
    id: "backups.unsigned",
    title: "the newest backup is not signed with the key that signs backups here",
    severity: Severity::High,
    remedy: "Find out who wrote it. Do not restore it.",
    reference: REFERENCE,
};
const FUTURE: Rule = Rule {
    id: "backups.future",
    title: "a backup is of the future",
    severity: Severity::Medium,
    remedy: "Compare the clocks of the machines that write and that audit backups: until then their ages say nothing.",
    reference: REFERENCE,
};
const OLD_KEYS: Rule = Rule {
    id: "backups.old_keys",
    title: "wrapped keys are kept for longer than a key epoch",
    severity: Severity::High,
    remedy: "Run `fulexo backup prune --keep-keys-days DAYS` from cron: until then these backups open what was erased since.",
    reference: REFERENCE,
};
const WEAK_RECIPIENT: Rule = Rule {
    id: "backups.weak_recipient",
    title: "backups are encrypted for a key that a quantum computer breaks",
    severity: Severity::Low,
    remedy: "Create an identity with `fulexo backup keygen --hybrid`, and name its recipient (age1pq1…) instead.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "backups",
    title: "there is a recent backup, one was restored, and none keeps keys for too long",
    rules: &[NONE, OLD, UNVERIFIED, FAILED, UNSIGNED, FUTURE, OLD_KEYS, WEAK_RECIPIENT],
};

/// The age of the newest backup from which it is too old: one daily run may fail.
const OLD_AFTER: TimeDelta = TimeDelta::hours(48);
/// The same of the newest backup that was restored without findings.
const UNVERIFIED_AFTER: TimeDelta = TimeDelta::days(31);
/// The time by which clocks may differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);
/// The time after a key epoch in which the next run of a retention removes the keys.
const PRUNED_WITHIN: TimeDelta = TimeDelta::days(1);

/// The backups of a service, as its environment names them.
pub struct AuditedBackups {
    /// The place: a directory or a bucket.
    pub place: TargetAddress,
    /// Those that can decrypt, by the variable that names their file.
    pub recipients: Vec<(&'static str, Recipient)>,
    /// The key that signs manifests here.
    pub signing_key: Option<VerifierKey>,
    /// The files that could not be read.
    pub problems: Vec<String>,
}

/// A backup as far as it is judged.
struct JudgedBackup {
    name: BackupName,
    verification: Option<VerificationRecord>,
    has_keys: bool,
}

impl AuditedBackups {
    /// Makes the check.
    #[must_use]
    pub fn check(&self, epoch: TimeDelta, now: DateTime<Utc>) -> Check {
        let listed = BackupTarget::open(&self.place).and_then(|target| Ok((target.list()?, target)));
        let (stored, target) = match listed {
            Ok(listed) => listed,
            Err(error) => return CHECK.unchecked(error.to_string()),
        };
        let mut backups = Vec::new();
        for StoredBackup { name, keys, .. } in stored {
            let verification = match target.verification(name) {
                Ok(verification) => verification,
                Err(error) => return CHECK.unchecked(error.to_string()),
            };
            backups.push(JudgedBackup { name, verification, has_keys: keys.is_some() });
        }
        let mut findings = AuditFindings::default();
        let detail = judge(&backups, epoch, now, &mut findings);
        let mut recipients = self.recipients.clone();
        if let (Some(newest), Some(key)) = (backups.last(), &self.signing_key) {
            let (check, opened) = verify_signature(&target, newest.name, std::slice::from_ref(key));
            for finding in check.findings() {
                findings.push(&UNSIGNED, newest.name.to_string(), finding.evidence.as_str());
            }
            // What the newest one was encrypted for counts, too: the files may have changed since.
            let parts = opened.iter().flat_map(|opened| &opened.manifest.parts);
            let of_it = parts.flat_map(|part| part.recipients.iter().map(|text| (part.part.file(), text)));
            recipients.extend(of_it.filter_map(|(file, text)| Some((file, Recipient::parse(text).ok()?))));
        }
        let mut weak: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (place, recipient) in recipients.iter().filter(|(_, recipient)| !recipient.is_hybrid()) {
            weak.entry(recipient.to_string()).or_default().insert(place);
        }
        for (recipient, places) in weak {
            let places: Vec<_> = places.into_iter().collect();
            findings.push(&WEAK_RECIPIENT, recipient, format!("X25519 alone, of {}", places.join(", ")));
        }
        if findings.is_empty() && !self.problems.is_empty() {
            return CHECK.unchecked(self.problems.join("; "));
        }
        CHECK.with(findings, detail)
    }
}

/// Judges backups, the oldest first. Returns the detail of a check that finds nothing.
fn judge(backups: &[JudgedBackup], epoch: TimeDelta, now: DateTime<Utc>, findings: &mut AuditFindings) -> String {
    let Some((newest, others)) = backups.split_last() else {
        findings.push(&NONE, "backups", "the directory has none");
        return String::new();
    };
    let age = |backup: &JudgedBackup| now - backup.name.time();
    for backup in backups.iter().filter(|backup| age(backup) < -CLOCK_TOLERANCE) {
        findings.push(&FUTURE, backup.name.to_string(), format!("it is {} ahead", shown(-age(backup))));
    }
    if age(newest) > OLD_AFTER {
        findings.push(&OLD, "backups", format!("the newest, {}, is {} old", newest.name, shown(age(newest))));
    }
    let records = || backups.iter().rev().filter_map(|backup| Some((backup, backup.verification.as_ref()?)));
    for (backup, _) in records().filter(|(_, record)| record.has_findings) {
        findings.push(&FAILED, backup.name.to_string(), "its last verification has findings");
    }
    // The record of a verification after now is of another clock, or of somebody's hand.
    let is_good = |record: &VerificationRecord| record.is_good() && record.at <= now + CLOCK_TOLERANCE;
    let good = records().find(|(_, record)| is_good(record)).map(|(backup, _)| backup);
    match good {
        None => findings.push(&UNVERIFIED, "backups", "none was ever restored without findings"),
        Some(good) if age(good) > UNVERIFIED_AFTER => {
            findings.push(&UNVERIFIED, "backups", format!("the last, {}, is {} old", good.name, shown(age(good))));
        }
        Some(_) => {}
    }
    // The newest one keeps its keys whatever its age: without them nothing could be restored.
    let kept: Vec<_> = others.iter().filter(|it| it.has_keys && age(it) > epoch + PRUNED_WITHIN).collect();
    if let Some(oldest) = kept.first() {
        let evidence = format!(
            "{} backups, of which the oldest, {}, is {} old; an epoch has {} days",
            kept.len(),
            oldest.name,
            shown(age(oldest)),
            epoch.num_days()
        );
        findings.push(&OLD_KEYS, PartKind::Keys.file(), evidence);
    }
    let verified =
        good.map_or_else(String::new, |good| format!(", {} old the newest that was restored", shown(age(good))));
    format!("{}, {} old the newest{verified}", backups.len(), shown(age(newest)))
}

fn shown(age: TimeDelta) -> String {
    if age < TimeDelta::days(2) { format!("{} hours", age.num_hours()) } else { format!("{} days", age.num_days()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: TimeDelta = TimeDelta::hours(1);

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
    }

    fn backup(age: TimeDelta, verified: Option<(TimeDelta, bool)>, has_keys: bool) -> JudgedBackup {
        let verification = verified.map(|(ago, has_findings)| VerificationRecord {
            at: now() - ago,
            seconds: 1.0,
            program: "x".to_owned(),
            rungs: vec!["restore".to_owned()],
            has_findings,
        });
        JudgedBackup { name: BackupName::new(now() - age, 7), verification, has_keys }
    }

    fn found(backups: &[JudgedBackup]) -> Vec<String> {
        let mut findings = AuditFindings::default();
        let detail = judge(backups, TimeDelta::days(30), now(), &mut findings);
        CHECK.with(findings, detail).findings().iter().map(|it| it.rule.to_string()).collect()
    }

    #[test]
    fn ages_verifications_and_kept_keys_are_judged_to_the_hour() {
        let good = Some((HOUR, false));
        let day = TimeDelta::days(1);
        assert_eq!(found(&[]), [NONE.id]);
        assert_eq!(found(&[backup(HOUR * 48, good, true)]), [""; 0]);
        assert_eq!(found(&[backup(HOUR * 48 + TimeDelta::seconds(1), good, true)]), [OLD.id]);
        assert_eq!(found(&[backup(HOUR, None, true)]), [UNVERIFIED.id]);
        assert_eq!(found(&[backup(HOUR, Some((HOUR, true)), true)]), [FAILED.id, UNVERIFIED.id]);
        assert_eq!(found(&[backup(HOUR, Some((-HOUR, false)), true)]), [UNVERIFIED.id], "verified in the future");
        assert_eq!(found(&[backup(-HOUR, good, true)]), [FUTURE.id]);
        assert_eq!(found(&[backup(day * 31, good, false), backup(HOUR, None, true)]), [""; 0]);
        assert_eq!(found(&[backup(day * 32, good, false), backup(HOUR, None, true)]), [UNVERIFIED.id]);
        assert_eq!(found(&[backup(day * 31, None, true), backup(HOUR, good, true)]), [""; 0]);
        assert_eq!(found(&[backup(day * 32, None, true), backup(HOUR, good, true)]), [OLD_KEYS.id]);
        assert_eq!(found(&[backup(day * 32, good, true)]), [OLD.id, UNVERIFIED.id], "the newest keeps its keys");
    }
}
