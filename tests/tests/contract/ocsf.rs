//! OCSF: the record of every golden event is the one in `tests/ocsf`, which `scripts/ocsf` validates; each event type has its
//! lines in the table of docs/audit-export.md; and the leaf can be written again from its record.
//!
//! `cargo test -p fulexo-tests --test contract ocsf -- --ignored` writes the records and the table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use fulexo_domain::event::Event;
use fulexo_domain::leaf;
use fulexo_projections::export::ExportFormat;
use fulexo_projections::export::ocsf::{OcsfMapping, OcsfVersion};
use fulexo_projections::read_models::audit::AuditEntry;
use serde_json::{Value, json};

const PAGE: &str = "../docs/audit-export.md";
const HEAD: &str = "| event | case | OCSF 1.8.0 | OCSF 1.9.0 | severity | status |\n|---|---|---|---|---|---|\n";

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the golden leaves, in the order of their names, each at its position.
fn golden() -> Vec<AuditEntry> {
    let mut files: Vec<PathBuf> = fs::read_dir(own("golden")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let leaves = files.iter().map(|path| fs::read(path).unwrap());
    let entries = (0..).zip(leaves).map(|(position, leaf)| {
        let leaf_hash = leaf::hash(&leaf).to_vec();
        AuditEntry { position, leaf, leaf_hash }
    });
    entries.collect()
}

fn records(version: OcsfVersion) -> String {
    let mut lines = Vec::new();
    for entry in golden() {
        ExportFormat::Ocsf(version).append_line(&entry, &mut lines).unwrap();
    }
    String::from_utf8(lines).unwrap()
}

fn file(version: OcsfVersion) -> PathBuf {
    own(&format!("ocsf/{}.ndjson", version.as_str()))
}

#[test]
fn the_record_of_each_golden_event_is_the_one_on_file() {
    for version in OcsfVersion::ALL {
        let (real, kept) = (records(version), fs::read_to_string(file(version)).unwrap_or_default());
        assert_eq!(kept.lines().count(), golden().len(), "{}: run the ignored test that writes it", version.as_str());
        for (real, kept) in real.lines().zip(kept.lines()) {
            assert_eq!(real, kept, "{}: run the ignored test that writes it", version.as_str());
        }
    }
}

/// Returns the leaf that a record is of: its `unmapped` members, and those that OCSF has a place for.
fn leaf_of(record: &Value) -> Value {
    let mut leaf = record["unmapped"].clone();
    leaf["id"] = record["metadata"]["uid"].clone();
    leaf["correlation"] = record["metadata"]["correlation_uid"].clone();
    leaf["type"] = record["metadata"]["event_code"].clone();
    leaf
}

#[test]
fn the_leaf_can_be_written_again_from_its_record_and_has_the_hash_in_it() {
    for version in OcsfVersion::ALL {
        for (line, entry) in records(version).lines().zip(golden()) {
            let record: Value = serde_json::from_str(line).unwrap();
            // Its keys are in order, as those of a leaf.
            let leaf = leaf_of(&record).to_string();
            assert_eq!(leaf.as_bytes(), entry.leaf, "{line}");
            let hash: String = leaf::hash(&entry.leaf).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(record["raw_data_hash"], json!({"algorithm": "SHA-256", "algorithm_id": 3, "value": hash}));
            assert_eq!(record["raw_data_size"], entry.leaf.len());
            assert_eq!(record["metadata"]["sequence"], entry.position);
            match version {
                OcsfVersion::V1_8 => assert_eq!(record["attestation_list"], Value::Null),
                OcsfVersion::V1_9 => assert_eq!(record["attestation_list"][0]["fingerprint"]["value"], hash.as_str()),
            }
        }
    }
}

/// Returns what tells the cases of an event type apart.
fn case_of(data: &Value) -> String {
    let told = ["how", "reason", "by", "action"].iter().find_map(|name| data[*name].as_str());
    told.map(|value| format!("`{value}`")).unwrap_or_default()
}

fn place(mapping: OcsfMapping) -> String {
    let OcsfMapping { class, activity, .. } = mapping;
    format!("{} {}: {} {}", class.uid(), class.as_str(), activity.id, activity.name)
}

/// Returns the table of the page.
fn table() -> String {
    let mut table = HEAD.to_owned();
    let events: Vec<(Event, Value)> = golden()
        .iter()
        .map(|entry| {
            let leaf: Value = serde_json::from_slice(&entry.leaf).unwrap();
            (leaf::decode(0, &entry.leaf).unwrap().event, leaf)
        })
        .collect();
    for event_type in Event::types() {
        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (event, leaf) in events.iter().filter(|(_, leaf)| leaf["type"] == *event_type) {
            let [older, newer] = OcsfVersion::ALL.map(|version| OcsfMapping::of(event, version));
            assert_eq!((older.severity, older.status), (newer.severity, newer.status));
            let (severity, status) = (older.severity.as_str(), older.status.as_str());
            let row = format!("{} | {} | {severity} | {status} |", place(older), place(newer));
            rows.entry(row).or_default().push(case_of(&leaf["data"]));
        }
        assert!(!rows.is_empty(), "no golden event is of the type {event_type}");
        let is_one = rows.len() == 1;
        for (row, mut cases) in rows {
            cases.sort();
            cases.dedup();
            let cases = if is_one { String::new() } else { format!("{} ", cases.join(", ")) };
            writeln!(table, "| `{event_type}` | {cases}| {row}").unwrap();
        }
    }
    table
}

#[test]
fn the_page_has_the_place_of_every_event_type() {
    let page = fs::read_to_string(own(PAGE)).unwrap();
    assert!(page.contains(&format!("\n{}\n", table())), "{PAGE}: run the ignored test that writes it");
}

#[test]
#[ignore = "writes tests/ocsf and the table of docs/audit-export.md"]
fn write_the_records_and_the_table() {
    fs::create_dir_all(own("ocsf")).unwrap();
    for version in OcsfVersion::ALL {
        fs::write(file(version), records(version)).unwrap();
    }
    let page = fs::read_to_string(own(PAGE)).unwrap();
    let (before, rest) = page.split_once(HEAD).unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    fs::write(own(PAGE), format!("{before}{}\n{after}", table())).unwrap();
}
