//! `fulexo incident`, while no node runs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use fulexo_ops::finding::{Finding, Rule, Severity};
use fulexo_ops::report::{Check, Report};
use fulexo_tests::{Client, Database, Node, Program};
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

#[tokio::test(flavor = "multi_thread")]
async fn sessions_at_one_address_are_revoked_in_any_spelling_and_those_at_another_stay() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    let node = Node::with(&database, env.clone()).await;
    let log_in = async |address: &str| {
        let (email, account) = node.register(&["customer"]).await;
        let client = node.anonymous().with_header("x-forwarded-for", address);
        let body = json!({"email": email, "password": fulexo_tests::PASSWORD});
        let answer = client.post("/v1/auth/login", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let access_token = answer.json["access_token"].as_str().map(str::to_owned);
        (Client { access_token, ..client }, account.to_string())
    };
    let ((ann, _), (bob, bob_id)) = (log_in("2001:db8::7").await, log_in("203.0.113.7").await);
    let file = std::env::temp_dir().join(format!("fulexo-address-{}", fulexo_tests::operator().new_id()));
    let path = file.to_str().unwrap();
    fs::write(&file, "tokens in a paste").unwrap();
    let opened = Program::run(&["incident", "open", "high", "--text", path, "--json"], &env);
    let opened: Value = serde_json::from_str(&opened.said).unwrap();
    let id = opened["incident"].as_str().unwrap();
    let contain = async |address: &str, more: &[&str]| {
        fs::write(&file, address).unwrap();
        let arguments = ["incident", "contain", id, "--reason", "theft", "--json", "--sessions-at", path];
        let arguments = [&arguments[..], more].concat();
        tokio::task::block_in_place(|| Program::run(&arguments, &env))
    };
    let count = |ended: &fulexo_tests::Ended| {
        assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
        let contained: Value = serde_json::from_str(&ended.said).unwrap();
        assert_eq!(contained["measures"][0]["kind"], "revoke_sessions");
        contained["measures"][0]["count"].as_u64().unwrap()
    };
    assert_eq!(count(&contain("192.0.2.1", &[]).await), 0);
    assert_eq!(count(&contain("2001:db8::7", &["--sessions-of", &bob_id]).await), 0, "all conditions are to be met");
    assert_eq!(count(&contain("2001:db8::7", &["--sessions-since", "2100-01-01T00:00:00Z"]).await), 0);
    assert_eq!((ann.get("/v1/me").await.status, bob.get("/v1/me").await.status), (200, 200));
    assert_eq!(count(&contain(" 2001:0DB8:0:0:0:0:0:0007\r\n", &[]).await), 1);
    assert_eq!((ann.get("/v1/me").await.status, bob.get("/v1/me").await.status), (401, 200));
    assert_eq!(count(&contain("::ffff:203.0.113.7\n", &[]).await), 1);
    assert_eq!(bob.get("/v1/me").await.status, 401);
    let shown = Program::run(&["incident", "show", id], &env);
    assert!(shown.said.contains(" audit.address_searched ") && !shown.said.contains("2001"), "{}", shown.said);

    let padded = format!("203.0.113.7{}x", " ".repeat(300));
    for wrong in
        ["", "hunter2", "203.0.113.7\n203.0.113.8", "hunter2@example.com", "203.0.113.0/24", &padded, "\u{1F511}"]
    {
        let refused = contain(wrong, &[]).await;
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {}", refused.errors);
        assert!(refused.errors.contains("one IP address") && refused.said.is_empty(), "{}", refused.errors);
        assert!(!refused.errors.contains("hunter2") && !refused.errors.contains("203"), "{}", refused.errors);
    }
    fs::remove_file(&file).unwrap();
    let missing = ["incident", "contain", id, "--reason", "theft", "--sessions-at", path];
    assert_eq!(Program::run(&missing, &env).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_opens_one_incident_a_day_with_its_worst_finding_and_one_without_findings_opens_none() {
    let node = Node::start().await;
    let database = Arc::clone(&node.database);
    node.stop().await;
    let env = database.env();
    let file = std::env::temp_dir().join(format!("fulexo-report-{}", fulexo_tests::operator().new_id()));
    let path = file.to_str().unwrap();
    let run = |report: &Report| {
        fs::write(&file, report.to_json().to_string()).unwrap();
        let ended = Program::run(&["incident", "open", "--from-report", path, "--json"], &env);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
        serde_json::from_str::<Value>(&ended.said).unwrap()
    };
    let rule = |id, severity| Rule { id, title: "is at fault", severity, remedy: "m", reference: "r" };
    let (low, high) = (rule("tls.short_chain", Severity::Low), rule("tls.expired", Severity::High));
    let accepted = Finding {
        accepted: Some("known".to_owned()),
        ..rule("tls.old", Severity::Critical).finding("accepted.example", "e")
    };
    let report = |time: &str, findings: Vec<Finding>| {
        let begun = Report::begin("check-ssl", "café.example:443", time.parse().unwrap());
        Report { checks: vec![Check::of("a", "t", "d", findings)], ..begun }
    };
    let found = |time| {
        report(time, vec![accepted.clone(), low.finding("café.example", "☕"), high.finding("café.example", "past")])
    };
    let none = run(&report("2026-12-01T03:00:00Z", vec![accepted.clone()]));
    assert_eq!(none, json!({"incident": null, "position": null, "new": false}));
    let opened = run(&found("2026-12-01T03:00:00Z"));
    assert_eq!(opened["new"], true, "{opened}");
    let again = run(&found("2026-12-01T23:00:00Z"));
    assert_eq!((&again["incident"], &again["new"]), (&opened["incident"], &json!(false)));
    let tomorrow = run(&found("2026-12-02T03:00:00Z"));
    assert_eq!(tomorrow["new"], true, "{tomorrow}");
    assert_ne!(tomorrow["incident"], opened["incident"]);

    let of_program = |arguments: &[&str]| Program::run(&[&["incident"], arguments].concat(), &env);
    let shown = of_program(&["show", opened["incident"].as_str().unwrap(), "--json"]);
    let shown: Value = serde_json::from_str(&shown.said).unwrap();
    assert_eq!(shown["severity"], "high");
    let summary = "check-ssl of café.example:443: 2 findings\nhigh tls.expired café.example: is at fault (past)\n\
                   low tls.short_chain café.example: is at fault (☕)";
    assert_eq!(shown["timeline"][0]["text"], summary);
    let listed: Value = serde_json::from_str(&of_program(&["list", "--json"]).said).unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    fs::remove_file(&file).unwrap();
}

#[test]
fn a_report_that_is_none_is_refused_without_a_word_of_it() {
    let file = std::env::temp_dir().join(format!("fulexo-no-report-{}", fulexo_tests::operator().new_id()));
    let path = file.to_str().unwrap();
    let sarif = json!({"version": "2.1.0", "runs": [], "secret": "hunter2"}).to_string();
    let deep = "[".repeat(1_000_000);
    let long = " ".repeat((16 << 20) + 1);
    let cases = [
        ("hunter2", "is not JSON"),
        ("", "is not JSON"),
        (&deep, "is not JSON"),
        (&sarif, "is SARIF"),
        (r#"{"verb": "hunter2", "target": 1}"#, "is not a report"),
        ("null", "is not a report"),
        (&long, "has more than 16 MiB"),
    ];
    for (text, fault) in cases {
        fs::write(&file, text).unwrap();
        let refused = Program::run(&["incident", "open", "--from-report", path], &BTreeMap::new());
        assert_eq!(refused.status.code(), Some(2), "{fault}: {}", refused.errors);
        assert!(refused.errors.contains(fault) && refused.errors.contains("--json"), "{}", refused.errors);
        assert!(!refused.errors.contains("hunter2"), "{}", refused.errors);
    }
    fs::remove_file(&file).unwrap();
    for wrong in [&["high", "--from-report", path][..], &["--from-report", path, "--text", path], &[]] {
        let refused = Program::run(&[&["incident", "open"], wrong].concat(), &BTreeMap::new());
        assert_eq!(refused.status.code(), Some(2), "{}", refused.errors);
    }
}
