//! The signer, the tree and a witness: refused, late, stopped, silent, contradicted.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_database::begin;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::leaf;
use fulexo_tests::second_tlog::{Scripted, SecondWitness};
use fulexo_tests::{Database, Node, Program, draft, eventually, log_size, operator, superuser};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::Desk;
use super::page::Page;

const ORIGIN: &str = "log.example/runbooks";

/// A log with a signer of its own and a witness.
struct Signed {
    signer: Program,
    witness: SecondWitness,
    node: Node,
    desk: Desk,
    pool: PgPool,
    env: BTreeMap<String, String>,
}

impl Signed {
    async fn start() -> Self {
        let database = Arc::new(Database::create().await);
        let mut desk = Desk::new(&database, &database.env());
        let made = Program::run(&["signer", "new-key", ORIGIN, "--out", &desk.path("log.key")], &BTreeMap::new());
        let vkey = made.said.trim_end().to_owned();
        let witness = SecondWitness::start("witness.example/w", [1; 32], std::slice::from_ref(&vkey)).await;
        let policy = format!("log {vkey}\nwitness w {} {}\nquorum w\n", witness.vkey(), witness.url());
        fs::write(desk.path("policy"), policy).unwrap();
        let env = [
            ("FULEXO_LOG_KEY_FILE", desk.path("log.key")),
            ("FULEXO_SIGNER_MEMORY", desk.path("signer.json")),
            ("FULEXO_SIGNER_SOCKET", desk.path("signer.sock")),
        ];
        let env: BTreeMap<_, _> = env.map(|(name, value)| (name.to_owned(), value)).into();
        for (name, value) in [
            ("FULEXO_SIGNER_SOCKET", desk.path("signer.sock")),
            ("FULEXO_TRUST_POLICY_FILE", desk.path("policy")),
            ("FULEXO_WITNESS_INTERVAL", "1s".to_owned()),
        ] {
            desk.env.insert(name.to_owned(), value);
        }
        let signer = start(&env);
        let node = Node::with(&database, desk.env.clone()).await;
        node.customer().await;
        let signed = Self { signer, witness, node, desk, pool: superuser(&database).await, env };
        signed.settled().await;
        signed
    }

    async fn settled(&self) {
        let size = log_size(&self.node).await;
        eventually("the log is signed and anchored", async || {
            let health = self.node.anonymous().get("/health/ready").await.json;
            health["anchor"]["size"].as_u64() >= Some(size)
        })
        .await;
    }

    async fn alert(&self, page: &str, end: impl AsyncFnOnce()) {
        self.desk.alert(&Page::read(page), &self.node, &[("URL", self.node.url.as_str())], end).await;
    }
}

fn start(env: &BTreeMap<String, String>) -> Program {
    block_in_place(|| {
        let mut signer = Program::start(&["signer"], env);
        signer.says("signing on ");
        signer
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_is_late_or_refuses_is_over_when_its_page_says_so() {
    let mut signed = Signed::start().await;
    block_in_place(|| signed.signer.kill());
    signed.node.customer().await;
    let env = signed.env.clone();
    let mut again = None;
    signed.alert("checkpoint-late", async || again = Some(start(&env))).await;
    signed.settled().await;

    // A log that lacks what was signed.
    block_in_place(|| again.take().unwrap().kill());
    let file = signed.desk.path("signer.json");
    let memory = fs::read_to_string(&file).unwrap();
    let mut later: Value = serde_json::from_str(&memory).unwrap();
    later["size"] = (later["size"].as_u64().unwrap() + 1_000).into();
    fs::write(&file, later.to_string()).unwrap();
    let mut refusing = start(&env);
    signed.node.customer().await;
    let mut sound = None;
    let end = async || {
        block_in_place(|| refusing.kill());
        fs::write(&file, &memory).unwrap();
        sound = Some(start(&env));
    };
    signed.alert("checkpoint-refused", end).await;
    signed.settled().await;
    signed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_silent_or_contradicts_and_a_log_with_a_gap_are_over_when_their_pages_say_so() {
    let signed = Signed::start().await;
    let (node, witness) = (&signed.node, &signed.witness);
    witness.answers(Scripted::Status(503, "text/plain", "later\n".to_owned()));
    node.customer().await;
    signed.alert("witness-failed", async || witness.answers(Scripted::Honest)).await;
    signed.settled().await;

    let cosigned = witness.latest(ORIGIN).unwrap();
    let mut lines = cosigned.lines().skip(1);
    let size: u64 = lines.next().unwrap().parse().unwrap();
    let root: [u8; 32] = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.decode(lines.next().unwrap()).unwrap().try_into().unwrap()
    };
    witness.set_size_and_root(ORIGIN, size + 1_000_000, [1; 32]);
    node.customer().await;
    signed.alert("witness-contradicts", async || witness.set_size_and_root(ORIGIN, size, root)).await;
    signed.settled().await;

    // The event at the end is missing.
    let before = operator().now;
    let gap: i64 = sqlx::query_scalar("update log.head set position = position + 1 returning position - 1")
        .fetch_one(&signed.pool)
        .await
        .unwrap();
    signed.alert("tree-stopped", async || fill(&signed.pool, gap, before).await).await;
    signed.node.stop().await;
}

/// Puts a sound event of this time at a position that has none.
async fn fill(pool: &PgPool, position: i64, time: DateTime<Utc>) {
    let stream = Uuid::from_u128(7);
    let sound = draft(AccountEvent::Registered {}, stream).encode().unwrap().leaf(time, 1);
    let mut transaction = begin(pool).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    let insert = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                  values ($1, $2, 'account', 1, $3, $4)";
    let hash = leaf::hash(&sound).to_vec();
    let insert = sqlx::query(insert).bind(position).bind(stream).bind(sound).bind(hash);
    insert.execute(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}
