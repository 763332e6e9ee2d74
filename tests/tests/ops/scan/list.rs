//! The dependency list: complete, of the product alone, and read back from a program that cargo-auditable built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::Command;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use fulexo_tests::Program;
use fulexo_tests::spec::document;
use serde_json::{Value, json};

use super::{Written, database, folder, package};

/// Runs cargo in this workspace, without the network.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(arguments)
        .args(["--offline", "--locked"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the target that the program is built for.
fn target() -> String {
    let said = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn sbom(env: &[(&str, &str)]) -> Value {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let ended = Program::start(&["sbom"], &env).wait();
    assert!(ended.status.success(), "{}", ended.errors);
    serde_json::from_str(&ended.said).unwrap()
}

/// Returns name and version of each component.
fn components(sbom: &Value) -> BTreeSet<String> {
    let text = |component: &Value| format!("{} {}", component["name"], component["version"]).replace('"', "");
    sbom["components"].as_array().unwrap().iter().map(text).collect()
}

/// Returns what cargo resolves, walked from these packages without what only tests use.
fn resolved(metadata: &Value, from: &[&str]) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let by_id: BTreeMap<_, _> =
        metadata["packages"].as_array().unwrap().iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let edges: BTreeMap<_, _> = nodes.iter().map(|node| (text(&node["id"]), &node["deps"])).collect();
    let begins = by_id.iter().filter(|(_, package)| from.contains(&package["name"].as_str().unwrap()));
    let mut waiting: Vec<_> = begins.map(|(id, _)| id.clone()).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if reached.insert(id.clone()) {
            let used = |edge: &&Value| edge["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev");
            waiting.extend(edges[&id].as_array().unwrap().iter().filter(used).map(|edge| text(&edge["pkg"])));
        }
    }
    let name = |id: &String| format!("{} {}", text(&by_id[id]["name"]), text(&by_id[id]["version"]));
    reached.iter().map(name).collect()
}

#[test]
fn the_bill_of_materials_has_every_package_of_the_product_and_none_that_only_tests_use() {
    let listed = components(&sbom(&[]));
    let target = target();
    let metadata = cargo(&["metadata", "--format-version", "1", "--filter-platform", &target]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();

    // cargo's resolution is of the whole workspace: it has features that only tests, or nobody, turn on.
    let product = resolved(&metadata, &["fulexo-api"]);
    let stray: Vec<_> = listed.difference(&product).collect();
    assert!(stray.is_empty(), "not of the product: {stray:?}");
    let tests = resolved(&metadata, &["fulexo-tests"]);
    let only_tests: Vec<_> = tests.difference(&product).collect();
    assert!(only_tests.iter().any(|it| it.starts_with("fulexo-tests ")), "{only_tests:?}");
    assert!(!listed.iter().any(|it| it.starts_with("proptest ")), "the packages of tests are not of the product");

    // What a build of the product compiles, as a plan of it says.
    let tree = cargo(&["tree", "-p", "fulexo-api", "-e", "normal,build", "--target", &target, "--prefix", "none"]);
    let package = |line: &str| -> Option<String> {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    };
    let mut built: BTreeSet<_> = tree.lines().filter_map(package).collect();
    assert!(built.len() > 200 && built.remove("fulexo-api 0.1.0"), "{built:?}");
    assert_eq!(listed, built);
}

#[test]
fn the_bill_of_materials_has_checksums_of_the_lock_file_and_a_whole_graph() {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let sbom = sbom(&[]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut references = BTreeSet::from([text(&sbom["metadata"]["component"]["bom-ref"])]);
    for component in sbom["components"].as_array().unwrap() {
        assert!(references.insert(text(&component["bom-ref"])), "twice: {component}");
        if text(&component["name"]).starts_with("fulexo-") {
            assert_eq!(component.get("purl"), None, "it is on no registry");
            continue;
        }
        let checksum = text(&component["hashes"][0]["content"]);
        let entry = format!("name = {}\nversion = {}\n", component["name"], component["version"]);
        let block = lock.split("[[package]]").find(|block| block.contains(&entry)).unwrap();
        assert!(block.contains(&format!("checksum = \"{checksum}\"")), "{component}");
        assert_eq!(component["purl"], component["bom-ref"]);
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let graph = sbom["dependencies"].as_array().unwrap();
    assert_eq!(graph.iter().map(|it| text(&it["ref"])).collect::<BTreeSet<_>>(), references);
    let used = graph.iter().flat_map(|it| it["dependsOn"].as_array().unwrap()).map(text).collect::<BTreeSet<_>>();
    assert_eq!(references.difference(&used).collect::<Vec<_>>(), ["pkg:cargo/fulexo-api@0.1.0"]);
}

#[test]
fn the_bill_of_materials_has_the_same_bytes_again_and_a_time_only_from_outside() {
    assert_eq!(sbom(&[]), sbom(&[]));
    assert_eq!(sbom(&[])["metadata"].get("timestamp"), None);
    assert_eq!(sbom(&[("SOURCE_DATE_EPOCH", "86400")])["metadata"]["timestamp"], "1970-01-02T00:00:00Z");
    let env = BTreeMap::from([("SOURCE_DATE_EPOCH".to_owned(), "today".to_owned())]);
    assert_eq!(Program::start(&["sbom"], &env).wait().status.code(), Some(2));
}

#[test]
fn the_list_that_cargo_auditable_put_into_the_program_is_preferred() {
    let (folder, (name, version)) = (folder(), package());
    let list = json!({"packages": [
        {"name": "fulexo-api", "version": "0.1.0", "source": "local", "dependencies": [1], "root": true},
        {"name": name, "version": version, "source": "crates.io"},
        {"name": "only-in-the-section", "version": "1.0.0", "source": "crates.io", "kind": "build"},
    ]});
    let built = |content: &[u8]| {
        let (section, program) = (folder.join("section"), folder.join("fulexo"));
        fs::write(&section, content).unwrap();
        let added = Command::new("objcopy")
            .arg(format!("--add-section=.dep-v0={}", section.display()))
            .args([Program::path(), program.clone()])
            .status();
        assert!(added.unwrap().success(), "objcopy, of binutils");
        program
    };
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(list.to_string().as_bytes()).unwrap();
    let program = built(&packed.finish().unwrap());
    let printed = Command::new(&program).arg("sbom").env_clear().output().unwrap();
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(
        components(&printed),
        BTreeSet::from([format!("{name} {version}"), "only-in-the-section 1.0.0".to_owned()])
    );

    let found = database(&Written { package: "only-in-the-section".to_owned(), ..Written::new() });
    let scanned = Command::new(&program)
        .args(["vulnerability-scan", "--dependencies-only", "--json", "--exceptions", &super::exceptions("")])
        .arg("--database")
        .arg(found)
        .env_clear()
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&scanned.stdout).unwrap();
    assert_eq!(scanned.status.code(), Some(1), "{report:#}");
    assert!(report["facts"]["list"]["origin"].as_str().unwrap().contains("cargo-auditable"), "{report:#}");

    // A section that is damaged hides nothing behind the other list.
    let program = built(b"garbage");
    let scanned = Command::new(program).arg("vulnerability-scan").env_clear().output().unwrap();
    assert_eq!(scanned.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&scanned.stderr).contains(".dep-v0"));
}

#[test]
fn no_operation_takes_or_gives_xml_which_the_accepted_advisories_rest_on() {
    let document = document().to_string();
    assert!(document.contains("application/json") && !document.to_lowercase().contains("xml"));
    let deny = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml")).unwrap();
    assert!(deny.contains("RUSTSEC-2026-0194"), "nothing is accepted for this reason any more: remove this test");
}
