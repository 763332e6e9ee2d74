//! `fulexo incident`, while no node runs.

use std::fs;
use std::sync::Arc;

use fulexo_tests::{Node, Program};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_works_through_an_incident_while_the_service_is_stopped() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let database = Arc::clone(&node.database);
    node.stop().await;
    let env = database.env();
    let file = std::env::temp_dir().join(format!("fulexo-incident-{}", fulexo_tests::operator().new_id()));
    fs::write(&file, "a laptop of Ann Smith was stolen").unwrap();
    let text = file.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let ended = Program::run(&[&["incident"], arguments, &["--json"]].concat(), &env);
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", ended.errors);
        serde_json::from_str::<Value>(&ended.said).unwrap()
    };
    let opened = run(&["open", "critical", "--text", text]);
    let id = opened["incident"].as_str().unwrap();
    let (ann_id, bob_id) = (ann.account.to_string(), bob.account.to_string());
    let contain = ["contain", id, "--reason", "theft", "--lockdown", "logins", "--suspend", &ann_id];
    let contained = run(&[&contain[..], &["--sessions-of", &bob_id]].concat());
    let measures = contained["measures"].as_array().unwrap();
    let kinds: Vec<&Value> = measures.iter().map(|measure| &measure["kind"]).collect();
    assert_eq!(kinds, [&json!("lockdown"), &json!("suspend_accounts"), &json!("revoke_sessions")]);
    assert!(measures.iter().all(|measure| measure["count"] == 1 && measure["refused"] == json!([])), "{measures:?}");
    let again = run(&[&contain[..], &["--sessions-of", &bob_id]].concat());
    assert_eq!(again["measures"][1]["count"], 1, "what was done is found done: {again}");

    let refused = Program::run(&["incident", "close", id, "--text", text], &env);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    assert!(refused.errors.contains("the incident is contained, and another phase"), "{}", refused.errors);
    for verb in ["note", "eradicate", "recover", "close"] {
        assert!(run(&[verb, id, "--text", text])["position"].is_u64(), "{verb}");
    }
    let closed = Program::run(&["incident", "contain", id, "--reason", "again"], &env);
    assert!(closed.errors.contains("(incident_phase)") && !closed.errors.contains("again"), "{}", closed.errors);
    assert_eq!(run(&["list", "--phase", "closed"])["items"][0]["incident"], id);
    assert_eq!(run(&["list", "--phase", "identified"])["items"], json!([]));
    let shown = run(&["show", id]);
    let timeline = shown["timeline"].as_array().unwrap();
    assert_eq!(
        (&timeline[0]["type"], &timeline[0]["text"]),
        (&json!("incident.opened"), &json!("a laptop of Ann Smith was stolen"))
    );
    let types: Vec<&str> = timeline.iter().filter_map(|entry| entry["type"].as_str()).collect();
    for caused in ["lockdown.started", "account.suspended", "session.revoked", "incident.closed"] {
        assert!(types.contains(&caused), "{caused}: {types:?}");
    }

    fs::remove_file(&file).unwrap();

    let node = Node::join(&database).await;
    let login = json!({"email": bob.email, "password": fulexo_tests::PASSWORD});
    let refused = node.anonymous().post("/v1/auth/login", login).await;
    assert_eq!(refused.code(), "locked_down", "a node that starts later enforces it");
}
