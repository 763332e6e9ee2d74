//! Incidents: their phases, what contains them, who may see what was written, what becomes of a call that was interrupted.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use chrono::TimeDelta;
use fulexo_tests::{Answer, Client, Node, there};
use hyper::Method;
use serde_json::{Value, json};

const INCIDENTS: &str = "/v1/incidents";
const SECRET: &str = "Ann Smith of 12 Elm Street lost her laptop – café ☕";
const BECAUSE: &str = "tokens of ours were found in a paste";

/// Opens an incident, and returns its path.
async fn open(client: &Client) -> String {
    let opened = client.post(INCIDENTS, json!({"severity": "high", "summary": SECRET})).await;
    assert_eq!(opened.status, 201, "{opened:?}");
    format!("{INCIDENTS}/{}", opened.json["incident_id"].as_str().unwrap())
}

async fn contain(client: &Client, path: &str, measures: Value) -> Answer {
    let mut body = measures;
    body["reason"] = json!(BECAUSE);
    client.post(&format!("{path}/contain"), body).await
}

async fn step(client: &Client, path: &str, step: &str) -> Answer {
    let body = if step == "close" { json!({"lessons": SECRET}) } else { json!({"note": SECRET}) };
    client.post(&format!("{path}/{step}"), body).await
}

/// Returns an incident as of the end of the log.
async fn shown(node: &Node, client: &Client, path: &str) -> Value {
    let client = client.seeing(fulexo_tests::log_size(node).await - 1);
    let shown = client.get(path).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.json
}

async fn timeline(node: &Node, client: &Client, path: &str) -> Vec<Value> {
    let client = client.seeing(fulexo_tests::log_size(node).await - 1);
    let page = client.get(&format!("{path}/timeline?limit=200")).await;
    assert_eq!(page.status, 200, "{page:?}");
    page.json["items"].as_array().unwrap().clone()
}

