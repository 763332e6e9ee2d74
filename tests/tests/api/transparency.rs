//! The log as a transparency log: what anybody verifies with the log's public key alone, and what the signer refuses.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use flate2::read::GzDecoder;
use fulexo_database::begin;
use fulexo_node::signer::LogKeys;
use fulexo_tests::{Answer, Database, Node, eventually, leaves, log_size, own_dir, superuser};
use fulexo_tlog::bundle::entries;
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::entry_proof::EntryProof;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey, verify};
use fulexo_tlog::note::{KeyName, Note};
use fulexo_tlog::proof::verify_consistency;
use fulexo_tlog::tile::{TileKind, hashes, levels, tiles};
use fulexo_tlog::tree::GrowingTree;
use hyper::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, PgTransaction};

const ORIGIN: &str = "log.example/fulexo";

/// A log's key and its signer's memory, which outlive nodes.
struct Signing {
    keys: String,
    memory: PathBuf,
    key_file: PathBuf,
}

impl Signing {
    fn new() -> Self {
        let (name, dir) = (KeyName::parse(ORIGIN).unwrap(), own_dir());
        let ed25519 = SignerKey::text(name.clone(), KeyKind::Ed25519, &[7; SEED_LENGTH]).unwrap();
        let ml_dsa = SignerKey::text(name, KeyKind::MlDsa44Cosignature, &[8; SEED_LENGTH]).unwrap();
        let keys = format!("{}\n{}\n", *ed25519, *ml_dsa);
        dir.store("log.key", &keys).unwrap();
        Self { keys, memory: dir.path().join("signer.json"), key_file: dir.path().join("log.key") }
    }

    fn keys(&self) -> LogKeys {
        LogKeys::parse(self.keys.lines()).unwrap()
    }

    async fn node(&self, database: &Arc<Database>) -> Node {
        let mut env = database.env();
        env.insert("FULEXO_LOG_KEY_FILE".to_owned(), self.key_file.display().to_string());
        env.insert("FULEXO_SIGNER_MEMORY".to_owned(), self.memory.display().to_string());
        Node::with(database, env).await
    }

    /// Verifies every signature of the log under a checkpoint.
    fn verified(&self, answer: &Answer) -> (Note, Checkpoint) {
        assert_eq!(answer.status, 200, "{answer:?}");
        let note = Note::parse(&answer.bytes).unwrap();
        let keys = self.keys().verifiers();
        assert_eq!(verify(&note, &keys).unwrap().len(), keys.len());
        let checkpoint = Checkpoint::parse(note.text()).unwrap();
        assert_eq!(checkpoint.origin.as_str(), ORIGIN);
        (note, checkpoint)
    }
}

async fn health(node: &Node) -> Value {
    node.anonymous().get("/health/ready").await.json
}

/// Waits until the published checkpoint covers the log as it is now.
async fn covered(node: &Node) -> Answer {
    let (size, nobody) = (log_size(node).await, node.anonymous());
    eventually("a checkpoint covers the log", async || health(node).await["checkpoint"]["size"].as_u64() >= Some(size))
        .await;
    nobody.get("/v1/audit/log/checkpoint").await
}

/// Waits until the signer refuses.
async fn refused(node: &Node) {
    eventually("the signer refuses", async || health(node).await["checkpoint"]["refused"] == true).await;
}

