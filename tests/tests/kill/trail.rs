//! `fulexo audit`: a log that is sound is verified, and one that is not is caught, whoever changed it and however.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fulexo_tests::{Database, Ended, Node, Program, history, superuser};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::key::SignerKey;
use fulexo_tlog::note::Note;
use fulexo_tlog::tile::TileKind;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::block_in_place;

use crate::signing::{Signing, covered};

/// A log with a signer, and its database.
pub struct SignedLog {
    pub signing: Signing,
    pub database: Arc<Database>,
    pub pool: PgPool,
    pub node: Node,
    _signer: Program,
}

impl SignedLog {
    pub async fn of(events: usize) -> Self {
        let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
        let signer = signing.start();
        let pool = superuser(&database).await;
        history::fill(&database, events).await;
        let node = Node::with(&database, signing.node_env(&database)).await;
        let log = Self { signing, database, pool, node, _signer: signer };
        log.covered().await;
        log
    }

    pub async fn covered(&self) -> Checkpoint {
        covered(&self.signing, &self.pool).await
    }

    /// Runs a verb on the database of the log.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Program::run(arguments, &BTreeMap::from([("DATABASE_URL".to_owned(), self.database.url())]))
    }

    pub fn exported(&self, name: &str) -> PathBuf {
        let (directory, key) = (self.signing.path(name), self.signing.key.to_string());
        let ended = self.run(&["audit", "export", &directory.display().to_string(), "--key", &key]);
        assert!(ended.status.success(), "{}", ended.errors);
        directory
    }
}

/// Verifies a copy with the key that it names. Returns the kind of the fault, if it has one.
fn fault_of(directory: &Path, more: &[&str]) -> Option<String> {
    let directory = directory.display().to_string();
    let arguments = [&["audit", "verify", &directory, "--json"][..], more].concat();
    let ended = Program::start(&arguments, &BTreeMap::new()).wait();
    let result: Value = serde_json::from_str(&ended.said).unwrap_or_default();
    if ended.status.success() {
        assert_eq!(result["verified"], true, "{}", ended.said);
        return None;
    }
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
    let kind = result["fault"]["kind"].as_str();
    Some(kind.map_or_else(|| format!("unread: {}", ended.errors), str::to_owned))
}

/// All files below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(inner) = directories.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut directories } else { &mut files }.push(path);
        }
    }
    files.sort();
    files
}

pub fn copied(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_log_is_verified_and_every_flipped_byte_of_it_is_caught() {
    let log = SignedLog::of(9).await;
    let copy = log.exported("copy");
    assert_eq!(block_in_place(|| fault_of(&copy, &["--key", &log.signing.key.to_string()])), None);
    let files = files(&copy).into_iter().filter(|file| !file.ends_with("README.md"));
    let changes: Vec<(PathBuf, usize)> = files
        .flat_map(|file| (0..fs::read(&file).unwrap().len()).map(move |at| (file.clone(), at)).collect::<Vec<_>>())
        .collect();
    assert!(changes.len() > 3_000, "{}", changes.len());
    let next = AtomicUsize::new(0);
    block_in_place(|| {
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let own = log.signing.path(&format!("flipped-{worker}"));
                copied(&copy, &own);
                let (changes, next, copy) = (&changes, &next, &copy);
                scope.spawn(move || {
                    while let Some((file, at)) = changes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let target = own.join(file.strip_prefix(copy).unwrap());
                        let sound = fs::read(file).unwrap();
                        let mut flipped = sound.clone();
                        flipped[*at] ^= 1 << (*at % 8);
                        fs::write(&target, flipped).unwrap();
                        assert!(fault_of(&own, &[]).is_some(), "byte {at} of {}", target.display());
                        fs::write(&target, sound).unwrap();
                    }
                    assert_eq!(fault_of(&own, &[]), None);
                });
            }
        });
    });
}

/// The name of a change, the kinds of the fault that it makes, and the change.
type Tampering<'a> = (&'static str, &'static [&'static str], &'a dyn Fn(&Path));

