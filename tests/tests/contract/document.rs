//! The OpenAPI document itself.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_tests::{Answer, Node};
use serde_json::{Value, json};

use fulexo_tests::spec::{document, operations};

/// The first words of the names of operations.
const VERBS: [&str; 44] = [
    "change",
    "close",
    "confirm",
    "contain",
    "create",
    "define",
    "delete",
    "digest",
    "enrol",
    "eradicate",
    "erase",
    "expire",
    "export",
    "forget",
    "get",
    "grant",
    "impose",
    "introspect",
    "issue",
    "lift",
    "list",
    "login",
    "logout",
    "note",
    "open",
    "preview",
    "recover",
    "refresh",
    "register",
    "reinstate",
    "remove",
    "report",
    "request",
    "reset",
    "retire",
    "revoke",
    "start",
    "step",
    "stream",
    "suspend",
    "unlock",
    "unseal",
    "verify",
    "withdraw",
];

/// The first word of a summary: an imperative verb.
const IMPERATIVES: [&str; 41] = [
    "Add",
    "Ask",
    "Change",
    "Check",
    "Close",
    "Confirm",
    "Contain",
    "Create",
    "Define",
    "Elevate",
    "Erase",
    "Exchange",
    "Export",
    "Forget",
    "Get",
    "Grant",
    "Impose",
    "Introspect",
    "Issue",
    "Lift",
    "List",
    "Log",
    "Open",
    "Preview",
    "Record",
    "Register",
    "Reinstate",
    "Remove",
    "Report",
    "Request",
    "Require",
    "Reset",
    "Retire",
    "Revoke",
    "Start",
    "Stream",
    "Suspend",
    "Unlock",
    "Unseal",
    "Verify",
    "Withdraw",
];

/// The words that begin no description: it is a noun phrase, a sentence, or "`true` if …".
const QUESTIONS: [&str; 10] = ["What", "Whether", "Who", "Whom", "Whose", "Where", "How", "When", "Why", "Which"];

/// The statuses that anything may be refused with.
const REFUSALS: [&str; 12] = ["400", "401", "403", "404", "406", "408", "409", "413", "415", "429", "500", "503"];

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let current = format!("{:#}\n", document());
    let differing = committed.lines().zip(current.lines()).position(|(committed, current)| committed != current);
    let line = differing.unwrap_or_else(|| committed.lines().count().min(current.lines().count())) + 1;
    assert!(
        committed == current,
        "openapi.json differs from the code from line {line} on; if the code is right: fulexo openapi > openapi.json"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_the_document_that_the_command_prints() {
    let node = Node::start().await;
    let served = node.anonymous().get("/openapi.json").await;
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    assert_eq!(served.json, document());
}

#[test]
fn no_object_of_the_document_has_a_key_twice() {
    // serde_json keeps the last of two equal keys: fewer members after than keys before.
    let text = fulexo_api::routes::spec();
    let round_trip = serde_json::from_str::<Value>(text).unwrap();
    let keys = |text: &str| text.matches("\":").count();
    assert_eq!(keys(text), keys(&round_trip.to_string()), "some key was lost on the way through a parser");
}

#[test]
fn every_operation_has_a_unique_name_of_verb_and_resource() {
    let mut seen = BTreeSet::new();
    for operation in operations() {
        let id = &operation.id;
        let (verb, resource) = id.split_once('_').unwrap_or((id, ""));
        assert!(VERBS.contains(&verb), "{id}: {verb} is no verb that we use; use one, or add it to VERBS");
        let has_none = ["login", "logout", "register"].contains(&verb);
        assert!(has_none || !resource.is_empty(), "{id}");
        assert!(id.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{id}");
        assert!(seen.insert(id.clone()), "{id} is used twice");
    }
}

/// First contact 2: generators for Go make a constructor `New…` of each schema.
#[test]
fn no_schema_is_named_as_the_constructor_of_another() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys() {
        let other = name.strip_prefix("New").filter(|other| schemas.contains_key(*other));
        assert_eq!(other, None, "{name}");
        assert!(name.chars().all(char::is_alphanumeric), "{name}");
    }
}

/// First contact 7.
#[test]
fn every_operation_takes_the_one_token_or_none() {
    for operation in operations() {
        let security = &operation.meta["security"];
        let expected = match operation.id.as_str() {
            "introspect_token" => json!([{"bearerAuth": []}, {"basicAuth": []}]),
            _ if operation.is_public() => json!([]),
            _ => json!([{"bearerAuth": []}]),
        };
        assert_eq!(*security, expected, "{}", operation.id);
    }
    let document = document();
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes.keys().collect::<Vec<_>>(), ["basicAuth", "bearerAuth"]);
}

