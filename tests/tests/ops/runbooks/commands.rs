//! The pages of the commands: audits, scans, tests, checks and backups.

use std::fs;

use fulexo_tests::{Node, caught_up, eventually, signed};

use super::super::audit::Instance as Audited;
use super::super::backup::Ground;
use super::super::health::Ground as Healthy;
use super::super::pentest::Instance as Tested;
use super::super::restore::Restoring;
use super::super::scan::{Written, exceptions};
use super::page::Page;
use super::{Desk, Section};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_security_audit_works() {
    let instance = Audited::start().await;
    let desk = Desk { env: instance.env.clone(), ..Desk::bare() };
    let (reports, accepted) = (desk.path("reports"), instance.accept());
    fs::create_dir(&reports).unwrap();
    let values = [("LOG_KEY", instance.vkey.as_str()), ("REPORTS", &reports), ("ACCEPTED", &accepted)];
    desk.follow(&Page::read("security-audit"), &values);
    assert_eq!(fs::read_dir(&reports).unwrap().count(), 2, "both reports are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_vulnerability_scan_works() {
    let desk = Desk::bare();
    let database = desk.path("database");
    let advisory = Written::new();
    advisory.write(database.as_ref());
    let accepted = exceptions(&format!("{{ id = \"{}\", reason = \"not reachable\" }}", advisory.id));
    desk.follow(&Page::read("vulnerability-scan"), &[("ADVISORIES", &database), ("EXCEPTIONS", &accepted)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_penetration_test_works() {
    let instance = Tested::start().await;
    let accounts = instance.accounts.display().to_string();
    let values = [("URL", instance.node.url.as_str()), ("ACCOUNTS", &accounts), ("RATE", "1000")];
    Desk::bare().follow(&Page::read("penetration-test"), &values);
    instance.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_headers_works() {
    let node = Node::start().await;
    Desk::bare().follow(&Page::read("check-headers"), &[("URL", &node.url)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_backups_work() {
    let node = Node::signed().await;
    node.customer().await;
    let (checkpoint, key) = signed(&node.database).await;
    let ground = Ground::new(&node.database);
    let desk = Desk { env: ground.env.clone(), ..Desk::bare() };
    fs::write(desk.path("checkpoint"), checkpoint).unwrap();
    let [identity, key_identity, checkpoint] = [ground.file("main"), ground.file("keys"), desk.path("checkpoint")];
    let keys = ground.encryption_keys();
    let values = [
        ("ENCRYPTION_KEYS", keys.as_str()),
        ("IDENTITY", identity.as_str()),
        ("KEY_IDENTITY", &key_identity),
        ("SIGNED_BY", &ground.signed_by),
        ("LOG_KEY", &key),
        ("CHECKPOINT", &checkpoint),
    ];
    desk.follow(&Page::read("backup"), &values);
    let page = Page::read("backup-not-verified");
    assert!(!desk.is_over(&page, &values), "no checkpoint from outside was given");
    desk.follow_sections(&page, &[Section::First, Section::Cause], &values);
    assert!(desk.is_over(&page, &values), "it was verified to its last rung");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_restore_works() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    let restoring = Restoring::of(&node.database);
    restoring.ground.create();
    node.customer().await;
    node.stop().await;
    let desk = Desk { env: restoring.env.clone(), ..Desk::bare() };
    let [identity, key_identity, lost] =
        [restoring.ground.file("main"), restoring.ground.file("keys"), desk.path("lost")];
    let values = [
        ("IDENTITY", identity.as_str()),
        ("KEY_IDENTITY", &key_identity),
        ("SIGNED_BY", &restoring.ground.signed_by),
        ("LOST", &lost),
    ];
    let page = Page::read("restore");
    assert!(!desk.is_over(&page, &values), "nothing was restored yet");
    desk.follow(&page, &values);
    assert!(std::fs::read_to_string(&lost).unwrap().lines().count() > 0);
    restoring.node().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_health_check_works() {
    let ground = Healthy::start().await;
    let mut env = ground.env.clone();
    env.insert("SSL_CERT_FILE".to_owned(), ground.file("ca.pem"));
    let desk = Desk { env, ..Desk::bare() };
    let page = Page::read("health-check");
    desk.follow_sections(&page, &[Section::First, Section::Cause], &[]);
    // A busy machine takes the lease away for a moment.
    eventually("the page says that all is well", async || desk.is_over(&page, &[])).await;
    ground
        .plant("update tree.checkpoint set refused_because = 'planted', refusal = 'different', refused_since = now()")
        .await;
    assert!(!desk.is_over(&page, &[]), "the signer refuses");
}