/// Changes a file.
fn edit(file: &Path, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    fs::write(file, change(fs::read(file).unwrap())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_changed_as_a_whole_is_caught_and_the_fault_has_its_name() {
    let log = SignedLog::of(600).await;
    let copy = log.exported("copy");
    let size = log.covered().await.size;
    let path = |kind: TileKind, index: u64| kind.tile(index, size).unwrap().to_string();
    let bundle = path(TileKind::Entries, 2);
    let entry = |content: &[u8]| 2 + usize::from(u16::from_be_bytes([content[0], content[1]]));
    let truncated = |dir: &Path| edit(&dir.join(&bundle), |it| it[..it.len() - 1].to_vec());
    let shorter = |dir: &Path| edit(&dir.join(&bundle), |it| it[entry(&it)..].to_vec());
    let longer = |dir: &Path| edit(&dir.join(&bundle), |it| [&it[..], &[0, 0]].concat());
    let reordered = |dir: &Path| {
        edit(&dir.join(&bundle), |it| {
            let one = entry(&it);
            let two = one + entry(&it[one..]);
            [&it[one..two], &it[..one], &it[two..]].concat()
        });
    };
    let replaced = |dir: &Path| {
        edit(&dir.join(&bundle), |it| [&it[..40], &[it[40] ^ 1], &it[41..]].concat());
    };
    let without_bundle = |dir: &Path| fs::remove_file(dir.join(&bundle)).unwrap();
    let without_tile = |dir: &Path| fs::remove_file(dir.join(path(TileKind::Hashes(0), 1))).unwrap();
    let long_tile = |dir: &Path| edit(&dir.join(path(TileKind::Hashes(0), 2)), |it| [&it[..], &[0; 32]].concat());
    let stale = |dir: &Path| {
        fs::create_dir_all(dir.join("tile/0/000.p")).unwrap();
        fs::write(dir.join("tile/0/000.p/7"), [0; 224]).unwrap();
    };
    let other_root = |dir: &Path| {
        edit(&dir.join("checkpoint"), |it| {
            let note = String::from_utf8(it).unwrap();
            let root = note.lines().nth(2).unwrap().to_owned();
            note.replace(&root, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").into_bytes()
        });
    };
    let unsigned = |dir: &Path| {
        edit(&dir.join("checkpoint"), |it| {
            let note = String::from_utf8(it).unwrap();
            note.split_inclusive('\n')
                .filter(|line| !line.contains("log.example/killed "))
                .collect::<String>()
                .into_bytes()
        });
    };
    let cases: [Tampering<'_>; 11] = [
        ("truncated", &["bundle"], &truncated),
        ("shorter", &["bundle"], &shorter),
        ("longer", &["bundle"], &longer),
        // Whoever swaps two events breaks a stream, or the order of times, or the tile.
        ("reordered", &["stream", "time", "tile"], &reordered),
        ("replaced", &["leaf", "tile", "stream"], &replaced),
        ("without-bundle", &["missing"], &without_bundle),
        ("without-tile", &["missing"], &without_tile),
        ("long-tile", &["tile"], &long_tile),
        ("stale", &["unexpected"], &stale),
        ("other-root", &["checkpoint", "signature"], &other_root),
        ("unsigned", &["signature"], &unsigned),
    ];
    for (name, kinds, change) in cases {
        let directory = log.signing.path(name);
        copied(&copy, &directory);
        change(&directory);
        let found = block_in_place(|| fault_of(&directory, &[])).unwrap_or_default();
        assert!(kinds.contains(&found.as_str()), "{name}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_resumed_extended_and_never_extended_by_another_history() {
    let log = SignedLog::of(240).await;
    let copy = log.exported("copy");
    let kept = log.signing.path("kept");
    fs::copy(copy.join("checkpoint"), &kept).unwrap();
    // A copy that was interrupted: some files, and no checkpoint.
    let begun = log.signing.path("begun");
    copied(&copy, &begun);
    fs::remove_file(begun.join("checkpoint")).unwrap();
    fs::remove_file(begun.join("tile/0/000.p/240")).unwrap();
    assert_eq!(log.exported("begun"), begun);
    let names = |dir: &Path| files(dir).iter().map(|it| it.strip_prefix(dir).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&begun), names(&copy));

    // Beyond the first full tile.
    for _ in 0..8 {
        log.node.customer().await;
    }
    assert!(log.covered().await.size > 256);
    log.exported("copy");
    let since = kept.display().to_string();
    assert_eq!(block_in_place(|| fault_of(&copy, &["--since", &since])), None);
    let fresh = log.exported("fresh");
    assert_eq!(names(&copy), names(&fresh), "an extended copy is the same as a new one");

    // Somebody with the log's key signs another history.
    let key = SignerKey::parse(fs::read_to_string(log.signing.path("log.key")).unwrap().trim_end()).unwrap();
    let other = SignedLog::of(400).await;
    let theirs = other.exported("theirs");
    let published = Note::parse(&fs::read(theirs.join("checkpoint")).unwrap()).unwrap();
    let mut forged = Checkpoint::parse(published.text()).unwrap();
    forged.origin = key.verifier().name().clone();
    let mut note = Note::new(forged.to_string(), key.sign(&forged, 1).unwrap());
    note.add(published.signatures().last().unwrap().clone());
    fs::write(theirs.join("checkpoint"), note.to_string()).unwrap();
    fs::write(theirs.join("log.vkey"), log.signing.key.to_string()).unwrap();
    fs::remove_file(theirs.join("policy")).unwrap();
    assert_eq!(block_in_place(|| fault_of(&theirs, &[])), None, "it is sound in itself");
    let fault = block_in_place(|| fault_of(&theirs, &["--since", &since]));
    assert_eq!(fault.as_deref(), Some("history"), "whoever kept a checkpoint sees it");
    let (theirs, begun) = (theirs.display().to_string(), begun.display().to_string());
    let extended = Program::run(&["audit", "export", &begun, &theirs], &BTreeMap::new());
    assert_eq!(extended.status.code(), Some(1), "{}", extended.said);
    assert!(extended.errors.contains("no longer begins with it"), "{}", extended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_proven_offline_to_whoever_has_the_key() {
    let log = SignedLog::of(700).await;
    let key = log.signing.key.to_string();
    let file = log.signing.path("proof").display().to_string();
    let run = |arguments: &[&str]| Program::run(arguments, &BTreeMap::new());
    for position in ["0", "255", "256", "699"] {
        let made = log.run(&["audit", "proof", position, "--out", &file]);
        assert!(made.status.success(), "{}", made.errors);
        let checked = run(&["audit", "check", &file, "--key", &key, "--json"]);
        assert!(checked.status.success(), "{}", checked.errors);
        let result: Value = serde_json::from_str(&checked.said).unwrap();
        assert_eq!((&result["verified"], result["position"].to_string().as_str()), (&Value::Bool(true), position));
        assert!(result["event"]["type"].is_string());
    }
    assert_eq!(run(&["audit", "check", &file]).status.code(), Some(2), "a proof does not say whom to trust");
    let other = Signing::new().key.to_string();
    assert_eq!(run(&["audit", "check", &file, "--key", &other]).status.code(), Some(1));
    let proof = fs::read_to_string(&file).unwrap();
    let altered = log.signing.path("altered").display().to_string();
    fs::write(&altered, proof.replace("index 699", "index 698")).unwrap();
    assert_eq!(run(&["audit", "check", &altered, "--key", &key]).status.code(), Some(1));
    let beyond = log.run(&["audit", "proof", "100000"]);
    assert_eq!(beyond.status.code(), Some(2), "{}", beyond.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_is_verified_over_http_and_its_database_from_within() {
    let log = SignedLog::of(2_000).await;
    let auditor = log.node.auditor().await;
    log.covered().await;
    let token = log.signing.path("token");
    fs::write(&token, auditor.access_token.clone().unwrap()).unwrap();
    let (key, token) = (log.signing.key.to_string(), token.display().to_string());
    let verify = |more: &[&str]| log.run(&[&["audit", "verify", "--key", &key][..], more].concat());
    let verified = verify(&[&log.node.url, "--token-file", &token]);
    assert!(verified.status.success(), "{}", verified.errors);
    assert!(verified.said.starts_with("verified 2,0"), "{}", verified.said);
    let unread = verify(&[&log.node.url]);
    assert_eq!(unread.status.code(), Some(1));
    assert!(unread.errors.contains("--token-file"), "{}", unread.errors);
    let verified = verify(&[]);
    assert!(verified.status.success(), "{}", verified.errors);

    // What only the database has.
    let version = |by: &str| format!("update log.event_0 set version = version {by} where position = 1500");
    let flip = "update log.sealed set ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1)
                where position = (select max(position) from log.sealed)";
    for (change, undo, kind) in [(version("+ 1"), version("- 1"), "row"), (flip.to_owned(), flip.to_owned(), "sealed")]
    {
        let run = async |statement: &str| {
            let all = format!(
                "set session_replication_role = replica; alter table log.event_0 disable trigger all; {statement}"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(&log.pool).await.unwrap();
        };
        run(&change).await;
        let found: Value = serde_json::from_str(&verify(&["--json"]).said).unwrap();
        assert_eq!(found["fault"]["kind"], kind, "{found}");
        assert!(found["fault"]["position"].is_u64(), "{found}");
        run(&undo).await;
        assert!(verify(&[]).status.success());
    }
}
