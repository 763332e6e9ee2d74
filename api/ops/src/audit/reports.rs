//! The reports that are kept: each a file, signed if there is a key, and compared with the one before.
//!
//! ```text
//! DIR/security-audit-000042.json   {"report": {…}, "signature": "a note (C2SP signed-note)"}
//! ```
//! A number is given once. The signed text has the digest of the report's bytes as they stand in the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_tlog::key::{SignerKey, verify};
use fulexo_tlog::note::Note;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::audit_check::AuditCheck;
use crate::finding::{Finding, Rule, Severity};
use crate::report::Report;

const REFERENCE: &str = "docs/security-audit.md#keep-reports";

const UNTRUSTED: Rule = Rule {
    id: "reports.untrusted",
    title: "the last report is not believed, and nothing was compared with it",
    severity: Severity::High,
    remedy: "Find out who changed it. Compare by hand with a copy that is kept elsewhere; the next audit compares with the report \
             of this one.",
    reference: REFERENCE,
};
const GAP: Rule = Rule {
    id: "reports.gap",
    title: "a report is missing before the last one",
    severity: Severity::Medium,
    remedy: "Find out who removed it. Old reports may go only from the beginning, and the directory is the auditor's alone.",
    reference: REFERENCE,
};
const FUTURE: Rule = Rule {
    id: "reports.future",
    title: "the last report is of the future",
    severity: Severity::Medium,
    remedy: "Compare the clock of this machine with that of the last audit's: until then no age in a report says anything.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "reports", title: "the last report is as it was written", rules: &[UNTRUSTED, GAP, FUTURE] };

/// The time by which clocks may differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// The length of the longest report that is read, in bytes.
const MAX_REPORT: u64 = 16 << 20;
/// The first line of the signed text.
const HEAD: &str = "fulexo security-audit report/v1";
const PREFIX: &str = "security-audit-";
const SUFFIX: &str = ".json";
/// The digits of the largest number.
const MAX_DIGITS: usize = 18;
/// The attempts to find a free number while others write.
const ATTEMPTS: u64 = 100;

/// A directory of reports.
pub struct ReportDirectory {
    path: PathBuf,
}

/// The last report in a directory.
pub struct LastReport {
    /// Its number.
    pub number: u64,
    /// The report.
    pub report: Report,
    /// `true` if its signature was verified; `false` if there is none, or no key to verify it with.
    pub is_verified: bool,
}

/// The last report, or the finding why there is none to compare with.
pub enum Previous {
    /// There is no report yet.
    None,
    /// There is one that can be compared with, and what is wrong with its place or its time.
    Report(Box<LastReport>, Vec<Finding>),
    /// There is one that nobody should believe.
    Untrusted(Finding),
}

/// A report could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportsError {
    /// A file or the directory.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] io::Error),
    /// The key cannot sign reports.
    #[error(
        "the key of --signing-key cannot sign reports: it must be an Ed25519 key, as `fulexo signer new-key` makes it"
    )]
    Key,
    /// The report has no form as JSON.
    #[error("the report cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// A report as a file has it.
