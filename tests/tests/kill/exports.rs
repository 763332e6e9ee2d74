//! Exports of the audit trail by the program itself: by the verb, and by a node whose memory does not grow with them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use fulexo_tests::{Client, Database, Dice, Ended, Node, Program, eventually, history, own_dir, superuser};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::signing::{Signing, covered};

/// The events of the log; a full tile, and an unfinished one behind it.
const EVENTS: usize = 700;
/// The events of a long log: in OCSF about 100 MB.
const MANY: usize = 100_000;

fn run(env: &BTreeMap<String, String>, arguments: &[&str]) -> Ended {
    Program::run(&[&["audit", "export"], arguments].concat(), env)
}

fn sequences(lines: &str) -> Vec<u64> {
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["metadata"]["sequence"].as_u64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_writes_what_every_keeper_of_the_log_has() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let _signer = signing.start();
    let pool = superuser(&database).await;
    history::fill(&database, EVENTS).await;
    let node = Node::with(&database, signing.node_env(&database)).await;
    covered(&signing, &pool).await;
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), database.url())]);
    let copy = signing.path("copy");
    let copy = copy.to_str().unwrap();
    let key = signing.key.to_string();
    assert!(run(&env, &[copy, "--key", &key]).status.success());
    node.stop().await;
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("select leaf from log.event order by position").fetch_all(&pool).await.unwrap();
    let leaves: Vec<String> = leaves.into_iter().map(|leaf| String::from_utf8(leaf).unwrap()).collect();
    let event: Value = serde_json::from_str(&leaves[EVENTS / 2]).unwrap();
    let (middle, first) = (event["time"].as_str().unwrap(), |wanted: &str| {
        let time = |leaf: &String| serde_json::from_str::<Value>(leaf).unwrap()["time"].as_str().unwrap().to_owned();
        leaves.iter().position(|leaf| *time(leaf) >= *wanted).unwrap()
    });
    let at_middle = first(middle);
    for source in [&[][..], &[copy, "--key", &key]] {
        let whole = run(&env, &[&["--format", "leaves"], source].concat());
        assert!(whole.status.success(), "{}", whole.errors);
        assert_eq!(whole.said.lines().count(), leaves.len(), "{source:?}");
        assert!(whole.said.lines().eq(leaves.iter().map(String::as_str)), "{source:?}");
        let after = run(&env, &[&["--format", "ocsf", "--after", "300"], source].concat());
        assert_eq!(sequences(&after.said), (301..leaves.len() as u64).collect::<Vec<_>>(), "{source:?}");
        let from = run(&env, &[&["--format", "ocsf", "--ocsf-version", "1.9.0", "--from", middle], source].concat());
        assert_eq!(sequences(&from.said)[0], at_middle as u64, "{source:?}");
        let to = run(&env, &[&["--format", "ocsf", "--to", middle], source].concat());
        assert_eq!(sequences(&to.said), (0..at_middle as u64).collect::<Vec<_>>(), "{source:?}");
        let none = run(&env, &[&["--format", "ndjson", "--after", "999999"], source].concat());
        assert!(none.status.success() && none.said.is_empty(), "{}", none.errors);
    }
    // A new file, whole; and none that is there.
    let file = signing.path("audit.ndjson");
    let out = ["--format", "ndjson", "--out", file.to_str().unwrap()];
    assert!(run(&env, &out).status.success());
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), leaves.len());
    assert_eq!(run(&env, &out).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_fails_where_its_lines_are_not_whole_and_says_how_far_they_go() {
    let database = Arc::new(Database::create().await);
    history::fill(&database, EVENTS).await;
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), database.url())]);
    let pool = superuser(&database).await;
    for statement in
        ["alter table log.event_0 disable trigger append_only", "delete from log.event_0 where position = 500"]
    {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let dir = own_dir();
    let file = dir.path().join("audit.ndjson");
    let ended = run(&env, &["--format", "ndjson", "--out", file.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(1));
    let text = fs::read_to_string(&file).unwrap();
    let last: Option<Value> = text.lines().last().map(|line| serde_json::from_str(line).unwrap());
    match last.map(|line| line["position"].as_u64().unwrap()) {
        Some(last) => assert!(ended.errors.contains(&format!("--after {last}")) && last < 500, "{}", ended.errors),
        None => assert!(ended.errors.contains("no event was written"), "{}", ended.errors),
    }
    assert!(ended.errors.contains("500"), "{}", ended.errors);
    for arguments in [
        &["--format", "csv"][..],
        &["--after", "3"],
        &["--format", "leaves", "--ocsf-version", "1.8.0"],
        &["--format", "leaves", "/nonexistent", "elsewhere"],
        &["--format", "leaves", "--from", "yesterday"],
        &[],
    ] {
        assert_eq!(run(&env, arguments).status.code(), Some(2), "{arguments:?}");
    }
    // Nobody reads: what is not whole is not taken for whole.
    let unread = block_in_place(|| {
        Program::start_unread(&["audit", "export", "--format", "leaves", "--after", "500"], &env).wait()
    });
    assert_eq!(unread.status.code(), Some(1), "{}", unread.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_continued_is_the_one_that_was_never_interrupted() {
    let database = Arc::new(Database::create().await);
    history::fill(&database, EVENTS).await;
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), database.url())]);
    let dir = own_dir();
    let file = dir.path().join("audit.ndjson");
    let path = file.to_str().unwrap();
    for format in [&["--format", "ndjson"][..], &["--format", "ocsf", "--ocsf-version", "1.9.0"]] {
        let whole = run(&env, format).said;
        let resume = [format, &["--out", path, "--resume"]].concat();
        let begun = run(&env, &resume);
        assert!(begun.status.success(), "{}", begun.errors);
        assert_eq!(fs::read_to_string(&file).unwrap(), whole, "a file that is not there is begun");
        // As a process leaves it that was killed while it wrote: whole lines, and a part of one.
        let mut dice = Dice(5);
        let first = whole.find('\n').unwrap() + 1;
        for _ in 0..20 {
            let cut = first + dice.index(whole.len() - first + 1);
            fs::write(&file, &whole.as_bytes()[..cut]).unwrap();
            let resumed = run(&env, &resume);
            assert!(resumed.status.success(), "{}", resumed.errors);
            assert_eq!(fs::read_to_string(&file).unwrap(), whole, "cut at {cut}");
        }
        let again = run(&env, &resume);
        assert!(again.status.success() && again.errors.contains("no events after those"), "{}", again.errors);
        assert_eq!(fs::read_to_string(&file).unwrap(), whole);
        fs::write(&file, "").unwrap();
        assert!(run(&env, &resume).status.success());
        assert_eq!(fs::read_to_string(&file).unwrap(), whole, "an empty file is begun");
        // What is somebody else's stays as it is.
        let other = if format.len() == 2 { &["--format", "ocsf"][..] } else { &["--format", "ndjson"] };
        for (content, format) in
            [(whole.as_str(), other), ("notes\n{\"position\":", format), ("{\"leaf_hash\"", format)]
        {
            fs::write(&file, content).unwrap();
            let refused = run(&env, &[format, &["--out", path, "--resume"]].concat());
            assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
            assert!(refused.errors.contains("does not end like an export"), "{}", refused.errors);
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
        let held = fs::File::open(&file).unwrap();
        held.lock().unwrap();
        let busy = run(&env, &resume);
        assert!(busy.status.code() == Some(1) && busy.errors.contains("another export writes"), "{}", busy.errors);
        drop(held);
        fs::remove_file(&file).unwrap();
    }
    // Killed for real, while it writes, and the log grows meanwhile.
    let resume = ["--format", "ocsf", "--out", path, "--resume"];
    let mut dice = Dice(6);
    for _ in 0..6 {
        let mut program = Program::start(&[&["audit", "export"][..], &resume].concat(), &env);
        tokio::time::sleep(std::time::Duration::from_millis(dice.roll(120))).await;
        program.kill();
        history::fill(&database, 2_000).await;
    }
    assert!(run(&env, &resume).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), run(&env, &resume[..2]).said);
    for misused in [
        &["--format", "leaves", "--out", path, "--resume"][..],
        &["--format", "ocsf", "--resume"],
        &["--format", "ocsf", "--out", path, "--resume", "--after", "3"],
        &["--format", "ocsf", "--out", path, "--resume", "--from", "2026-01-01T00:00:00Z"],
    ] {
        assert_eq!(run(&env, misused).status.code(), Some(2), "{misused:?}");
    }
}

