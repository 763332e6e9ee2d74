//! The service as its clients see it, over HTTP: one binary, since each takes a while to link and starts its own
//! servers. Nothing here changes what belongs to the process.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod addresses;
mod administration;
mod alerts;
mod api_keys;
mod as_of;
mod audit_address;
mod audit_change;
mod audit_search;
mod audit_stream;
mod browsers;
mod copies;
mod counter;
mod devices;
mod erasure;
mod exports;
mod fingerprint;
mod hashes;
mod incidents;
mod letters;
mod lockdown;
mod login;
mod mail;
mod months;
mod my_data;
mod policy;
mod rate_limits;
mod revocation;
mod roles;
mod second_factor;
mod snapshots;
mod standing;
mod transparency;
mod unsealing;
mod well_known;
mod witnesses;

use std::collections::BTreeMap;

use fulexo_tests::Answer;
use serde_json::Value;

/// Every permission, in the order in which they are listed.
const PERMISSIONS: [&str; 18] = [
    "accounts.read",
    "accounts.manage",
    "accounts.erase",
    "sessions.read",
    "sessions.revoke",
    "roles.read",
    "roles.grant",
    "roles.manage",
    "policy.read",
    "policy.change",
    "api_keys.manage",
    "tokens.introspect",
    "audit.read",
    "audit.unseal",
    "metrics.read",
    "lockdown.manage",
    "incidents.manage",
    "incidents.alert",
];

/// Returns the parts of an answer that do not differ between any two answers.
fn seen(answer: &Answer) -> (u16, BTreeMap<String, String>, Value) {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &answer.headers {
        let value = if ["request-id", "date"].contains(&name.as_str()) { "…" } else { value.to_str().unwrap() };
        headers.entry(name.to_string()).or_default().push_str(value);
    }
    let mut body = answer.json.clone();
    assert!(body["instance"].take().is_string(), "{answer:?}");
    (answer.status, headers, body)
}

/// Returns the number of refusals among these answers.
fn refusals(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 401).count()
}

/// Panics unless exactly as many guesses with these answers were evaluated as may be. A guess that a node was too busy
/// to judge counted until it was given back: it may be one of those that led to the lock.
#[track_caller]
fn assert_evaluated(evaluated: usize, most: usize, answers: &[Answer]) {
    let busy = answers.iter().filter(|answer| answer.status == 503).count();
    assert!((most.saturating_sub(busy)..=most).contains(&evaluated), "{evaluated} of {most}, with {busy} not judged");
}