#[derive(Deserialize, Serialize)]
struct KeptReport {
    report: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

impl ReportDirectory {
    /// Opens a directory, and creates it for this user alone if it does not exist.
    ///
    /// # Errors
    /// [`ReportsError::File`].
    pub fn open(path: &Path) -> Result<Self, ReportsError> {
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        created.map_err(|error| ReportsError::File(path.to_owned(), error))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Returns the last report of this target, verified with the key if there is one.
    ///
    /// # Errors
    /// [`ReportsError::File`] if the directory or the file cannot be read.
    pub fn last(&self, key: Option<&SignerKey>, target: &str, now: DateTime<Utc>) -> Result<Previous, ReportsError> {
        let numbers = self.numbers()?;
        let Some(number) = numbers.last().copied() else { return Ok(Previous::None) };
        let path = self.file(number);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let untrusted = |evidence: &str| Ok(Previous::Untrusted(UNTRUSTED.finding(name.as_str(), evidence)));
        let cannot = |error| ReportsError::File(path.clone(), error);
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(MAX_REPORT + 1).read_to_string(&mut text)) {
            Ok(read) if u64::try_from(read).unwrap_or(u64::MAX) > MAX_REPORT => return untrusted("it is too long"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => return untrusted("it is not UTF-8"),
            Err(error) => return Err(cannot(error)),
        }
        let Ok(kept) = serde_json::from_str::<KeptReport>(&text) else { return untrusted("it is not a report") };
        let Ok(report) = serde_json::from_str::<Report>(kept.report.get()) else {
            return untrusted("it is not a report");
        };
        let is_verified = match (key, &kept.signature) {
            (Some(_), None) => return untrusted("it is not signed, and --signing-key says that reports are"),
            (Some(key), Some(signature)) if !is_signed(key, signature, number, kept.report.get()) => {
                return untrusted("its signature is not that of --signing-key over these bytes");
            }
            (Some(_), Some(_)) => true,
            (None, _) => false,
        };
        if report.verb != "security-audit" || report.target != target {
            return untrusted("it is the report of another verb or another database");
        }
        let mut findings = Vec::new();
        if let Some(before) = numbers.iter().rev().nth(1).filter(|before| *before + 1 != number) {
            findings.push(GAP.finding(name.as_str(), format!("it follows number {before}")));
        }
        // It is compared with all the same: a clock that was set back must not take the comparison away.
        if report.ended_at > now + CLOCK_TOLERANCE {
            findings
                .push(FUTURE.finding(name.as_str(), format!("it ended at {}", report.ended_at.format("%F %T UTC"))));
        }
        Ok(Previous::Report(Box::new(LastReport { number, report, is_verified }), findings))
    }

    /// Keeps a report under the next number: the whole file or none, for this user alone. Returns its path.
    ///
    /// # Errors
    /// [`ReportsError`]. Then no report was kept.
    pub fn keep(&self, report: &Report, key: Option<&SignerKey>) -> Result<PathBuf, ReportsError> {
        let report = RawValue::from_string(report.to_json().to_string()).map_err(ReportsError::Json)?;
        let first = self.numbers()?.last().map_or(1, |last| last + 1);
        let new = self.path.join(format!(".{PREFIX}{}.new", std::process::id()));
        let kept = self.keep_at(first, &new, &report, key);
        // Its other name, or what an error left of it.
        let _ = fs::remove_file(&new);
        kept
    }

    fn keep_at(
        &self,
        first: u64,
        new: &Path,
        report: &RawValue,
        key: Option<&SignerKey>,
    ) -> Result<PathBuf, ReportsError> {
        for number in first..first.saturating_add(ATTEMPTS) {
            let signature = key.map(|key| sign(key, number, report.get())).transpose()?;
            let kept = KeptReport { report: report.to_owned(), signature };
            let text = serde_json::to_string(&kept).map_err(ReportsError::Json)?;
            let written = || {
                // Never through a link that somebody has put there.
                let _ = fs::remove_file(new);
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
                file.write_all(text.as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()
            };
            written().map_err(|error| ReportsError::File(new.to_owned(), error))?;
            let path = self.file(number);
            // Unlike a rename, a link replaces nothing: two audits at once keep two reports.
            match fs::hard_link(new, &path) {
                Ok(()) => {
                    let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
                    return synced.map(|()| path).map_err(|error| ReportsError::File(self.path.clone(), error));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(ReportsError::File(path, error)),
            }
        }
        Err(ReportsError::File(self.path.clone(), io::Error::from(ErrorKind::AlreadyExists)))
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{number:06}{SUFFIX}"))
    }

    /// The numbers of the reports, in order.
    fn numbers(&self) -> Result<Vec<u64>, ReportsError> {
        let cannot = |error| ReportsError::File(self.path.clone(), error);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            let digits = digits.filter(|it| it.len() <= MAX_DIGITS && it.bytes().all(|byte| byte.is_ascii_digit()));
            numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The text that a signature is over.
fn signed_text(number: u64, report: &str) -> String {
    let digest: String = Sha256::digest(report).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HEAD}\nnumber {number}\nsha256 {digest}\n")
}

fn sign(key: &SignerKey, number: u64, report: &str) -> Result<String, ReportsError> {
    let text = signed_text(number, report);
    let signature = key.sign_text(&text).map_err(|_| ReportsError::Key)?;
    Ok(Note::new(text, signature).to_string())
}

fn is_signed(key: &SignerKey, signature: &str, number: u64, report: &str) -> bool {
    let Ok(note) = Note::parse(signature.as_bytes()) else { return false };
    note.text() == signed_text(number, report) && verify(&note, std::slice::from_ref(key.verifier())).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fulexo_tlog::key::{KeyKind, SEED_LENGTH};
    use fulexo_tlog::note::KeyName;

    use super::*;
    use crate::report::Check;

    struct Scratch(ReportDirectory);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("fulexo-reports-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(ReportDirectory::open(&path).unwrap())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.path);
        }
    }

    fn report(target: &str) -> Report {
        let checks = vec![Check::passed("policy", "t", "„ž“")];
        Report { checks, ..Report::begin("security-audit", target, DateTime::UNIX_EPOCH) }
    }

    fn key(seed: u8) -> SignerKey {
        let name = KeyName::parse("audit.example/reports").unwrap();
        SignerKey::from_seed(name, KeyKind::Ed25519, &[seed; SEED_LENGTH]).unwrap()
    }

    /// The number of the last report, or the evidence against it.
    fn last(directory: &ReportDirectory, key: Option<&SignerKey>) -> Result<Option<(u64, bool)>, String> {
        match directory.last(key, "db", DateTime::UNIX_EPOCH).unwrap() {
            Previous::None => Ok(None),
            Previous::Report(last, findings) => match findings.into_iter().next() {
                Some(finding) => Err(finding.evidence),
                None => Ok(Some((last.number, last.is_verified))),
            },
            Previous::Untrusted(finding) => Err(finding.evidence),
        }
    }

    #[test]
    fn reports_are_numbered_private_and_verified_and_no_altered_one_is_believed() {
        let scratch = Scratch::new("numbered");
        let directory = &scratch.0;
        assert_eq!(last(directory, Some(&key(1))), Ok(None));
        for number in 1..=2 {
            let path = directory.keep(&report("db"), Some(&key(1))).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(last(directory, Some(&key(1))), Ok(Some((number, true))));
        }
        assert_eq!(fs::read_dir(&directory.path).unwrap().count(), 2, "nothing else is left");
        assert_eq!(last(directory, None), Ok(Some((2, false))));
        assert!(last(directory, Some(&key(2))).unwrap_err().contains("signature"));

        let path = directory.file(2);
        let sound = fs::read_to_string(&path).unwrap();
        for (from, to, because) in [
            ("passed", "passes", "not a report"),
            ("„ž“", "„z“", "signature"),
            (",\"signature\"", ",\"note\"", "not signed"),
            ("db", "other", "signature"),
        ] {
            fs::write(&path, sound.replace(from, to)).unwrap();
            assert!(last(directory, Some(&key(1))).unwrap_err().contains(because), "{from}");
        }
        // A sound report under another number is the replay of an old one.
        fs::write(directory.file(4), &sound).unwrap();
        assert!(last(directory, Some(&key(1))).unwrap_err().contains("signature"));
        fs::write(directory.file(4), [0xff, 0xfe]).unwrap();
        assert!(last(directory, None).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_gap_and_the_report_of_another_database_are_found() {
        let scratch = Scratch::new("gap");
        let directory = &scratch.0;
        for _ in 0..3 {
            directory.keep(&report("db"), None).unwrap();
        }
        fs::remove_file(directory.file(2)).unwrap();
        assert_eq!(last(directory, None), Err("it follows number 1".to_owned()));
        directory.keep(&report("other"), None).unwrap();
        assert!(last(directory, None).unwrap_err().contains("another database"));
    }

    #[test]
    fn a_report_of_the_future_is_compared_with_and_is_a_finding() {
        let scratch = Scratch::new("future");
        let directory = &scratch.0;
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        directory.keep(&Report { ended_at: at(6), ..report("db") }, None).unwrap();
        assert!(last(directory, None).unwrap_err().contains("00:06:00"));
        let Previous::Report(_, findings) = directory.last(None, "db", at(1)).unwrap() else { panic!() };
        assert!(findings.is_empty(), "clocks differ by five minutes");
    }

    #[test]
    fn audits_at_the_same_time_keep_a_report_each() {
        let scratch = Scratch::new("race");
        let path = scratch.0.path.clone();
        let keep = || {
            let directory = ReportDirectory::open(&path).unwrap();
            directory.keep_at(1, &path.join(format!("{:?}", std::thread::current().id())), &raw(), None).unwrap()
        };
        let mut kept: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(keep)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        kept.sort_unstable();
        kept.dedup();
        assert_eq!(kept.len(), 8);
    }

    fn raw() -> Box<RawValue> {
        RawValue::from_string(report("db").to_json().to_string()).unwrap()
    }
}