#[test]
fn every_operation_says_in_a_line_what_it_does() {
    for operation in operations() {
        let summary = operation.meta["summary"].as_str().unwrap_or_default();
        assert!((4..=60).contains(&summary.len()), "{}: {summary:?}", operation.id);
        assert!(!summary.ends_with('.') && !summary.contains('\n'), "{}: {summary:?}", operation.id);
        assert!(operation.meta["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{} has no tag", operation.id);
    }
}

#[test]
fn every_summary_begins_with_an_imperative_verb() {
    for operation in operations() {
        let summary = operation.meta["summary"].as_str().unwrap_or_default();
        let verb = summary.split(' ').next().unwrap_or_default();
        assert!(IMPERATIVES.contains(&verb), "{}: {summary:?}: use a verb, or add it to IMPERATIVES", operation.id);
    }
}

/// Collects every description below a value, with its place.
fn descriptions(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let place = format!("{place}/{name}");
                match member.as_str() {
                    Some(text) if name == "description" => found.push((place, text.to_owned())),
                    Some(_) => {}
                    None => descriptions(member, &place, found),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                descriptions(item, &format!("{place}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn no_description_begins_with_a_question_word() {
    let mut found = Vec::new();
    descriptions(&document(), "", &mut found);
    assert!(found.len() > 300, "only {} descriptions were found", found.len());
    for (place, text) in found {
        let first = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        assert!(!QUESTIONS.contains(&first), "{place}: {text:?}");
        assert!(text.ends_with('.'), "{place}: {text:?} is no sentence and no noun phrase with a full stop");
    }
}

#[test]
fn every_schema_has_a_description_and_so_has_every_member() {
    let document = document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "{name}");
        for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
            assert!(schema["description"].is_string(), "{name}: {member}");
        }
    }
}

#[test]
fn every_operation_documents_every_refusal_as_a_problem() {
    let document = document();
    for operation in operations() {
        for status in REFUSALS {
            let response = &operation.meta["responses"][status];
            let shared = response["$ref"].as_str().and_then(|shared| document.pointer(shared.trim_start_matches('#')));
            let response = shared.unwrap_or(response);
            let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{} {status}: {response}", operation.id);
        }
        let successes =
            operation.meta["responses"].as_object().unwrap().keys().filter(|status| status.starts_with('2'));
        assert_eq!(successes.count(), 1, "{} documents one success", operation.id);
    }
}

#[test]
fn every_path_is_under_v1_but_health_metrics_and_well_known() {
    for operation in operations() {
        let sound =
            ["/v1/", "/health/", "/metrics", "/.well-known/"].iter().any(|prefix| operation.path.starts_with(prefix));
        assert!(sound, "{}", operation.path);
    }
}

#[test]
fn every_unsafe_operation_takes_an_idempotency_key_and_every_query_a_position() {
    for operation in operations().iter().filter(|operation| operation.path.starts_with("/v1/")) {
        let headers = operation.names("header");
        // These do not read a read model: the token itself, the log itself, and the tables that commit with it, never
        // lag.
        let is_current = [
            "get_current_session",
            "introspect_token",
            "get_account_erasure",
            "get_audit_event",
            "get_erasure",
            "get_erasure_receipt",
            "get_my_erasure",
            "get_log_checkpoint",
            "get_log_consistency",
            "get_log_entries",
            "get_log_key",
            "get_log_proof",
            "get_log_tile",
            "list_roles",
            "list_permissions",
            "list_api_keys",
            "list_my_devices",
            "get_account_standing",
            "get_lockdown",
            "get_policy",
            "preview_policy",
            // The group of alerts and its beginning are the key.
            "report_alerts",
        ];
        // A stream has no answer that could be too old: it begins with the position that it is given.
        if operation.id == "stream_audit_events" {
            assert_eq!(headers, ["Last-Event-ID"]);
            continue;
        }
        let expected: &[&str] = match (operation.method.is_safe(), is_current.contains(&operation.id.as_str())) {
            (_, true) => &[],
            (true, false) => &["Log-Min-Position"],
            (false, false) => &["Idempotency-Key"],
        };
        assert_eq!(headers, expected, "{}", operation.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_type_of_a_problem_leads_to_a_page_that_explains_its_code() {
    let node = Node::start().await;
    let stranger = node.anonymous();
    let refusals = [
        stranger.get("/v1/me").await,
        stranger.get("/nothing").await,
        stranger.post("/v1/auth/login", json!({"email": "nobody@example.com", "password": "wrong"})).await,
        stranger.post("/v1/auth/login", json!({})).await,
        stranger.delete("/v1/auth/login").await,
        stranger.with_header("content-encoding", "br").post("/v1/auth/login", json!({})).await,
    ];
    for refusal in refusals {
        let kind = refusal.json["type"].as_str().unwrap();
        let (page, code) = kind.split_once('#').unwrap();
        assert_eq!(code, refusal.code());
        let path = page.strip_prefix(&node.url).unwrap_or_else(|| panic!("{page} is not of {}", node.url));
        let page = stranger.get(path).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{page:?}");
        assert!(page.text.contains(&format!("<section id=\"{code}\">")), "{code}");
    }
    let codes = &document()["components"]["schemas"]["ProblemCode"]["enum"];
    let codes = codes.as_array().unwrap();
    let page = stranger.get("/problems").await;
    assert_eq!(page.text.matches("<section id=").count(), codes.len(), "one list");
    assert!(codes.iter().all(|code| page.text.contains(&format!("id={code}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compressed_for_whoever_takes_it_and_sent_once() {
    let node = Node::start().await;
    let stranger = node.anonymous();
    for path in ["/openapi.json", "/docs/swagger-ui.js", "/docs/swagger-ui.css", "/problems", "/account/account.js"] {
        let plain = stranger.get(path).await;
        let gzip = stranger.with_header("accept-encoding", "gzip, br").get(path).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        assert_eq!((gzip.status, gzip.header("content-encoding")), (200, Some("gzip")), "{path}");
        assert_eq!(gzip.header("vary"), Some("accept-encoding"), "{path}");
        let length = |answer: &Answer| answer.header("content-length").unwrap().parse::<usize>().unwrap();
        assert!(length(&gzip) * 10 < length(&plain) * 7, "{path}: {} of {}", length(&gzip), length(&plain));
        let tags = [&plain, &gzip].map(|answer| answer.header("etag").unwrap().to_owned());
        assert_ne!(tags[0], tags[1], "{path}: each coding has its own");
        for tag in [tags[0].clone(), format!("\"x\", W/{}", tags[0]), "*".to_owned()] {
            let again = stranger.with_header("if-none-match", &tag).get(path).await;
            assert_eq!((again.status, again.text.as_str()), (304, ""), "{path} {tag}");
            assert_eq!(again.header("etag"), Some(&*tags[0]), "{path}");
        }
        let other =
            stranger.with_header("accept-encoding", "gzip").with_header("if-none-match", &tags[0]).get(path).await;
        assert_eq!(other.status, 200, "{path}: not what the client has");
        let control = plain.header("cache-control").unwrap();
        assert!(
            ["no-cache", "no-store", "public, max-age=31536000, immutable"].contains(&control),
            "{path}: {control}"
        );
    }
}

/// Panics unless both have the same members, each of the same type, except for those that may be null.
fn assert_alike(example: &Value, real: &Value, about: &str) {
    match (example, real) {
        (Value::Object(example), Value::Object(real)) => {
            assert!(example.keys().eq(real.keys()), "{about}: {:?} {:?}", example.keys(), real.keys());
            example.iter().for_each(|(name, value)| assert_alike(value, &real[name], &format!("{about}/{name}")));
        }
        (Value::Array(_), Value::Array(_)) | (Value::Null, _) | (_, Value::Null) => {}
        _ => assert_eq!(std::mem::discriminant(example), std::mem::discriminant(real), "{about}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_walk_are_what_is_sent_and_answered() {
    let node = Node::start().await;
    let mut ann = node.anonymous();
    let example = |name: &str| {
        let operation = operations().into_iter().find(|operation| operation.id == name).unwrap();
        let request = operation.meta["requestBody"]["content"]["application/json"]["example"].clone();
        let responses = operation.meta["responses"].as_object().unwrap().clone();
        let (_, response) = responses.into_iter().find(|(status, _)| status.starts_with('2')).unwrap();
        (request, response["content"]["application/json"]["example"].clone())
    };
    let (request, response) = example("register");
    assert_alike(&response, &ann.post("/v1/auth/register", request).await.json, "register");
    let (request, response) = example("login");
    let login = ann.post("/v1/auth/login", request).await;
    assert_alike(&response, &login.json, "login");
    ann.log_in_with(&login);
    assert_alike(&example("get_current_session").1, &ann.get("/v1/auth/session").await.json, "session");
    let (mut request, response) = example("refresh_tokens");
    request["refresh_token"] = login.json["refresh_token"].clone();
    assert_alike(&response, &ann.post("/v1/auth/refresh", request).await.json, "refresh");
    ann.post("/v1/auth/login", json!({"email": "ann@example.com", "password": "wrong"})).await;
    let auditor = node.auditor().await;
    let events = auditor.get("/v1/audit/events?type=authentication.failed").await;
    let (_, listed) = example("list_audit_events");
    assert_alike(&listed, &events.json, "events");
    let (_, event) = example("get_audit_event");
    let path = format!("/v1/audit/events/{}", events.json["items"][0]["position"]);
    assert_alike(&event, &auditor.get(&path).await.json, "event");
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(event[name].as_str().unwrap()).unwrap();
    let hash = fulexo_domain::leaf::hash(&bytes("leaf"));
    assert_eq!(hash.as_slice(), bytes("leaf_hash"), "whoever computes it finds it right");
}
