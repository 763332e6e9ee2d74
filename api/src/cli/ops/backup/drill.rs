//! `fulexo backup drill`: the newest backup, verified unattended, measured against goals.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fulexo_database::chain;
use fulexo_domain::backup::DrillFigures;
use fulexo_domain::values::{Epoch, InvalidValue};
use fulexo_node::database::connect;
use fulexo_ops::backup::{DrillGoals, DrillMeasures, OpenedBackup, RUNGS};
use fulexo_ops::page::to_page;
use fulexo_ops::report::{CheckResult, Report};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ladder::{LadderArgs, VerifiedBackup, record_verified, weighed};
use super::record::service_url;
use crate::cli::failure::Failure;
use crate::cli::ops::ReportArgs;
use crate::cli::output::note;
use crate::cli::process::{block_on, parsed};

/// The number of rungs up to the restored database.
const RECOVERY: usize = 4;

#[derive(Args)]
pub struct DrillArgs {
    /// The longest time that a recovery may take, such as `90s`, `30m`, `4h` or `1d`.
    #[arg(long, value_name = "TIME", value_parser = parsed(duration))]
    rto: Option<Duration>,
    /// The greatest age that the newest backup may have.
    #[arg(long, value_name = "TIME", value_parser = parsed(duration))]
    rpo: Option<Duration>,
    /// Write the report into this directory, as JSON and as a page.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    ladder: LadderArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Reads a number of seconds, minutes, hours or days.
fn duration(text: &str) -> Result<Duration, InvalidValue> {
    const INVALID: InvalidValue =
        InvalidValue("must be a number of seconds, minutes, hours or days, such as 90s, 30m, 4h, 1d");
    let unit = text.chars().last().ok_or(INVALID)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(INVALID),
    };
    let number: u32 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or(INVALID)?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

impl DrillArgs {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(dir) = self.out.as_deref().filter(|dir| !dir.is_dir()) {
            return Err(Failure::Misused(format!("--out: {} is not a directory", dir.display())));
        }
        let service = service_url()?;
        let goals = DrillGoals { time: self.rto, point: self.rpo };
        let VerifiedBackup { mut report, opened, times } = self.ladder.climb("backup drill", "latest")?;
        let seconds: serde_json::Map<String, Value> =
            times.iter().map(|(rung, time)| (rung.clone(), json!(time.as_secs_f64()))).collect();
        report.facts.insert("seconds".to_owned(), seconds.into());
        let mut recorded = Ok(());
        if let Some(opened) = &opened {
            let lost = match &service {
                None => None,
                Some(url) => block_on(lost_events(url, opened)).unwrap_or_else(|failure| {
                    note(format_args!("the log of the service was not asked: {}", failure.text()));
                    None
                }),
            };
            let rungs = RUNGS.iter().take(RECOVERY).map(|(id, _)| times.get(*id).copied());
            let time = is_restored(&report).then(|| rungs.sum::<Option<Duration>>()).flatten();
            let measures = DrillMeasures { time, point: DrillMeasures::age(opened, report.began_at), lost };
            report.checks.extend(measures.judge(goals, &opened.name.to_string()));
            report.facts.insert("events".to_owned(), opened.manifest.database.log.position.into());
            if let Some(lost) = lost {
                report.facts.insert("lost_events".to_owned(), lost.into());
            }
            if let Some(url) = &service {
                recorded = block_on(record_verified(url, opened, &report, figures(&measures, goals)));
            }
        }
        let written = self.out.as_deref().map_or(Ok(()), |dir| write_report(dir, &report));
        let verdict = self.report.print(&report);
        weighed(weighed(verdict, recorded), written)
    }
}

fn is_restored(report: &Report) -> bool {
    let restore = report.checks.iter().find(|check| check.id == "restore");
    restore.is_some_and(|check| matches!(check.result, CheckResult::Passed { .. }))
}

/// Returns the number of events that the service has and the backup does not; `None` if its log is of another epoch.
async fn lost_events(url: &str, opened: &OpenedBackup) -> Result<Option<u64>, Failure> {
    let pool = connect(url, 2).await?;
    let (epoch, position): (Uuid, i64) =
        sqlx::query_as("select epoch, position from log.head").fetch_one(&pool).await?;
    pool.close().await;
    let log = &opened.manifest.database.log;
    let is_same = Epoch::from(epoch) == Epoch::from(log.epoch);
    Ok(is_same.then(|| position.unsigned_abs().saturating_sub(log.position)))
}

/// Returns the figures for the log; `None` if something was not measured.
fn figures(measures: &DrillMeasures, goals: DrillGoals) -> Option<DrillFigures> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Some(DrillFigures {
        lost_events: measures.lost?,
        recovery_point_ms: millis(measures.point),
        recovery_point_goal_ms: goals.point.map(millis),
        recovery_time_ms: millis(measures.time?),
        recovery_time_goal_ms: goals.time.map(millis),
    })
}

/// Writes the report as JSON and as a page. A file has its name once it is whole.
fn write_report(dir: &Path, report: &Report) -> Result<(), Failure> {
    let name = format!("drill-{}", report.began_at.format("%Y%m%dT%H%M%SZ"));
    for (ending, text) in [("json", format!("{}\n", report.to_json())), ("html", to_page(report))] {
        let (path, new) = (dir.join(format!("{name}.{ending}")), dir.join(format!(".{name}.{ending}.new")));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            let full = if error.kind() == ErrorKind::StorageFull { ": free space there" } else { "" };
            Failure::Unchecked(Some(format!("the report is not in {}: {}{full}", path.display(), chain(&error))))
        })?;
    }
    Ok(())
}
