//! A restore to a point in time by pgBackRest, which `fulexo restore finish` makes fit to serve.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fulexo_dev_servers::{DataDir, Options, Postgres};
use fulexo_tests::{
    Database, Node, PASSWORD, Program, application_url, caught_up, env, eventually, nats_url, owner_url, prepare,
};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::task::block_in_place;

use super::result;
use crate::rules;

const NAME: &str = "fulexo";

/// A PostgreSQL whose write-ahead log pgBackRest archives.
struct Archived {
    dir: DataDir,
    postgres: Option<Postgres>,
}

impl Archived {
    fn new() -> Self {
        // Servers do not run as root, and pgBackRest has to reach what they reach.
        let path = std::env::temp_dir().join(format!("fulexo-pgbackrest-{}", std::process::id()));
        let dir = DataDir::open(&path).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut archived = Self { dir, postgres: None };
        archived.start(&[]);
        archived.stop();
        let (uid, gid) = archived.owner();
        for name in ["repo", "logs", "lock"] {
            fs::create_dir(archived.file(name)).unwrap();
            chown(archived.file(name), Some(uid), Some(gid)).unwrap();
        }
        let file = |name: &str| archived.file(name).display().to_string();
        let configuration = format!(
            "[global]\nrepo1-path={}\nlog-path={}\nlock-path={}\nlog-level-console=warn\nstart-fast=y\ncompress-level=1\nrepo1-retention-full=1\n\
             [{NAME}]\npg1-path={}\npg1-user=postgres\n",
            file("repo"),
            file("logs"),
            file("lock"),
            file("data"),
        );
        fs::write(archived.file("pgbackrest.conf"), configuration).unwrap();
        archived
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("postgres").join(name)
    }

    fn owner(&self) -> (u32, u32) {
        let data = fs::metadata(self.file("data")).unwrap();
        (data.uid(), data.gid())
    }

    fn start(&mut self, more: &[(&str, String)]) {
        let data = self.file("data").display().to_string();
        let settings = [("fsync", "off".to_owned()), ("full_page_writes", "on".to_owned())].into_iter();
        let mut settings: Vec<_> = settings.map(|(name, value)| (name.to_owned(), value)).collect();
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        if Path::new(&data).exists() {
            settings.push(("data_directory".to_owned(), data));
        }
        self.postgres = Some(block_in_place(|| Postgres::start(&self.dir, &Options { settings }).unwrap()));
    }

    /// Starts it with an archive.
    fn start_archiving(&mut self) {
        let push = format!("pgbackrest --config={} --stanza={NAME} archive-push %p", self.configuration());
        self.start(&[("archive_mode", "on".to_owned()), ("archive_command", push)]);
    }

    fn stop(&mut self) {
        block_in_place(|| drop(self.postgres.take()));
    }

    fn configuration(&self) -> String {
        self.file("pgbackrest.conf").display().to_string()
    }

    fn running(&self) -> &Postgres {
        self.postgres.as_ref().unwrap()
    }

    /// Runs pgBackRest as the owner of the data.
    fn pgbackrest(&self, arguments: &[&str]) {
        let (uid, gid) = self.owner();
        let mut command = Command::new("pgbackrest");
        command.arg(format!("--config={}", self.configuration())).arg(format!("--stanza={NAME}")).args(arguments);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir("/");
        if let Some(postgres) = &self.postgres {
            let url = postgres.superuser_url("postgres");
            let (_, password) = url.split_once('@').unwrap().0.rsplit_once(':').unwrap();
            command.env("PGHOST", "127.0.0.1").env("PGPASSWORD", password);
            command.arg(format!("--pg1-port={}", postgres.port()));
        }
        command.uid(uid).gid(gid);
        let ended = block_in_place(|| command.output().unwrap());
        let said = [ended.stdout, ended.stderr].concat();
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }

    async fn superuser(&self) -> PgPool {
        PgPool::connect(&self.running().superuser_url(NAME)).await.unwrap()
    }

    /// The variables of a node that signs, and of whoever finishes a restore.
    fn env(&self, key: &str, memory: &str) -> BTreeMap<String, String> {
        let postgres = self.running();
        let mut env = env(&application_url(postgres, NAME), &nats_url());
        for (name, value) in [
            ("FULEXO_NATS_REPLICAS", "0".to_owned()),
            ("FULEXO_LOG_KEY_FILE", key.to_owned()),
            ("FULEXO_SIGNER_MEMORY", memory.to_owned()),
            ("DATABASE_OWNER_URL", owner_url(postgres, NAME)),
        ] {
            env.insert(name.to_owned(), value);
        }
        env
    }
}

