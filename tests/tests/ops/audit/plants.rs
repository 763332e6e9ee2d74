//! Every rule of the audit has a test that plants its fault.

use std::fs;

use fulexo_ops::audit::CHECKS;

use crate::tls_servers::OpenSsl;

/// Rules whose fault one machine cannot have: a connection from itself to itself is local. Unit tests judge them.
const ELSEWHERE: [&str; 2] = ["database_settings.plain_connection", "database_settings.unverified_server"];
/// Rules that need a server which no library makes any more, or another host. The tests of `check-ssl` and `check-headers` plant
/// them.
const OF_THE_VERBS: [&str; 3] = ["tls.no_current_version", "tls.small_blocks", "headers.plain_http"];

#[test]
fn every_rule_has_a_test_that_plants_its_fault() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ops/audit");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| !path.ends_with("plants.rs")).map(|path| fs::read_to_string(path).unwrap());
    let texts: Vec<String> = texts.collect();
    let is_planted = |rule: &str| {
        let (area, fault) = rule.split_once('.').unwrap();
        // As a whole, or by a function of the fault alone.
        let whole = [format!("{rule} "), format!("{rule}\"")];
        let parts = [format!("\"{area}.{{rule}} "), format!("of(\"{fault}\")")];
        let in_text = |text: &String| {
            whole.iter().any(|name| text.contains(name)) || parts.iter().all(|part| text.contains(part))
        };
        // `outside.rs` audits a server of openssl that has each of these.
        OpenSsl::FAULTS.contains(&rule) || texts.iter().any(in_text)
    };
    let rules = CHECKS.iter().flat_map(|check| check.rules).map(|rule| rule.id);
    let (planted, missing): (Vec<_>, Vec<_>) = rules.partition(|rule| is_planted(rule));
    let missing: Vec<_> =
        missing.into_iter().filter(|it| !ELSEWHERE.contains(it) && !OF_THE_VERBS.contains(it)).collect();
    assert!(missing.is_empty(), "without a plant: {missing:?}");
    for exempt in ELSEWHERE.iter().chain(&OF_THE_VERBS) {
        assert!(!planted.contains(exempt), "{exempt} has a plant: it is no exception any more");
    }
}
