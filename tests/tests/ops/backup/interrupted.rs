//! Backups that do not come to their end: killed, out of space, without a database. None of them is a backup afterwards.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fulexo_tests::{Database, Dice, Program, eventually, history, superuser};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::{Ground, assert_stops};

/// A backup that waits in the middle of pg_dump: somebody else has locked a table.
struct Held {
    program: Program,
    lock: sqlx::Transaction<'static, sqlx::Postgres>,
}

async fn held(ground: &Ground, pool: &PgPool) -> Held {
    let mut lock = fulexo_database::begin(pool).await.unwrap();
    sqlx::query("lock table vault.mail in access exclusive mode").execute(&mut *lock).await.unwrap();
    let program = block_in_place(|| Program::start(&["backup", "create"], &ground.env));
    eventually("pg_dump waits", async || {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and application_name = 'fulexo backup' and wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap();
        waiting == 1
    })
    .await;
    Held { program, lock }
}

/// The child of a process that has this name.
fn child(parent: u32, name: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let Some((before, after)) = stat.rsplit_once(')') else { return false };
        before.ends_with(name) && after.split_whitespace().nth(1) == Some(&parent.to_string())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_loses_pg_dump_or_the_database_leaves_nothing() {
    let database = Database::create().await;
    let (ground, pool) = (Ground::new(&database), superuser(&database).await);
    for is_database in [false, true] {
        let mut held = held(&ground, &pool).await;
        assert!(ground.names()[0].ends_with(".unfinished"), "{:?}", ground.names());
        if is_database {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity
                       where datname = current_database() and application_name = 'fulexo backup'";
            sqlx::query(end).execute(&pool).await.unwrap();
        } else {
            let pg_dump = child(held.program.pid(), "(pg_dump").unwrap();
            let killed = Command::new("/bin/sh").args(["-c", "kill -9 \"$0\"", &pg_dump.to_string()]).status();
            assert!(killed.unwrap().success());
        }
        let ended = block_in_place(|| held.program.wait());
        assert_eq!(ended.status.code(), Some(3), "{}", ended.errors);
        assert!(ended.errors.contains("pg_dump") && ended.errors.contains("To mend it"), "{}", ended.errors);
        assert_eq!(ground.names(), [""; 0], "{}", ended.errors);
        held.lock.rollback().await.unwrap();
    }
    ground.create();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backups_at_once_are_refused_and_a_killed_one_is_cleared_away() {
    let database = Database::create().await;
    let (ground, pool) = (Ground::new(&database), superuser(&database).await);
    let mut held = held(&ground, &pool).await;
    for verb in [&["create"][..], &["prune", "--keep", "1"]] {
        let refused = ground.run(verb);
        assert_eq!(refused.status.code(), Some(3), "{verb:?}: {}", refused.errors);
        assert!(refused.errors.contains("another run of `fulexo backup` works in"), "{verb:?}: {}", refused.errors);
    }
    block_in_place(|| held.program.kill());
    held.lock.rollback().await.unwrap();
    assert!(ground.names()[0].ends_with(".unfinished"), "{:?}", ground.names());
    // Files of others are not touched.
    let remains = Path::new(&ground.file("backups")).join(&ground.names()[0]);
    let foreign = Path::new(&ground.file("backups")).join("20200101T000000Z-0.mine");
    fs::write(&foreign, "mine").unwrap();
    eventually("pg_dump has ended", async || ground.run(&["create"]).status.code() == Some(0)).await;
    assert!(!remains.exists() && foreign.exists(), "{:?}", ground.names());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_killed_at_any_moment_is_whole_or_none() {
    let database = Database::create().await;
    history::fill(&database, 20_000).await;
    let ground = Ground::new(&database);
    let mut dice = Dice(7);
    for _ in 0..12 {
        let mut program = block_in_place(|| Program::start(&["backup", "create"], &ground.env));
        sleep(Duration::from_millis(dice.roll(2_000))).await;
        block_in_place(|| program.kill());
        for name in ground.names().iter().filter(|name| !name.ends_with(".unfinished")) {
            let path = Path::new(&ground.file("backups")).join(name);
            let (code, report) = ground.verify_with(path.to_str().unwrap(), &[], &[]);
            assert_eq!(code, 3, "{report:#}");
            assert_stops(&report, "format", "not_checked");
        }
    }
    eventually("the killed ones have ended", async || ground.run(&["create"]).status.code() == Some(0)).await;
    assert!(ground.names().iter().all(|name| !name.ends_with(".unfinished")), "{:?}", ground.names());
    let listed = ground.run(&["list", "--json"]).said;
    let last: Value = serde_json::from_str(listed.lines().last().unwrap()).unwrap();
    assert!(last["events"].as_u64().unwrap() >= 20_000, "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_verification_leaves_is_removed_by_the_next_one() {
    let database = Database::create().await;
    let ground = Ground::new(&database);
    ground.create();
    let scratch = || -> Vec<_> {
        let entries = fs::read_dir(ground.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains("fulexo-backup-verify-")).collect()
    };
    let (main, keys, below) = (ground.file("main"), ground.file("keys"), ground.file(""));
    let arguments = ["backup", "verify", "latest", "--identity", &main, "--identity", &keys, "--scratch", &below];
    let mut program = block_in_place(|| Program::start(&arguments, &ground.env));
    eventually("its server runs", async || {
        scratch().iter().any(|path| path.join("postgres/data/postmaster.pid").exists())
    })
    .await;
    block_in_place(|| program.kill());
    assert_eq!(scratch().len(), 1);
    let (code, report) = ground.verify("latest", &[]);
    assert_eq!(code, 3, "the log is not signed: {report:#}");
    assert_eq!(scratch(), [""; 0].map(std::path::PathBuf::from), "{report:#}");
}

/// A file system of a few KiB; ended when dropped.
struct SmallDisk(String);

impl SmallDisk {
    fn mount(at: &str) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=48k,mode=700", "tmpfs", at]).output().ok()?;
        mounted.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_no_backup_and_says_so() {
    let database = Database::create().await;
    let ground = Ground::new(&database);
    if let Some(_disk) = SmallDisk::mount(&ground.file("backups")) {
        let ended = ground.run(&["create"]);
        assert_eq!(ended.status.code(), Some(3), "{}", ended.errors);
        assert!(ended.errors.contains("free space in the target"), "{}", ended.errors);
        assert_eq!(ground.names(), [""; 0]);
        return;
    }
    // Without the right to mount: the system ends the process at the limit.
    let script = r#"ulimit -f 32; exec "$@""#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(Program::path()).args(["backup", "create"]).envs(&ground.env);
    let ended = block_in_place(|| command.output().unwrap());
    assert!(!ended.status.success());
    assert!(ground.names().iter().all(|name| name.ends_with(".unfinished")), "{:?}", ground.names());
}
