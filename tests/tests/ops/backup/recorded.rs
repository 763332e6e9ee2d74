//! Backups in the log of the service, its metrics and its health.

use fulexo_tests::{Node, eventually};
use serde_json::{Value, json};

use super::Ground;

/// The value of a metric.
fn metric(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_knows_of_a_backup_and_of_its_verifications() {
    const TAKEN: &str = "fulexo_backup_taken_timestamp_seconds";
    const VERIFIED: &str = "fulexo_backup_verified_timestamp_seconds";
    let node = Node::signed().await;
    node.customer().await;
    let admin = node.admin().await;
    let (anonymous, mut ground) = (node.anonymous(), Ground::new(&node.database));
    let metrics = async || anonymous.get("/metrics").await.text;
    assert_eq!((metric(&metrics().await, TAKEN), metric(&metrics().await, VERIFIED)), (0, 0));

    // Without the database of the service nothing is recorded, and the verb says so.
    let ended = ground.run(&["create", "--json"]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(ended.errors.contains("DATABASE_URL is not set"), "{}", ended.errors);
    ground.env.insert("DATABASE_URL".to_owned(), node.database.url());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let ended = ground.run(&["create", "--json"]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    let created: Value = serde_json::from_str(&ended.said).unwrap();
    assert_eq!(created["recorded"], true, "{created}");

    let found = async |kind: &str| {
        let answer = admin.get(&format!("/v1/audit/events?type={kind}")).await;
        answer.json["items"].as_array().cloned().unwrap_or_default()
    };
    eventually("the backup is in the trail", async || found("backup.taken").await.len() == 1).await;
    let taken = found("backup.taken").await.remove(0);
    assert_eq!(taken["actor"]["kind"], "operator", "{taken}");
    let data = &taken["data"];
    assert_eq!(data["backup"]["name"], created["backup"], "{taken}");
    assert_eq!((&data["backup"]["position"], &data["backup"]["root"]), (&created["position"], &created["root"]));
    assert_eq!((&data["place"], data["parts"].as_array().unwrap().len()), (&json!("directory"), 2));
    for hidden in [ground.file(""), "age1".to_owned(), "tests.example".to_owned()] {
        assert!(!taken.to_string().contains(&hidden), "{hidden}: {taken}");
    }
    eventually("the metric has it", async || metric(&metrics().await, TAKEN) > 0).await;
    assert_eq!(metric(&metrics().await, VERIFIED), 0);

    // The log is not compared with anything outside: a rung is not climbed, and the backup was restored without findings.
    let (code, report) = ground.verify("latest", &["--record"]);
    assert_eq!(code, 3, "{report:#}");
    eventually("the verification is in the trail", async || found("backup.verified").await.len() == 1).await;
    let verified = found("backup.verified").await.remove(0);
    assert_eq!(verified["stream"], taken["stream"], "{verified}");
    let rungs = verified["data"]["rungs"].as_array().unwrap();
    let verdict = |name: &str| &rungs.iter().find(|rung| rung["rung"] == name).unwrap()["verdict"];
    assert_eq!((verdict("restore"), verdict("log")), (&json!("passed"), &json!("not_climbed")), "{verified}");
    eventually("the metric has it", async || metric(&metrics().await, VERIFIED) > 0).await;
    let ready = anonymous.get("/health/ready").await.json;
    assert!(ready["backups"]["taken_at"].is_string() && ready["backups"]["verified_at"].is_string(), "{ready:#}");
    assert_eq!(ready["status"], "ok", "{ready:#}");

    // A database that does not answer costs the record, and not the backup.
    ground.env.insert("DATABASE_URL".to_owned(), "postgres://nobody@127.0.0.1:1/fulexo".to_owned());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let before = ground.names().len();
    let ended = ground.run(&["create"]);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.errors);
    assert!(ended.errors.contains("is whole, and the log does not know of it"), "{}", ended.errors);
    assert_eq!(ground.names().len(), before + 1);
    node.stop().await;
}
