//! The ladder of a verification, from the signature to a login: what climbs it, and what it leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use fulexo_domain::backup::{BackupCommand, BackupRung, DrillFigures, RungResult, RungVerdict};
use fulexo_ops::age::Identity;
use fulexo_ops::backup::{
    BackupError, BackupName, BackupTarget, OpenedBackup, RUNGS, VerificationRecord, compare_states, load, read_state,
    split_path, verify_checksums, verify_format, verify_signature,
};
use fulexo_ops::clock;
use fulexo_ops::finding::{Rule, Severity};
use fulexo_ops::report::{Check, CheckResult, Report};
use sqlx::{Connection, PgConnection};

use super::address::{address, target_dir};
use super::canary::{Canary, CanaryArgs, verify_canary};
use super::failed::unchecked;
use super::places::{identities, trusted_keys};
use super::record::record;
use super::rungs::{OutsideCheckpoint, verify_log, verify_read_models};
use super::scratch::ScratchServer;
use crate::cli::audit::trust::{Trust, TrustArgs};
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::cli::process::block_on;
use crate::cli::progress::Progress;

const REFUSED: Rule = Rule {
    id: "backup.restore",
    title: "a new server does not accept the backup",
    severity: Severity::Critical,
    remedy: "Use another backup, and make a new one.",
    reference: "docs/backups.md",
};
const DIFFERENT: Rule = Rule {
    id: "backup.content",
    title: "the restored database is not the one that the manifest describes",
    severity: Severity::Critical,
    remedy: "Use another backup, and make a new one.",
    reference: "docs/backups.md",
};

/// The means of a verification.
#[derive(Args)]
pub struct LadderArgs {
    /// Look for the backup in this directory, or this bucket (`s3://BUCKET/PREFIX`) [default: FULEXO_BACKUP_TO].
    #[arg(long, value_name = "PLACE")]
    from: Option<PathBuf>,
    /// Decrypt with the identities in this file. Repeat the option for wrapped keys that have other recipients.
    #[arg(long = "identity", value_name = "FILE")]
    identities: Vec<PathBuf>,
    /// Trust manifests that this key has signed: a vkey, or a file with one [default: the public half of
    /// FULEXO_BACKUP_SIGNING_KEY_FILE].
    #[arg(long, value_name = "VKEY")]
    signed_by: Vec<String>,
    /// Verify the log against this checkpoint, which was kept outside: a file, or the URL of the service or of a static copy.
    #[arg(long, value_name = "PLACE")]
    checkpoint: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Restore into a server below this directory, which is removed afterwards [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    canary: CanaryArgs,
}

/// A backup that was verified.
pub struct VerifiedBackup {
    pub report: Report,
    /// The backup; `None` if no trusted key has signed it.
    pub opened: Option<OpenedBackup>,
    /// The time that each rung took, by its name.
    pub times: BTreeMap<String, Duration>,
}

/// The ladder, while it is climbed.
struct Ladder {
    report: Report,
    /// `true` while every rung so far was climbed.
    goes_on: bool,
    /// The time at which the last rung ended.
    since: Instant,
    times: BTreeMap<String, Duration>,
}

impl Ladder {
    fn add(&mut self, check: Check) {
        self.goes_on &= matches!(check.result, CheckResult::Passed { .. });
        self.times.insert(check.id.clone(), self.since.elapsed());
        self.since = Instant::now();
        self.report.checks.push(check);
    }

    /// Names the rungs above.
    fn end(&mut self) {
        for (id, title) in RUNGS.into_iter().skip(self.report.checks.len()) {
            self.report.checks.push(Check::not_checked(id, title, "a lower rung was not climbed"));
        }
        self.report.ended_at = clock::now();
    }
}

impl LadderArgs {
    /// Verifies a backup: its name, its place, or `latest`. Writes the result next to its manifest.
    pub fn climb(self, verb: &str, backup: &str) -> Result<VerifiedBackup, Failure> {
        let (target, name) = self.place(backup)?;
        let trusted = trusted_keys(&self.signed_by)?;
        let identities = Arc::new(identities(&self.identities)?);
        let trust = self.trust.given()?;
        let outside = self.checkpoint.as_deref().map(OutsideCheckpoint::of).transpose()?;
        let canary = self.canary.given()?;
        let scratch = self.scratch.unwrap_or_else(std::env::temp_dir);
        let began = Instant::now();
        let report = Report::begin(verb, name.to_string(), clock::now());
        let mut ladder = Ladder { report, goes_on: true, since: began, times: BTreeMap::new() };
        let (check, opened) = verify_signature(&target, name, &trusted);
        ladder.add(check);
        if let Some(opened) = &opened {
            let means = LadderMeans { identities, trust, outside, canary };
            climb(&mut ladder, opened, means, &scratch)?;
        }
        ladder.end();
        let Ladder { report, times, .. } = ladder;
        store(&report, &target, name, began.elapsed().as_secs_f64());
        Ok(VerifiedBackup { report, opened, times })
    }

