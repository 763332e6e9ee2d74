//! Erasures by processes that are killed at any moment, and the verb that looks for what is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fulexo_tests::{
    Client, Database, Dice, Ended, Node, PASSWORD, Program, eventually, leaves, own_dir, postgres_pid, superuser,
};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio::time::sleep;

const PEOPLE: usize = 24;
const KILLS: usize = 8;

fn serve(database: &Database) -> (Program, String) {
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    block_in_place(|| {
        let mut program = Program::start(&["serve"], &env);
        let url = program.says("listening on ");
        (program, url)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_when_everybody_whose_erasure_is_due_is_erased_once() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let admin = node.admin().await;
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["reason"] = json!("tests");
    policy["erasure"]["withdrawal_days"] = json!(0);
    assert_eq!(admin.put("/v1/policy", policy).await.status, 200);
    let mut people = Vec::new();
    for _ in 0..PEOPLE {
        people.push(node.customer().await);
    }
    let kept = node.customer().await;
    node.stop().await;
    let pool = superuser(&database).await;
    let sealed = "select count(*) from log.sealed where subject_id = $1";
    let of_kept: i64 = sqlx::query_scalar(sealed).bind(kept.account).fetch_one(&pool).await.unwrap();

    let (mut dice, mut asked) = (Dice(15), 0);
    for _ in 0..KILLS {
        let (mut program, url) = serve(&database);
        let until = asked + PEOPLE / KILLS;
        while asked < until {
            let person = Client { url: url.clone(), ..people[asked].clone() };
            assert_eq!(person.post_nothing("/v1/me/erasure").await.status, 200);
            asked += 1;
        }
        sleep(Duration::from_millis(dice.roll(1_500))).await;
        program.kill();
    }
    let (_program, url) = serve(&database);
    let anybody = Client::new(&url);
    for person in &people {
        let path = format!("/v1/erasures/{}", person.account);
        eventually("the erasure is completed", async || anybody.get(&path).await.json["state"] == "completed").await;
        let found = anybody.get(&path).await.json;
        assert!(found["destroyed"]["sealed"].as_u64() >= Some(2), "{found}");
        eventually("nothing is left", async || {
            sqlx::query_scalar::<_, i64>(sealed).bind(person.account).fetch_one(&pool).await.unwrap() == 0
        })
        .await;
    }
    let log = leaves(&database).await;
    for person in &people {
        for wanted in ["account.erased", "account.erasure_completed"] {
            let is_it = |leaf: &&Value| leaf["type"] == wanted && leaf["subject"] == json!(person.account);
            assert_eq!(log.iter().filter(is_it).count(), 1, "{wanted} of {}", person.account);
        }
    }
    let kept = Client { url, ..kept };
    assert_eq!(kept.get("/v1/me").await.status, 200);
    let left: i64 = sqlx::query_scalar(sealed).bind(kept.account).fetch_one(&pool).await.unwrap();
    assert_eq!(left, of_kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_finds_every_copy_and_nothing_where_there_is_none() {
    const AGENT: &str = "Bandersnatch/7.7 (Jabberwock)";
    const NAME: &str = "Žofie Thistlewood";
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let admin = node.admin().await;
    let mut ann = node.anonymous().with_header("user-agent", AGENT);
    let email = format!("zanzibar.quokka.{}@heliotrope.example", std::process::id());
    let body = json!({"email": email, "password": PASSWORD, "display_name": NAME});
    let registered = ann.post("/v1/auth/register", body).await;
    ann.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
    let login = ann.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
    assert_eq!(login.status, 200, "{login:?}");
    let pool = superuser(&database).await;
    // The server's own directory is the one with its data.
    let directory = std::fs::read_link(format!("/proc/{}/cwd", postgres_pid())).unwrap().display().to_string();
    let dir = own_dir();
    dir.store("values", &format!("{email}\n\n{NAME}\n{AGENT}\n")).unwrap();
    let values = dir.path().join("values").display().to_string();
    let values = values.as_str();
    let account = ann.account.to_string();
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), database.url())]);
    let check = |more: &[&str]| -> Ended {
        let arguments = [&["erasure", "check", &account, "--values", values, "--json"], more].concat();
        Program::run(&arguments, &env)
    };
    let found = |ended: &Ended| serde_json::from_str::<Value>(&ended.said).unwrap()["found"].clone();

    let before = check(&[]);
    assert!(!before.status.success() && before.errors.contains("was not erased"), "{}", before.errors);
    let erased = admin.post(&format!("/v1/accounts/{account}/erasure"), json!({"reason": "a letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let path = format!("/v1/erasures/{account}");
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
    sqlx::query("checkpoint").execute(&pool).await.unwrap();
    // Nothing was ever stored in clear, not even in the files of the server.
    let none = check(&["--files", &directory]);
    assert!(none.status.success(), "{} {}", none.said, none.errors);
    assert_eq!(found(&none), json!([]));

    // Copies that a fault of the service, or its operator, might leave.
    for statement in [
        format!("insert into vault.known_device values ('{account}', '{account}', now(), now(), '{account}', 1)"),
        format!("create table public.notes as select 'call {NAME} back'::text as note, 7 as number"),
        format!("create table public.raw as select convert_to('x{email}y', 'UTF8') as bytes"),
        "analyze public.notes".to_owned(),
        "grant select on public.notes, public.raw to fulexo_app".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    dir.store("server.log", &format!("{}{AGENT}{AGENT}", "x".repeat(3_000_000))).unwrap();
    let log = dir.path().join("server.log").display().to_string();
    let some = check(&["--files", &log]);
    assert_eq!(some.status.code(), Some(1), "{}", some.errors);
    let places: BTreeMap<String, (String, u64)> = found(&some)
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            let text = |member: &str| finding[member].as_str().unwrap().to_owned();
            (text("place"), (text("kind"), finding["times"].as_u64().unwrap()))
        })
        .collect();
    let of = |kind: &str, times: u64| (kind.to_owned(), times);
    let expected = BTreeMap::from([
        ("vault.known_device.account_id".to_owned(), of("account", 1)),
        ("vault.known_device.device".to_owned(), of("account", 1)),
        ("vault.known_device.last_session".to_owned(), of("account", 1)),
        ("public.notes.note".to_owned(), of("value", 1)),
        ("public.raw.bytes".to_owned(), of("value", 1)),
        (log.clone(), of("value", 2)),
    ]);
    assert_eq!(places, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_values_that_is_too_long_is_refused_and_not_read_in_part() {
    let dir = own_dir();
    let path = dir.path().join("values").display().to_string();
    // The value that matters is the last one.
    let longest = "x".repeat((1 << 20) - 1 - "ann@example.com".len());
    for (text, code) in [(format!("{longest}\nann@example.com\n"), 2), (format!("{longest}\nann@example.com"), 1)] {
        dir.store("values", &text).unwrap();
        let env = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://nobody@127.0.0.1:1/nothing".to_owned())]);
        let account = uuid::Uuid::nil().to_string();
        let ended = Program::run(&["erasure", "check", &account, "--values", &path], &env);
        // One that is as long as it may be is read, and the database is asked.
        assert_eq!(ended.status.code(), Some(code), "{}", ended.errors);
        assert_eq!(ended.errors.contains("is longer than 1,048,576 bytes. Split it"), code == 2, "{}", ended.errors);
    }
}
