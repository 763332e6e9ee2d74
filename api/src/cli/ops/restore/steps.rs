//! The steps of a restore in its report, and the end of the report.

use fulexo_ops::clock;
use fulexo_ops::report::{Check, Report};
use sqlx::postgres::PgConnectOptions;

use crate::cli::failure::Failure;
use crate::cli::ops::ReportArgs;

/// The steps that make a restored database fit to serve, in their order: the name of the check, and its title.
pub const STEPS: [(&str, &str); 5] = [
    ("history", "the restored log is the one of which other places tell"),
    ("lost", "nothing that was recorded later is lost"),
    ("erasures", "whoever was erased later is erased again"),
    ("epoch", "a new epoch has begun"),
    ("signer", "the signer goes on from the restored log"),
];

/// Prints the report. A database that is not fit to serve is exit code 3, whatever was found.
pub fn end(printed: &ReportArgs, mut report: Report, is_restored: Result<bool, Failure>) -> Result<(), Failure> {
    report.ended_at = clock::now();
    let is_done = matches!(is_restored, Ok(true));
    report.facts.insert("restored".to_owned(), is_done.into());
    for (id, title) in STEPS {
        if !is_done && report.checks.iter().all(|check| check.id != id) {
            let reason = "a step before it was not done";
            report.checks.push(Check::not_checked(id, title, reason));
        }
    }
    let outcome = printed.print(&report);
    match is_restored {
        Ok(true) => outcome,
        Ok(false) => Err(Failure::Unchecked(Some("nothing was restored. The report says why".to_owned()))),
        Err(failure) => Err(Failure::Unchecked(Some(format!("nothing was restored: {}", failure.text())))),
    }
}

/// Returns a database as a report names it: host and name, without the rest of the URL.
pub fn target(url: &str) -> String {
    let options = url.parse::<PgConnectOptions>();
    options.map_or_else(
        |_| "database".to_owned(),
        |options| format!("{}/{}", options.get_host(), options.get_database().unwrap_or_default()),
    )
}