/// Returns the resident memory of a process in MiB (proc(5)).
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_grow_with_an_export_that_is_read_slowly_and_stops_beside_it() {
    let database = Arc::new(Database::create().await);
    history::fill(&database, MANY).await;
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    let registered = Program::run(&["register", "--email", "auditor@example.com", "--role", "auditor", "--json"], &env);
    assert!(registered.status.success(), "{}", registered.errors);
    let printed: Value = serde_json::from_str(&registered.said).unwrap();
    let mut program = Program::start(&["serve"], &env);
    let url = block_in_place(|| program.says("listening on "));
    let mut auditor = Client::new(&url);
    let login = json!({"email": "auditor@example.com", "password": printed["password"]});
    let answer = auditor.post("/v1/auth/login", login).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    auditor.log_in_with(&answer);
    // As long as it gets on: a long history takes a slow machine minutes.
    for events in (0..=MANY as u64).step_by(2_000) {
        eventually("the index gets on", async || auditor.get("/v1/audit/events?limit=1").await.position() >= events)
            .await;
    }
    let before = resident(program.pid());
    let mut most = before;
    let mut export = auditor.open(Method::GET, "/v1/audit/export?format=ocsf", None, "").await.unwrap();
    let (mut bytes, mut lines) = (0, 0);
    while let Some(frame) = export.body_mut().frame().await {
        let frame = frame.unwrap();
        let data = frame.data_ref().unwrap();
        let line_breaks = data.iter().filter(|byte| **byte == b'\n').count() as u64;
        if (bytes + data.len()) / 4_000_000 > bytes / 4_000_000 {
            // Others are served meanwhile.
            assert_eq!(auditor.get("/v1/audit/events?limit=5").await.status, 200);
            most = most.max(resident(program.pid()));
        }
        (bytes, lines) = (bytes + data.len(), lines + line_breaks);
    }
    assert!(lines >= MANY as u64 && bytes > 750 * MANY, "{lines} lines, {bytes} bytes");
    assert!(most < before + 48, "from {before} to {most} MiB");
    // One that nobody reads does not keep the node: its drain is the usual one.
    let _unread = auditor.open(Method::GET, "/v1/audit/export", None, "").await.unwrap();
    let ended = block_in_place(|| program.stop("TERM"));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
}
