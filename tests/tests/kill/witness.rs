//! `fulexo witness` against a second implementation of the protocol: the same answers, killed at any moment, out of space.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_dev_servers::DataDir;
use fulexo_tests::second_tlog::{SecondAnswer, SecondLog, SecondWitness, get, post, submission, verify_cosignature};
use fulexo_tests::{Database, Dice, Node, Program, eventually, free_port, own_dir, superuser};
use sha2::{Digest, Sha256};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use crate::signing::{Signing, covered};

const ORIGIN: &str = "log.example/witnessed";

/// A witness's directory and its variables.
struct Witnessing {
    dir: DataDir,
    env: BTreeMap<String, String>,
    vkeys: Vec<String>,
}

impl Witnessing {
    fn new(logs: &[String]) -> Self {
        let dir = own_dir();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let new_key = |name: &str, more: &[&str]| {
            let out = file(name);
            let arguments = [&["witness", "new-key", "witness.example/w1", "--out", &out], more].concat();
            let made = Program::run(&arguments, &BTreeMap::new());
            assert!(made.status.success(), "{}", made.errors);
            made.said.trim_end().to_owned()
        };
        fs::create_dir(file("state")).unwrap();
        let vkeys = vec![new_key("ed25519", &[]), new_key("ml-dsa", &["--ml-dsa-44"])];
        let keys = ["ed25519", "ml-dsa"].map(|name| fs::read_to_string(file(name)).unwrap()).concat();
        dir.store("keys", &keys).unwrap();
        dir.store("logs", &format!("# who we witness\n\n{}\n", logs.join("\n"))).unwrap();
        let env = [
            ("FULEXO_WITNESS_KEY_FILE", file("keys")),
            ("FULEXO_WITNESS_LOGS_FILE", file("logs")),
            ("FULEXO_WITNESS_STATE", file("state")),
            // Where those who ask it find it again after a restart.
            ("FULEXO_PORT", free_port().to_string()),
        ];
        Self { env: env.map(|(name, value)| (name.to_owned(), value)).into(), vkeys, dir }
    }

    /// Starts it; returns the program and its URL.
    fn start(&self) -> (Program, String) {
        block_in_place(|| {
            let mut witness = Program::start(&["witness"], &self.env);
            let on = witness.says("witnessing ");
            let url = on.split_once(" on ").unwrap().1.to_owned();
            (witness, url)
        })
    }

    fn state(&self, origin: &str) -> PathBuf {
        self.dir.path().join("state").join(hash(origin))
    }

    /// Panics unless both keys have cosigned the checkpoint, at about this time.
    fn assert_cosigned(&self, note: &str, answer: &SecondAnswer) {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body.lines().count(), self.vkeys.len(), "{answer:?}");
        for (line, vkey) in answer.body.lines().zip(&self.vkeys) {
            let time = verify_cosignature(note, line, vkey).unwrap_or_else(|| panic!("{line} of {vkey}"));
            let now = fulexo_node::clock::now().timestamp().unsigned_abs();
            assert!(now.abs_diff(time) < 600, "{time}");
        }
    }
}