fn types(timeline: &[Value]) -> Vec<&str> {
    timeline.iter().map(|entry| entry["event"]["type"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_goes_through_its_phases_and_every_other_order_is_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let path = open(&admin).await;
    let steps = ["contain", "eradicate", "recover", "close"];
    let phases = ["identified", "contained", "eradicated", "recovered", "closed"];
    for (done, phase) in phases.into_iter().enumerate() {
        assert_eq!(shown(&node, &admin, &path).await["phase"], phase);
        for (nth, verb) in steps.into_iter().enumerate().filter(|(nth, verb)| *nth != done && *verb != "contain") {
            let refused = step(&admin, &path, verb).await;
            assert_eq!((refused.status, refused.code()), (409, "incident_phase"), "{phase}, {verb}, {nth}");
        }
        let noted = step(&admin, &path, "notes").await;
        assert_eq!(noted.status, 200, "notes are taken in every phase: {noted:?}");
        match steps.get(done) {
            Some(&"contain") => assert_eq!(contain(&admin, &path, json!({})).await.status, 200),
            Some(verb) => assert_eq!(step(&admin, &path, verb).await.status, 200, "{verb}"),
            None => assert_eq!(contain(&admin, &path, json!({})).await.code(), "incident_phase"),
        }
    }
    let closed = shown(&node, &admin, &path).await;
    assert_eq!((&closed["summary"], &closed["lessons"]), (&json!(SECRET), &json!(SECRET)));
    let missing = format!("{INCIDENTS}/{}", admin.account);
    assert_eq!(step(&admin, &missing, "eradicate").await.status, 404);
    assert_eq!(admin.get(&missing).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containment_puts_out_whom_it_names_on_every_node_and_says_so_of_each_measure() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann, bob, carol) =
        (node.admin().await, node.customer().await, node.customer().await, node.customer().await);
    let expires_at = fulexo_node::clock::now() + TimeDelta::days(1);
    let key = json!({"name": "billing", "permissions": ["accounts.read"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    let service = Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..Client::new(&node.url) };
    let path = open(&admin).await;
    let nobody = uuid::Uuid::from_u128(7);
    let answer = contain(
        &admin,
        &path,
        json!({
            "suspend_accounts": [bob.account, nobody],
            "revoke_api_keys": [key.json["api_key_id"]],
            "revoke_sessions": {"accounts": [ann.account, admin.account]},
        }),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let measures = answer.json["measures"].as_array().unwrap();
    let counts: Vec<_> = measures.iter().map(|it| (it["measure"].as_str().unwrap(), it["count"].as_u64())).collect();
    assert_eq!(counts, [("revoke_api_keys", Some(1)), ("suspend_accounts", Some(1)), ("revoke_sessions", Some(1))]);
    assert!(measures.iter().all(|it| it["enforced_on"] == 2 && it["more"] == false), "{measures:?}");
    assert_eq!(measures[1]["refused"], json!([{"id": nobody, "code": "not_found"}]));
    assert_eq!(answer.json["enforcement"]["enforced_on"], 2);
    for node in [&node, &other] {
        for client in [&ann, &bob] {
            assert_eq!(there(node, client).get("/v1/me/sessions").await.status, 401);
        }
        assert_eq!(there(node, &service).get("/v1/accounts").await.status, 401);
        for client in [&admin, &carol] {
            assert_eq!(
                there(node, client).get("/v1/me/sessions").await.status,
                200,
                "spared, also the responder's own"
            );
        }
    }
    let timeline = timeline(&node, &admin, &path).await;
    let types = types(&timeline);
    for caused in ["incident.containment_started", "api_key.revoked", "account.suspended", "session.revoked"] {
        assert!(types.contains(&caused), "{caused}: {types:?}");
    }
    assert_eq!((types[0], *types.last().unwrap()), ("incident.opened", "incident.contained"));
    assert_eq!((&timeline[0]["text"], &timeline[1]["text"]), (&json!(SECRET), &json!(BECAUSE)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_selected_by_their_start_and_by_their_address() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let path = open(&admin).await;
    let none = contain(&admin, &path, json!({"revoke_sessions": {}})).await;
    assert_eq!(none.json["errors"][0]["pointer"], "/revoke_sessions", "{none:?}");
    let later = json!({"revoke_sessions": {"since": fulexo_node::clock::now() + TimeDelta::hours(1)}});
    assert_eq!(contain(&admin, &path, later).await.json["measures"][0]["count"], 0);
    assert_eq!(ann.get("/v1/me/sessions").await.status, 200);
    let digest = async |address: &str| {
        let found = admin.post("/v1/audit/addresses", json!({"address": address, "reason": BECAUSE})).await;
        found.json["digest"].clone()
    };
    let elsewhere = json!({"revoke_sessions": {"address": digest("192.0.2.9").await}});
    assert_eq!(contain(&admin, &path, elsewhere).await.json["measures"][0]["count"], 0);
    let here = json!({"revoke_sessions": {"address": digest("127.0.0.1").await, "since": "2020-01-01T00:00:00Z"}});
    let contained = contain(&admin, &path, here).await;
    assert_eq!(contained.json["measures"][0]["count"], 1, "{contained:?}");
    assert_eq!(ann.get("/v1/me/sessions").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containment_that_was_interrupted_continues_and_one_that_ended_is_not_repeated() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let path = open(&admin).await;
    // As if the process had died after the first of its measures.
    let suspended = admin.post(&format!("/v1/accounts/{}/suspend", ann.account), json!({"reason": BECAUSE})).await;
    assert_eq!(suspended.status, 200);
    let once = admin.with_header("idempotency-key", "once");
    let measures = json!({"lockdown": "logins", "suspend_accounts": [ann.account]});
    let first = contain(&once, &path, measures.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.json["measures"][1]["count"], 1);
    let size = fulexo_tests::log_size(&node).await;
    let again = contain(&once, &path, measures).await;
    assert_eq!(again.json["measures"], first.json["measures"]);
    assert_eq!(fulexo_tests::log_size(&node).await, size, "nothing was recorded");
    assert_eq!(contain(&once, &path, json!({})).await.code(), "idempotency_key_reused");

    let opened = once.post(INCIDENTS, json!({"severity": "low", "summary": "s"})).await;
    let same = once.post(INCIDENTS, json!({"severity": "low", "summary": "s"})).await;
    assert_eq!(opened.json["incident_id"], same.json["incident_id"]);
    let other = once.post(INCIDENTS, json!({"severity": "low", "summary": "another"})).await;
    assert_eq!(other.code(), "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_responders_contain_at_once_and_work_during_the_lockdown_which_a_third_call_does_not_loosen() {
    let node = Node::start().await;
    let (first, second) = (node.admin().await, node.admin().await);
    let (ann, carol) = (node.customer().await, node.customer().await);
    let path = open(&first).await;
    let measures = || json!({"lockdown": "all", "suspend_accounts": [ann.account]});
    let (one, two) = tokio::join!(contain(&first, &path, measures()), contain(&second, &path, measures()));
    assert_eq!((one.status, two.status), (200, 200), "{one:?} {two:?}");
    assert_eq!(ann.get("/v1/me/sessions").await.status, 401, "suspended, which outlasts the lockdown");
    let narrower = contain(&second, &path, json!({"lockdown": "logins"})).await;
    assert_eq!((narrower.status, &narrower.json["measures"][0]["count"]), (200, &json!(1)), "{narrower:?}");
    assert_eq!(carol.get("/v1/me/sessions").await.code(), "locked_down");
    for (client, verb) in [(&first, "eradicate"), (&second, "recover"), (&first, "close")] {
        assert_eq!(step(client, &path, verb).await.status, 200, "{verb}");
    }
    let timeline = timeline(&node, &first, &path).await;
    let count = |kind| types(&timeline).into_iter().filter(|it| *it == kind).count();
    assert_eq!((count("incident.contained"), count("lockdown.started"), count("account.suspended")), (3, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_manage_incidents_learns_nothing_that_was_written() {
    let node = Node::start().await;
    let (admin, auditor, ann) = (node.admin().await, node.auditor().await, node.customer().await);
    let path = open(&admin).await;
    assert_eq!(step(&admin, &path, "notes").await.status, 200);
    for client in [&auditor, &ann] {
        for path in [INCIDENTS, &path, &format!("{path}/timeline")] {
            assert_eq!(client.get(path).await.status, 403);
        }
        assert_eq!(client.post(INCIDENTS, json!({"severity": "low", "summary": "s"})).await.status, 403);
    }
    let auditor = auditor.seeing(fulexo_tests::log_size(&node).await - 1);
    let events = auditor.get("/v1/audit/events?category=incident").await;
    assert_eq!(events.json["items"].as_array().unwrap().len(), 2);
    assert!(!events.text.contains("Elm Street"), "{}", events.text);
    assert_eq!(events.json["items"][0]["sealed"][0]["fields"], json!(["summary"]));
    let unseal = format!("/v1/audit/events/{}/unseal", events.json["items"][0]["position"]);
    let opened = admin.post(&unseal, json!({"reason": BECAUSE})).await;
    assert_eq!(opened.json["fields"]["summary"], SECRET);

    let stale = node.as_if_logged_in(TimeDelta::hours(1), &admin, &["admin", "customer"]);
    assert_eq!(contain(&stale, &path, json!({})).await.code(), "step_up_required");
    let role = json!({"permissions": ["incidents.manage"], "reason": "r"});
    assert_eq!(admin.put("/v1/roles/responder", role).await.status, 200);
    let responder = node.customer().await;
    let grant = format!("/v1/accounts/{}/roles", responder.account);
    assert_eq!(admin.post(&grant, json!({"role": "responder", "reason": "r"})).await.status, 204);
    let responder = node.log_in(&responder.email, responder.account).await;
    for measures in [
        json!({"lockdown": "all"}),
        json!({"suspend_accounts": [ann.account]}),
        json!({"revoke_sessions": {"accounts": [ann.account]}}),
        json!({"revoke_api_keys": [ann.account]}),
    ] {
        assert_eq!(contain(&responder, &path, measures.clone()).await.code(), "permission_denied", "{measures}");
    }
    assert_eq!(contain(&responder, &path, json!({})).await.status, 200);
    assert_eq!(responder.get(&format!("{path}/timeline")).await.status, 403, "it shows events of all kinds");
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_are_listed_by_phase_severity_and_owner_also_as_they_were() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let (path, _other) = (open(&admin).await, open(&admin).await);
    let before = fulexo_tests::log_size(&node).await - 1;
    let change = json!({"owner": ann.account, "severity": "critical"}).to_string();
    let changed = admin.send(Method::PATCH, &path, Some("application/json"), &change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let nobody = json!({"owner": uuid::Uuid::from_u128(7)}).to_string();
    let refused = admin.send(Method::PATCH, &path, Some("application/json"), &nobody).await;
    assert_eq!(refused.json["errors"][0]["pointer"], "/owner", "{refused:?}");
    assert_eq!(contain(&admin, &path, json!({})).await.status, 200);
    let admin = admin.seeing(fulexo_tests::log_size(&node).await - 1);
    let number = async |query: &str| {
        let page = admin.get(&format!("{INCIDENTS}?{query}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        page.json["items"].as_array().unwrap().len()
    };
    assert_eq!(number("").await, 2);
    assert_eq!(number("phase=contained").await, 1);
    assert_eq!(number("severity=critical&phase=contained").await, 1);
    assert_eq!(number(&format!("owner={}", ann.account)).await, 1);
    assert_eq!(number(&format!("as_of={before}&phase=identified&severity=high")).await, 2);
    assert_eq!(number(&format!("as_of={before}&owner={}", ann.account)).await, 0);
    let page = admin.get(&format!("{INCIDENTS}?limit=1")).await;
    let next = admin.get(&format!("{INCIDENTS}?limit=1&cursor={}", page.json["next_cursor"].as_str().unwrap())).await;
    assert_ne!(page.json["items"][0]["incident_id"], next.json["items"][0]["incident_id"]);
    assert_eq!(admin.get(&format!("{INCIDENTS}?phase=over")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_bounded_sound_and_kept() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let new = |links: Value| json!({"severity": "low", "summary": "s", "links": links});
    for (links, pointer) in [
        (json!({"events": [1_000_000]}), "/links/events"),
        (json!({"findings": ["Ann@example.com"]}), "/links/findings/0"),
        (json!({"events": (0..101).collect::<Vec<_>>()}), "/links/events"),
    ] {
        let refused = admin.post(INCIDENTS, new(links)).await;
        assert_eq!((refused.status, &refused.json["errors"][0]["pointer"]), (400, &json!(pointer)), "{refused:?}");
    }
    let links = json!({"accounts": [ann.account], "events": [0, 1], "findings": ["log.gap"], "sessions": []});
    let opened = admin.post(INCIDENTS, new(links.clone())).await;
    let path = format!("{INCIDENTS}/{}", opened.json["incident_id"].as_str().unwrap());
    assert_eq!(shown(&node, &admin, &path).await["links"], links);
    let positions: Vec<u64> =
        timeline(&node, &admin, &path).await.iter().map(|it| it["event"]["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, [0, 1, opened.position()]);
}
