//! `fulexo keys`: rotations under load, killed at any moment, resumed; and what the end of a key means for backups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fulexo_commands::vault::SymmetricKey;
use fulexo_dev_servers::DataDir;
use fulexo_tests::{Client, Database, Dice, Node, PASSWORD, Program, eventually, own_dir, superuser};
use fulexo_tlog::key::{VerifierKey, verify};
use fulexo_tlog::note::Note;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::sleep;
use uuid::Uuid;

use crate::signing::{Signing, covered};

/// A database whose nodes take their keys from a file.
pub struct Keyed {
    pub database: Arc<Database>,
    pool: PgPool,
    pub dir: DataDir,
    pub env: BTreeMap<String, String>,
}

impl Keyed {
    pub async fn new() -> Self {
        let database = Arc::new(Database::create().await);
        let (dir, mut env) = (own_dir(), database.env());
        let file = dir.path().join("keys");
        let key = env.remove("ENCRYPTION_KEY").unwrap();
        fs::write(&file, format!("# the keys of the tests\nfirst:{key}\n")).unwrap();
        env.insert("ENCRYPTION_KEYS_FILE".into(), file.display().to_string());
        Self { pool: superuser(&database).await, database, dir, env }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    pub async fn node(&self, name: &str) -> Node {
        let mut env = self.env.clone();
        env.insert("FULEXO_NODE_NAME".into(), name.into());
        Node::with(&self.database, env).await
    }

    /// The keys in the file, by id.
    pub fn keys(&self) -> BTreeMap<String, SymmetricKey> {
        keys(&self.file())
    }

    /// The ids of the keys that rows name, and the key in use.
    async fn named(&self) -> (BTreeSet<String>, String) {
        let named = "select wrapped_by from vault.subject_key where wrapped_by is not null
                     union select kek_id from vault.period_key union select kek_id from vault.service_key";
        let named: Vec<String> = sqlx::query_scalar(named).fetch_all(&self.pool).await.unwrap();
        let in_use = "select key_id from vault.key_epoch
                      where kind = 'encryption' and first_used_at is not null and replaced_at is null";
        (named.into_iter().collect(), sqlx::query_scalar(in_use).fetch_one(&self.pool).await.unwrap())
    }

    /// Plants data keys of persons whom nobody else knows; returns a digest of each.
    async fn plant(&self, count: usize) -> BTreeMap<Uuid, [u8; 32]> {
        let first = self.keys().remove("first").unwrap();
        let mut planted = BTreeMap::new();
        let (mut ids, mut wrapped) = (Vec::new(), Vec::new());
        for number in 0..count {
            let id = Uuid::from_u128(0x5eed_0000_0000_0000 + u128::try_from(number).unwrap());
            let key = SymmetricKey::random().unwrap();
            wrapped.push(first.wrap(&context(id), &key).unwrap());
            ids.push(id);
            planted.insert(id, key.digest("test", &[]));
        }
        let insert = "insert into vault.subject_key (subject_id, wrapped, kek_id)
                      select id, wrapped, 'first' from unnest($1::uuid[], $2::bytea[]) k (id, wrapped)";
        sqlx::query(insert).bind(ids).bind(wrapped).execute(&self.pool).await.unwrap();
        planted
    }

    /// The digests of the planted keys that open under these keys.
    async fn opened(&self, pool: &PgPool, keys: &BTreeMap<String, SymmetricKey>) -> BTreeMap<Uuid, [u8; 32]> {
        let rows = "select subject_id, kek_id, wrapped from vault.subject_key where wrapped is not null";
        let rows: Vec<(Uuid, String, Vec<u8>)> = sqlx::query_as(rows).fetch_all(pool).await.unwrap();
        let open = |(id, kek, wrapped): (Uuid, String, Vec<u8>)| {
            Some((id, keys.get(&kek)?.unwrap_key(&context(id), &wrapped).ok()?.digest("test", &[])))
        };
        rows.into_iter().filter_map(open).collect()
    }

    /// The events of keys, in their order.
    async fn events(&self) -> Vec<Value> {
        let leaves = "select leaf from log.event where category = 'key' order by position";
        let leaves: Vec<Vec<u8>> = sqlx::query_scalar(leaves).fetch_all(&self.pool).await.unwrap();
        leaves.iter().map(|leaf| serde_json::from_slice(leaf).unwrap()).collect()
    }

    /// Runs `fulexo keys rotate encryption` to its end.
    pub fn rotate(&self, wait: &str) -> fulexo_tests::Ended {
        Program::run(&["keys", "rotate", "encryption", "--wait", wait], &self.env)
    }
}

/// The keys in a file, by id.
pub fn keys(file: &Path) -> BTreeMap<String, SymmetricKey> {
    use base64::Engine;
    let read = |line: &str| {
        let (id, key) = line.split_once(':')?;
        let key = base64::engine::general_purpose::STANDARD.decode(key).unwrap();
        Some((id.to_owned(), SymmetricKey::from_bytes(key.try_into().unwrap())))
    };
    fs::read_to_string(file).unwrap().lines().filter_map(read).collect()
}

fn context(id: Uuid) -> Vec<u8> {
    format!("fulexo/data-key/1/subject/{id}").into_bytes()
}

/// Registers at one node, logs in at the other, and reads what is sealed, until told to stop; returns how often.
async fn use_it(here: Client, there: Client, name: String, stop: Arc<AtomicBool>) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let email = format!("{name}-{rounds}@example.com");
        let body = json!({"email": email, "password": PASSWORD, "display_name": "Žofie"});
        let registered = here.post("/v1/auth/register", body).await;
        assert_eq!(registered.status, 201, "{registered:?}");
        let mut client = there.clone();
        let login = client.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(login.status, 200, "{login:?}");
        client.log_in_with(&login);
        let me = client.get("/v1/me").await;
        assert_eq!((me.status, &me.json["display_name"]), (200, &json!("Žofie")), "{me:?}");
        // Sealed for nobody in particular.
        let wrong = here.post("/v1/auth/login", json!({"email": format!("no-{email}"), "password": "wrong"})).await;
        assert_eq!(wrong.status, 401, "{wrong:?}");
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_killed_at_any_moment_leaves_nothing_unreadable_and_refuses_nothing() {
    let keyed = Keyed::new().await;
    let nodes = [keyed.node("one").await, keyed.node("two").await];
    let planted = keyed.plant(3_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads = [(0, 1), (1, 0)].map(|(here, there)| {
        let name = format!("from-{here}");
        tokio::spawn(use_it(nodes[here].anonymous(), nodes[there].anonymous(), name, Arc::clone(&stop)))
    });
    // As an erasure does, meanwhile.
    let (erased, pool, ending) = (Arc::new(AtomicUsize::new(0)), keyed.pool.clone(), Arc::clone(&stop));
    let (erase, victims) = (Arc::clone(&erased), planted.keys().copied().step_by(7).collect::<Vec<_>>());
    let erasing = tokio::spawn(async move {
        for id in victims {
            if ending.load(Ordering::Relaxed) {
                break;
            }
            let shred = "update vault.subject_key set wrapped = null, shredded_at = now() where subject_id = $1";
            sqlx::query(shred).bind(id).execute(&pool).await.unwrap();
            erase.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(10)).await;
        }
    });

    let mut dice = Dice(7);
    for _ in 0..8 {
        let mut program = Program::start(&["keys", "rotate", "encryption"], &keyed.env);
        sleep(Duration::from_millis(dice.roll(3_000))).await;
        program.kill();
    }
    let ended = keyed.rotate("120");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert!(load.await.unwrap() > 0);
    }
    erasing.await.unwrap();

