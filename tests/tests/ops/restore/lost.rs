//! Restores over newer events: refused unless told, and then with the list of what is lost.

use std::fs;

use fulexo_tests::{Database, Node, PASSWORD, Program, caught_up, eventually, leaves, superuser, there};
use serde_json::{Value, json};

use super::{Restoring, result, server};
use crate::rules;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_over_newer_events_is_refused_unless_told_and_then_lists_them() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    let restoring = Restoring::of(&node.database);
    restoring.ground.create();
    let backed_up = restoring.log().await;

    // What happens after the backup: a login, a person, a role that is taken away.
    let late = node.log_in(&ann.email, ann.account).await;
    let (bob, _) = node.register(&["customer"]).await;
    let path = format!("/v1/accounts/{}/roles/customer", ann.account);
    assert_eq!(admin.delete_with(&path, json!({"reason": "moved"})).await.status, 200);
    node.stop().await;
    let (before, newer) = (restoring.log().await, leaves(&restoring.database).await);

    for (arguments, rule) in [(&[][..], "restore.occupied"), (&["--clean"][..], "restore.newer")] {
        let (code, report) = restoring.restore(arguments);
        assert_eq!((code, rules(&report), &report["facts"]["restored"]), (3, vec![rule], &json!(false)), "{report:#}");
        assert_eq!((restoring.log().await, restoring.others().await), (before.clone(), vec![]), "nothing has changed");
    }
    let list = restoring.ground.file("lost");
    let arguments = ["--clean", "--lose-newer-events", "--lost", &list];
    let (code, report) = restoring.restore(&arguments);
    assert_eq!((code, &report["facts"]["restored"]), (1, &json!(true)), "{report:#}");
    assert_eq!(rules(&report), ["restore.lost", "restore.revocations"], "{report:#}");
    for passed in ["signature", "checksums", "format", "restore", "history", "erasures", "epoch", "swap"] {
        assert_eq!(result(&report, passed), "passed", "{passed}: {report:#}");
    }
    // The list is of exactly the events that only the old database has.
    let listed: Vec<Value> =
        fs::read_to_string(&list).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lost = backed_up.1.unsigned_abs()..before.1.unsigned_abs();
    assert_eq!(
        listed.iter().map(|it| it["position"].as_u64().unwrap()).collect::<Vec<_>>(),
        lost.clone().collect::<Vec<_>>()
    );
    let first = usize::try_from(lost.start).unwrap();
    assert_eq!(listed.iter().map(|it| it["event"].clone()).collect::<Vec<_>>(), newer[first..]);
    assert_eq!(report["facts"]["lost"]["count"], lost.end - lost.start);

    // The log is that of the backup and one event, in another epoch; the old database is aside, and closed.
    let after = restoring.log().await;
    let now = leaves(&restoring.database).await;
    assert_eq!(now[..now.len() - 1], newer[..first]);
    let data = &now[now.len() - 1]["data"];
    assert_eq!(
        (&now[now.len() - 1]["type"], &data["epoch"]),
        (&json!("backup.restored"), &json!(after.0.simple().to_string()[..16]))
    );
    assert_eq!((&data["lost"], &data["position"]), (&json!(lost.end - lost.start), &json!(first)), "{data}");
    assert_eq!(data["backup"]["position"], json!(first), "{data}");
    assert_ne!(after.0, before.0);
    let aside = report["facts"]["replaced"].as_str().unwrap().to_owned();
    assert_eq!(restoring.others().await, std::slice::from_ref(&aside));
    let limit: i32 = sqlx::query_scalar("select datconnlimit from pg_database where datname = $1")
        .bind(&aside)
        .fetch_one(&server().await)
        .await
        .unwrap();
    assert_eq!(limit, 0);
    let old = Database { name: aside };
    let pool = superuser(&old).await;
    let position: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&pool).await.unwrap();
    assert_eq!(position, before.1, "nothing is lost for whoever looks for it");

    // A node serves: people of before log in, tokens of after are refused, and who came later is not there.
    let node = restoring.node().await;
    let again = node.log_in(&ann.email, ann.account).await;
    assert_eq!(again.get("/v1/me").await.status, 200);
    assert_eq!(there(&node, &late).get("/v1/me").await.status, 401, "its session is lost");
    let login = node.anonymous().post("/v1/auth/login", json!({"email": bob, "password": PASSWORD})).await;
    assert_eq!(login.status, 401);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_loses_nothing_is_clean_and_one_into_no_database_knows_nothing() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    let restoring = Restoring::of(&node.database);
    node.stop().await;
    restoring.ground.create();
    let backed_up = restoring.log().await;
    let (code, report) = restoring.restore(&["--clean"]);
    assert_eq!((code, &report["verdict"]), (0, &json!("clean")), "{report:#}");
    assert_eq!(restoring.log().await.1, backed_up.1 + 1, "and that it was restored");

    // Without any other place nobody knows what was lost, and who was erased.
    restoring.drop_database().await;
    let (code, report) = restoring.restore(&[]);
    assert_eq!((code, rules(&report)), (3, vec!["restore.erasures"]), "{report:#}");
    assert_eq!(report["facts"]["restored"], false);
    let (code, report) = restoring.restore(&["--no-erasures"]);
    assert_eq!((code, &report["facts"]["restored"]), (3, &json!(true)), "{report:#}");
    assert_eq!((result(&report, "history"), result(&report, "lost")), ("not_checked", "not_checked"));
    let node = restoring.node().await;
    assert_eq!(node.log_in(&ann.email, ann.account).await.get("/v1/me").await.status, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_run_meanwhile_are_cut_off_and_know_that_their_log_was_replaced() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    let restoring = Restoring::of(&node.database);
    restoring.ground.create();
    // Events that arrive while the backup is loaded are lost, too, and said to be.
    let late = node.log_in(&ann.email, ann.account).await;
    let (code, report) = restoring.restore(&["--clean", "--lose-newer-events"]);
    assert_eq!((code, rules(&report)), (1, vec!["restore.lost"]), "{report:#}");
    assert!(report["facts"]["lost"]["types"]["session.started"].as_u64() >= Some(1), "{report:#}");
    eventually("the node knows that its log was replaced", async || {
        let ready = node.anonymous().get("/health/ready").await;
        ready.status == 503 && ready.json["code"] == "log_replaced"
    })
    .await;
    let status = late.get("/v1/me").await.status;
    assert!([401, 503].contains(&status), "a session that is lost: {status}");
    node.stop().await;
    let node = restoring.node().await;
    assert_eq!(there(&node, &ann).get("/v1/me").await.status, 200, "what was issued before the backup is valid");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_database_with_another_history_is_not_believed() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    let restoring = Restoring::of(&node.database);
    restoring.ground.create();
    node.log_in(&ann.email, ann.account).await;
    node.stop().await;
    // Whoever owns the database writes another event over one: that is why it is restored.
    let pool = superuser(&restoring.database).await;
    for statement in [
        "alter table log.event disable trigger append_only",
        "alter table log.event_0 disable trigger append_only",
        "update log.event set leaf = replaced.leaf, leaf_hash = sha256('\\x00'::bytea || replaced.leaf)
         from (select leaf from log.event where position = 4) replaced where position = 3",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let arguments = ["--clean", "--lose-newer-events"];
    let (code, report) = restoring.restore(&arguments);
    assert_eq!((code, rules(&report)), (3, vec!["restore.history", "restore.erasures"]), "{report:#}");
    let (code, report) = restoring.restore(&[&arguments[..], &["--no-erasures"]].concat());
    assert_eq!((code, &report["facts"]["restored"]), (1, &json!(true)), "{report:#}");
    assert_eq!(rules(&report), ["restore.history"], "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_backup_and_a_foreign_database_change_nothing() {
    let node = Node::start().await;
    node.customer().await;
    let restoring = Restoring::of(&node.database);
    node.stop().await;
    let path = restoring.ground.create();
    let before = restoring.log().await;
    let part = path.join("database.age");
    let sound = fs::read(&part).unwrap();
    let mut altered = sound.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(&part, &altered).unwrap();
    let (code, report) = restoring.restore(&["--clean"]);
    assert_eq!((code, rules(&report)), (3, vec!["backup.damaged"]), "{report:#}");
    fs::write(&part, &sound).unwrap();
    // Another key than the one that is trusted; an identity that opens nothing.
    let other =
        super::super::backup::keygen(&["--signing", "tests.example/other", "--out", &restoring.ground.file("else")]);
    let arguments =
        ["restore", "--clean", "--json", "--signed-by", &other, "--identity", &restoring.ground.file("main")];
    let ended = Program::run(&arguments, &restoring.env);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.errors);
    let only_main = restoring.ground.file("main");
    let arguments = ["restore", "--clean", "--signed-by", &restoring.ground.signed_by, "--identity", &only_main];
    let ended = Program::run(&arguments, &restoring.env);
    assert_eq!(ended.status.code(), Some(3), "{} {}", ended.said, ended.errors);
    assert_eq!((restoring.log().await, restoring.others().await), (before, vec![]));

    restoring.drop_database().await;
    let create = format!("create database {}", restoring.database.name);
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&server().await).await.unwrap();
    let pool = superuser(&restoring.database).await;
    sqlx::query("create table accounting (id integer)").execute(&pool).await.unwrap();
    pool.close().await;
    let (code, report) = restoring.restore(&["--clean", "--lose-newer-events", "--no-erasures"]);
    assert_eq!((code, rules(&report)), (3, vec!["restore.foreign"]), "{report:#}");
}