    /// Finds the backup.
    fn place(&self, backup: &str) -> Result<(BackupTarget, BackupName), Failure> {
        let (address, name) = match split_path(Path::new(backup)) {
            Some((parent, name)) => (address(parent.to_owned())?, name),
            None => (target_dir(self.from.clone(), "--from")?, backup),
        };
        let target = BackupTarget::open(&address).map_err(unchecked)?;
        let name = target.find(name).map_err(unchecked)?;
        Ok((target, name))
    }
}

/// Records the verification in the log of the service.
pub async fn record_verified(
    url: &str,
    opened: &OpenedBackup,
    report: &Report,
    drill: Option<DrillFigures>,
) -> Result<(), Failure> {
    let failed =
        |reason: String| Failure::Unchecked(Some(format!("the log does not know of the verification: {reason}")));
    let verdict = |check: &Check| match check.result {
        CheckResult::Passed { .. } => RungVerdict::Passed,
        CheckResult::Found { .. } => RungVerdict::Failed,
        CheckResult::NotChecked { .. } => RungVerdict::NotClimbed,
    };
    let rungs = BackupRung::ALL.into_iter().filter_map(|rung| {
        let check = report.checks.iter().find(|check| check.id == rung.as_str())?;
        Some(RungResult { rung, verdict: verdict(check) })
    });
    let backup = opened.content().map_err(|error| failed(format!("the manifest {}", error.0)))?;
    let command = BackupCommand::Verify { backup, drill, place: opened.place(), rungs: rungs.collect() };
    record(url, None, command).await.map_err(|failure| failed(failure.text()))
}

/// Returns the failure that weighs more: findings, else the missing record, else the verdict.
pub fn weighed(printed: Result<(), Failure>, recorded: Result<(), Failure>) -> Result<(), Failure> {
    match (printed, recorded) {
        (Err(Failure::Findings), _) => Err(Failure::Findings),
        (_, Err(failure)) => Err(failure),
        (printed, Ok(())) => printed,
    }
}

/// The means to climb, of whoever verifies.
struct LadderMeans {
    identities: Arc<Vec<Identity>>,
    trust: Option<Trust>,
    outside: Option<OutsideCheckpoint>,
    canary: Option<Canary>,
}

fn climb(ladder: &mut Ladder, backup: &OpenedBackup, means: LadderMeans, scratch: &Path) -> Result<(), Failure> {
    let LadderMeans { identities, trust, outside, canary } = means;
    let all = backup.manifest.length();
    let mut progress = Progress::of("bytes", "checksums".to_owned(), 0);
    ladder.add(verify_checksums(backup, |read| progress.show(read, all)));
    drop(progress);
    if !ladder.goes_on {
        return Ok(());
    }
    let (id, title) = RUNGS[2];
    if identities.is_empty() {
        ladder.add(Check::not_checked(id, title, "no identity is given: give --identity"));
        return Ok(());
    }
    let mut progress = Progress::of("bytes", "decrypt".to_owned(), 0);
    ladder.add(verify_format(backup, &identities, |read| progress.show(read, all)));
    drop(progress);
    if !ladder.goes_on {
        return Ok(());
    }
    let (id, title) = RUNGS[3];
    let server = match ScratchServer::start(scratch) {
        Ok(server) => server,
        Err(failure) => {
            ladder.add(Check::not_checked(id, title, failure.text()));
            return Ok(());
        }
    };
    block_on(async {
        let began = Instant::now();
        ladder.add(restore(backup, &identities, &server.url(), began).await);
        if ladder.goes_on {
            ladder.add(verify_log(backup, &server.url(), trust, outside).await);
            // A log that was not compared with anything outside has read models all the same.
            let (id, title) = RUNGS[5];
            let check = verify_read_models(backup, &server.url()).await;
            ladder.add(check.unwrap_or_else(|failure| Check::not_checked(id, title, failure.text())));
            if ladder.report.findings().next().is_none() {
                ladder.add(verify_canary(backup, &server.url(), canary).await);
            }
        }
        Ok(())
    })
}

async fn restore(backup: &OpenedBackup, identities: &Arc<Vec<Identity>>, url: &str, began: Instant) -> Check {
    let (id, title) = RUNGS[3];
    let name = backup.name.to_string();
    let (mut progress, all) = (Progress::of("bytes", "load".to_owned(), 0), backup.manifest.length());
    let left_out = match load(backup, identities, url, move |read| progress.show(read, all)).await {
        Ok(left_out) => left_out,
        Err(error @ (BackupError::Program { .. } | BackupError::Crypto(_))) => {
            return Check::of(id, title, "", vec![REFUSED.finding(name, error.to_string())]);
        }
        Err(error) => return Check::not_checked(id, title, error.to_string()),
    };
    let found = async {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::query("begin isolation level repeatable read read only").execute(&mut connection).await?;
        read_state(&mut connection).await
    };
    match found.await {
        Ok(found) => {
            let differences = compare_states(&backup.manifest.database, &found, left_out.is_empty());
            let findings = differences
                .into_iter()
                .map(|what| DIFFERENT.finding(format!("{name}/{what}"), "the manifest says otherwise"))
                .collect();
            let seconds = began.elapsed().as_secs_f64();
            let keys = if left_out.is_empty() { "" } else { "; without the wrapped keys" };
            Check::of(id, title, format!("in {seconds:.1} s{keys}"), findings)
        }
        Err(error) => Check::not_checked(id, title, error.to_string()),
    }
}

/// Writes the record next to the manifest. A medium that is read-only has none.
fn store(report: &Report, target: &BackupTarget, name: BackupName, seconds: f64) {
    let climbed = report.checks.iter().filter(|check| matches!(check.result, CheckResult::Passed { .. }));
    let record = VerificationRecord {
        at: report.ended_at,
        seconds,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        rungs: climbed.map(|check| check.id.clone()).collect(),
        has_findings: report.findings().next().is_some(),
    };
    if let Err(error) = target.store_verification(name, &record) {
        note(format_args!("the result is not recorded: {error}"));
    }
}
