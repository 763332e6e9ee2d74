//! An incident from its identification to its lessons, page after page.

use fulexo_tests::{Node, Program};
use serde_json::Value;

use super::Desk;
use super::page::Page;

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_worked_through_from_page_to_page() {
    let node = Node::signed().await;
    let ann = node.customer().await;
    node.register(&["admin"]).await;
    let desk = Desk::new(&node.database, &node.database.env());
    let account = ann.account.to_string();
    desk.follow(&Page::read("identify"), &[]);
    let listed = Program::run(&["incident", "list", "--json"], &desk.env);
    let listed: Value = serde_json::from_str(&listed.said).unwrap();
    let incident = listed["items"][0]["incident"].as_str().unwrap();
    let values = [("INCIDENT", incident), ("ACCOUNT", &account), ("URL", &node.url)];
    for page in ["contain", "eradicate", "recover", "learn"] {
        desk.follow(&Page::read(page), &values);
    }
    assert_eq!(ann.get("/v1/auth/session").await.status, 401, "what was contained stays contained");
    node.stop().await;
}