    let (named, in_use) = keyed.named().await;
    assert_ne!(in_use, "first");
    assert_eq!(named, BTreeSet::from([in_use.clone()]), "nothing names another key");
    let keys = keyed.keys();
    assert_eq!(keys.keys().collect::<Vec<_>>(), [&in_use], "no other key is in the file");
    assert!(fs::read_to_string(keyed.file()).unwrap().starts_with("# the keys of the tests\n"));
    let opened = keyed.opened(&keyed.pool, &keys).await;
    let erased = erased.load(Ordering::Relaxed);
    assert!(erased > 0);
    let victims: BTreeSet<Uuid> = planted.keys().copied().step_by(7).take(erased).collect();
    for (id, digest) in &planted {
        assert_eq!(opened.get(id), (!victims.contains(id)).then_some(digest), "{id}");
    }

    let events = keyed.events().await;
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    let (rotated, destroyed) = (of("key.rotated"), of("key.destroyed"));
    assert!(!rotated.is_empty());
    assert_eq!(rotated.len(), destroyed.len(), "{events:?}");
    assert_eq!(rotated.last().unwrap()["data"]["to"], json!(in_use));
    for (rotated, destroyed) in rotated.iter().zip(&destroyed) {
        assert_eq!(rotated["data"]["from"], destroyed["data"]["id"], "in this order");
        assert_eq!(rotated["actor"]["kind"], "operator");
    }
    let text = serde_json::to_string(&events).unwrap();
    assert!(
        !fs::read_to_string(keyed.file())
            .unwrap()
            .lines()
            .any(|line| { line.split_once(':').is_some_and(|(_, key)| text.contains(key)) })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_older_backup_opens_nothing_once_its_key_is_destroyed() {
    let keyed = Keyed::new().await;
    let node = keyed.node("one").await;
    let planted = keyed.plant(20).await;
    node.customer().await;
    node.stop().await;
    keyed.pool.close().await;
    // A copy of the whole database, as a backup is.
    let copy = Database { name: format!("{}_copy", keyed.database.name) };
    let server = Database { name: "postgres".to_owned() };
    let copying = format!("create database {} template {} strategy file_copy", copy.name, keyed.database.name);
    sqlx::query(sqlx::AssertSqlSafe(copying)).execute(&superuser(&server).await).await.unwrap();
    let keyed = Keyed { pool: superuser(&keyed.database).await, ..keyed };
    let copied = superuser(&copy).await;
    assert_eq!(keyed.opened(&copied, &keyed.keys()).await.len(), planted.len() + 1, "the backup opens before");

    let ended = keyed.rotate("60");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.said.contains("destroyed  first"), "{}", ended.said);
    assert_eq!(keyed.opened(&keyed.pool, &keyed.keys()).await.len(), planted.len() + 1);
    assert_eq!(keyed.opened(&copied, &keyed.keys()).await.len(), 0);
    // No key is in either database: not as it is, and not in base64.
    let mut env = keyed.env.clone();
    env.insert("DATABASE_URL".into(), copy.url());
    let refused = Program::run(&["serve", "--port", "0"], &env);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    assert!(refused.errors.contains("\"first\""), "{}", refused.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_wraps_with_a_key_that_another_one_lacks_and_none_is_destroyed_that_another_one_has() {
    let keyed = Keyed::new().await;
    let elsewhere = keyed.dir.path().join("elsewhere");
    fs::copy(keyed.file(), &elsewhere).unwrap();
    let (_here, mut env) = (keyed.node("here").await, keyed.env.clone());
    env.insert("FULEXO_NODE_NAME".into(), "away".into());
    env.insert("ENCRYPTION_KEYS_FILE".into(), elsewhere.display().to_string());
    let away = Node::with(&keyed.database, env).await;

    let lacking = keyed.rotate("1");
    assert_eq!(lacking.status.code(), Some(1), "{}", lacking.errors);
    assert!(lacking.errors.contains("these nodes do not have the key") && lacking.errors.contains("away"));
    assert_eq!(keyed.named().await.1, "first");
    assert_eq!(keyed.keys().len(), 2, "the new key is in the file");

    fs::copy(keyed.file(), &elsewhere).unwrap();
    eventually("it has both", async || away.app().commands.vault().key_checks().len() == 2).await;
    // On a busy machine the nodes may take longer to use the new key.
    let mut kept = keyed.rotate("5");
    for _ in 0..20 {
        if !kept.errors.contains("do not use the key") {
            break;
        }
        kept = keyed.rotate("5");
    }
    assert_eq!(kept.status.code(), Some(1), "{}", kept.errors);
    assert!(kept.errors.contains("is not destroyed: away still have it"), "{}", kept.errors);
    let (named, in_use) = keyed.named().await;
    assert_eq!(named, BTreeSet::from([in_use.clone()]));
    let named_again = "update vault.subject_key set kek_id = 'first'";
    away.customer().await;
    assert!(sqlx::query(named_again).execute(&keyed.pool).await.is_err(), "no row names a retired key");
    assert!(keyed.events().await.iter().all(|event| event["type"] == "key.rotated"));

    fs::copy(keyed.file(), &elsewhere).unwrap();
    eventually("it has one", async || away.app().commands.vault().key_checks().len() == 1).await;
    let ended = keyed.rotate("60");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert_eq!(keyed.named().await.1, in_use, "the same rotation came to its end");
    let listed = Program::run(&["keys", "list", "--json"], &keyed.env);
    let listed: Vec<Value> = serde_json::from_str(&listed.said).unwrap();
    let state = |id: &str| listed.iter().find(|key| key["id"] == id).map(|key| (&key["state"], &key["wraps"])).unwrap();
    assert_eq!(state("first"), (&json!("destroyed"), &json!(0)));
    assert_eq!(state(&in_use).0, &json!("in use"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_the_first_key_of_the_variable_comes_into_use_and_the_operator_removes_the_other() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    let node = Node::with(&database, env.clone()).await;
    let customer = node.customer().await;
    node.stop().await;
    let none = Program::run(&["keys", "rotate", "encryption"], &env);
    assert_eq!(none.status.code(), Some(1));
    assert!(none.errors.contains("there is no new key"), "{}", none.errors);

    env.insert("ENCRYPTION_KEYS".into(), "2027:Ym9sZC1QbHVtOSBkcmF3cyA1MCBhbWJlciBmb3hlcy4=".into());
    let kept = Program::run(&["keys", "rotate", "encryption"], &env);
    assert_eq!(kept.status.code(), Some(1), "{}", kept.errors);
    assert!(kept.errors.contains("nothing needs the key default any more"), "{}", kept.errors);
    env.remove("ENCRYPTION_KEY");
    let ended = Program::run(&["keys", "rotate", "encryption"], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert_eq!(ended.said, "in use     2027\nrewrapped  0 keys\ndestroyed  default\n");
    let node = Node::with(&database, env).await;
    node.log_in(&customer.email, customer.account).await;
}

/// Logs in at one node, and uses every token of before at the other one, until told to stop; returns the tokens.
async fn hold_tokens(here: Client, there: Client, email: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut tokens = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut client = here.clone();
        let login = client.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(login.status, 200, "{login:?}");
        client.log_in_with(&login);
        let token = client.access_token.clone().unwrap();
        let published = there.get("/.well-known/jwks.json").await;
        let kids: Vec<_> = published.json["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
        assert!(kids.contains(&json!(kid(&token))), "published elsewhere before it signs: {kids:?}");
        tokens.push(token);
        // The last few: a session ends with its account's hundredth.
        for token in tokens.iter().rev().take(5) {
            let held = Client { access_token: Some(token.clone()), ..there.clone() };
            let me = held.get("/v1/me").await;
            assert_eq!(me.status, 200, "{me:?}");
        }
        sleep(Duration::from_millis(100)).await;
    }
    tokens
}

/// The id of the key that signed a token.
fn kid(token: &str) -> String {
    use base64::Engine;
    let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    head["kid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signing_key_is_replaced_under_load_and_no_token_is_refused() {
    let database = Arc::new(Database::create().await);
    let (dir, mut env, pool) = (own_dir(), database.env(), superuser(&database).await);
    let file = dir.path().join("jwt.pem");
    fs::write(&file, format!("the keys of the tests\n{}", fulexo_tests::rsa_key())).unwrap();
    env.remove("JWT_SECRET");
    env.insert("JWT_PRIVATE_KEY_FILE".into(), file.display().to_string());
    let nodes = [Node::with(&database, env.clone()).await, Node::with(&database, env.clone()).await];
    let (email, _) = nodes[0].register(&["customer"]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (here, there) = (nodes[0].anonymous(), nodes[1].anonymous());
    let load = tokio::spawn(hold_tokens(here, there, email.clone(), Arc::clone(&stop)));
    let old = nodes[0].app().commands.keys().signs_with();

    let (rotate, mut dice) = (["keys", "rotate", "signing"], Dice(11));
    for _ in 0..4 {
        let mut program = Program::start(&rotate, &env);
        sleep(Duration::from_millis(dice.roll(2_500))).await;
        program.kill();
    }
    let mut program = Program::start(&rotate, &env);
    // As if the caches had had five minutes.
    let passed = "update vault.key_epoch set held_at = held_at - interval '1 hour'
                  where kind = 'signing' and first_used_at is null and held_at is not null";
    eventually("the new key is published everywhere", async || {
        sqlx::query(passed).execute(&pool).await.unwrap().rows_affected() > 0
    })
    .await;
    let ended = tokio::task::block_in_place(|| program.wait());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.said.contains(&format!("verifying  {old} until ")), "{}", ended.said);
    let new = nodes[0].app().commands.keys().signs_with();
    assert_ne!(new, old);
    assert_eq!(nodes[1].app().commands.keys().signs_with(), new, "on every node");
    let fresh = nodes[1].log_in(&email, Uuid::nil()).await.access_token.unwrap();
    assert_eq!(kid(&fresh), new);
    let again = Program::run(&rotate, &env);
    assert!(again.status.success() && again.said.contains("verifying"), "the old one stays: {}", again.errors);
    stop.store(true, Ordering::Relaxed);
    let tokens = load.await.unwrap();
    let held = Client { access_token: tokens.last().cloned(), ..nodes[1].anonymous() };
    assert_eq!(held.get("/v1/me").await.status, 200);

    // As if the last token had expired.
    let passed = "update vault.key_epoch set replaced_at = replaced_at - interval '1 day' where key_id = $1";
    sqlx::query(passed).bind(&old).execute(&pool).await.unwrap();
    let ended = Program::run(&["keys", "rotate", "signing", "--finish"], &env);
    assert_eq!(ended.said, format!("in use     {new}\ndestroyed  {old}\n"), "{}", ended.errors);
    for node in &nodes {
        assert_eq!(node.app().commands.keys().key_ids(), std::slice::from_ref(&new));
    }
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("the keys of the tests\n"), "what else is in the file stays");
    assert_eq!(text.matches("-----BEGIN PRIVATE KEY-----").count(), 1);
    let kinds =
        "select convert_from(leaf, 'UTF8')::json ->> 'type' from log.event where category = 'key' order by position";
    let kinds: Vec<String> = sqlx::query_scalar(kinds).fetch_all(&pool).await.unwrap();
    assert_eq!(kinds, ["key.rotated", "key.destroyed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_keys_of_the_log_sign_for_the_time_of_the_overlap_and_then_the_new_one_alone() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let (_signer, pool) = (signing.start(), superuser(&database).await);
    let env = signing.node_env(&database);
    let node = Node::with(&database, env.clone()).await;
    node.customer().await;
    covered(&signing, &pool).await;
    let file = signing.path("log.key").display().to_string();
    let rotate =
        |overlap: &str| Program::run(&["keys", "rotate", "log", "--key-file", &file, "--overlap", overlap], &env);
    // Whether the published note has signatures of these keys.
    let signed = async |keys: &[&VerifierKey]| {
        let note: Option<String> =
            sqlx::query_scalar("select note from tree.checkpoint").fetch_one(&pool).await.unwrap();
        let note = Note::parse(note.unwrap().as_bytes()).unwrap();
        keys.iter().map(|key| verify(&note, &[(*key).clone()]).is_ok()).collect::<Vec<_>>()
    };

    let begun = rotate("30");
    assert_eq!(begun.status.code(), Some(0), "{}", begun.errors);
    let new = begun.said.lines().next().unwrap().strip_prefix("new key    ").unwrap();
    let (old, new) = (signing.key.clone(), VerifierKey::parse(new).unwrap());
    node.customer().await;
    eventually("both sign", async || signed(&[&old, &new]).await == [true, true]).await;
    let again = rotate("30");
    assert_eq!(again.said.lines().next(), Some(format!("new key    {new}").as_str()), "no third key: {}", again.errors);
    let events = "select count(*) from log.event where category = 'key'";
    assert_eq!(sqlx::query_scalar::<_, i64>(events).fetch_one(&pool).await.unwrap(), 0);

    let ended = rotate("0");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.said.starts_with(&format!("in use     {new}\ndestroyed  log.example/killed+")), "{}", ended.said);
    assert_eq!(sqlx::query_scalar::<_, i64>(events).fetch_one(&pool).await.unwrap(), 2);
    node.customer().await;
    eventually("the new key signs alone", async || signed(&[&old, &new]).await == [false, true]).await;
    assert_eq!(fs::read_to_string(signing.path("log.key")).unwrap().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_was_lost_before_its_use_is_forgotten_but_not_while_any_node_has_it() {
    let keyed = Keyed::new().await;
    let elsewhere = keyed.dir.path().join("elsewhere");
    let before = fs::read_to_string(keyed.file()).unwrap();
    fs::write(&elsewhere, &before).unwrap();
    let mut env = keyed.env.clone();
    env.insert("FULEXO_NODE_NAME".into(), "away".into());
    env.insert("ENCRYPTION_KEYS_FILE".into(), elsewhere.display().to_string());
    let away = Node::with(&keyed.database, env).await;
    let lacking = keyed.rotate("1");
    assert_eq!(lacking.status.code(), Some(1), "{}", lacking.errors);
    let lost = keyed.keys().into_keys().find(|id| id != "first").unwrap();

    // The other machine has it alone.
    fs::copy(keyed.file(), &elsewhere).unwrap();
    fs::write(keyed.file(), &before).unwrap();
    let announced = async |wanted: bool| {
        let announced = "select exists (select from projection.node n, unnest(n.keys) k where k like $1)";
        let announcement = format!("encryption {lost} %");
        eventually("it says so", async || {
            sqlx::query_scalar::<_, bool>(announced).bind(&announcement).fetch_one(&keyed.pool).await.unwrap() == wanted
        })
        .await;
    };
    announced(true).await;
    let refused = keyed.rotate("1");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    assert!(refused.errors.contains(&format!("do not have the key {lost} yet: this machine")), "{}", refused.errors);

    // And now nobody.
    fs::write(&elsewhere, &before).unwrap();
    announced(false).await;
    away.stop().await;
    let ended = keyed.rotate("60");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(
        ended.errors.contains(&format!("the key {lost}, which was to come into use, is nowhere")),
        "{}",
        ended.errors
    );
    let (named, in_use) = keyed.named().await;
    assert!(in_use != lost && in_use != "first", "{in_use}");
    assert_eq!(named, BTreeSet::from([in_use]));
    let listed = Program::run(&["keys", "list", "--json"], &keyed.env);
    assert!(!listed.said.contains(&format!("\"{lost}\"")), "{}", listed.said);
}
