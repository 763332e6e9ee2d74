//! Puts the product's dependency list into the crate: the packages that a build of `fulexo-api` compiles for its target, as
//! cargo resolves them, with the checksums of the lock file.
//!
//! The lock file alone would not do: it also has what tests, other platforms and features that are off would need.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

/// Name and version.
type Key = (String, String);

/// One package of the tree.
#[derive(Default)]
struct Package {
    license: String,
    /// The directory of a package of this workspace.
    folder: Option<String>,
    dependencies: BTreeSet<Key>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let all = tree(&root, "normal,build")?;
    let at_run_time = tree(&root, "normal,no-proc-macro")?;
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let lock = checksums(&lock);

    let index: BTreeMap<&Key, usize> = all.keys().enumerate().map(|(index, key)| (key, index)).collect();
    let mut packages = Vec::new();
    for (key, package) in &all {
        let (name, version) = key;
        let dependencies: Vec<_> = package.dependencies.iter().filter_map(|it| index.get(it)).collect();
        // The form of cargo-auditable's list, with two members more.
        packages.push(json!({
            "name": name,
            "version": version,
            "source": if package.folder.is_some() { "local" } else { "crates.io" },
            "kind": if at_run_time.contains_key(key) { "runtime" } else { "build" },
            "dependencies": dependencies,
            "root": name == "fulexo-api",
            "checksum": lock.get(key),
            "license": (!package.license.is_empty()).then(|| spdx(&package.license)),
        }));
    }
    let list = Path::new(&env::var("OUT_DIR")?).join("dependencies");
    let mut encoder = ZlibEncoder::new(File::create(list)?, Compression::best());
    serde_json::to_writer(&mut encoder, &json!({ "packages": Value::from(packages) }))?;
    encoder.finish()?;

    println!("cargo::rerun-if-changed=build.rs");
    for manifest in ["Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(manifest).display());
    }
    for folder in all.values().filter_map(|package| package.folder.as_ref()) {
        println!("cargo::rerun-if-changed={folder}/Cargo.toml");
    }
    Ok(())
}

/// Asks cargo for the product's tree along these edges. The network is not used: cargo has just fetched what it needs.
fn tree(root: &Path, edges: &str) -> Result<BTreeMap<Key, Package>, Box<dyn Error>> {
    let output = Command::new(env::var("CARGO")?)
        .current_dir(root)
        .args(["tree", "--offline", "--locked", "--color", "never", "--package", "fulexo-api", "--edges", edges])
        .args(["--prefix", "depth", "--format", "\t{p}\t{l}", "--target", &env::var("TARGET")?])
        // This is no compilation of the workspace, and what is known of the compiler is cargo's own to keep.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_CACHE_RUSTC_INFO", "0")
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let mut packages: BTreeMap<Key, Package> = BTreeMap::new();
    let mut path: Vec<Key> = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let wrong = || format!("cargo tree: cannot read the line {line:?}");
        let [depth, package, license] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else {
            return Err(wrong().into());
        };
        let mut words = package.splitn(3, ' ');
        let (Some(name), Some(version)) = (words.next(), words.next().and_then(|it| it.strip_prefix('v'))) else {
            return Err(wrong().into());
        };
        let key = (name.to_owned(), version.to_owned());
        let origin = words.next().unwrap_or_default().replace("(*)", "").replace("(proc-macro)", "");
        let origin = origin.trim();
        let folder = origin.strip_prefix('(').and_then(|it| it.strip_suffix(')')).map(str::to_owned);
        if folder.as_ref().is_some_and(|it| !Path::new(it).is_absolute()) {
            return Err(format!("{name} comes from {origin}, of which no advisory can speak").into());
        }
        path.truncate(depth.parse()?);
        if let Some(parent) = path.last() {
            packages.entry(parent.clone()).or_default().dependencies.insert(key.clone());
        }
        let entry = packages.entry(key.clone()).or_default();
        license.trim_end_matches("(*)").trim().clone_into(&mut entry.license);
        entry.folder = folder;
        path.push(key);
    }
    Ok(packages)
}

/// Returns a licence as SPDX writes it: some packages have a slash for `OR`.
fn spdx(license: &str) -> String {
    license.replace('/', " OR ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads the checksums out of a lock file.
fn checksums(lock: &str) -> BTreeMap<Key, &str> {
    let value = |block: &'_ str, name: &str| -> Option<(usize, usize)> {
        let start = block.find(&format!("\n{name} = \""))? + name.len() + 5;
        Some((start, start + block.get(start..)?.find('"')?))
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            let text = |name| value(block, name).and_then(|(start, end)| block.get(start..end));
            Some(((text("name")?.to_owned(), text("version")?.to_owned()), text("checksum")?))
        })
        .collect()
}
