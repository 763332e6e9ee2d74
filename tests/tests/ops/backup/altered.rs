//! Backups that somebody has altered: each is refused, and the report names the rung.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fulexo_ops::age::parse_identities;
use fulexo_tests::{Database, Program};
use fulexo_tlog::key::SignerKey;
use fulexo_tlog::note::Note;
use serde_json::Value;

use super::{Ground, assert_stops, keygen};

/// Copies a backup to a target of its own, so that one alteration does not meet another.
fn copied(ground: &Ground, backup: &Path, number: usize) -> PathBuf {
    let copy = ground.dir.path().join(format!("copy-{number}")).join(backup.file_name().unwrap());
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(backup).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Signs a manifest with the key in a file, whoever it belongs to.
fn sign(backup: &Path, key: &str) {
    use base64::Engine;
    use sha2::{Digest, Sha256};
    let key = SignerKey::parse(fs::read_to_string(key).unwrap().trim_end()).unwrap();
    let digest = Sha256::digest(fs::read(backup.join("manifest.json")).unwrap());
    let digest = base64::engine::general_purpose::STANDARD.encode(digest);
    let name = backup.file_name().unwrap().to_str().unwrap();
    let text = format!("fulexo.dev/backup/v1\n{name}\n{digest}\n");
    let signature = key.sign_text(&text).unwrap();
    fs::write(backup.join("manifest.note"), Note::new(text, signature).to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_backup_is_refused_at_the_rung_that_it_is_altered_at() {
    let database = Database::create().await;
    let ground = Ground::new(&database);
    let earlier = ground.create();
    std::thread::sleep(Duration::from_secs(1));
    let backup = ground.create();
    let forger = ground.file("forger.key");
    keygen(&["--signing", "tests.example/backups", "--out", &forger]);
    let signer = ground.file("signing.key");

    type Alteration<'a> = (&'a str, &'a str, Box<dyn Fn(&Path) + 'a>);
    let alterations: Vec<Alteration<'_>> = vec![
        (
            "a flipped bit",
            "checksums",
            Box::new(|dir| change(&dir.join("database.age"), |it| *it.last_mut().unwrap() ^= 1)),
        ),
        (
            "a truncated part",
            "checksums",
            Box::new(|dir| change(&dir.join("database.age"), |it| it.truncate(it.len() - 7))),
        ),
        ("a longer part", "checksums", Box::new(|dir| change(&dir.join("keys.age"), |it| it.push(0)))),
        ("an empty part", "checksums", Box::new(|dir| change(&dir.join("keys.age"), Vec::clear))),
        (
            "a part of another backup",
            "checksums",
            Box::new(|dir| {
                fs::copy(earlier.join("database.age"), dir.join("database.age")).unwrap();
            }),
        ),
        (
            "parts that were exchanged",
            "checksums",
            Box::new(|dir| {
                fs::copy(backup.join("keys.age"), dir.join("database.age")).unwrap();
                fs::copy(backup.join("database.age"), dir.join("keys.age")).unwrap();
            }),
        ),
        ("a missing part", "checksums", Box::new(|dir| fs::remove_file(dir.join("database.age")).unwrap())),
        (
            "an altered manifest",
            "signature",
            Box::new(|dir| {
                change(&dir.join("manifest.json"), |it| {
                    *it =
                        String::from_utf8(it.clone()).unwrap().replace("\"position\":0", "\"position\":1").into_bytes()
                });
            }),
        ),
        ("a manifest that somebody else has signed", "signature", Box::new(|dir| sign(dir, &forger))),
        (
            "the manifest of another backup",
            "signature",
            Box::new(|dir| {
                for file in ["manifest.json", "manifest.note"] {
                    fs::copy(earlier.join(file), dir.join(file)).unwrap();
                }
            }),
        ),
        ("no signature", "signature", Box::new(|dir| fs::remove_file(dir.join("manifest.note")).unwrap())),
        (
            "a manifest without a part, signed",
            "signature",
            Box::new(|dir| {
                change(&dir.join("manifest.json"), |it| {
                    let mut manifest: Value = serde_json::from_slice(it).unwrap();
                    manifest["parts"].as_array_mut().unwrap().pop();
                    *it = serde_json::to_vec(&manifest).unwrap();
                });
                sign(dir, &signer);
            }),
        ),
    ];
    for (number, (what, rung, alter)) in alterations.iter().enumerate() {
        let copy = copied(&ground, &backup, number);
        alter(&copy);
        let (code, report) = ground.verify(copy.to_str().unwrap(), &[]);
        assert_eq!(code, 1, "{what}: {report:#}");
        assert_stops(&report, rung, "found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_identity_nothing_is_decrypted_and_nothing_is_claimed() {
    let database = Database::create().await;
    let ground = Ground::new(&database);
    let backup = ground.create();
    let (main, keys, other) = (ground.file("main"), ground.file("keys"), ground.file("other"));
    for identities in [vec![], vec![other.as_str()], vec![&keys], vec![&main]] {
        let (code, report) = ground.verify_with(backup.to_str().unwrap(), &identities, &[]);
        assert_eq!(code, 3, "{identities:?}: {report:#}");
        assert_stops(&report, "format", "not_checked");
    }
    let listed: Value = serde_json::from_str(&ground.run(&["list", "--json"]).said).unwrap();
    assert_eq!(listed["verified"]["rungs"], serde_json::json!(["signature", "checksums"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_never_overwritten_and_only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = fulexo_tests::own_dir();
    let file = dir.path().join("identity").display().to_string();
    let recipient = keygen(&["--out", &file]);
    assert!(recipient.starts_with("age1"), "{recipient}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&file).unwrap();
    let again = Program::run(&["backup", "keygen", "--out", &file], &std::collections::BTreeMap::new());
    assert_eq!((again.status.code(), fs::read(&file).unwrap()), (Some(1), before), "{}", again.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hybrid_identity_is_the_one_whose_recipient_is_printed() {
    let file = fulexo_tests::own_dir().path().join("hybrid").display().to_string();
    let recipient = keygen(&["--hybrid", "--out", &file]);
    let identities = parse_identities(&fs::read_to_string(&file).unwrap()).unwrap();
    assert!(recipient.starts_with("age1pq1"), "{recipient}");
    assert_eq!(identities[0].recipient().to_string(), recipient);
}
