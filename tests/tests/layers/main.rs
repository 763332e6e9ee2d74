//! The dependency rule, as cargo sees it: domain knows nobody, commands and projections know domain and not each
//! other, api knows all three.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Names of the normal dependencies of each crate of ours.
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
    assert_eq!(ours(&dependencies["fulexo-commands"]), ["fulexo-bcrypt", "fulexo-domain"]);
    assert_eq!(ours(&dependencies["fulexo-projections"]), ["fulexo-domain"]);
    assert_eq!(ours(&dependencies["fulexo-dev-servers"]), [""; 0]);
    assert_eq!(
        ours(&dependencies["fulexo-api"]),
        ["fulexo-commands", "fulexo-dev-servers", "fulexo-domain", "fulexo-projections"]
    );
}

#[test]
fn domain_does_no_io_and_only_api_speaks_http() {
    let dependencies = dependencies();
    for forbidden in ["tokio", "sqlx", "poem", "hyper", "async-nats", "aws-lc-rs", "tracing"] {
        assert!(!dependencies["fulexo-domain"].contains(forbidden), "domain depends on {forbidden}");
    }
    for name in ["fulexo-commands", "fulexo-projections"] {
        for forbidden in ["poem", "poem-openapi", "hyper", "clap"] {
            assert!(!dependencies[name].contains(forbidden), "{name} depends on {forbidden}");
        }
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
