//! The published checkpoint and the witnesses: forged, of another tree, contradicted.

use std::fs;

use fulexo_tests::eventually;
use fulexo_tests::history::fill;
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use sqlx::AssertSqlSafe;

use super::{Checked, Ground, set};

fn vkey(name: &str, kind: KeyKind, seed: u8) -> String {
    let key = SignerKey::from_seed(KeyName::parse(name).unwrap(), kind, &[seed; SEED_LENGTH]).unwrap();
    key.verifier().to_string()
}

/// Checks with other arguments about trust.
fn trusting(ground: &Ground, more: &[&str], policy: &str) -> Checked {
    let ca = ground.file("ca.pem");
    let arguments = [&["health-check", "--json", "--timeout", "60", "--ca", &ca][..], more].concat();
    Ground::rested(&arguments, &ground.with("FULEXO_TRUST_POLICY_FILE", policy))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_no_trusted_key_signed_is_found_wherever_it_is_published() {
    let ground = Ground::start().await;
    let strange = vkey("log.example/fulexo", KeyKind::Ed25519, 9);
    let checked = trusting(&ground, &["--key", &strange], "");
    let served = format!("checkpoint.untrusted https://127.0.0.1:{}", ground.node().port());
    assert_eq!((checked.status, checked.findings()), (1, set([&served, "checkpoint.untrusted database"])));
    assert_eq!(trusting(&ground, &["--key", &strange, "--key", &ground.vkey], "").status, 0, "a key was replaced");
    let own = trusting(&ground, &[], "");
    assert_eq!((own.status, &own.facts("checkpoint")["key"]), (0, &"the log's own".into()), "{:#}", own.report);
    // What cannot be read is said, and the rest is checked.
    let unread = trusting(&ground, &[], "/nowhere/policy");
    assert_eq!((unread.status, unread.findings()), (3, set([])), "{:#}", unread.report);
    assert!(unread.reason("checkpoint").contains("FULEXO_TRUST_POLICY_FILE"), "{:#}", unread.report);
    assert_eq!(unread.result("read_models"), "passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_another_tree_than_the_one_that_was_signed_is_found() {
    let mut ground = Ground::start().await;
    // So many that whole tiles are part of the tree.
    fill(&ground.database, 700).await;
    ground.node().register(&["customer"]).await;
    ground.settled().await;
    assert_eq!(ground.check(&[]).findings(), set([]), "the root is that of the tiles");
    let own = format!("service.down https://127.0.0.1:{}", ground.node().port());
    ground.stop().await;
    let found = |finding: &str| set([&own, "nodes.none service", finding]);
    let signed: (i64, String, String) =
        sqlx::query_as("select size, note, vkey from tree.checkpoint").fetch_one(&ground.pool).await.unwrap();
    let (size, note, vkey) = signed;
    let theft = |action: &str| {
        format!(
            "alter table log.event_0 disable trigger append_only; {action};
             alter table log.event_0 enable always trigger append_only"
        )
    };
    // One of the newest events, which are in no whole tile yet.
    let last = size - 1;
    let change = theft(&format!(
        "create table public.stolen as select * from log.event where position = {last};
         update log.event_0 set leaf = leaf || ' '::bytea, leaf_hash = sha256('\\x00'::bytea || leaf || ' '::bytea)
         where position = {last}"
    ));
    let back = theft(&format!(
        "update log.event_0 e set leaf = s.leaf, leaf_hash = s.leaf_hash from public.stolen s
         where e.position = {last} and s.position = {last}"
    ));
    let another = found("checkpoint.another_tree database");
    assert_eq!(ground.found(&change, &back).await, another, "an event was changed");
    let gone = "create table public.tile as select * from tree.tile where level = 1 and index = 0;
                delete from tree.tile where level = 1 and index = 0";
    assert_eq!(ground.found(gone, "insert into tree.tile select * from public.tile").await, another, "a tile is gone");
    let cut = "update log.head set position = position - 1; update tree.head set size = size - 1;
               update projection.checkpoint set position = position - 1";
    let grown = "update log.head set position = position + 1; update tree.head set size = size + 1;
                 update projection.checkpoint set position = position + 1";
    assert_eq!(ground.found(cut, grown).await, another, "an older copy was restored");
    let unsigned = "update tree.checkpoint set size = 0, note = null, vkey = null, published_at = null";
    let signed =
        format!("update tree.checkpoint set size = {size}, note = '{note}', vkey = '{vkey}', published_at = now()");
    assert_eq!(ground.found(unsigned, &signed).await, found("checkpoint.missing log"), "the signature is gone");
    assert_eq!(ground.check(&[]).findings(), set([&own, "nodes.none service"]), "all was put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_contradicts_or_fails_and_cosignatures_that_lack_are_found() {
    let ground = Ground::start().await;
    let witness = vkey("witness.example/w", KeyKind::Ed25519Cosignature, 8);
    let policy = ground.file("policy");
    fs::write(&policy, format!("log {}\nwitness w {witness} http://127.0.0.1:1\nquorum w\n", ground.vkey)).unwrap();
    let row = |failure: &str, is_contradiction: bool| {
        format!(
            "delete from tree.witness; insert into tree.witness values ('w', 1, now(), {failure}, {is_contradiction})"
        )
    };
    for (planted, finding) in [
        (row("'it has cosigned a larger tree'", true), "anchor.contradicted w"),
        (row("'no answer'", false), "anchor.witness_failed w"),
    ] {
        ground.plant(&planted).await;
        let checked = trusting(&ground, &[], &policy);
        assert_eq!((checked.status, checked.findings()), (1, set([finding])), "{:#}", checked.report);
    }
    // A witness that the policy no longer names says nothing of today.
    ground.plant("delete from tree.witness; insert into tree.witness values ('old', 1, now(), 'gone', false)").await;
    assert_eq!(trusting(&ground, &[], &policy).findings(), set([]));

    ground
        .plant("update tree.anchor set size = c.size, note = c.note, anchored_at = now() from tree.checkpoint c")
        .await;
    let uncosigned = trusting(&ground, &[], &policy);
    assert_eq!(uncosigned.findings(), set(["anchor.untrusted anchor"]), "{:#}", uncosigned.report);
    let statement = "update tree.anchor set size = 0, note = null, anchored_at = null;
                     update read.audit set recorded_at = now() - interval '1 hour' where position = 0";
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&ground.pool).await.unwrap();
    eventually("nothing is anchored for an hour", async || {
        trusting(&ground, &[], &policy).findings() == set(["anchor.late anchor"])
    })
    .await;
}
