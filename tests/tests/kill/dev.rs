//! `fulexo dev`: everything on one machine, in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fulexo_tests::{Answer, Client, Program, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::block_in_place;

/// A directory under one that only its owner may enter; removed with the test.
struct Home(PathBuf);

impl Home {
    fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("dev-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        DirBuilder::new().mode(0o700).create(&parent).unwrap();
        Self(parent)
    }

    fn data_dir(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Dev {
    program: Program,
    /// The content of `dev.json`.
    file: Value,
}

impl Dev {
    fn start(home: &Home) -> Self {
        Self::start_with(home, &[])
    }

    fn start_with(home: &Home, more: &[&str]) -> Self {
        Self::start_in(home, more, &BTreeMap::new())
    }

    fn start_in(home: &Home, more: &[&str], env: &BTreeMap<String, String>) -> Self {
        let data_dir = home.data_dir();
        let arguments = [&["dev", "--port", "0", "--data-dir", data_dir.to_str().unwrap()], more].concat();
        block_in_place(|| {
            let mut program = Program::start(&arguments, env);
            program.says("Press Ctrl-C to stop");
            let file = fs::read_to_string(data_dir.join("dev.json")).unwrap();
            Self { program, file: serde_json::from_str(&file).unwrap() }
        })
    }

    fn text(&self, name: &str) -> &str {
        self.file[name].as_str().unwrap_or_else(|| panic!("{name} is missing: {}", self.file))
    }

    async fn log_in(&self, account: &str) -> (Client, Answer) {
        let account = &self.file["accounts"][account];
        let mut client = Client::new(self.text("url"));
        let body = json!({"email": account["email"], "password": account["password"]});
        let answer = client.post("/v1/auth/login", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client.log_in_with(&answer);
        (client, answer)
    }

    /// Returns every leaf of the log so far.
    async fn leaves(&self) -> Vec<Vec<u8>> {
        let mut connection = PgConnection::connect(self.text("database_url")).await.unwrap();
        sqlx::query_scalar("select leaf from log.event order by position").fetch_all(&mut connection).await.unwrap()
    }

    fn stop(mut self) {
        let ended = block_in_place(|| self.program.stop("INT"));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_json_says_where_everything_is_and_to_its_owner_alone() {
    let home = Home::create();
    let dev = Dev::start(&home);
    let mode = fs::metadata(home.data_dir().join("dev.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (url, role) in [("database_url", "fulexo"), ("owner_database_url", "fulexo_owner")] {
        let mut connection = PgConnection::connect(dev.text(url)).await.unwrap();
        let user: String = sqlx::query_scalar("select current_user::text").fetch_one(&mut connection).await.unwrap();
        assert_eq!(user, role);
    }
    let nats: async_nats::ServerAddr = dev.text("nats_url").parse().unwrap();
    let user = (nats.username().unwrap().to_owned(), nats.password().unwrap().to_owned());
    assert!(async_nats::ConnectOptions::with_user_and_password(user.0, user.1).connect(nats).await.is_ok());
    let fields: BTreeSet<&str> = dev.file.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = ["accounts", "database_url", "env", "nats_url", "owner_database_url", "url"];
    assert_eq!(fields, wanted.into());
    dev.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_demo_account_logs_in_with_its_role() {
    let home = Home::create();
    let dev = Dev::start(&home);
    for (account, roles) in [
        ("admin", json!(["admin", "customer"])),
        ("auditor", json!(["auditor", "customer"])),
        ("customer", json!(["customer"])),
    ] {
        let (client, _) = dev.log_in(account).await;
        assert_eq!(client.get("/v1/auth/session").await.json["roles"], roles);
    }
    dev.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn told_so_it_takes_however_many_requests_come_and_locks_as_ever() {
    let home = Home::create();
    for (flags, is_limited) in [(&[][..], true), (&["--no-rate-limits"][..], false)] {
        let dev = Dev::start_with(&home, flags);
        let client = Client::new(dev.text("url"));
        // They come at once: quotas grow back, and a busy machine needs a while for each.
        let attempts = (0..40).map(async |number| {
            let body = json!({"email": format!("nobody-{number}@example.com"), "password": "wrong"});
            client.post("/v1/auth/login", body).await.status
        });
        let statuses: BTreeSet<u16> = join_all(attempts).await.into_iter().collect();
        assert_eq!(statuses.contains(&429), is_limited, "{flags:?}: {statuses:?}");
        dev.stop();
    }
    let dev = Dev::start_with(&home, &["--no-rate-limits"]);
    let (client, _) = dev.log_in("customer").await;
    let stranger = Client::new(dev.text("url"));
    let email = dev.file["accounts"]["customer"]["email"].clone();
    for _ in 0..5 {
        let wrong = json!({"email": email, "password": "wrong"});
        assert_eq!(stranger.post("/v1/auth/login", wrong).await.status, 401);
    }
    let right = json!({"email": email, "password": dev.file["accounts"]["customer"]["password"]});
    assert_eq!(stranger.post("/v1/auth/login", right).await.status, 401, "locked");
    assert_eq!(client.get("/v1/me").await.status, 200);
    dev.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_on_one_node_is_refused_by_one_that_joined_it() {
    let home = Home::create();
    let dev = Dev::start(&home);
    // This comes before the other node starts: that node knows the session, and must be told of its end.
    let (client, _) = dev.log_in("customer").await;
    let mut env: BTreeMap<String, String> = serde_json::from_value(dev.file["env"].clone()).unwrap();
    env.insert("FULEXO_PORT".into(), "0".into());
    let mut node = block_in_place(|| Program::start(&["serve"], &env));
    let url = block_in_place(|| node.says("listening on "));
    let elsewhere = Client { url, ..client.clone() };
    assert_eq!(elsewhere.get("/v1/auth/session").await.status, 200, "a token of one node is good on the other");

    assert_eq!(client.post_nothing("/v1/auth/logout").await.status, 204);
    let revoked = Instant::now();
    while elsewhere.get("/v1/auth/session").await.status != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(30), "the session is still alive on the other node");
    }
    assert!(block_in_place(|| node.stop("TERM")).status.success());
    dev.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_it_and_every_process_that_it_started() {
    let home = Home::create();
    let dev = Dev::start(&home);
    let family = descendants(dev.program.pid());
    let names: BTreeSet<&str> = family.iter().map(|process| process.name.as_str()).collect();
    assert!(names.contains("postgres") && names.contains("nats-server"), "{names:?}");
    dev.stop();
    let left: Vec<&Process> = family.iter().filter(|process| process.is_there()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_one_goes_on_where_it_was() {
    let home = Home::create();
    let mut dev = Dev::start(&home);
    let (_, login) = dev.log_in("customer").await;
    let before = dev.leaves().await;
    dev.program.kill();

    let again = Dev::start(&home);
    assert_eq!(again.file["accounts"], dev.file["accounts"]);
    assert_eq!(again.leaves().await, before, "nothing is lost, and no account is made anew");
    let (_, next) = again.log_in("customer").await;
    assert!(next.position() > login.position());
    assert_eq!(next.position() + 1, again.leaves().await.len() as u64);
    again.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_found_before_anything_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let home = Home::create();
    let dir = home.data_dir();
    let ended = Program::run(&["dev", "--port", &port, "--data-dir", dir.to_str().unwrap()], &BTreeMap::new());
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.errors.contains(&port) && ended.errors.contains("--port 0"), "{}", ended.errors);
    assert!(!dir.exists() && ended.errors.lines().count() == 1, "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_reads_runs_all_the_same_and_stops_when_asked() {
    let home = Home::create();
    let dir = home.data_dir();
    let arguments = ["dev", "--port", "0", "--data-dir", dir.to_str().unwrap()];
    let mut program = block_in_place(|| Program::start_unheard(&arguments, &BTreeMap::new()));
    eventually("it says where everything is", async || dir.join("dev.json").exists()).await;
    let file: Value = serde_json::from_str(&fs::read_to_string(dir.join("dev.json")).unwrap()).unwrap();
    assert_eq!(Client::new(file["url"].as_str().unwrap()).get("/health/live").await.status, 200);
    assert_eq!(block_in_place(|| program.stop("INT")).status.code(), Some(0));
}

/// Each of these variables changed, or kept, every connection of a client of PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn no_variable_of_postgres_clients_reaches_a_private_database() {
    let shell: BTreeMap<String, String> = [
        ("PGHOST", "192.0.2.1"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGUSER", "somebody"),
        ("PGPASSWORD", "else's"),
        ("PGPASSFILE", "/nowhere"),
        ("PGDATABASE", "another"),
        ("PGOPTIONS", "-c search_path=app -c default_transaction_read_only=on"),
        ("PGAPPNAME", "psql"),
        ("PGSSLMODE", "require"),
        ("PGSSLROOTCERT", "/nowhere"),
        ("PGSSLCERT", "/nowhere"),
        ("PGSSLKEY", "/nowhere"),
        ("PGDATA", "/nowhere"),
        ("PGTZ", "nowhere"),
        ("PGDATESTYLE", "nowhere"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let home = Home::create();
    let dev = Dev::start_in(&home, &[], &shell);
    dev.log_in("customer").await;
    let dir = home.data_dir();
    for verb in ["projections", "replay", "events --no-follow", "as-of 5 roles", "rebuild audit"] {
        let arguments = [&verb.split(' ').collect::<Vec<_>>()[..], &["--data-dir", dir.to_str().unwrap()]].concat();
        let ended = Program::run(&arguments, &shell);
        assert_eq!(ended.status.code(), Some(0), "{verb}: {}", ended.errors);
    }
    // A joining node is configured by a URL, which says whether there is TLS.
    let mut env: BTreeMap<String, String> = serde_json::from_value(dev.file["env"].clone()).unwrap();
    env.extend([("PGSSLMODE".into(), "require".into()), ("FULEXO_PORT".into(), "0".into())]);
    let mut node = block_in_place(|| Program::start(&["serve"], &env));
    block_in_place(|| node.says("listening on "));
    assert!(block_in_place(|| node.stop("TERM")).status.success());
    dev.stop();
}

/// A process; its start tells it from a later one with the same id.
#[derive(Debug)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    start: String,
}

impl Process {
    /// Reads `/proc/PID/stat` (proc(5)).
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let name = head.split_once('(')?.1.to_owned();
        Some(Self { pid, parent: fields.get(1)?.parse().ok()?, name, start: (*fields.get(19)?).to_owned() })
    }

    fn is_there(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.start == self.start)
    }
}

fn descendants(of: u32) -> Vec<Process> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let mut family = BTreeSet::from([of]);
    // A parent's id need not be smaller: repeat until nobody is added.
    while all.iter().any(|process| family.contains(&process.parent) && family.insert(process.pid)) {}
    all.into_iter().filter(|process| process.pid != of && family.contains(&process.pid)).collect()
}
