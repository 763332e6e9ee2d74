//! Witnesses, as a node asks them: the second implementation of the protocol, honest and not.

use std::collections::BTreeMap;
use std::sync::Arc;

use fulexo_node::signer::LogKeys;
use fulexo_tests::second_tlog::{Scripted, SecondWitness, verify_cosignature};
use fulexo_tests::{Cut, Database, Node, eventually, history, log_size, own_dir};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::entry_proof::EntryProof;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::{KeyName, Note};
use fulexo_tlog::tree::GrowingTree;
use serde_json::{Value, json};

const ORIGIN: &str = "log.example/witnessed";

/// A log with its signer, and witnesses.
struct Witnessed {
    witnesses: Vec<SecondWitness>,
    database: Arc<Database>,
    dir: fulexo_dev_servers::DataDir,
}

impl Witnessed {
    /// Creates a log that this many witnesses know.
    async fn new(witnesses: u8, quorum: &str) -> Self {
        let (name, dir) = (KeyName::parse(ORIGIN).unwrap(), own_dir());
        let key = SignerKey::text(name, KeyKind::Ed25519, &[7; SEED_LENGTH]).unwrap();
        dir.store("log.key", &key).unwrap();
        let vkey = LogKeys::parse([key.as_str()]).unwrap().verifiers()[0].to_string();
        let mut started = Vec::new();
        let mut policy = format!("log {vkey}\n");
        for place in 0..witnesses {
            let name = format!("witness.example/{place}");
            let witness = SecondWitness::start(&name, [place + 1; 32], std::slice::from_ref(&vkey)).await;
            policy += &format!("witness w{place} {} {}\n", witness.vkey(), witness.url());
            started.push(witness);
        }
        dir.store("policy", &format!("{policy}{quorum}\n")).unwrap();
        Self { witnesses: started, database: Arc::new(Database::create().await), dir }
    }

    async fn node(&self, interval: &str) -> Node {
        self.node_on(interval, &self.database.url()).await
    }

    /// Starts a node that reaches its database at this URL.
    async fn node_on(&self, interval: &str, database: &str) -> Node {
        let mut env = self.database.env();
        env.insert("DATABASE_URL".to_owned(), database.to_owned());
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        env.insert("FULEXO_LOG_KEY_FILE".to_owned(), file("log.key"));
        env.insert("FULEXO_SIGNER_MEMORY".to_owned(), file("signer.json"));
        env.insert("FULEXO_TRUST_POLICY_FILE".to_owned(), file("policy"));
        env.insert("FULEXO_WITNESS_INTERVAL".to_owned(), interval.to_owned());
        Node::with(&self.database, env).await
    }

    /// The sizes in the signer's memory.
    fn remembered(&self) -> Value {
        let memory = std::fs::read(self.dir.path().join("signer.json")).unwrap();
        serde_json::from_slice::<Value>(&memory).unwrap()["witnesses"].clone()
    }
}

async fn anchor(node: &Node) -> Value {
    node.anonymous().get("/health/ready").await.json["anchor"].clone()
}

async fn anchored(node: &Node, size: u64) {
    eventually("the log is anchored", async || anchor(node).await["size"].as_u64() >= Some(size)).await;
}