async fn run(pool: &PgPool, statements: &[&str]) {
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(*statement)).execute(pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_public_key_verifies_every_event_over_http_alone() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    // Full tiles of two levels, and an unfinished one of each.
    fulexo_tests::history::fill(&database, 70_000).await;
    let node = signing.node(&database).await;
    let auditor = node.auditor().await;
    let (note, checkpoint) = signing.verified(&covered(&node).await);
    let lines: Vec<&str> = note.signatures().iter().map(|line| line.name.as_str()).collect();
    assert_eq!(lines, [ORIGIN, ORIGIN, "nobody.invalid"]);

    let nobody = node.anonymous();
    let at = |tile: &dyn std::fmt::Display| format!("/v1/audit/log/{tile}");
    let mut tree = GrowingTree::default();
    let mut levels_read = Vec::new();
    for kind in levels(checkpoint.size) {
        let mut roots = Vec::new();
        for tile in tiles(kind, checkpoint.size) {
            let answer = nobody.get(&at(&tile)).await;
            assert_eq!(answer.status, 200, "{tile}: {answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000, immutable"));
            let content = hashes(&answer.bytes).unwrap();
            assert_eq!(content.len(), usize::from(tile.width), "{tile}");
            roots.extend(content);
        }
        levels_read.push(roots);
    }
    assert_eq!(levels_read.len(), 3);
    levels_read[0].iter().for_each(|leaf| tree.push(*leaf));
    assert_eq!(tree.root(), checkpoint.root);
    for (below, above) in levels_read.iter().zip(&levels_read[1..]) {
        for (hashes, root) in below.chunks_exact(256).zip(above) {
            let mut tree = GrowingTree::default();
            hashes.iter().for_each(|hash| tree.push(*hash));
            assert_eq!(tree.root(), *root);
        }
    }
    // The entries of the last two bundles, one of them unfinished.
    for bundle in tiles(TileKind::Entries, checkpoint.size).skip(272) {
        let answer = auditor.get(&at(&bundle)).await;
        assert_eq!(answer.header("cache-control"), Some("private, max-age=31536000, immutable"), "{answer:?}");
        let zipped = auditor.with_header("accept-encoding", "gzip").get(&at(&bundle)).await;
        assert_eq!(zipped.header("content-encoding"), Some("gzip"));
        assert!(zipped.bytes.len() < answer.bytes.len() / 2, "{} of {}", zipped.bytes.len(), answer.bytes.len());
        let mut unzipped = Vec::new();
        GzDecoder::new(&*zipped.bytes).read_to_end(&mut unzipped).unwrap();
        assert!(unzipped == *answer.bytes);
        let leaves = entries(&answer.bytes, bundle.width).unwrap();
        for (leaf, position) in leaves.into_iter().zip(bundle.positions()) {
            assert_eq!(TreeHash::of_leaf(leaf), levels_read[0][usize::try_from(position).unwrap()], "{position}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_convinces_whoever_has_the_leaf_and_no_other_leaf() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let node = signing.node(&database).await;
    let (nobody, auditor) = (node.anonymous(), node.auditor().await);
    let (_, old) = signing.verified(&covered(&node).await);
    for _ in 0..5 {
        node.customer().await;
    }
    let (_, new) = signing.verified(&covered(&node).await);
    assert!(new.size > old.size);
    let bundle = TileKind::Entries.tile(0, new.size).unwrap();
    let content = auditor.get(&format!("/v1/audit/log/{bundle}")).await.bytes;
    let leaves = entries(&content, bundle.width).unwrap();
    for (position, leaf) in leaves.iter().enumerate() {
        let answer = nobody.get(&format!("/v1/audit/log/proof/{position}")).await;
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        let proof = EntryProof::parse(&answer.bytes).unwrap();
        assert_eq!(proof.index, position as u64);
        let proven = proof.verify(leaf).unwrap();
        assert!(proven.size >= new.size);
        verify(&proof.checkpoint, &signing.keys().verifiers()).unwrap();
        proof.verify(leaves[(position + 1) % leaves.len()]).unwrap_err();
    }
    let answer = nobody.get(&format!("/v1/audit/log/consistency?from={}&to={}", old.size, new.size)).await.json;
    let hashes: Vec<TreeHash> =
        answer["hashes"].as_array().unwrap().iter().map(|it| TreeHash::parse(it.as_str().unwrap()).unwrap()).collect();
    verify_consistency(old.size, old.root, new.size, new.root, &hashes).unwrap();
    assert_eq!(answer["from_root"], old.root.to_string());
    assert_eq!(answer["to_root"], new.root.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_public_and_entries_are_for_those_who_may_read_the_trail() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let node = signing.node(&database).await;
    let (nobody, customer, auditor) = (node.anonymous(), node.customer().await, node.auditor().await);
    let (_, checkpoint) = signing.verified(&covered(&node).await);
    let size = checkpoint.size;
    let bundle = format!("/v1/audit/log/tile/entries/000.p/{size}");
    assert_eq!((nobody.get(&bundle).await.status, customer.get(&bundle).await.status), (401, 403));
    assert_eq!(auditor.get(&bundle).await.status, 200);
    // Generated clients encode the slash.
    assert_eq!(auditor.get(&format!("/v1/audit/log/tile/entries/000.p%2F{size}")).await.status, 200);
    assert_eq!(nobody.get(&format!("/v1/audit/log/tile/0/000.p%2F{size}")).await.status, 200);
    let (missing, more) = (size + 200, size + 100_000);
    for path in [
        "tile/0/000",
        "tile/entries/000",
        "tile/0/001",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "tile/63/000.p/1",
        "tile/64/000.p/1",
        "tile/00/000.p/1",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/0.p/1",
        "tile/0/x000/000.p/1",
        "tile/0/000.p/1/",
        "tile/0//000.p/1",
        "tile/0/000.p",
        "tile/-1/000.p/1",
        "tile/0/%C3%A9",
        "tile/0/x001/x234/x567/x890/x123/x456/x789/012",
        "tile/entries/%00",
        "tile/0/999999999999999999999999",
        &format!("tile/0/000.p/{missing}"),
        &format!("proof/{size}"),
        &format!("proof/{more}"),
        "proof/18446744073709551615",
        &format!("consistency?from=0&to={more}"),
        &format!("consistency?from={more}"),
        "tile",
        "tile/0",
        "",
        "checkpoint/",
    ] {
        let answer = auditor.get(&format!("/v1/audit/log/{path}")).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    for path in ["proof/-1", "proof/a", "consistency", "consistency?from=2&to=1", "consistency?from=a"] {
        let answer = nobody.get(&format!("/v1/audit/log/{path}")).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    for from in [0, 1, size] {
        let answer = nobody.get(&format!("/v1/audit/log/consistency?from={from}&to={size}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json["hashes"].as_array().unwrap().is_empty(), from != 1, "{answer:?}");
    }
    for path in ["tile/0/000.p/1", "tile/entries/000.p/1", "checkpoint", "proof/0"] {
        let answer = auditor.send(Method::POST, &format!("/v1/audit/log/{path}"), None, "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_part_of_the_log_is_not_sent_it_again() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let node = signing.node(&database).await;
    let auditor = node.auditor().await;
    covered(&node).await;
    for path in ["checkpoint", "proof/0", "tile/0/000.p/3", "tile/entries/000.p/3"] {
        let path = format!("/v1/audit/log/{path}");
        let asks = |tag: &str| auditor.with_header("if-none-match", tag);
        let whole = auditor.get(&path).await;
        let tag = whole.header("etag").unwrap().to_owned();
        let head = auditor.send(Method::HEAD, &path, None, "").await;
        assert_eq!((head.status, head.header("etag"), head.bytes.len()), (200, Some(tag.as_str()), 0));
        let again = asks(&tag).get(&path).await;
        assert_eq!((again.status, again.bytes.len()), (304, 0), "{again:?}");
        assert_eq!(again.header("cache-control"), whole.header("cache-control"));
        assert_eq!(asks("\"other\"").get(&path).await.bytes, whole.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_signer_publishes_nothing_and_says_so() {
    let node = Node::start().await;
    let auditor = node.auditor().await;
    for path in ["checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1", "proof/0", "consistency?from=0"] {
        assert_eq!(auditor.get(&format!("/v1/audit/log/{path}")).await.status, 404, "{path}");
    }
    let health = health(&node).await;
    assert_eq!((health["checkpoint"]["status"].as_str(), health["status"].as_str()), (Some("off"), Some("ok")));
}

/// A database that has changed under a running node, in spite of its triggers.
struct Tampering {
    pool: PgPool,
}

impl Tampering {
    async fn with(database: &Database) -> Self {
        Self { pool: superuser(database).await }
    }

    /// Runs statements as whoever owns the machine could.
    async fn run(&self, statements: &[&str]) {
        run(&self.pool, &["alter table log.event_0 disable trigger append_only"]).await;
        run(&self.pool, statements).await;
    }

    /// Keeps every node from publishing until the returned turn ends: a tree that is being built again is shorter than the one
    /// that was signed, and would be refused for that.
    async fn hold_publishing(&self) -> PgTransaction<'static> {
        let mut turn = begin(&self.pool).await.unwrap();
        sqlx::query("select from tree.checkpoint for update").execute(&mut *turn).await.unwrap();
        turn
    }

    /// Ends the turn once the tree has every event again.
    async fn publish_rebuilt(&self, turn: PgTransaction<'static>) {
        eventually("the tree is built again", async || {
            let is_whole = "select h.size = l.position from tree.head h, log.head l";
            sqlx::query_scalar(is_whole).fetch_one(&self.pool).await.unwrap()
        })
        .await;
        turn.commit().await.unwrap();
    }
}

/// Replaces an event and everything that follows from it: its hash, the tiles, and the tree's size, so that the tree is built
/// again.
const REWRITE: [&str; 2] = [
    r#"update log.event_0 e set leaf = n.leaf, leaf_hash = sha256('\x00'::bytea || n.leaf)
       from (select convert_to(replace(convert_from(leaf, 'UTF8'), '"time":"2', '"time":"1'), 'UTF8') as leaf
             from log.event_0 where position = 2) n where position = 2"#,
    "update tree.head set size = 0; delete from tree.tile",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_rewritten_with_all_its_hashes_is_not_signed() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let node = signing.node(&database).await;
    for _ in 0..3 {
        node.customer().await;
    }
    let (_, signed) = signing.verified(&covered(&node).await);
    node.stop().await;
    let tampering = Tampering::with(&database).await;
    tampering
        .run(&["create table public.kept as select position, leaf, leaf_hash from log.event where position = 2"])
        .await;
    let turn = tampering.hold_publishing().await;
    tampering.run(&REWRITE).await;
    // Another node, which has never seen the log as it was.
    let node = signing.node(&database).await;
    tampering.publish_rebuilt(turn).await;
    let customer = node.customer().await;
    refused(&node).await;
    assert_eq!(health(&node).await["status"], "degraded");
    let metrics = node.anonymous().get("/metrics").await.text;
    assert!(metrics.contains("fulexo_checkpoint_refused 1"), "{metrics}");
    let (_, still) = signing.verified(&node.anonymous().get("/v1/audit/log/checkpoint").await);
    assert_eq!(still, signed, "the last honest checkpoint stays");
    assert_eq!(customer.get("/v1/me").await.status, 200, "the service goes on");

    // Whoever puts the event back gets signatures again.
    let turn = tampering.hold_publishing().await;
    tampering
        .run(&[
            "update log.event_0 e set leaf = k.leaf, leaf_hash = k.leaf_hash from public.kept k where e.position = k.position",
            "update tree.head set size = 0; delete from tree.tile",
        ])
        .await;
    tampering.publish_rebuilt(turn).await;
    let (_, healed) = signing.verified(&covered(&node).await);
    assert!(healed.size > signed.size);
    assert_eq!(health(&node).await["checkpoint"]["refused"], false);

    // The log itself tells of it, once, and under a signature.
    let told = async || {
        let leaves = leaves(&database).await;
        leaves.into_iter().filter(|leaf| leaf["type"] == "checkpoint.refusal_ended").collect::<Vec<_>>()
    };
    eventually("the log tells of the refusal", async || told().await.len() == 1).await;
    let event = told().await.remove(0);
    assert_eq!((&event["data"]["reason"], &event["actor"]["kind"]), (&json!("different"), &json!("system")), "{event}");
    let time = |name: &str| event["data"][name].as_str().unwrap().to_owned();
    assert!(time("started_at") < time("ended_at"), "{event}");
    // As if the process had died before it forgot the refusal.
    let again = "update tree.checkpoint set refusal = 'different', refused_since = $1::timestamptz, resumed_at = $2::timestamptz";
    let again = sqlx::query(again).bind(time("started_at")).bind(time("ended_at"));
    again.execute(&tampering.pool).await.unwrap();
    eventually("it is forgotten again", async || {
        let left: Option<String> =
            sqlx::query_scalar("select refusal from tree.checkpoint").fetch_one(&tampering.pool).await.unwrap();
        left.is_none()
    })
    .await;
    assert_eq!(told().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_command_is_answered_when_a_checkpoint_covers_it() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let node = signing.node(&database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    covered(&node).await;
    let because = || json!({"reason": "asked to"});
    let account = format!("/v1/accounts/{}", ann.account);
    let key = json!({"name": "k", "permissions": ["audit.read"], "expires_at": "2027-01-01T00:00:00Z"});
    // A busy machine may need longer than an answer waits: each is repeated until one was covered in time.
    let commands: [(&str, Value, Option<String>); 3] = [
        ("/roles", json!({"role": "auditor", "reason": "asked to"}), Some(format!("{account}/roles/auditor"))),
        ("/suspend", because(), None),
        ("", key, None),
    ];
    for (path, body, undo) in commands {
        let path = if path.is_empty() { "/v1/api-keys".to_owned() } else { format!("{account}{path}") };
        eventually("a command is covered before it is answered", async || {
            let answer = admin.post(&path, body.clone()).await;
            assert!((200..300).contains(&answer.status), "{answer:?}");
            if let Some(undo) = &undo {
                assert_eq!(admin.delete_with(undo, because()).await.status, 200);
            }
            if path.ends_with("/suspend") {
                assert_eq!(admin.post(&format!("{account}/reinstate"), because()).await.status, 200);
            }
            let Some(size) = answer.header("log-checkpoint-size").map(|size| size.parse::<u64>().unwrap()) else {
                assert!(answer.json["checkpoint_size"].is_null(), "{answer:?}");
                return false;
            };
            assert!(size > answer.position(), "{answer:?}");
            assert!(answer.status == 204 || answer.json["checkpoint_size"] == size, "{answer:?}");
            // It is published, and proves the event.
            let proof = node.anonymous().get(&format!("/v1/audit/log/proof/{}", answer.position())).await;
            let proof = EntryProof::parse(&proof.bytes).unwrap();
            assert!(Checkpoint::parse(proof.checkpoint.text()).unwrap().size >= size);
            true
        })
        .await;
    }

    // Without a signer nobody waits.
    let unsigned = Node::start().await;
    let (admin, ann) = (unsigned.admin().await, unsigned.customer().await);
    let answer = admin.post(&format!("/v1/accounts/{}/suspend", ann.account), because()).await;
    assert_eq!((answer.status, answer.header("log-checkpoint-size")), (200, None), "{answer:?}");
    assert!(answer.json["checkpoint_size"].is_null() && answer.json["enforced_on"].is_u64(), "{answer:?}");
}
