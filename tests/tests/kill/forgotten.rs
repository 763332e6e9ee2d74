//! Erasure down to the bytes: dumps, the files of the server, and the segments of its write-ahead log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fulexo_database::begin;
use fulexo_dev_servers::{DataDir, Options, Postgres};
use fulexo_tests::{Client, Database, Node, PASSWORD, application_url, env, eventually, nats_url, own_dir, prepare};
use memchr::memmem::Finder;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::block_in_place;

use crate::backups::run;
use crate::trail::files;

const DATABASE: &str = "fulexo_forgotten";
const OWNER: &str = "fulexo_owner";

const EMAIL: &str = "zanzibar.quokka@heliotrope.example";
const NAME: &str = "Žofie Thistlewood";
const ADDRESS: &str = "203.0.113.77";
const AGENT: &str = "Bandersnatch/7.7 (Jabberwock)";
const REASON: &str = "ticket 4711, the marmalade affair";
const PLANTED: [&str; 5] = [EMAIL, NAME, ADDRESS, AGENT, REASON];

/// A PostgreSQL of its own, with the settings of a real one, and a node.
struct Server {
    node: Node,
    admin: Client,
    pool: PgPool,
    postgres: Postgres,
    dir: DataDir,
}

impl Server {
    async fn start() -> Self {
        let dir = own_dir();
        let postgres = block_in_place(|| Postgres::start(&dir, &Options::default()).unwrap());
        prepare(&postgres, DATABASE).await;
        let mut env = env(&application_url(&postgres, DATABASE), &nats_url());
        env.insert("FULEXO_NATS_REPLICAS".into(), "0".into());
        env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
        let node = Node::with(&Arc::new(Database { name: DATABASE.to_owned() }), env).await;
        let pool = PgPool::connect(&postgres.superuser_url(DATABASE)).await.unwrap();
        Self { admin: node.admin().await, node, pool, postgres, dir }
    }

    async fn execute(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.pool).await.unwrap();
    }

    /// A person with something in every place, and the wrapped data key.
    async fn plant(&self) -> Planted {
        let mut person = self.node.anonymous();
        person.headers = vec![("x-forwarded-for".into(), ADDRESS.into()), ("user-agent".into(), AGENT.into())];
        EMAIL.clone_into(&mut person.email);
        let body = json!({"email": EMAIL, "password": PASSWORD, "display_name": NAME});
        let registered = person.post("/v1/auth/register", body).await;
        person.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
        let login = person.post("/v1/auth/login", json!({"email": EMAIL, "password": PASSWORD})).await;
        person.log_in_with(&login);
        let wrong = person.post("/v1/auth/login", json!({"email": EMAIL, "password": "wrong"})).await;
        assert_eq!((login.status, wrong.status), (200, 401), "{login:?}");
        let unlocked =
            self.admin.post(&format!("/v1/accounts/{}/unlock", person.account), json!({"reason": REASON})).await;
        assert_eq!(unlocked.status, 200, "{unlocked:?}");
        let wrapped = sqlx::query_scalar("select wrapped from vault.subject_key where subject_id = $1");
        let wrapped: Vec<u8> = wrapped.bind(person.account).fetch_one(&self.pool).await.unwrap();
        // As autovacuum does, which reads what it finds into the planner's statistics.
        self.execute("vacuum analyze").await;
        self.execute("checkpoint").await;
        Planted { person, wrapped }
    }

    /// Erases the person, and returns what the event of the receipt says.
    async fn erase(&self, planted: &Planted) -> Value {
        let account = planted.person.account;
        let erased =
            self.admin.post(&format!("/v1/accounts/{account}/erasure"), json!({"reason": "asked for by letter"})).await;
        assert_eq!(erased.status, 200, "{erased:?}");
        let path = format!("/v1/erasures/{account}");
        eventually("the erasure is completed", async || self.admin.get(&path).await.json["state"] == "completed").await;
        let path = format!("/v1/audit/events?subject={account}&type=account.erasure_completed");
        let mut event = Value::Null;
        eventually("the trail has the event", async || {
            event = self.admin.get(&path).await.json["items"][0]["data"].clone();
            !event.is_null()
        })
        .await;
        event
    }

    /// Everything that the database has, as text.
    fn dump(&self) -> Vec<u8> {
        let (file, url) = (self.dir.path().join("dump.sql"), self.postgres.superuser_url(DATABASE));
        run("pg_dump", &["--format=plain", "--file", &file.display().to_string(), "--dbname", &url]);
        let text = fs::read(&file).unwrap();
        fs::remove_file(file).unwrap();
        text
    }

    /// The files of the server, its own log among them, that have these bytes.
    fn files_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let finder = Finder::new(bytes);
        // A server at work removes files.
        let has = |path: &PathBuf| fs::read(path).is_ok_and(|content| finder.find(&content).is_some());
        files(self.dir.path()).into_iter().filter(has).collect()
    }

    /// The name of the segment to which the server writes.
    async fn segment(&self) -> String {
        sqlx::query_scalar("select pg_walfile_name(pg_current_wal_insert_lsn())").fetch_one(&self.pool).await.unwrap()
    }

    /// Asserts that no value of the person is in a dump, as text or inside of bytes, or in a file of the server.
    async fn assert_forgotten(&self) {
        let dump = block_in_place(|| self.dump());
        self.execute("checkpoint").await;
        for value in PLANTED {
            for form in [value.as_bytes(), hex(value.as_bytes()).as_bytes()] {
                assert!(Finder::new(form).find(&dump).is_none(), "{value} in the dump");
            }
            assert_eq!(block_in_place(|| self.files_with(value.as_bytes())), Vec::<PathBuf>::new(), "{value}");
        }
    }
}