async fn metric(node: &Node, name: &str) -> String {
    let text = node.anonymous().get("/metrics").await.text;
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_anchored_once_enough_witnesses_have_cosigned_it_and_is_then_published() {
    let log = Witnessed::new(3, "group two 2 w0 w1 w2\nquorum two").await;
    log.witnesses[2].answers(Scripted::Status(503, "text/plain", "later\n".to_owned()));
    history::fill(&log.database, 700).await;
    let node = log.node("1s").await;
    let admin = node.admin().await;
    let ann = node.customer().await;
    let size = log_size(&node).await;
    anchored(&node, size).await;

    let published = node.anonymous().get("/v1/audit/log/checkpoint").await.text;
    let note = Note::parse(published.as_bytes()).unwrap();
    let names: Vec<&str> = note.signatures().iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, [ORIGIN, "nobody.invalid", "witness.example/0", "witness.example/1"]);
    for (place, witness) in log.witnesses.iter().enumerate().take(2) {
        let line = note.signatures()[place + 2].to_string();
        assert!(verify_cosignature(&published, &line, &witness.vkey()).is_some(), "{line}");
        assert!(witness.latest(ORIGIN).is_some());
    }
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert!(checkpoint.size >= size);

    let proof = node.anonymous().get(&format!("/v1/audit/log/proof/{}", size - 1)).await;
    let proof = EntryProof::parse(&proof.bytes).unwrap();
    assert_eq!(proof.checkpoint.signatures().len(), 4);

    let health = anchor(&node).await;
    let status = |place: usize| health["witnesses"][place]["status"].as_str().unwrap();
    assert_eq!((status(0), status(1), status(2)), ("ok", "ok", "degraded"), "{health}");
    assert_eq!(health["witnesses"][0]["name"], "w0");
    assert!(metric(&node, "fulexo_anchored_size").await.parse::<u64>().unwrap() >= size);
    assert_eq!(metric(&node, "fulexo_witness_failed{witness=\"w2\"}").await, "1");
    assert_eq!(metric(&node, "fulexo_witness_failed{witness=\"w0\"}").await, "0");
    assert!(metric(&node, "fulexo_witness_size{witness=\"w1\"}").await.parse::<u64>().unwrap() >= size);
    eventually("the signer remembers the witnesses", async || log.remembered()["w0"].as_u64() >= Some(size)).await;

    // One that does not answer is asked again; the others are not.
    let asked = log.witnesses[2].requests().len();
    eventually("it is asked again", async || log.witnesses[2].requests().len() > asked + 1).await;
    let mut sizes: Vec<u64> = log.witnesses[0].requests().iter().map(|request| request.size).collect();
    let count = sizes.len();
    sizes.dedup();
    assert_eq!(sizes.len(), count, "{sizes:?}");

    let because = json!({"reason": "asked to"});
    let answer = admin.post(&format!("/v1/accounts/{}/suspend", ann.account), because).await;
    assert!(answer.json["anchored_size"].as_u64() >= Some(size), "{answer:?}");

    // The third comes back, and a node that starts anew asks no more than it has to.
    log.witnesses[2].answers(Scripted::Honest);
    eventually("all have cosigned", async || anchor(&node).await["witnesses"][2]["status"] == "ok").await;
    // Not in the middle of a round.
    let size = log_size(&node).await;
    eventually("the last round is remembered", async || {
        let remembered = log.remembered();
        ["w0", "w1", "w2"].iter().all(|name| remembered[name].as_u64() == Some(size))
    })
    .await;
    node.stop().await;
    let asked = log.witnesses[0].requests().len();
    let node = log.node("1s").await;
    history::fill(&log.database, 5).await;
    anchored(&node, log_size(&node).await).await;
    let requests = log.witnesses[0].requests();
    assert!(requests[asked..].iter().all(|request| request.status == 200), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_has_seen_more_or_other_events_raises_an_alarm() {
    let log = Witnessed::new(2, "quorum none").await;
    history::fill(&log.database, 300).await;
    let node = log.node("1s").await;
    let (one, size) = (&log.witnesses[0], log_size(&node).await);
    anchored(&node, size).await;
    eventually("the witness has cosigned", async || one.size(ORIGIN) >= size).await;
    let state = async || {
        let health = node.anonymous().get("/health/ready").await.json;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let anchor = &health["anchor"];
        (text(&health["status"]), text(&anchor["status"]), text(&anchor["witnesses"][0]["status"]))
    };
    let state_is = async |statuses: [&str; 3]| {
        let [health, anchor, witness] = statuses.map(str::to_owned);
        let expected = (health, anchor, witness);
        eventually("health says it", async || state().await == expected).await;
    };
    let cosigned = log.witnesses[1].latest(ORIGIN).unwrap();
    let root = {
        use base64::Engine;
        let root = cosigned.lines().nth(2).unwrap();
        <[u8; 32]>::try_from(base64::engine::general_purpose::STANDARD.decode(root).unwrap()).unwrap()
    };
    let size: u64 = cosigned.lines().nth(1).unwrap().parse().unwrap();

    // It has seen a larger tree than there is.
    one.set_size_and_root(ORIGIN, size + 1_000_000, [1; 32]);
    history::fill(&log.database, 20).await;
    state_is(["degraded", "failed", "failed"]).await;
    assert_eq!(metric(&node, "fulexo_witness_contradicts{witness=\"w0\"}").await, "1");
    assert_eq!(metric(&node, "fulexo_witness_contradicts{witness=\"w1\"}").await, "0");
    // It is asked again, and its alarm ends with its reason.
    one.set_size_and_root(ORIGIN, size, root);
    state_is(["ok", "ok", "ok"]).await;

    // It refuses a proof, but what it has cosigned is in this log: that is its own fault.
    let size = one.size(ORIGIN);
    one.set_size_and_root(ORIGIN, size, [2; 32]);
    history::fill(&log.database, 20).await;
    state_is(["ok", "ok", "degraded"]).await;
    assert_eq!(metric(&node, "fulexo_witness_contradicts{witness=\"w0\"}").await, "0");
    // The other one goes on.
    anchored(&node, log_size(&node).await).await;
    // It shows nothing: nobody can tell whose fault it is, and silence is not taken for good news.
    one.show(ORIGIN, None);
    state_is(["degraded", "failed", "failed"]).await;
    // It shows what nobody has cosigned.
    one.show(ORIGIN, log.witnesses[1].latest(ORIGIN));
    state_is(["degraded", "failed", "failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_shows_another_tree_under_its_own_signature_raises_an_alarm() {
    let mut log = Witnessed::new(1, "quorum w0").await;
    history::fill(&log.database, 300).await;
    let node = log.node("1s").await;
    let size = log_size(&node).await;
    anchored(&node, size).await;
    let cosigned = log.witnesses[0].size(ORIGIN);
    node.stop().await;

    // Another history under the same key, as after the restore of a dump, and a signer without memory.
    std::fs::remove_file(log.dir.path().join("signer.json")).unwrap();
    log.database = Arc::new(Database::create().await);
    history::fill(&log.database, usize::try_from(cosigned).unwrap() + 100).await;
    let node = log.node("1s").await;
    eventually("health says it", async || anchor(&node).await["witnesses"][0]["status"] == "failed").await;
    assert!(log.witnesses[0].requests().iter().any(|request| request.status == 422));
    assert_eq!(metric(&node, "fulexo_witness_contradicts{witness=\"w0\"}").await, "1");
    assert_eq!(log.witnesses[0].size(ORIGIN), cosigned);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_a_witness_does_harm() {
    let text = |status, body: &str| Scripted::Status(status, "text/plain", body.to_owned());
    let size = |body: &str| Scripted::Status(409, "text/x.tlog.size", body.to_owned());
    let mut answers = vec![
        text(200, ""),
        text(200, "\n"),
        text(200, "no signature\n"),
        text(301, ""),
        text(400, "no\n"),
        text(403, "no\n"),
        text(404, "no\n"),
        text(500, "no\n"),
        size(""),
        size("\n"),
        size("-1\n"),
        size("1e3\n"),
        size("99999999999999999999999999\n"),
        Scripted::OtherKey,
        Scripted::BadSignature,
        Scripted::Endless,
        Scripted::Silent,
    ];
    let count = answers.len();
    let members: String = (0..=count + 1).map(|place| format!(" w{place}")).collect();
    let log = Witnessed::new(u8::try_from(count + 2).unwrap(), &format!("group one any{members}\nquorum one")).await;
    history::fill(&log.database, 50).await;
    let node = log.node("1s").await;
    let others_are = async |status: &str| {
        let health = anchor(&node).await;
        let witnesses = health["witnesses"].as_array().unwrap();
        witnesses.len() == count + 2 && witnesses[1..].iter().all(|witness| witness["status"] == status)
    };
    eventually("all cosign", async || others_are("ok").await).await;
    // The last one repeats the first one's cosignature of another checkpoint.
    let cosigned = log.witnesses[0].latest(ORIGIN).unwrap();
    answers.push(text(200, &format!("{}\n", cosigned.trim_end().lines().last().unwrap())));
    for (witness, answer) in log.witnesses[1..].iter().zip(&answers) {
        witness.answers(answer.clone());
    }
    history::fill(&log.database, 3).await;
    // The first one is enough meanwhile.
    anchored(&node, log_size(&node).await).await;
    eventually("each is found to have failed", async || others_are("degraded").await).await;
    let published = node.anonymous().get("/v1/audit/log/checkpoint").await.text;
    let note = Note::parse(published.as_bytes()).unwrap();
    let names: Vec<&str> = note.signatures().iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, [ORIGIN, "nobody.invalid", "witness.example/0"]);
    log.witnesses[1..].iter().for_each(|witness| witness.answers(Scripted::Honest));
    eventually("all cosign again", async || others_are("ok").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn witnesses_are_asked_no_more_often_than_the_operator_allows_by_all_nodes_together() {
    let log = Witnessed::new(1, "quorum w0").await;
    history::fill(&log.database, 10).await;
    let (one, two) = (log.node("5s").await, log.node("5s").await);
    anchored(&one, log_size(&one).await).await;
    let began = std::time::Instant::now();
    let before = log.witnesses[0].requests().len();
    while began.elapsed() < std::time::Duration::from_secs(11) {
        history::fill(&log.database, 1).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let asked = log.witnesses[0].requests()[before..].to_vec();
    let most = began.elapsed().as_secs() / 5 + 1;
    assert!(asked.len() as u64 <= most, "{} times: {asked:?}", asked.len());
    // Both know what either has collected.
    let size = log_size(&one).await;
    anchored(&one, size).await;
    anchored(&two, size).await;
    assert!(asked.iter().all(|request| request.status == 200), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_can_write_to_the_database_cannot_anchor() {
    let log = Witnessed::new(2, "group both all w0 w1\nquorum both").await;
    history::fill(&log.database, 50).await;
    let node = log.node("1s").await;
    let size = log_size(&node).await;
    anchored(&node, size).await;
    for witness in &log.witnesses {
        witness.answers(Scripted::Status(503, "text/plain", String::new()));
    }
    let pool = fulexo_tests::superuser(&log.database).await;
    let (note,): (String,) = sqlx::query_as("select note from tree.anchor").fetch_one(&pool).await.unwrap();
    // A whole note, said to cover more than it does.
    sqlx::query("update tree.anchor set size = 1000000").execute(&pool).await.unwrap();
    eventually("nothing is anchored", async || anchor(&node).await["anchored_at"].is_null()).await;
    sqlx::query("update tree.anchor set size = $1").bind(size.cast_signed()).execute(&pool).await.unwrap();
    anchored(&node, size).await;
    let without_last = note.trim_end().rsplit_once('\n').unwrap().0.to_owned() + "\n";
    sqlx::query("update tree.anchor set note = $1, size = 1000000").bind(without_last).execute(&pool).await.unwrap();
    eventually("nothing is anchored", async || anchor(&node).await["anchored_at"].is_null()).await;
    // The signed checkpoint is published.
    let published = node.anonymous().get("/v1/audit/log/checkpoint").await.text;
    assert!(Note::parse(published.as_bytes()).unwrap().signatures().len() == 2, "{published}");
    // With the witnesses back, it heals.
    log.witnesses.iter().for_each(|witness| witness.answers(Scripted::Honest));
    eventually("the log is anchored", async || {
        let size = anchor(&node).await["size"].as_u64();
        size >= Some(log_size(&node).await) && size < Some(1_000_000)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_exchange_with_the_database_or_a_witness_is_lost_the_log_is_signed_and_anchored_once() {
    let log = Witnessed::new(1, "quorum w0").await;
    let witness = &log.witnesses[0];
    let policy = log.dir.path().join("policy");
    let (to_witness, over) = Cut::of(&witness.url()).await;
    let text = std::fs::read_to_string(&policy).unwrap().replace(&witness.url(), &over);
    std::fs::write(&policy, text).unwrap();
    let (to_database, url) = Cut::of(&log.database.url()).await;
    let node = log.node_on("1s", &url).await;
    let pool = fulexo_tests::superuser(&log.database).await;
    let mut roots: BTreeMap<u64, String> = BTreeMap::new();
    let mut see = |note: &str| {
        let checkpoint = Checkpoint::parse(Note::parse(note.as_bytes()).unwrap().text()).unwrap();
        let root = checkpoint.root.to_string();
        assert_eq!(roots.entry(checkpoint.size).or_insert_with(|| root.clone()), &root, "two trees of one size");
        checkpoint.size
    };
    for pieces in 0..36 {
        history::fill(&log.database, 3).await;
        // Of those with a witness there are two in a round, and none without news.
        let is_of_witness = pieces % 6 == 5;
        match is_of_witness {
            true => to_witness.lose_after(pieces / 6),
            false => to_database.lose_after(pieces),
        }
        let size: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&pool).await.unwrap();
        eventually("what was lost is made good", async || {
            let notes: (Option<String>, Option<String>) =
                sqlx::query_as("select c.note, a.note from tree.checkpoint c, tree.anchor a")
                    .fetch_one(&pool)
                    .await
                    .unwrap();
            let sizes = [notes.0, notes.1].map(|note| note.map_or(0, |note| see(&note)));
            sizes.iter().all(|covered| *covered >= size.unsigned_abs()) && (is_of_witness || to_database.has_lost())
        })
        .await;
        see(&witness.latest(ORIGIN).unwrap());
    }
    // Each is the root of the log at its size.
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("select leaf from log.event order by position").fetch_all(&pool).await.unwrap();
    let mut tree = GrowingTree::default();
    let mut expected = vec![tree.root().to_string()];
    for leaf in leaves {
        tree.push(TreeHash::of_leaf(&leaf));
        expected.push(tree.root().to_string());
    }
    assert!(roots.len() >= 36, "{}", roots.len());
    for (size, root) in roots {
        assert_eq!(root, expected[usize::try_from(size).unwrap()], "at {size}");
    }
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anchored_stays_while_some_cosignatures_cannot_be_renewed() {
    let log = Witnessed::new(3, "group all all w0 w1 w2\nquorum all").await;
    history::fill(&log.database, 50).await;
    let node = log.node("1s").await;
    let size = log_size(&node).await;
    anchored(&node, size).await;
    log.witnesses[2].answers(Scripted::Status(503, "text/plain", String::new()));
    let pool = fulexo_tests::superuser(&log.database).await;
    let note = async || {
        let note: String = sqlx::query_scalar("select note from tree.anchor").fetch_one(&pool).await.unwrap();
        let note = Note::parse(note.as_bytes()).unwrap();
        note.signatures().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let before = note().await;
    let old = "update tree.witness set cosigned_at = now() - interval '11 minutes' where name in ('w1', 'w2')";
    sqlx::query(old).execute(&pool).await.unwrap();
    eventually("one renews its cosignature, and one does not", async || {
        let health = anchor(&node).await;
        let status = |place: usize| health["witnesses"][place]["status"].as_str().unwrap().to_owned();
        (status(0), status(1), status(2)) == ("ok".to_owned(), "ok".to_owned(), "degraded".to_owned())
    })
    .await;
    // The renewed one takes its place; the other two stay as they were.
    eventually("the renewed cosignature is published", async || note().await != before).await;
    let after = note().await;
    assert_eq!((after.len(), &after[..3], &after[4]), (5, &before[..3], &before[4]));
    assert_eq!(anchor(&node).await["size"], size);
    log.witnesses[2].answers(Scripted::Honest);
    eventually("both do", async || anchor(&node).await["witnesses"][2]["status"] == "ok").await;
    eventually("it is published, too", async || note().await[4] != before[4]).await;
}
