//! The verbs of operations, end to end: against real servers, with faults planted, by their exit codes and reports.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod age;
mod backup;
#[path = "../kill/boundaries.rs"]
mod boundaries;
mod check_headers;
mod check_ssl;
mod containments;
mod health;
mod incident;
mod leaked_key;
mod pentest;
mod restore;
mod runbooks;
mod tls_servers;

use std::collections::BTreeMap;

use fulexo_tests::{Ended, Program};
use serde_json::Value;

/// Runs a verb with `--json`; returns its exit code and its report.
fn reported(arguments: &[&str], env: &BTreeMap<String, String>) -> (i32, Value) {
    let ended = Program::run(&[arguments, &["--json"]].concat(), env);
    let Ended { said, errors, .. } = &ended;
    let report = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}\n{errors}"));
    // Shown with a test that fails.
    println!("{arguments:?}: {errors}");
    (ended.status.code().unwrap(), report)
}

/// Returns the rules of the findings of a report, in order.
fn rules(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap().iter();
    let findings = checks.filter_map(|check| check["findings"].as_array()).flatten();
    findings.map(|finding| finding["rule"].as_str().unwrap()).collect()
}
mod audit;
mod scan;