fn hash(origin: &str) -> String {
    Sha256::digest(origin).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log(seed: u8, leaves: u64) -> SecondLog {
    let mut log = SecondLog::new(ORIGIN, [seed; 32]);
    (0..leaves).for_each(|leaf| log.push(&leaf.to_be_bytes()));
    log
}

/// A log with the same key that has other leaves from this position on.
fn fork(seed: u8, common: u64, leaves: u64) -> SecondLog {
    let mut log = log(seed, common);
    (common..leaves).for_each(|leaf| log.push(format!("other {leaf}").as_bytes()));
    log
}

/// A submission of any kind: honest ones, and each of the ways in which one can be wrong.
fn any_submission(
    dice: &mut Dice,
    honest: &SecondLog,
    forked: &SecondLog,
    stranger: &SecondLog,
    known: u64,
) -> Vec<u8> {
    let most = honest.size();
    let size = if dice.roll(3) == 0 { dice.roll(known + 3) } else { known + dice.roll(3) }.min(most);
    let old = if dice.roll(4) == 0 { dice.roll(known + 3).min(most) } else { known };
    let body = match dice.roll(12) {
        0 => forked.body(old, size),
        1 => stranger.body(old, size),
        2 => SecondLog::new("log.example/nobody", [9; 32]).body(0, 0),
        3 => {
            let other = SecondLog::new(ORIGIN, [99; 32]).sign(&honest.text(size));
            submission(old, &[], &other)
        }
        4 => {
            // A proof of another size.
            let from = 1 + dice.roll(most);
            submission(old, &honest.consistency(from, most), &honest.note(size))
        }
        5 => submission(old, &vec![[7; 32]; dice.index(65)], &honest.note(size)),
        6 => submission(old, &[], &honest.sign(&format!("{ORIGIN}\n0\n{}", honest.text(size).lines().nth(2).unwrap()))),
        _ => honest.body(old, size),
    };
    let mut body = body.into_bytes();
    match dice.roll(10) {
        0 => {
            let place = dice.index(body.len());
            body[place] ^= 1 << dice.roll(8);
        }
        1 => body.truncate(dice.index(body.len())),
        2 => {
            let place = dice.index(body.len());
            body.insert(place, dice.pick(&[b'\n', b' ', b'0', b'\r', 0, 0xff]));
        }
        _ => {}
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_answers_as_the_second_implementation_does_whatever_it_is_sent() {
    let (honest, forked, stranger) = (log(1, 600), fork(1, 20, 600), fork(2, 0, 600));
    let logs = [honest.vkey()];
    let witnessing = Witnessing::new(&logs);
    let (_program, url) = witnessing.start();
    let second = SecondWitness::start("witness.example/second", [5; 32], &logs).await;
    let (url, second_url) = (format!("{url}/add-checkpoint"), format!("{}/add-checkpoint", second.url()));
    let mut dice = Dice(14);
    let mut statuses: BTreeMap<u16, u32> = BTreeMap::new();
    for round in 0..2_000 {
        let known = second.size(ORIGIN);
        assert!(known < honest.size(), "the log is at its end in round {round}");
        let body = any_submission(&mut dice, &honest, &forked, &stranger, known);
        let (ours, theirs) = (post(&url, body.clone()).await, post(&second_url, body.clone()).await);
        let text = String::from_utf8_lossy(&body).into_owned();
        // Ours calls malformed what the specification advises against: an origin that can be no key's name, and lines behind the
        // root. No log here signs them, so the other does not cosign them either.
        let lines: Vec<&str> = text.split_once("\n\n").map(|(_, note)| note.lines().collect()).unwrap_or_default();
        let is_unnamed = lines.first().is_some_and(|origin| {
            origin.contains(|sign: char| sign.is_whitespace() || sign.is_control() || sign == '+')
        });
        let is_longer = lines.get(3).is_some_and(|line| !line.is_empty());
        let is_same = ours.status == theirs.status
            || ((is_unnamed || is_longer) && ours.status == 400 && [403, 404].contains(&theirs.status));
        assert!(is_same, "round {round}: {text}\n{ours:?}\n{theirs:?}");
        match ours.status {
            200 => {
                let note = text.split_once("\n\n").unwrap().1;
                witnessing.assert_cosigned(note, &ours);
                // The state is on the disk before the answer.
                let stored = fs::read_to_string(witnessing.state(ORIGIN)).unwrap();
                assert!(ours.body.lines().all(|line| stored.contains(line)), "{stored}");
            }
            409 => {
                assert_eq!(ours.content_type.as_deref(), Some("text/x.tlog.size"), "{ours:?}");
                assert_eq!(ours.body, theirs.body);
            }
            _ => {}
        }
        *statuses.entry(ours.status).or_default() += 1;
    }
    for status in [200, 400, 403, 404, 409, 422] {
        assert!(statuses.get(&status).is_some_and(|count| *count >= 5), "{status} among {statuses:?}");
    }

    // What monitors see is what was cosigned, by the log and by both keys.
    let base = url.strip_suffix("/add-checkpoint").unwrap();
    let monitored = get(&format!("{base}/{}/checkpoint", hash(ORIGIN))).await;
    let latest = second.latest(ORIGIN).unwrap();
    assert_eq!(monitored.status, 200);
    assert_eq!(monitored.body.split_once("\n\n").unwrap().0, latest.split_once("\n\n").unwrap().0);
    let lines: Vec<&str> = monitored.body.split_once("\n\n").unwrap().1.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(monitored.body.contains(latest.split_once("\n\n").unwrap().1.lines().next().unwrap()));
    for (line, vkey) in lines[1..].iter().zip(&witnessing.vkeys) {
        assert!(verify_cosignature(&monitored.body, line, vkey).is_some(), "{line}");
    }
    for path in ["", "checkpoint", &hash("log.example/nobody"), &format!("{}/checkpoint", hash("log.example/nobody"))] {
        assert_eq!(get(&format!("{base}/{path}")).await.status, 404, "{path}");
    }
    assert_eq!(get(&url).await.status, 405);
    assert_eq!(post(&url, vec![b'a'; 2 << 20]).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_histories_that_race_a_witness_cosigns_one_and_never_goes_back() {
    let (one, other) = (Arc::new(log(1, 120)), Arc::new(fork(1, 40, 120)));
    let witnessing = Witnessing::new(&[one.vkey()]);
    let (_program, url) = witnessing.start();
    let url = Arc::new(format!("{url}/add-checkpoint"));
    let mut racers = JoinSet::new();
    for racer in 0..12 {
        let (log, url) = (Arc::clone(if racer % 2 == 0 { &one } else { &other }), Arc::clone(&url));
        racers.spawn(async move {
            let (mut dice, mut known, mut cosigned) = (Dice(racer), 0_u64, Vec::new());
            for _ in 0..60 {
                let size = (known + dice.roll(6)).min(log.size());
                let (target, body) = (Arc::clone(&url), log.body(known.min(size), size));
                // The witness has few connections for one address: a further one breaks off.
                let Ok(answer) = tokio::spawn(async move { post(&target, body).await }).await else { continue };
                match answer.status {
                    200 => {
                        cosigned.push((size, log.root(size), answer.body));
                        known = size;
                    }
                    409 => known = answer.body.trim_end().parse().unwrap(),
                    422 => {}
                    _ => panic!("{answer:?}"),
                }
            }
            cosigned
        });
    }
    let mut roots: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
    let mut count = 0;
    for (size, root, _) in racers.join_all().await.into_iter().flatten() {
        assert_eq!(*roots.entry(size).or_insert(root), root, "two trees of size {size}");
        count += 1;
    }
    let largest = roots.keys().max().copied().unwrap();
    assert!(count >= 20 && largest > 40, "{count} cosigned, the largest of {largest}");
    // One history alone, all the way.
    let is = |log: &SecondLog| roots.iter().all(|(size, root)| log.root(*size) == *root);
    assert!(is(&one) != is(&other));
    let last = fs::read_to_string(witnessing.state(ORIGIN)).unwrap();
    assert_eq!(last.lines().nth(1).unwrap(), largest.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_killed_at_any_moment_remembers_what_it_has_cosigned() {
    let log = log(1, 4_000);
    let witnessing = Witnessing::new(&[log.vkey()]);
    let (mut program, url) = witnessing.start();
    let (mut dice, mut last) = (Dice(4), 0_u64);
    for _ in 0..12 {
        let until = Instant::now() + Duration::from_millis(20 + dice.roll(200));
        let killer = async {
            sleep(until - Instant::now()).await;
            block_in_place(|| program.kill());
        };
        let submitter = async {
            let (mut known, mut answered) = (last, last);
            loop {
                let size = (known + 1 + dice.roll(4)).min(log.size());
                let target = format!("{url}/add-checkpoint");
                let body = log.body(known, size);
                // A connection that breaks off is no answer.
                match tokio::spawn(async move { post(&target, body).await }).await {
                    Ok(answer) if answer.status == 200 => (known, answered) = (size, size),
                    Ok(answer) if answer.status == 409 => known = answer.body.trim_end().parse().unwrap(),
                    Ok(answer) => panic!("{answer:?}"),
                    Err(_) => return answered,
                }
            }
        };
        let ((), answered) = tokio::join!(killer, submitter);
        program = witnessing.start().0;
        let asked = post(&format!("{url}/add-checkpoint"), log.body(0, 1)).await;
        let kept: u64 = match asked.status {
            409 => asked.body.trim_end().parse().unwrap(),
            200 => 1,
            _ => panic!("{asked:?}"),
        };
        assert!(kept >= answered, "it cosigned {answered} and remembers {kept}");
        last = kept;
    }
    assert!(last > 3, "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_without_space_cosigns_nothing_and_one_with_a_strange_state_does_not_start() {
    let log = log(1, 30);
    let witnessing = Witnessing::new(&[log.vkey()]);
    let (mut program, url) = witnessing.start();
    let target = format!("{url}/add-checkpoint");
    witnessing.assert_cosigned(&log.note(10), &post(&target, log.body(0, 10)).await);
    let state = witnessing.state(ORIGIN);
    let before = fs::read_to_string(&state).unwrap();
    let new = state.with_extension("new");
    symlink("/dev/full", &new).unwrap();
    assert_eq!(post(&target, log.body(10, 20)).await.status, 500);
    assert_eq!(fs::read_to_string(&state).unwrap(), before);
    let conflict = post(&target, log.body(20, 30)).await;
    assert_eq!((conflict.status, conflict.body.as_str()), (409, "10\n"));
    fs::remove_file(&new).unwrap();
    witnessing.assert_cosigned(&log.note(20), &post(&target, log.body(10, 20)).await);

    // Submitted again at once, it has the cosignature that it had.
    let again = [post(&target, log.body(20, 20)).await, post(&target, log.body(20, 20)).await];
    assert!(again.iter().all(|answer| answer.status == 200 && answer.body == again[0].body), "{again:?}");

    // Two trees of one size are kept as evidence, and nothing that anybody could submit.
    let evidence = state.with_extension("contradiction");
    let wrong_proof = submission(20, &log.consistency(10, 30), &log.note(30));
    assert_eq!(post(&target, wrong_proof).await.status, 422);
    assert!(!evidence.exists());
    let forked = [fork(1, 5, 30), fork(1, 6, 30)];
    for fork in &forked {
        assert_eq!(post(&target, fork.body(20, 20)).await.status, 422);
    }
    let kept = fs::read_to_string(&evidence).unwrap();
    let (cosigned, other) =
        kept.split_once("\n\n").map(|_| kept.split_at(kept.len() - forked[0].note(20).len())).unwrap();
    assert_eq!(other, forked[0].note(20));
    assert!(cosigned.starts_with(&log.text(20)), "{cosigned}");
    program.warns("two trees of one size");

    let busy = Program::run(&["witness"], &witnessing.env);
    assert_eq!(busy.status.code(), Some(1));
    assert!(busy.errors.contains("another witness uses"), "{}", busy.errors);
    block_in_place(|| program.kill());
    let kept = fs::read_to_string(&state).unwrap();
    let fake = SecondLog::new(ORIGIN, [77; 32]).sign(&log.text(1));
    for strange in ["", "{}", &kept[..kept.len() / 2], &fake, &kept.replace(ORIGIN, "log.example/other")] {
        fs::write(&state, strange).unwrap();
        let refused = Program::run(&["witness"], &witnessing.env);
        assert_eq!(refused.status.code(), Some(1), "{strange:?}");
        assert!(refused.errors.contains("restore it from a copy"), "{}", refused.errors);
    }
    fs::write(&state, kept).unwrap();
    let (_program, url) = witnessing.start();
    witnessing.assert_cosigned(&log.note(30), &post(&format!("{url}/add-checkpoint"), log.body(20, 30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_says_what_it_lacks() {
    let log = log(1, 1);
    let witnessing = Witnessing::new(&[log.vkey()]);
    let nothing = Program::run(&["witness"], &BTreeMap::new());
    assert_eq!(nothing.status.code(), Some(2));
    for name in witnessing.env.keys().filter(|name| name.as_str() != "FULEXO_PORT") {
        assert!(nothing.errors.contains(name.as_str()), "{}", nothing.errors);
    }
    let witness = &witnessing.vkeys[0];
    for (logs, complaint) in [
        ("\n# nobody\n".to_owned(), "it names no log"),
        ("log.example+00000000+AAAA\n".to_owned(), "line 1: this is not the vkey of a log"),
        (format!("{}\n{}\n", log.vkey(), log.vkey()), "line 2: another line has the same key"),
        (format!("\n{witness}\n"), "line 2: this is the key of a witness"),
    ] {
        witnessing.dir.store("logs", &logs).unwrap();
        let refused = Program::run(&["witness"], &witnessing.env);
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.errors.contains(complaint), "{complaint}: {}", refused.errors);
    }
    witnessing.dir.store("logs", &log.vkey()).unwrap();
    let file = witnessing.dir.path().join("log.key").display().to_string();
    let made = Program::run(&["signer", "new-key", "log.example/key", "--out", &file], &BTreeMap::new());
    assert!(made.status.success());
    let mut env = witnessing.env.clone();
    env.insert("FULEXO_WITNESS_KEY_FILE".to_owned(), file);
    let refused = Program::run(&["witness"], &env);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.errors.contains("the key is a log's"), "{}", refused.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_anchored_by_two_of_three_witnesses_although_nodes_and_witnesses_are_killed() {
    let (signing, database, mut dice) = (Signing::new(), Arc::new(Database::create().await), Dice(9));
    let _signer = signing.start();
    let logs = [signing.key.to_string()];
    let witnesses: Vec<Witnessing> = (0..3).map(|_| Witnessing::new(&logs)).collect();
    let mut running: Vec<(Program, String)> = witnesses.iter().map(Witnessing::start).collect();
    let mut policy = format!("log {}\n", signing.key);
    for (place, (witness, (_, url))) in witnesses.iter().zip(&running).enumerate() {
        policy += &format!("witness w{place} {} {url}\n", witness.vkeys[place % 2]);
    }
    policy += "group two 2 w0 w1 w2\nquorum two\n";
    signing.dir.store("policy", &policy).unwrap();
    let policy_file = signing.path("policy").display().to_string();
    let mut env = signing.node_env(&database);
    env.insert("FULEXO_TRUST_POLICY_FILE".to_owned(), policy_file.clone());
    env.insert("FULEXO_WITNESS_INTERVAL".to_owned(), "1s".to_owned());
    let node = Node::with(&database, env.clone()).await;
    let start_node = || block_in_place(|| Program::start(&["serve", "--port", "0"], &env));
    let mut second = start_node();
    let verify = |more: &[&str]| {
        let target = node.url.clone();
        let token = signing.path("token").display().to_string();
        let arguments = ["audit", "verify", &target, "--policy", &policy_file, "--token-file", &token];
        Program::run(&[&arguments, more].concat(), &BTreeMap::new())
    };
    let auditor = node.auditor().await;
    signing.dir.store("token", auditor.access_token.as_ref().unwrap()).unwrap();
    let anchored = async |size: u64| {
        let health = node.anonymous().get("/health/ready").await.json;
        health["anchor"]["size"].as_u64() >= Some(size)
    };
    let pool = superuser(&database).await;
    for round in 0..8 {
        for _ in 0..1 + dice.index(3) {
            node.customer().await;
        }
        sleep(Duration::from_millis(dice.roll(1_200))).await;
        if round % 2 == 0 {
            let one = dice.index(3);
            block_in_place(|| running[one].0.kill());
            running[one].0 = witnesses[one].start().0;
        } else {
            block_in_place(|| second.kill());
            second = start_node();
        }
    }
    let size = covered(&signing, &pool).await.size;
    eventually("the log is anchored", async || anchored(size).await).await;
    let verified = verify(&[]);
    assert!(verified.status.success(), "{}{}", verified.said, verified.errors);

    // Two witnesses gone: nothing newer is anchored, and the log goes on.
    for (program, _) in &mut running[..2] {
        block_in_place(|| program.kill());
    }
    node.customer().await;
    let later = covered(&signing, &pool).await.size;
    eventually("health says that witnesses are missing", async || {
        let health = node.anonymous().get("/health/ready").await.json;
        let failed = |place: usize| health["anchor"]["witnesses"][place]["status"] == "degraded";
        failed(0) && failed(1) && health["anchor"]["status"] == "degraded" && health["status"] == "degraded"
    })
    .await;
    assert!(!anchored(later).await);
    // What was anchored is still verified, and what is not anchored is not.
    assert!(verify(&[]).status.success());
    for (place, witness) in witnesses.iter().enumerate().take(2) {
        running[place].0 = witness.start().0;
    }
    eventually("the log is anchored again", async || anchored(later).await).await;
    let verified = verify(&["--json"]);
    assert!(verified.status.success(), "{}{}", verified.said, verified.errors);
}
