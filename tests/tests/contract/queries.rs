//! Queries refuse what they do not understand, and lists go both ways.

use fulexo_tests::spec::{Operation, operations};
use fulexo_tests::{Answer, Client, Node, log_size};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{assert_problem, pointers};

/// Calls an operation without a body; the parameters that it requires come first.
async fn ask(operation: &Operation, client: &Client, query: &str) -> Answer {
    let target = operation.target(|name, schema| fulexo_tests::spec::sample(name, schema, Uuid::nil()));
    let separator = if target.contains('?') { '&' } else { '?' };
    operation.send(client, &format!("{target}{separator}{query}"), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_an_operation_does_not_have_is_refused_whatever_the_operation() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let before = log_size(&node).await;
    for operation in operations() {
        for (query, pointer) in [
            ("bogus=1", "/bogus"),
            ("LIMIT=1", "/LIMIT"),
            ("limit%20=1", "/limit "),
            ("a~b/c=1", "/a~0b~1c"),
            ("=1", "/"),
            ("%FF=1", "/\u{fffd}"),
        ] {
            let answer = ask(&operation, &admin, query).await;
            assert_problem(&answer, 400, "invalid_input");
            assert_eq!(pointers(&answer), [pointer], "{} ?{query}", operation.id);
            let detail = answer.json["errors"][0]["detail"].as_str().unwrap();
            for name in operation.names("query") {
                assert!(detail.contains(name), "{}: {detail:?} says what there is", operation.id);
            }
        }
        let answer = ask(&operation, &node.anonymous(), "bogus=1").await;
        let expected = if operation.is_public() { 400 } else { 401 };
        assert_eq!(answer.status, expected, "{} tells strangers nothing: {answer:?}", operation.id);
    }
    assert_eq!(log_size(&node).await, before, "nothing was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_is_given_twice_is_refused_wherever_there_is_one() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut tried = 0;
    for operation in operations() {
        for name in operation.names("query") {
            let sample = sample(&operation, name);
            for query in [format!("{name}={sample}&{name}={sample}"), format!("{name}={sample}&x=1&{name}=")] {
                let answer = ask(&operation, &admin, &query).await;
                assert_problem(&answer, 400, "invalid_input");
                let about = format!("/{name}");
                let errors = answer.json["errors"].as_array().unwrap();
                let twice =
                    errors.iter().find(|it| it["pointer"] == *about && it["detail"] == "must be given only once");
                assert!(twice.is_some(), "{} ?{query}: {answer:?}", operation.id);
                tried += 1;
            }
        }
    }
    assert!(tried >= 60, "only {tried}");
}

/// Returns a valid value of a parameter.
fn sample(operation: &Operation, name: &str) -> &'static str {
    match name {
        "limit" | "after" | "as_of" => "1",
        "order" => "asc",
        "locked" | "suspended" | "second_factor" | "live" => "true",
        "account_id" | "owner" | "subject" | "actor" | "correlation" | "session" | "api_key" | "id" => {
            "01890000-0000-7000-8000-000000000000"
        }
        "cursor" if operation.path.ends_with("/events") => "1",
        "cursor" if operation.path == "/v1/grants" => "01890000-0000-7000-8000-000000000000:auditor",
        "cursor" => "01890000-0000-7000-8000-000000000000",
        "address" => "AAAAAAAAAAAAAAAAAAAAAA",
        "email" => "nobody@example.com",
        "role" => "auditor",
        "phase" => "closed",
        "severity" => "low",
        "type" => "session.started",
        "category" => "session",
        "format" => "ocsf",
        "ocsf_version" => "1.8.0",
        "from" => "2026-11-01T12:00:00Z",
        "to" => "2026-11-01T12:00:00%2B01:00",
        "window" => "1h",
        "step" => "1m",
        "reason" => "because",
        other => panic!("{} has a parameter {other}: teach it to this function", operation.id),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_query_is_named_at_once_in_plain_words() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let detail = async |path: &str| {
        let answer = admin.get(path).await;
        assert_problem(&answer, 400, "invalid_input");
        let texts =
            answer.json["errors"].as_array().unwrap().iter().map(|it| it["detail"].as_str().unwrap().to_owned());
        texts.collect::<Vec<_>>()
    };
    let number = "must be a number from 1 to 200";
    let uuid = "must be a UUID";
    let time = "must be a time such as 2026-11-01T12:00:00Z (RFC 3339)";
    for (query, words) in [
        ("limit=abc", number),
        ("limit=%2B5", number),
        ("limit=99999999999999999999999999999999999999999999", number),
        ("subject=nope", uuid),
        ("from=2026-11-01", time),
        ("to=2026-11-01%2012:00:00Z", time),
        ("order=down", "must be one of asc, desc"),
        ("order=DESC", "must be one of asc, desc"),
        ("after=-1", "must be a number from 0 to 18446744073709551615"),
        (
            "from=2026-11-01T12:00:60Z",
            "must not have second 60, except at the end of June or December (RFC 3339, section 5.7)",
        ),
    ] {
        assert_eq!(detail(&format!("/v1/audit/events?{query}")).await, [words], "{query}");
    }
    assert_eq!(detail("/v1/accounts?locked=yes").await, ["must be true or false"]);
    assert_eq!(detail("/v1/accounts/nope").await, [uuid]);
    let types = detail("/v1/audit/events?type=account.suspendd").await;
    assert!(types[0].contains("account.suspended") && types[0].contains("lockdown.started"), "{types:?}");
    let categories = detail("/v1/audit/events?category=sessions").await;
    assert!(categories[0].contains("lockdown") && categories[0].contains("rate_limit"), "{categories:?}");

    let answer = admin.get("/v1/audit/events/x?limit=0").await;
    assert_eq!(pointers(&answer), ["/position", "/limit"], "{answer:?}");
    let many: String = (0..100).map(|nth| format!("a{nth}=1&")).collect();
    assert_eq!(detail(&format!("/v1/accounts?{many}")).await.len(), 32, "no more than that");
    let long = "x".repeat(101);
    let answer = admin.get(&format!("/v1/accounts?{long}=1")).await;
    assert_eq!((pointers(&answer), answer.text.contains(&long)), (vec![""], false), "{answer:?}");
    let answer = admin.get("/v1/accounts?limit=hunter2&email=hunter2&bogus=hunter2").await;
    assert!(!answer.text.contains("hunter2"), "no value is repeated: {answer:?}");
    for query in ["", "&", "&&limit=1&"] {
        assert_eq!(admin.get(&format!("/v1/accounts?{query}")).await.status, 200, "?{query}");
    }
}

/// Returns every item of a list, page by page.
async fn all(client: &Client, path: &str, limit: usize) -> Vec<Value> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = client.get(&format!("{path}{separator}limit={limit}{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        items.extend(answer.json["items"].as_array().unwrap().iter().cloned());
        assert!(items.len() < 1_000, "{path} has an end");
        let Value::String(next) = &answer.json["next_cursor"] else { return items };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_goes_back_as_it_came() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = node.customer().await;
    let mut incident = String::new();
    for nth in 0..5 {
        let (email, account) = node.register(&["customer"]).await;
        let bob = node.log_in(&email, account).await;
        node.log_in(&ann.email, ann.account).await;
        if nth % 2 == 0 {
            assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
            let path = format!("/v1/accounts/{account}/roles");
            assert_eq!(admin.post(&path, json!({"role": "auditor", "reason": "r"})).await.status, 204);
        }
        let key =
            json!({"name": format!("key-{nth}"), "permissions": ["audit.read"], "expires_at": "2027-06-01T00:00:00Z"});
        let key = admin.post("/v1/api-keys", key).await;
        assert_eq!(key.status, 201, "{key:?}");
        let links = json!({"events": [0, 1, 2]});
        let opened = admin.post("/v1/incidents", json!({"severity": "low", "summary": "s", "links": links})).await;
        incident = opened.json["incident_id"].as_str().unwrap().to_owned();
    }
    let position = log_size(&node).await - 1;
    let mut lists = 0;
    for operation in operations().into_iter().filter(|it| it.names("query").contains(&"order")) {
        assert_eq!(operation.method, Method::GET);
        lists += 1;
        let client = if operation.path.starts_with("/v1/me") { &ann } else { &admin };
        let client = &client.seeing(position);
        let client = if operation.names("header").contains(&"Log-Min-Position") { client } else { &admin };
        let path = operation.path.replace("{incident_id}", &incident);
        let mut paths = vec![path];
        if operation.names("query").contains(&"as_of") {
            paths.push(format!("{}?as_of={position}", operation.path));
            paths.push(format!("{}?as_of={}", operation.path, position / 2));
        }
        for (name, value) in [("role", "auditor"), ("live", "true"), ("live", "false"), ("category", "session")] {
            if operation.names("query").contains(&name) {
                paths.push(format!("{}?{name}={value}", operation.path));
                paths.push(format!("{}?{name}={value}&as_of={position}", operation.path));
            }
        }
        for path in paths {
            let forth = all(client, &path, 200).await;
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut back = all(client, &format!("{path}{separator}order=desc"), 200).await;
            back.reverse();
            assert_eq!(forth, back, "{path}");
            assert!(forth.len() > 2 || path.contains("role=") || path.contains("as_of"), "{path}: {}", forth.len());
            for limit in 1..=3 {
                assert_eq!(all(client, &path, limit).await, forth, "{path} by {limit}");
                let mut back = all(client, &format!("{path}{separator}order=desc"), limit).await;
                back.reverse();
                assert_eq!(back, forth, "{path} back by {limit}");
            }
            let page = client.get(&format!("{path}{separator}order=desc&limit=1")).await;
            let Some(cursor) = page.json["next_cursor"].as_str() else { continue };
            let going_on = client.get(&format!("{path}{separator}limit=1&cursor={cursor}")).await;
            let said = client.get(&format!("{path}{separator}limit=1&order=desc&cursor={cursor}")).await;
            assert_eq!(going_on.json, said.json, "the cursor knows its direction: {path}");
            let turned = client.get(&format!("{path}{separator}order=asc&limit=1&cursor={cursor}")).await;
            assert_problem(&turned, 400, "invalid_input");
            assert_eq!(pointers(&turned), ["/cursor"], "{path}");
        }
    }
    assert!(lists >= 7, "only {lists} lists have an order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leap_second_is_the_second_after_it_and_no_answer_has_one() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for time in ["2016-12-31T23:59:60Z", "2016-12-31T18:59:60.25-05:00", "2015-06-30T23:59:60Z"] {
        for query in [format!("from={time}"), format!("as_of={time}"), format!("from={time}&to=2100-01-01T00:00:00Z")] {
            let answer = admin.get(&format!("/v1/audit/events?{query}")).await;
            assert_eq!(answer.status, 200, "{query}: {answer:?}");
            assert!(!answer.text.contains(":60"), "{answer:?}");
        }
    }
}

/// Collects every text of an answer that is a time.
fn times<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if chrono::DateTime::parse_from_rfc3339(text).is_ok() => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| times(item, found)),
        Value::Object(members) => members.values().for_each(|member| times(member, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_written_in_utc_with_z_and_microseconds_in_every_answer() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut seen = 0;
    for operation in operations().into_iter().filter(|it| it.method == Method::GET) {
        let answer = operation.call(&admin, admin.account).await;
        let mut found = Vec::new();
        times(&answer.json, &mut found);
        for text in &found {
            let is_so = text.len() == "2026-11-01T12:00:00.000000Z".len() && text.ends_with('Z');
            assert!(is_so, "{}: {text}", operation.id);
        }
        seen += found.len();
    }
    assert!(seen >= 10, "only {seen} times were seen");
}
