//! Backups of a log of a million events: written, verified and restored, against `pg_dump`, `pg_restore` and the program `age` alone,
//! and the most memory that ours take. `BENCH_EVENTS` sets the number of events.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fulexo_tests::{Database, Program, history, own_dir, superuser};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::{memory, table};

const ROUNDS: usize = 3;
/// The e-mail address of the account that logs in to the restored service.
const CANARY: &str = "canary@example.com";
/// The most memory of a verb, in MiB, however long the log is.
const WANTED: f64 = 96.0;

/// The seconds that a program took, and the most memory that it had, in MiB.
struct Run {
    seconds: f64,
    most: f64,
}

pub fn run(runtime: &Runtime) {
    let events = std::env::var("BENCH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    memory::build();
    let dir = own_dir();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (database, mut env) = runtime.block_on(filled(events, dir.path()));
    fs::create_dir(file("backups")).unwrap();
    let recipient = keygen(&["--out", &file("identity")]);
    fs::write(file("recipients"), format!("{recipient}\n")).unwrap();
    let signed_by = keygen(&["--signing", "bench.example/backups", "--out", &file("signing.key")]);
    for (name, value) in [
        ("DATABASE_OWNER_URL", database.owner_url()),
        ("DATABASE_SUPERUSER_URL", database.superuser_url()),
        ("FULEXO_BACKUP_TO", file("backups")),
        ("FULEXO_BACKUP_RECIPIENTS_FILE", file("recipients")),
        ("FULEXO_BACKUP_SIGNING_KEY_FILE", file("signing.key")),
    ] {
        env.insert(name.to_owned(), value);
    }
    // A backup that is recorded lacks one event, which a restore would lose.
    let mut unrecorded = env.clone();
    unrecorded.remove("DATABASE_URL");
    let (identity, scratch, bare) = (file("identity"), file(""), file("bare.age"));
    let trusted = ["--signed-by", &signed_by, "--identity", &identity];
    let (checkpoint, keys, canary) = (file("checkpoint"), file("encryption-keys"), file("canary"));
    let all_rungs =
        ["--checkpoint", &checkpoint, "--scratch", &scratch, "--encryption-keys", &keys, "--canary", &canary];

    let mut figures = [(); 5].map(|()| Vec::with_capacity(ROUNDS));
    let mut most = [0.0_f64; 3];
    for round in 0..ROUNDS {
        let [created, dumped, verified, restored, loaded] = &mut figures;
        let run = program(&["backup", "create"], &unrecorded, 0);
        created.push(run.seconds);
        most[0] = most[0].max(run.most);
        dumped.push(shell(&format!(
            "pg_dump --format=custom --dbname '{}' | age --recipient {recipient} > {bare}",
            database.superuser_url()
        )));
        let run = program(&[&["backup", "verify", "latest"][..], &trusted, &all_rungs].concat(), &env, 0);
        verified.push(run.seconds);
        most[1] = most[1].max(run.most);
        let target = Database { name: format!("{}_bare_{round}", database.name) };
        runtime.block_on(execute(&format!("create database {}", target.name)));
        loaded.push(shell(&format!(
            "age --decrypt --identity {identity} {bare} | pg_restore --exit-on-error --dbname '{}'",
            target.superuser_url()
        )));
        runtime.block_on(execute(&format!("drop database {} with (force)", target.name)));
        // Nothing is lost: the backup is of now.
        let run = program(&[&["restore", "latest", "--clean"][..], &trusted].concat(), &env, 0);
        restored.push(run.seconds);
        most[2] = most[2].max(run.most);
        runtime.block_on(drop_aside(&database));
    }
    let [created, dumped, verified, restored, loaded] = figures.map(table::median);
    table::head(&format!("seconds for {} events, durable", table::number(events as f64)), "ours", "bare, with age");
    table::line("backup create; pg_dump", created, dumped, None);
    table::line("restore; pg_restore", restored, loaded, None);
    table::line("backup verify; pg_restore", verified, loaded, None);
    for (verb, most) in ["backup create", "backup verify", "restore"].into_iter().zip(most) {
        let verdict = if most <= WANTED { "" } else { ": SHORT" };
        println!("  memory of {verb:<18} MiB {:>13}   wanted: under {WANTED}{verdict}", table::number(most));
    }
}

/// A database with a log of so many events and an account that logs in, applied by every read model and signed. Its checkpoint,
/// its encryption keys and the account are in files.
async fn filled(events: usize, dir: &Path) -> (Arc<Database>, BTreeMap<String, String>) {
    let database = Arc::new(Database::create().await);
    history::fill(&database, events).await;
    let mut env = database.env();
    let registered = Program::run(&["register", "--email", CANARY, "--role", "customer", "--json"], &env);
    assert!(registered.status.success(), "{}", registered.errors);
    let registered: Value = serde_json::from_str(&registered.said).unwrap();
    store(dir, "canary", &format!("{CANARY}\n{}\n", registered["password"].as_str().unwrap()));
    store(dir, "encryption-keys", &format!("default:{}\n", env["ENCRYPTION_KEY"]));
    let key = dir.join("log.key").display().to_string();
    let made = Program::run(&["signer", "new-key", "log.example/bench", "--out", &key], &BTreeMap::new());
    assert!(made.status.success(), "{}", made.errors);
    env.insert("FULEXO_LOG_KEY_FILE".to_owned(), key);
    env.insert("FULEXO_SIGNER_MEMORY".to_owned(), dir.join("signer.json").display().to_string());
    env.insert("FULEXO_PORT".to_owned(), "0".to_owned());
    let mut node = Program::start(&["serve"], &env);
    node.says("listening on ");
    let pool = superuser(&database).await;
    let behind = "select h.position - least(c.size, (select min(position) from projection.checkpoint))
                  from log.head h, tree.checkpoint c";
    while sqlx::query_scalar::<_, i64>(behind).fetch_one(&pool).await.unwrap() > 0 {
        sleep(Duration::from_millis(500)).await;
    }
    let note: String = sqlx::query_scalar("select note from tree.checkpoint").fetch_one(&pool).await.unwrap();
    fs::write(dir.join("checkpoint"), note).unwrap();
    pool.close().await;
    node.stop("TERM");
    (database, env)
}

/// Writes a file that only its owner may read.
fn store(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

fn keygen(arguments: &[&str]) -> String {
    let made = Program::run(&[&["backup", "keygen"], arguments].concat(), &BTreeMap::new());
    assert!(made.status.success(), "{}", made.errors);
    made.said.trim().to_owned()
}

/// Runs the program to its end, and looks at its memory.
fn program(arguments: &[&str], env: &BTreeMap<String, String>, expected: i32) -> Run {
    let began = Instant::now();
    let mut command = Command::new(Program::path());
    command.args(arguments).env_clear().envs(env).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // Shown if it fails.
    let said = std::env::temp_dir().join(format!("fulexo-figure-backup-{}", std::process::id()));
    let output = fs::File::create(&said).unwrap();
    let mut child = command.stdout(output).stderr(Stdio::inherit()).spawn().unwrap();
    let mut most = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        most = peak(child.id()).max(most);
        thread::sleep(Duration::from_millis(20));
    };
    let text = fs::read_to_string(&said).unwrap();
    fs::remove_file(&said).unwrap();
    assert_eq!(status.code(), Some(expected), "{arguments:?}: {text}");
    Run { seconds: began.elapsed().as_secs_f64(), most }
}

/// The most memory that a process had so far, in MiB; 0 if it has ended.
fn peak(id: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default() / 1_024.0
}

fn shell(script: &str) -> f64 {
    let began = Instant::now();
    let ended = Command::new("bash").args(["-c", &format!("set -euo pipefail; {script}")]).status().unwrap();
    assert!(ended.success(), "{script}");
    began.elapsed().as_secs_f64()
}

async fn server() -> PgPool {
    superuser(&Database { name: "postgres".to_owned() }).await
}

async fn execute(statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&server().await).await.unwrap();
}

/// Removes what a restore has put aside.
async fn drop_aside(database: &Database) {
    let aside = "select datname::text from pg_database where datname like $1 || '\\_until\\_%'";
    let aside: Vec<String> = sqlx::query_scalar(aside).bind(&database.name).fetch_all(&server().await).await.unwrap();
    for name in aside {
        execute(&format!("drop database {name} with (force)")).await;
    }
}
