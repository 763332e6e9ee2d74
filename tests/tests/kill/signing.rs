//! `fulexo signer`: killed at any moment, out of space, given another history.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_dev_servers::DataDir;
use fulexo_tests::{Database, Dice, Node, Program, eventually, history, own_dir, superuser};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{VerifierKey, verify};
use fulexo_tlog::note::Note;
use fulexo_tlog::tree::GrowingTree;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::block_in_place;
use tokio::time::sleep;

/// A signer's directory, its key and its variables.
pub struct Signing {
    pub dir: DataDir,
    pub env: BTreeMap<String, String>,
    pub key: VerifierKey,
}

impl Signing {
    pub fn new() -> Self {
        let dir = own_dir();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let made =
            Program::run(&["signer", "new-key", "log.example/killed", "--out", &file("log.key")], &BTreeMap::new());
        assert!(made.status.success(), "{}", made.errors);
        let mode = fs::metadata(file("log.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = VerifierKey::parse(made.said.trim_end()).unwrap();
        let env = [
            ("FULEXO_LOG_KEY_FILE", file("log.key")),
            ("FULEXO_SIGNER_MEMORY", file("signer.json")),
            ("FULEXO_SIGNER_SOCKET", file("signer.sock")),
        ];
        Self { env: env.map(|(name, value)| (name.to_owned(), value)).into(), key, dir }
    }

    pub fn start(&self) -> Program {
        block_in_place(|| {
            let mut signer = Program::start(&["signer"], &self.env);
            signer.says("signing on ");
            signer
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn node_env(&self, database: &Database) -> BTreeMap<String, String> {
        let mut env = database.env();
        env.insert("FULEXO_SIGNER_SOCKET".to_owned(), self.env["FULEXO_SIGNER_SOCKET"].clone());
        env
    }

    /// The published checkpoint, verified.
    async fn published(&self, pool: &PgPool) -> Option<Checkpoint> {
        let note: Option<String> =
            sqlx::query_scalar("select note from tree.checkpoint").fetch_one(pool).await.unwrap();
        let note = Note::parse(note?.as_bytes()).unwrap();
        verify(&note, std::slice::from_ref(&self.key)).unwrap();
        Some(Checkpoint::parse(note.text()).unwrap())
    }

    /// The checkpoint in the signer's memory.
    fn remembered(&self) -> Option<(u64, String)> {
        let memory: Value = serde_json::from_str(&fs::read_to_string(self.path("signer.json")).ok()?).unwrap();
        Some((memory["size"].as_u64().unwrap(), memory["root"].as_str().unwrap().to_owned()))
    }
}

/// Waits until the published checkpoint covers the whole log.
pub async fn covered(signing: &Signing, pool: &PgPool) -> Checkpoint {
    let size: i64 = sqlx::query_scalar("select position from log.head").fetch_one(pool).await.unwrap();
    eventually("a checkpoint covers the log", async || {
        signing.published(pool).await.is_some_and(|published| published.size >= size.unsigned_abs())
    })
    .await;
    signing.published(pool).await.unwrap()
}

/// The root at every size of the log.
async fn roots(pool: &PgPool) -> Vec<TreeHash> {
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("select leaf from log.event order by position").fetch_all(pool).await.unwrap();
    let mut tree = GrowingTree::default();
    let mut roots = vec![tree.root()];
    for leaf in leaves {
        tree.push(TreeHash::of_leaf(&leaf));
        roots.push(tree.root());
    }
    roots
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_and_a_signer_killed_at_any_moment_never_sign_two_trees_of_one_size() {
    let (signing, database, mut dice) = (Signing::new(), Arc::new(Database::create().await), Dice(3));
    let pool = superuser(&database).await;
    let env = signing.node_env(&database);
    let start_node = || block_in_place(|| Program::start(&["serve", "--port", "0"], &env));
    let mut nodes = [start_node(), start_node()];
    let mut signer = signing.start();
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    let mut see = |size: u64, root: String| {
        assert_eq!(seen.entry(size).or_insert_with(|| root.clone()), &root, "two trees of size {size}");
    };
    for round in 0..24 {
        history::fill(&database, 1 + dice.index(400)).await;
        let until = Instant::now() + Duration::from_millis(dice.roll(1_500));
        while Instant::now() < until {
            if let Some(published) = signing.published(&pool).await {
                see(published.size, published.root.to_string());
            }
            if let Some((size, root)) = signing.remembered() {
                see(size, root);
            }
            // What is seen more often than it changes is seen whole.
            sleep(Duration::from_millis(5)).await;
        }
        match round % 3 {
            0 => {
                block_in_place(|| signer.kill());
                signer = signing.start();
            }
            1 => {
                let one = dice.index(2);
                block_in_place(|| nodes[one].kill());
                nodes[one] = start_node();
            }
            _ => {}
        }
    }
    let last = covered(&signing, &pool).await;
    see(last.size, last.root.to_string());
    let roots = roots(&pool).await;
    assert!(seen.len() >= 5, "{}", seen.len());
    for (size, root) in seen {
        assert_eq!(root, roots[usize::try_from(size).unwrap()].to_string(), "the root at {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_without_space_signs_nothing_and_goes_on_when_there_is_some() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let _signer = signing.start();
    let pool = superuser(&database).await;
    let node = Node::with(&database, signing.node_env(&database)).await;
    history::fill(&database, 10).await;
    let before = covered(&signing, &pool).await;
    let mode = |name: &str| fs::metadata(signing.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("signer.json"), mode("signer.sock")), (0o600, 0o660));

    symlink(Path::new("/dev/full"), signing.path("signer.json.new")).unwrap();
    history::fill(&database, 10).await;
    let health = async || node.anonymous().get("/health/ready").await.json;
    eventually("health says that events wait", async || {
        let health = health().await;
        health["checkpoint"]["status"] == "degraded" && health["status"] == "degraded"
    })
    .await;
    assert_eq!(signing.published(&pool).await, Some(before.clone()));
    assert_eq!(signing.remembered(), Some((before.size, before.root.to_string())));
    fs::remove_file(signing.path("signer.json.new")).unwrap();
    let after = covered(&signing, &pool).await;
    assert!(after.size > before.size);
    assert_eq!(health().await["checkpoint"]["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_database_is_not_signed_and_says_so() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let signer = signing.start();
    let pool = superuser(&database).await;
    history::fill(&database, 300).await;
    let node = Node::with(&database, signing.node_env(&database)).await;
    let before = covered(&signing, &pool).await;
    // Yesterday's: all that the database knew at this moment.
    let tables = ["log.event_0", "log.stream", "log.head", "tree.head", "tree.tile", "tree.checkpoint"];
    for table in tables {
        let copy = format!("create table public.\"{table}\" as table {table}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(&pool).await.unwrap();
    }
    history::fill(&database, 100).await;
    let signed = covered(&signing, &pool).await;
    assert!(signed.size > before.size);
    node.stop().await;
    for table in tables {
        let restore = format!(
            "set session_replication_role = replica; alter table {table} disable trigger all; delete from {table};
             insert into {table} select * from public.\"{table}\"; alter table {table} enable trigger all"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(restore)).execute(&pool).await.unwrap();
    }
    let node = Node::with(&database, signing.node_env(&database)).await;
    let refused = async || node.anonymous().get("/health/ready").await.json["checkpoint"]["refused"] == true;
    eventually("a shorter log is refused", refused).await;
    // Another history, longer than the one that was signed.
    history::fill(&database, 500).await;
    let because = async || {
        let because: Option<String> =
            sqlx::query_scalar("select refused_because from tree.checkpoint").fetch_one(&pool).await.unwrap();
        because.unwrap_or_default()
    };
    eventually("a different log is refused", async || because().await.contains("other events")).await;
    assert!(refused().await);
    assert_eq!(signing.published(&pool).await, Some(before));
    assert_eq!(signing.remembered(), Some((signed.size, signed.root.to_string())));
    drop(signer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_says_what_it_lacks_and_never_replaces_a_key_or_another_signer() {
    let signing = Signing::new();
    let run = |arguments: &[&str], env: &BTreeMap<String, String>| Program::run(arguments, env);
    let nothing = run(&["signer"], &BTreeMap::new());
    assert_eq!(nothing.status.code(), Some(2));
    for name in signing.env.keys() {
        assert!(nothing.errors.contains(name.as_str()), "{}", nothing.errors);
    }
    let key = signing.path("log.key").display().to_string();
    let before = fs::read(&key).unwrap();
    let again = run(&["signer", "new-key", "log.example/killed", "--out", &key], &BTreeMap::new());
    assert_eq!((again.status.code(), fs::read(&key).unwrap()), (Some(1), before.clone()));
    let misnamed = run(&["signer", "new-key", "log example", "--out", "/nowhere"], &BTreeMap::new());
    assert_eq!(misnamed.status.code(), Some(2));

    let _signer = signing.start();
    let second = run(&["signer"], &signing.env);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.errors.contains("another process listens on it"), "{}", second.errors);
    // A file that was named by mistake stays.
    let mut mistaken = signing.env.clone();
    mistaken.insert("FULEXO_SIGNER_SOCKET".to_owned(), key.clone());
    let refused = run(&["signer"], &mistaken);
    assert_eq!((refused.status.code(), fs::read(&key).unwrap()), (Some(1), before));
    assert!(refused.errors.contains("is not a socket"), "{}", refused.errors);
    let secret = fs::read_to_string(&key).unwrap();
    // PRIVATE+KEY+name+id+base64, and base64 has plus signs as well.
    let secret = secret.trim_end().splitn(5, '+').last().unwrap();
    assert!(secret.len() > 40, "the whole of it");
    for said in [&nothing, &again, &second] {
        assert!(!said.errors.contains(secret) && !said.said.contains(secret));
    }

    fs::write(signing.path("signer.json"), "{}").unwrap();
    let mut elsewhere = signing.env.clone();
    elsewhere.insert("FULEXO_SIGNER_SOCKET".to_owned(), signing.path("other.sock").display().to_string());
    let damaged = run(&["signer"], &elsewhere);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(damaged.errors.contains("is not the memory of a signer"), "{}", damaged.errors);
}