impl Drop for Archived {
    fn drop(&mut self) {
        drop(self.postgres.take());
        // Another run has another directory.
        let _ = fs::remove_dir_all(self.dir.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_a_point_in_time_by_pgbackrest_is_finished() {
    let mut archived = Archived::new();
    archived.start_archiving();
    prepare(archived.running(), NAME).await;
    archived.pgbackrest(&["stanza-create"]);
    let files = fulexo_tests::own_dir();
    let file = |name: &str| files.path().join(name).display().to_string();
    let made = Program::run(&["signer", "new-key", "log.example/one", "--out", &file("log.key")], &BTreeMap::new());
    assert!(made.status.success(), "{}", made.errors);
    let key = made.said.trim().to_owned();
    let env = archived.env(&file("log.key"), &file("signer.json"));
    let database = Arc::new(Database { name: NAME.to_owned() });

    let node = Node::with(&database, env.clone()).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    archived.pgbackrest(&["backup", "--type=full"]);
    // After the base backup: somebody who registers, and the point in time, which only the archive has.
    let gone = node.customer().await;
    caught_up(&node, &admin).await;
    let pool = archived.superuser().await;
    // pgBackRest knows the end of a backup to the second.
    sqlx::query("select pg_sleep(2)").execute(&pool).await.unwrap();
    let (restored, point): (i64, String) =
        sqlx::query_as("select position, clock_timestamp()::text from log.head").fetch_one(&pool).await.unwrap();
    // And what is lost: an erasure, a login.
    let erased = admin.post(&format!("/v1/accounts/{}/erasure", gone.account), json!({"reason": "a letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    node.log_in(&ann.email, ann.account).await;
    eventually("everything is signed", async || {
        sqlx::query_scalar("select c.size = h.position from tree.checkpoint c, log.head h")
            .fetch_one(&pool)
            .await
            .unwrap()
    })
    .await;
    let note: String = sqlx::query_scalar("select note from tree.checkpoint").fetch_one(&pool).await.unwrap();
    fs::write(file("checkpoint"), note).unwrap();
    let ended = Program::run(&["audit", "export", &file("copy"), "--key", &key], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    node.stop().await;
    sqlx::query("select pg_switch_wal()").execute(&pool).await.unwrap();
    pool.close().await;
    archived.stop();

    let target = format!("--target={point}");
    archived.pgbackrest(&["restore", "--delta", "--type=time", &target, "--target-action=promote"]);
    archived.start_archiving();
    let env = archived.env(&file("log.key"), &file("signer.json"));
    let mut connection = PgConnection::connect(&archived.running().superuser_url(NAME)).await.unwrap();
    eventually("the server has left recovery", async || {
        !sqlx::query_scalar::<_, bool>("select pg_is_in_recovery()").fetch_one(&mut connection).await.unwrap()
    })
    .await;
    let position: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&mut connection).await.unwrap();
    assert_eq!(position, restored, "the point in time");

    let (code, report) = crate::reported(&["restore", "finish"], &env);
    assert_eq!(code, 3, "the signer knows that there was more: {report:#}");
    assert_eq!(rules(&report), ["restore.unknown", "restore.erasures"], "{report:#}");
    let arguments = ["restore", "finish", "--copy", &file("copy"), "--checkpoint", &file("checkpoint"), "--key", &key];
    let (code, report) = crate::reported(&arguments, &env);
    assert_eq!((code, &report["facts"]["erased"]), (1, &json!(1)), "{report:#}");
    assert_eq!(rules(&report), ["restore.lost", "restore.ended_log"], "{report:#}");
    for passed in ["history", "erasures", "epoch"] {
        assert_eq!(result(&report, passed), "passed", "{passed}: {report:#}");
    }

    let node = Node::with(&database, env).await;
    assert_eq!(node.log_in(&ann.email, ann.account).await.get("/v1/me").await.status, 200);
    let login = json!({"email": gone.email, "password": PASSWORD});
    assert_eq!(node.anonymous().post("/v1/auth/login", login).await.status, 401);
    node.stop().await;
    connection.close().await.unwrap();
}
