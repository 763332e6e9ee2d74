//! The dependency rule. Of crates, as cargo sees it: domain knows no other, commands and projections know domain and
//! not each other, the node knows all three, and api puts faces to it. Of files, as the parser sees it: no circle of
//! imports, and inside a crate no import against the order of its floors.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Returns the names of the normal dependencies of each crate of ours.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(|package| (text(&package["name"]), of(package))).collect()
}

fn ours(dependencies: &BTreeSet<String>) -> Vec<&str> {
    dependencies.iter().filter(|name| name.starts_with("fulexo-")).map(String::as_str).collect()
}

#[test]
fn each_crate_knows_only_those_below_it() {
    let dependencies = dependencies();
    assert_eq!(ours(&dependencies["fulexo-domain"]), [""; 0]);
    assert_eq!(ours(&dependencies["fulexo-bcrypt"]), [""; 0]);
    assert_eq!(ours(&dependencies["fulexo-database"]), [""; 0]);
    assert_eq!(ours(&dependencies["fulexo-tlog"]), [""; 0]);
    assert_eq!(ours(&dependencies["fulexo-commands"]), ["fulexo-bcrypt", "fulexo-database", "fulexo-domain"]);
    assert_eq!(ours(&dependencies["fulexo-projections"]), ["fulexo-database", "fulexo-domain", "fulexo-tlog"]);
    assert_eq!(ours(&dependencies["fulexo-dev-servers"]), [""; 0]);
    let below_ops = ["fulexo-database", "fulexo-domain", "fulexo-tlog"];
    assert!(
        ours(&dependencies["fulexo-ops"]).iter().all(|name| below_ops.contains(name)),
        "ops sees a service from outside"
    );
    assert_eq!(
        ours(&dependencies["fulexo-node"]),
        ["fulexo-commands", "fulexo-database", "fulexo-domain", "fulexo-projections", "fulexo-tlog"]
    );
    assert_eq!(
        ours(&dependencies["fulexo-api"]),
        [
            "fulexo-commands",
            "fulexo-database",
            "fulexo-dev-servers",
            "fulexo-domain",
            "fulexo-node",
            "fulexo-ops",
            "fulexo-projections",
            "fulexo-tlog"
        ]
    );
}

