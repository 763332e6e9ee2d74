//! The proof vectors of transparency-dev/merkle, which sigstore-merkle carries in its package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::proof::{verify_consistency, verify_inclusion};
use serde_json::Value;

/// Returns every vector below this folder of the package.
fn vectors(folder: &str) -> Vec<(PathBuf, Value)> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == "sigstore-merkle");
    let manifest = Path::new(package.unwrap()["manifest_path"].as_str().unwrap());
    let (mut folders, mut vectors) =
        (vec![manifest.with_file_name("test-data/merkle/testdata").join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let vector = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                vectors.push((path, vector));
            }
        }
    }
    vectors
}

/// Reads a hash; `None` for one of another length, which no reader of ours lets in.
fn hash(value: &Value) -> Option<TreeHash> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap().try_into().ok().map(TreeHash)
}

fn proof(value: &Value) -> Option<Vec<TreeHash>> {
    value.as_array().map_or(Some(Vec::new()), |hashes| hashes.iter().map(hash).collect())
}

#[test]
fn inclusion_proofs_are_judged_as_the_vectors_say() {
    let vectors = vectors("inclusion");
    assert!(vectors.len() > 90, "{}", vectors.len());
    for (path, vector) in vectors {
        let (position, size) = (vector["leafIdx"].as_u64().unwrap(), vector["treeSize"].as_u64().unwrap());
        let holds = || {
            let (leaf, root) = (hash(&vector["leafHash"])?, hash(&vector["root"])?);
            verify_inclusion(leaf, position, size, &proof(&vector["proof"])?, root).ok()
        };
        assert_eq!(holds().is_none(), vector["wantErr"].as_bool().unwrap(), "{}", path.display());
    }
}

#[test]
fn consistency_proofs_are_judged_as_the_vectors_say() {
    let vectors = vectors("consistency");
    assert!(vectors.len() > 90, "{}", vectors.len());
    for (path, vector) in vectors {
        let (old_size, size) = (vector["size1"].as_u64().unwrap(), vector["size2"].as_u64().unwrap());
        let holds = || {
            let (old_root, root) = (hash(&vector["root1"])?, hash(&vector["root2"])?);
            verify_consistency(old_size, old_root, size, root, &proof(&vector["proof"])?).ok()
        };
        // A few have other bytes for a hash where the two are merely compared. Ours are hashes by their type.
        let are_hashes = [&vector["root1"], &vector["root2"]].into_iter().all(|root| hash(root).is_some());
        let is_refused = vector["wantErr"].as_bool().unwrap() || !are_hashes;
        assert_eq!(holds().is_none(), is_refused, "{}", path.display());
    }
}