/// A person of whom every word is known.
struct Planted {
    person: Client,
    wrapped: Vec<u8>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `true` if all of these files are segments of the write-ahead log.
fn are_segments(files: &[PathBuf]) -> bool {
    files.iter().all(|file| file.parent().is_some_and(|dir| dir.ends_with("pg_wal")))
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_no_value_is_in_a_dump_or_a_file_and_the_wrapped_key_in_the_write_ahead_log_alone() {
    let server = Server::start().await;
    let planted = server.plant().await;
    let of_key = |dump: &[u8]| Finder::new(hex(&planted.wrapped).as_bytes()).find(dump).is_some();
    // Where they are found as long as they are there.
    assert!(of_key(&block_in_place(|| server.dump())), "a dump has the wrapped key");
    let before = block_in_place(|| server.files_with(&planted.wrapped));
    assert!(!are_segments(&before), "the file of a table has the wrapped key: {before:?}");

    let receipt = server.erase(&planted).await;
    assert_eq!((&receipt["wrapping_key"], &receipt["log_switched"]), (&json!("default"), &json!(false)), "{receipt}");
    server.assert_forgotten().await;
    assert!(!of_key(&block_in_place(|| server.dump())), "a dump has the wrapped key");
    let left = block_in_place(|| server.files_with(&planted.wrapped));
    assert!(are_segments(&left), "the wrapped key is in {left:?}");
    // The service may not begin another segment: what was written last has it.
    assert!(!left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_may_switches_the_log_and_the_segments_before_are_recycled() {
    let server = Server::start().await;
    // As docs/erasure.md says.
    server.execute(&format!("grant pg_checkpoint to {OWNER}")).await;
    server.execute(&format!("grant execute on function pg_switch_wal to {OWNER}")).await;
    let planted = server.plant().await;
    let before = server.segment().await;
    let receipt = server.erase(&planted).await;
    assert_eq!(receipt["log_switched"], true, "{receipt}");
    let after = server.segment().await;
    assert!(after > before, "{before} {after}");
    server.assert_forgotten().await;
    let left = block_in_place(|| server.files_with(&planted.wrapped));
    assert!(are_segments(&left), "the wrapped key is in {left:?}");

    // A segment that was recycled has the name of a later one, and its bytes until that one is written.
    eventually("every segment of before is written over", async || {
        server.execute("select pg_switch_wal()").await;
        server.execute("checkpoint").await;
        block_in_place(|| server.files_with(&planted.wrapped)).is_empty()
    })
    .await;
    let segments = files(server.dir.path()).into_iter().filter(|file| are_segments(std::slice::from_ref(file)));
    let oldest = segments.map(|file| name(&file)).min().unwrap();
    assert!(oldest >= after, "{oldest} {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_not_completed_while_a_snapshot_keeps_the_wrapped_key_in_its_table() {
    let server = Server::start().await;
    let planted = server.plant().await;
    // Such as a query that runs for hours, of anybody.
    let mut reading = begin(&server.pool).await.unwrap();
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *reading).await.unwrap();
    sqlx::query("select 1").execute(&mut *reading).await.unwrap();

    let account = planted.person.account;
    let reason = json!({"reason": "asked for by letter"});
    let erased = server.admin.post(&format!("/v1/accounts/{account}/erasure"), reason).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    server.execute("checkpoint").await;
    let in_table = || !are_segments(&block_in_place(|| server.files_with(&planted.wrapped)));
    let is_completed = async || {
        let path = format!("/v1/erasures/{account}");
        server.admin.get(&path).await.json["state"] == "completed"
    };
    assert!(!is_completed().await || !in_table(), "it is completed, and the file of a table has the wrapped key");
    reading.commit().await.unwrap();
    eventually("the erasure is completed", is_completed).await;
    server.execute("checkpoint").await;
    assert!(!in_table());
}
