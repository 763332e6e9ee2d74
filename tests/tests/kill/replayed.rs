//! `fulexo audit replay`: an exported trail on another machine tells what the service told, to its auditor alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use chrono::{SecondsFormat, TimeDelta};
use fulexo_node::clock;
use fulexo_tests::spec::operations;
use fulexo_tests::{Authenticator, Client, Dice, Ended, Node, Program, eventually, leaves, own_dir, poison};
use hyper::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::trail::{SignedLog, copied};

/// A replay that is served.
struct Replayed {
    program: Program,
    /// Its output so far.
    printed: Value,
}

impl Replayed {
    /// Starts a replay of a copy, and waits until it is served.
    fn of(copy: &Path, key: &str, more: &[&str]) -> Self {
        Self::with(copy, key, more, &BTreeMap::new())
    }

    fn with(copy: &Path, key: &str, more: &[&str], env: &BTreeMap<String, String>) -> Self {
        let copy = copy.display().to_string();
        let arguments = [&["audit", "replay", &copy, "--key", key, "--port", "0", "--json"], more].concat();
        block_in_place(|| {
            let mut program = Program::start(&arguments, env);
            let text = program.says("{");
            Self { printed: serde_json::from_str(&format!("{{{text}")).unwrap(), program }
        })
    }

    /// A caller without the token.
    fn anybody(&self) -> Client {
        Client::new(self.printed["listening_on"].as_str().unwrap())
    }

    fn auditor(&self) -> Client {
        Client { access_token: Some(self.printed["token"].as_str().unwrap().to_owned()), ..self.anybody() }
    }

    fn stop(&mut self) {
        let ended = block_in_place(|| self.program.stop("INT"));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
        assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
    }
}

/// Starts a replay that is refused.
fn refused(copy: &Path, more: &[&str]) -> Ended {
    let copy = copy.display().to_string();
    let ended = Program::run(&[&["audit", "replay", &copy, "--port", "0"], more].concat(), &BTreeMap::new());
    assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
    assert!(!ended.said.contains("listening on"), "{}", ended.said);
    ended
}

/// Acts of a service that is used: accounts, roles, keys, the policy, a lockdown. Returns the accounts of customers.
async fn use_service(log: &SignedLog) -> [Uuid; 2] {
    let node = &log.node;
    let (admin, ann, ben) = (node.admin().await, node.customer().await, node.customer().await);
    let reason = json!({"reason": "Ümlaut & <reason>"});
    let ok = |answer: fulexo_tests::Answer| assert!(answer.status < 300, "{answer:?}");
    let wrong = json!({"email": ann.email, "password": "wrong"});
    for _ in 0..6 {
        node.anonymous().post("/v1/auth/login", wrong.clone()).await;
    }
    let support = json!({"permissions": ["accounts.read"], "reason": "r"});
    ok(admin.put("/v1/roles/support", support).await);
    let of = |account: Uuid, act: &str| format!("/v1/accounts/{account}/{act}");
    ok(admin.post(&of(ann.account, "roles"), json!({"role": "support", "reason": "r"})).await);
    ok(admin.post(&of(ben.account, "roles"), json!({"role": "auditor", "reason": "r"})).await);
    ok(admin.post(&of(ben.account, "suspend"), reason.clone()).await);
    ok(admin.post(&of(ben.account, "reinstate"), reason.clone()).await);
    ok(admin.put("/v1/roles/support", json!({"permissions": ["sessions.read"], "reason": "r"})).await);
    let expires_at = (clock::now() + TimeDelta::days(30)).to_rfc3339_opts(SecondsFormat::Micros, true);
    let key = json!({"name": "siem", "permissions": ["audit.read"], "expires_at": expires_at});
    ok(admin.post("/v1/api-keys", key).await);
    let mut policy = admin.get("/v1/policy").await.json;
    policy["lockout"]["threshold"] = json!(7);
    policy["erasure"]["withdrawal_days"] = json!(0);
    policy["reason"] = json!("r");
    ok(admin.put("/v1/policy", policy).await);
    ok(admin.post("/v1/lockdown", json!({"scope": "logins", "reason": "r"})).await);
    ok(admin.delete_with("/v1/lockdown", reason).await);
    ok(ann.post_nothing("/v1/auth/logout").await);
    [ann.account, ben.account]
}