#[test]
fn domain_does_no_io_and_only_node_and_api_speak_http() {
    let dependencies = dependencies();
    for forbidden in ["tokio", "sqlx", "poem", "hyper", "async-nats", "aws-lc-rs", "tracing"] {
        assert!(!dependencies["fulexo-domain"].contains(forbidden), "domain depends on {forbidden}");
    }
    assert_eq!(
        dependencies["fulexo-tlog"],
        ["aws-lc-rs", "base64", "sha2", "thiserror", "zeroize"].map(str::to_owned).into()
    );
    assert_eq!(dependencies["fulexo-database"], BTreeSet::from(["sqlx".to_owned(), "tokio".to_owned()]));
    for name in ["fulexo-commands", "fulexo-projections"] {
        for forbidden in ["poem", "poem-openapi", "hyper", "clap"] {
            assert!(!dependencies[name].contains(forbidden), "{name} depends on {forbidden}");
        }
    }
    for forbidden in ["clap", "anstream", "mimalloc", "qrcode"] {
        assert!(!dependencies["fulexo-node"].contains(forbidden), "node depends on {forbidden}");
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = sources::imports();
    assert!(imports.len() > 200, "the sources were not found: {}", imports.len());
    let circles = sources::circles(&imports);
    println!("{} files, {} circles", imports.len(), circles.len());
    for circle in &circles {
        println!("circle of {}: {}", circle.len(), circle.join(" "));
    }
    assert!(circles.is_empty(), "{} circles: {circles:#?}", circles.len());
}

#[test]
fn a_name_stands_for_one_type() {
    let types = sources::types();
    assert!(types.len() > 500, "the sources were not found: {}", types.len());
    let twice: Vec<_> = types.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn no_file_imports_one_of_a_higher_floor() {
    let imports = sources::imports();
    let mut faults = Vec::new();
    for (folder, floors) in FLOORS {
        let floor_of = |file: &str| {
            let path = file.strip_prefix(folder)?;
            let begins = floors.iter().enumerate().flat_map(|(floor, begins)| begins.iter().map(move |it| (it, floor)));
            // The most exact line of the table decides: one file of a folder may be on its own floor.
            begins
                .filter(|(begin, _)| path.starts_with(**begin))
                .max_by_key(|(begin, _)| begin.len())
                .map(|(_, floor)| floor)
        };
        for (file, imported) in imports.iter().filter(|(file, _)| file.starts_with(folder)) {
            let Some(own) = floor_of(file) else {
                faults.push(format!("{file} is on no floor"));
                continue;
            };
            let higher = imported.iter().filter(|it| floor_of(it).is_some_and(|floor| floor > own));
            faults.extend(higher.map(|it| format!("{file} imports {it}, which is on a higher floor")));
        }
        for begin in floors.iter().copied().flatten() {
            let found =
                imports.keys().any(|file| file.strip_prefix(folder).is_some_and(|path| path.starts_with(begin)));
            if !found {
                faults.push(format!("{folder}{begin} does not exist"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Floors inside a crate, from the ground up, as beginnings of paths below a folder. A file imports only files of its
/// own floor and of lower ones.
const FLOORS: [(&str, &[&[&str]]); 4] = [
    (
        "commands/src/",
        &[
            &["vault/"],
            &["authentication/password_hash", "log/", "quotas.rs"],
            &["context.rs", "error.rs", "idempotency.rs", "reason.rs", "retention.rs"],
            // These are the parts of the stories that stand alone.
            &["authentication/attempt_queues.rs", "mail/kind.rs", "sessions/access_token.rs"],
            &["log_store.rs", "unit_of_work.rs", "write_side.rs"],
            &["accounts/profile.rs", "authentication/credentials.rs", "mail/"],
            &["copies.rs", "disclosure.rs", "execute.rs", "rate_limit.rs"],
            &[
                "accounts/",
                "authentication/",
                "authorization/",
                "backups.rs",
                "checkpoint.rs",
                "erasure/",
                "keys.rs",
                "sessions/",
                "unsealing.rs",
            ],
            &["facade.rs", "lib.rs"],
        ],
    ),
    (
        "projections/src/",
        &[
            &["as_of.rs", "dedicated_connection.rs", "feed", "lib.rs", "page.rs", "snapshots.rs", "trail.rs"],
            &["access", "gate"],
            &["follower.rs", "nodes", "preview.rs", "read_models/", "tree"],
            &["export/"],
            &["rebuild", "replay.rs", "runner.rs", "status.rs"],
        ],
    ),
    (
        "api/node/src/",
        &[
            &[
                "checkpoints.rs",
                "clock.rs",
                "database.rs",
                "doorbell.rs",
                "durable_file.rs",
                "log_size.rs",
                "nats.rs",
                "refusals.rs",
                "schema.rs",
                "signer/",
                "spelling.rs",
                "start_error.rs",
                "streams/",
                "tasks.rs",
                "timestamp.rs",
                "token_cache.rs",
                "vocabulary.rs",
                "witness/",
            ],
            &["http/bad_input.rs", "http/headers.rs", "http/problem", "http/request_id.rs", "http/standing.rs"],
            &["limits/"],
            &["http/"],
            &["tls/"],
            &["outbound.rs"],
            &["config/"],
            &["cosigning/", "keys/announcement.rs", "keys/key_file.rs", "keys/mod.rs", "keys/node_keys.rs", "mail/"],
            &["state.rs"],
            // Of keys, the rotations.
            &[
                "answer.rs",
                "auditor.rs",
                "caller.rs",
                "containment.rs",
                "copies.rs",
                "export_stream.rs",
                "keys/",
                "rejudged.rs",
            ],
            &["start.rs", "start/"],
            &["lib.rs"],
        ],
    ),
    ("api/src/", &[&["pages/", "routes/"], &["faces.rs"], &["cli/"], &["lib.rs", "main.rs"]]),
];