/// Erases an account, by an administrator unless its owner asks for it, and waits for the end.
async fn erase(node: &Node, admin: &Client, account: Uuid, owner: Option<&Client>) {
    let because = json!({"reason": "asked for by letter"});
    let erased = match owner {
        Some(owner) => owner.post_nothing("/v1/me/erasure").await,
        None => admin.post(&format!("/v1/accounts/{account}/erasure"), because).await,
    };
    assert_eq!(erased.status, 200, "{erased:?}");
    // Others go on meanwhile.
    node.customer().await;
    let path = format!("/v1/erasures/{account}");
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
}

/// Erases people who have roles, sessions and factors. Returns their accounts, and somebody who is not erased yet.
async fn erase_people(node: &Node, admin: &Client) -> ([Uuid; 2], Client) {
    let ok = |answer: fulexo_tests::Answer| assert!(answer.status < 300, "{answer:?}");
    let of = |account: Uuid, act: &str| format!("/v1/accounts/{account}/{act}");
    let (dan, eve, fay) = (node.customer().await, node.customer().await, node.user(&["customer", "auditor"]).await);
    let started = dan.post_nothing("/v1/me/second-factor/totp").await;
    let code = Authenticator::of(started.json["secret"].as_str().unwrap()).code(-1);
    ok(dan.post("/v1/me/second-factor/totp/confirm", json!({"code": code})).await);
    ok(admin.put("/v1/roles/support", json!({"permissions": ["accounts.read"], "reason": "r"})).await);
    ok(admin.post(&of(dan.account, "roles"), json!({"role": "support", "reason": "r"})).await);
    ok(node.log_in(&eve.email, eve.account).await.post_nothing("/v1/auth/logout").await);
    // One who thinks better of it, and is erased all the same.
    ok(fay.post_nothing("/v1/me/erasure").await);
    ok(fay.delete("/v1/me/erasure").await);
    ok(admin.post(&of(fay.account, "suspend"), json!({"reason": "r"})).await);
    tokio::join!(erase(node, admin, dan.account, None), erase(node, admin, fay.account, None));
    ([dan.account, fay.account], eve)
}

/// Questions about an erased account: before, at and after the events of its erasure.
fn questions_about(account: Uuid, leaves: &[Value]) -> Vec<String> {
    let at = |kind: &str| {
        let is_it = |leaf: &Value| leaf["stream"] == json!(account) && leaf["type"] == kind;
        leaves.iter().position(is_it).unwrap()
    };
    let (erased, completed) = (at("account.erased"), at("account.erasure_completed"));
    // Roles are revoked by events of their own, before.
    let moments = BTreeSet::from([erased - 4, erased - 1, erased, erased + 1, completed]);
    let asked = |as_of: usize| {
        [
            format!("/v1/accounts/{account}?as_of={as_of}"),
            format!("/v1/accounts?order=desc&limit=9&as_of={as_of}"),
            format!("/v1/sessions?account_id={account}&as_of={as_of}"),
            format!("/v1/grants?account_id={account}&as_of={as_of}"),
            format!("/v1/audit/events?subject={account}&order=desc&limit=9&as_of={as_of}"),
        ]
    };
    moments.into_iter().flat_map(asked).collect()
}

/// Replaces what is sealed, which only the service can open, with null; returns how many of them had a value.
fn blanked(document: &mut Value) -> usize {
    const SEALED: [&str; 7] =
        ["email", "display_name", "ip", "user_agent", "last_seen_ip", "last_seen_user_agent", "reason"];
    match document {
        Value::Array(items) => items.iter_mut().map(blanked).sum(),
        Value::Object(members) => {
            let blank = |(name, value): (&String, &mut Value)| {
                match name.as_str() {
                    // Of an event, which holds nothing that is sealed.
                    "data" => 0,
                    name if SEALED.contains(&name) => usize::from(!value.take().is_null()),
                    _ => blanked(value),
                }
            };
            members.iter_mut().map(blank).sum()
        }
        _ => 0,
    }
}

/// A question about a moment of this log.
fn question(dice: &mut Dice, leaves: &[Value], accounts: &[Value]) -> String {
    let position = dice.index(leaves.len());
    let leaf = &leaves[position];
    let as_of = if dice.roll(2) == 0 { position.to_string() } else { leaf["time"].as_str().unwrap().to_owned() };
    let account = accounts[dice.index(accounts.len())].as_str().unwrap();
    let limit = 1 + dice.roll(40);
    let path = match dice.roll(12) {
        0 => format!("/v1/accounts?limit={limit}"),
        1 => format!("/v1/accounts?role=support&limit={limit}"),
        2 => format!("/v1/accounts?suspended=true&order=desc&limit={limit}"),
        3 => format!("/v1/accounts?locked=true&limit={limit}"),
        4 => format!("/v1/accounts/{account}"),
        5 => format!("/v1/sessions?live=true&limit={limit}"),
        6 => format!("/v1/sessions?account_id={account}&limit={limit}"),
        7 => "/v1/roles".to_owned(),
        8 => format!("/v1/grants?role=customer&order=desc&limit={limit}"),
        9 => "/v1/security/metrics?window=24h&step=1h".to_owned(),
        10 => format!("/v1/audit/events?subject={account}&limit={limit}"),
        _ => format!("/v1/audit/events?type={}&order=desc&limit={limit}", leaf["type"].as_str().unwrap()),
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}as_of={as_of}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_has_the_checksums_of_production_and_answers_as_production_does() {
    // Of a long log nothing else is asked: `REPLAYED_EVENTS=200000` takes minutes.
    let events = std::env::var("REPLAYED_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000);
    let log = SignedLog::of(events).await;
    let admin = log.node.admin().await;
    let ([dan, fay], eve) = erase_people(&log.node, &admin).await;
    let [ann, ben] = use_service(&log).await;
    tokio::join!(
        erase(&log.node, &admin, ann, None),
        erase(&log.node, &admin, ben, None),
        erase(&log.node, &admin, eve.account, Some(&eve)),
    );
    let erased = [dan, fay, ann, ben, eve.account];
    let size = log.covered().await.size;
    let copy = log.exported("copy");
    let mut replayed = Replayed::of(&copy, &log.signing.key.to_string(), &[]);
    assert_eq!((&replayed.printed["events"], &replayed.printed["size"]), (&json!(size), &json!(size)));

    let until = (size - 1).to_string();
    let production = log.run(&["replay", "--until", &until, "--json"]);
    let production: Value = serde_json::from_str(&production.said).unwrap();
    let tables = production["tables"].as_array().unwrap();
    assert_eq!(tables.len(), replayed.printed["tables"].as_array().unwrap().len());
    for (table, own) in tables.iter().zip(replayed.printed["tables"].as_array().unwrap()) {
        let live = &table["live"];
        let expected = json!({"name": table["name"], "rows": live["rows"], "checksum": live["checksum"]});
        assert_eq!(*own, expected);
    }

    let (live, auditor) = (log.node.admin().await, replayed.auditor());
    let leaves = leaves(&log.database).await;
    let leaves = leaves.get(..usize::try_from(size).unwrap()).unwrap();
    let registered = leaves.iter().filter(|leaf| leaf["type"] == "account.registered");
    let accounts: Vec<Value> = registered.map(|leaf| leaf["stream"].clone()).collect();
    let (mut dice, mut sealed, mut items) = (Dice(7), 0, 0);
    let mut questions: Vec<String> = (0..60).map(|_| question(&mut dice, leaves, &accounts)).collect();
    // Of those whom the service itself has registered, it knows the addresses.
    questions.extend(["accounts", "sessions"].map(|list| format!("/v1/{list}?order=desc&limit=3&as_of={until}")));
    questions.extend(erased.iter().flat_map(|account| questions_about(*account, leaves)));
    let mut lives = BTreeSet::new();
    for question in questions {
        let (mut expected, mut answer) = (live.get(&question).await, auditor.get(&question).await);
        assert_eq!(answer.status, expected.status, "{question}: {answer:?}");
        if expected.status == 404 {
            continue;
        }
        assert_eq!(blanked(&mut answer.json), 0, "nothing is opened: {question}: {}", answer.text);
        sealed += blanked(&mut expected.json);
        assert_eq!(answer.json, expected.json, "{question}");
        items += expected.json["items"].as_array().map_or(1, Vec::len);
        if let Some(account) = erased.iter().find(|account| answer.json["account_id"] == json!(account)) {
            let is_without_roles = answer.json["roles"] == json!([]);
            lives.insert((account, answer.json["erased"] == true, is_without_roles));
        }
        if let Some(next) = expected.json["next_cursor"].as_str() {
            let question = format!("{question}&cursor={next}");
            let (mut expected, answer) = (live.get(&question).await, auditor.get(&question).await);
            blanked(&mut expected.json);
            assert_eq!(answer.json, expected.json, "{question}");
        }
    }
    let mut each = erased.iter().flat_map(|account| [(account, false, false), (account, true, true)]);
    assert!(each.all(|life| lives.contains(&life)), "each was there with its roles, and then was not: {lives:?}");
    assert!(sealed > 4 && items > 200, "the questions were about something: {sealed} sealed, {items} items");
    // What has no past: the present of the replay is the end of the trail.
    for question in ["/v1/policy", "/v1/lockdown", "/v1/api-keys", "/v1/permissions", "/v1/audit/events/17"] {
        let (mut expected, answer) = (live.get(question).await, auditor.get(question).await);
        assert_eq!(answer.status, 200, "{question}: {answer:?}");
        blanked(&mut expected.json);
        assert_eq!(answer.json, expected.json, "{question}");
    }
    let note = auditor.get("/v1/audit/log/checkpoint").await;
    assert_eq!(note.text, fs::read_to_string(copy.join("checkpoint")).unwrap());
    for tile in ["tile/0/000", "tile/entries/000"] {
        let answer = auditor.get(&format!("/v1/audit/log/{tile}")).await;
        assert_eq!(answer.bytes, fs::read(copy.join(tile)).unwrap(), "{tile}");
    }
    let lines = auditor.get("/v1/audit/export?format=leaves").await;
    assert_eq!(lines.text.lines().count() as u64, size);
    replayed.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_answers_its_auditor_alone_and_changes_nothing() {
    let log = SignedLog::of(300).await;
    let temporary = own_dir();
    let env = BTreeMap::from([("TMPDIR".to_owned(), temporary.path().display().to_string())]);
    let ours = |path: &Path| {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("fulexo-replay-")).count()
    };
    let key = log.signing.key.to_string();
    let mut replayed = Replayed::with(&log.exported("copy"), &key, &[], &env);
    assert_eq!(ours(temporary.path()), 1);
    let (auditor, anybody) = (replayed.auditor(), replayed.anybody());
    let header = fs::read_to_string(replayed.printed["header_file"].as_str().unwrap()).unwrap();
    assert_eq!(header.trim_end(), format!("Authorization: Bearer {}", auditor.access_token.as_ref().unwrap()));
    let strangers = [
        anybody.clone(),
        Client { access_token: Some("x".repeat(43)), ..anybody.clone() },
        // Of the service, where it is good.
        Client { access_token: log.node.admin().await.access_token, ..anybody.clone() },
        anybody.with_header("cookie", &format!("__Host-fulexo-access={}", auditor.access_token.as_ref().unwrap())),
    ];
    let foreign = auditor.with_header("host", "evil.example");
    for operation in operations() {
        for stranger in &strangers {
            let answer = operation.call(stranger, Uuid::nil()).await;
            assert_eq!(answer.status, 401, "{}: {answer:?}", operation.id);
        }
        let answer = operation.call(&foreign, Uuid::nil()).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_host"), "{}: {answer:?}", operation.id);
        if operation.id == "stream_audit_events" {
            // It does not end.
            continue;
        }
        let answer = operation.call(&auditor, Uuid::nil()).await;
        if operation.method == Method::GET {
            assert!([200, 403, 404].contains(&answer.status), "{}: {answer:?}", operation.id);
            let is_of_caller = operation.path.starts_with("/v1/me") || operation.id == "get_current_session";
            // Incidents are for those who respond to them.
            let is_of_responders = operation.path.starts_with("/v1/incidents");
            assert_eq!(answer.status == 403, is_of_caller || is_of_responders, "{}: {answer:?}", operation.id);
        } else {
            assert_eq!((answer.status, answer.code()), (405, "method_not_allowed"), "{}: {answer:?}", operation.id);
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{}", operation.id);
        }
    }
    for page in ["/", "/docs", "/openapi.json", "/problems"] {
        assert_eq!(anybody.get(page).await.status, 401, "{page}");
    }
    assert_eq!(auditor.get("/openapi.json").await.status, 200);
    assert_eq!(anybody.get("/nonexistent").await.status, 401);
    replayed.stop();
    assert_eq!(ours(temporary.path()), 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_is_altered_or_of_a_newer_program_is_refused_and_not_served() {
    let log = SignedLog::of(300).await;
    let copy = log.exported("copy");
    let data = log.signing.path("data");
    let data_dir = data.display().to_string();
    let tampered = log.signing.path("tampered");
    copied(&copy, &tampered);
    let bundle = tampered.join("tile/entries/000");
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let ended = refused(&tampered, &["--data-dir", &data_dir]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("the log is not verified"), "{}", ended.errors);
    assert!(!data.exists(), "nothing was built");
    let other = crate::signing::Signing::new().key.to_string();
    let ended = refused(&copy, &["--data-dir", &data_dir, "--key", &other]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(!data.exists(), "nothing was built");

    let ended = refused(&copy, &["--until", "1000000"]);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.errors);
    assert!(ended.errors.contains("beyond the end of the log"), "{}", ended.errors);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = Program::run(&["audit", "replay", &copy.display().to_string(), "--port", &port], &BTreeMap::new());
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("another program uses the port"), "{}", ended.errors);

    let unknown = poison(&log.database).await;
    log.covered().await;
    let newer = log.exported("newer");
    for _ in 0..2 {
        let ended = refused(&newer, &["--data-dir", &data_dir]);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
        assert!(ended.errors.contains(&format!("position {unknown}")), "{}", ended.errors);
        assert!(ended.errors.contains("account.reinvented"), "{}", ended.errors);
    }
    // What comes before it can be replayed.
    let until = (unknown - 1).to_string();
    let key = log.signing.key.to_string();
    let mut replayed = Replayed::of(&newer, &key, &["--until", &until, "--data-dir", &data_dir]);
    assert_eq!(replayed.printed["position"], json!(unknown - 1), "{}", replayed.printed);
    assert_eq!(replayed.auditor().get("/v1/audit/log/checkpoint").await.status, 404, "it covers more");
    replayed.stop();
    let mut replayed = Replayed::of(&newer, &key, &["--until", "2000-01-01T00:00Z", "--data-dir", &data_dir]);
    assert_eq!((&replayed.printed["events"], &replayed.printed["position"]), (&json!(0), &Value::Null));
    assert_eq!(replayed.auditor().get("/v1/audit/events").await.json["items"], json!([]));
    replayed.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_was_killed_begins_anew_and_a_finished_one_is_kept() {
    let log = SignedLog::of(40_000).await;
    let size = log.covered().await.size;
    let (copy, key, data) = (log.exported("copy"), log.signing.key.to_string(), log.signing.path("data"));
    let data_dir = data.display().to_string();
    let mut killed = Program::start(
        &["audit", "replay", &copy.display().to_string(), "--key", &key, "--port", "0", "--data-dir", &data_dir],
        &BTreeMap::new(),
    );
    let read = |name: &str| fs::read_to_string(data.join(name)).ok();
    eventually("some events are loaded", async || {
        let (Some(port), Some(password)) = (read("postgres.port"), read("postgres.password")) else { return false };
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/replay?sslmode=disable");
        let Ok(mut connection) = PgConnection::connect(&url).await else { return false };
        let head = sqlx::query_scalar::<_, i64>("select position from log.head").fetch_one(&mut connection).await;
        head.is_ok_and(|head| head > 0)
    })
    .await;
    block_in_place(|| killed.kill());

    let more = ["--data-dir", data_dir.as_str()];
    let mut replayed = Replayed::of(&copy, &key, &more);
    assert_eq!((&replayed.printed["kept"], &replayed.printed["events"]), (&json!(false), &json!(size)));
    let audit = |printed: &Value| {
        let mut tables = printed["tables"].as_array().unwrap().iter();
        tables.find(|table| table["name"] == "audit").unwrap().clone()
    };
    assert_eq!(audit(&replayed.printed)["rows"], json!(size), "each event once");
    let first = (replayed.printed["token"].clone(), replayed.printed["tables"].clone());
    let ended = refused(&copy, &more);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("in use by another fulexo"), "{}", ended.errors);
    replayed.stop();

    let mut kept = Replayed::of(&copy, &key, &more);
    assert_eq!((&kept.printed["kept"], &kept.printed["tables"]), (&json!(true), &first.1));
    assert_ne!(kept.printed["token"], first.0, "each run has its own token");
    assert_eq!(kept.auditor().get("/v1/accounts?limit=1&as_of=20000").await.status, 200);
    kept.stop();
    // Another moment is another replay.
    let mut earlier = Replayed::of(&copy, &key, &["--until", "19999", "--data-dir", &data_dir]);
    assert_eq!((&earlier.printed["kept"], &earlier.printed["events"]), (&json!(false), &json!(20_000)));
    earlier.stop();
}
