//! The export of the audit trail: what it has, line by line, and that it ends with an error or is whole.

use std::io::Read;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{SecondsFormat, TimeDelta};
use flate2::read::GzDecoder;
use fulexo_domain::leaf;
use fulexo_node::clock;
use fulexo_node::streams::{MAX_EXPORTS, MAX_EXPORTS_OF_CALLER};
use fulexo_tests::{Answer, Client, Database, Node, caught_up, eventually, history, log_size, superuser};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const EXPORT: &str = "/v1/audit/export";
/// The events of a log that is longer than what sockets hold.
const LONG: usize = 40_000;

/// Opens an export, whose body is still to be read.
async fn open(client: &Client, query: &str) -> Response<Incoming> {
    client.open(Method::GET, &format!("{EXPORT}{query}"), None, "").await.unwrap()
}

/// Reads a body to its end; returns its lines, and whether it ended without an error.
async fn rest(response: &mut Response<Incoming>) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match response.body_mut().frame().await {
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().unwrap()),
            Some(Err(_)) => return (bytes, false),
            None => return (bytes, true),
        }
    }
}

/// Waits until the node has no exports under way.
async fn all_ended(node: &Node) {
    eventually("the exports have ended", async || node.app().exports.taken() == 0).await;
}

async fn export(client: &Client, query: &str) -> Answer {
    let answer = client.get(&format!("{EXPORT}{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"), "{answer:?}");
    assert!(answer.text.is_empty() || answer.text.ends_with('\n'));
    answer
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The end of a range that has what is recorded by now, and nothing else.
fn ending() -> String {
    format!("&to={}", clock::now().to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Reads every page of the list with this filter.
async fn listed(client: &Client, query: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = client.get(&format!("/v1/audit/events?limit=200{query}{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        items.extend(answer.json["items"].as_array().unwrap().clone());
        match answer.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

/// Leaves a trail of many kinds; returns an auditor who has seen all of it.
async fn trail(node: &Node) -> (Client, Client) {
    let admin = node.admin().await.with_header("user-agent", "Plant/1.0 (planted agent)");
    let customer = node.customer().await;
    for _ in 0..2 {
        let wrong = json!({"email": customer.email, "password": "wrong-Horse7battery"});
        assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    }
    let nobody = json!({"email": "planted.nobody@example.net", "password": "wrong-Horse7battery"});
    assert_eq!(node.anonymous().post("/v1/auth/login", nobody).await.status, 401);
    let roles = format!("/v1/accounts/{}/roles", customer.account);
    let granted = admin.post(&roles, json!({"role": "auditor", "reason": "planted reason"})).await;
    assert!(granted.status < 300, "{granted:?}");
    let renamed = customer
        .send(Method::PATCH, "/v1/me", Some("application/json"), r#"{"display_name":"Planted Ünïcode Name"}"#)
        .await;
    assert!(renamed.status < 300, "{renamed:?}");
    assert!(customer.post_nothing("/v1/auth/logout").await.status < 300);
    let auditor = node.auditor().await;
    caught_up(node, &admin).await;
    (auditor, customer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_the_list_line_by_line_with_the_hashes_of_the_leaves() {
    let node = Node::start().await;
    let (auditor, customer) = trail(&node).await;
    let pool = superuser(&node.database).await;
    let stored: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("select leaf, leaf_hash from log.event order by position").fetch_all(&pool).await.unwrap();
    let all = listed(&auditor, "").await;
    assert_eq!(all.len(), stored.len());
    // Each export is recorded: those that follow the first end before.
    let ending = ending();
    let leaves = export(&auditor, "?format=leaves").await;
    let expected: Vec<u8> = stored.iter().flat_map(|(leaf, _)| [&leaf[..], b"\n"].concat()).collect();
    assert_eq!(leaves.bytes, expected);
    assert_eq!(leaves.header("export-from"), Some("0"));
    assert_eq!(leaves.header("export-until"), Some((stored.len() - 1).to_string().as_str()));
    let name = format!("attachment; filename=\"fulexo-audit-0-{}.leaves.ndjson\"", stored.len() - 1);
    assert_eq!(leaves.header("content-disposition"), Some(name.as_str()));
    let middle = all[all.len() / 2]["time"].as_str().unwrap().to_owned();
    let correlation = all.last().unwrap()["correlation"].as_str().unwrap().to_owned();
    let filters = [
        String::new(),
        "&type=authentication.failed".to_owned(),
        "&category=session".to_owned(),
        format!("&subject={}", customer.account),
        format!("&subject={}&category=account", customer.account),
        format!("&actor={}", customer.account),
        format!("&correlation={correlation}"),
        "&after=3".to_owned(),
        format!("&from={middle}"),
        format!("&to={middle}"),
        format!("&to={middle}&after=2&category=account"),
        "&from=2100-01-01T00:00:00Z".to_owned(),
        "&to=2000-01-01T00:00:00Z".to_owned(),
        format!("&after={}", i64::MAX),
    ];
    let gzip = auditor.with_header("accept-encoding", "gzip");
    for filter in &filters {
        let filter = if filter.contains("&to=") { filter.clone() } else { format!("{filter}{ending}") };
        let answer = export(&auditor, &format!("?format=ndjson{filter}")).await;
        let items = listed(&auditor, &filter).await;
        let exported = lines(&answer);
        assert_eq!(exported.len(), items.len(), "{filter}");
        for (mut line, item) in exported.into_iter().zip(&items) {
            let position = usize::try_from(item["position"].as_u64().unwrap()).unwrap();
            let hash = line.as_object_mut().unwrap().remove("leaf_hash").unwrap();
            assert_eq!(&line, item, "{filter}");
            let (leaf, recorded) = &stored[position];
            assert_eq!(hash, URL_SAFE_NO_PAD.encode(leaf::hash(leaf)), "{filter}");
            assert_eq!(&leaf::hash(leaf)[..], recorded);
        }
        // The same lines in OCSF, and compressed.
        let records = lines(&export(&auditor, &format!("?format=ocsf&ocsf_version=1.9.0{filter}")).await);
        let positions: Vec<&Value> = records.iter().map(|record| &record["metadata"]["sequence"]).collect();
        assert_eq!(positions, items.iter().map(|item| &item["position"]).collect::<Vec<_>>(), "{filter}");
        let compressed = gzip.get(&format!("{EXPORT}?format=ndjson{filter}")).await;
        assert_eq!(compressed.header("content-encoding"), Some("gzip"));
        let mut text = String::new();
        GzDecoder::new(&compressed.bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, answer.text, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_resumed_after_any_line_has_the_rest() {
    let node = Node::start().await;
    let (auditor, _) = trail(&node).await;
    let ending = ending();
    for format in ["ndjson", "ocsf", "leaves"] {
        let whole = export(&auditor, &format!("?format={format}{ending}")).await;
        let last: u64 = whole.header("export-until").unwrap().parse().unwrap();
        for after in 0..=last {
            let rest = export(&auditor, &format!("?format={format}&after={after}{ending}")).await;
            let wanted: Vec<&str> = whole.text.lines().skip(usize::try_from(after).unwrap() + 1).collect();
            assert_eq!(rest.text.lines().collect::<Vec<_>>(), wanted, "{format} after {after}");
            let from = (after < last).then(|| (after + 1).to_string());
            assert_eq!(rest.header("export-from"), from.as_deref());
            assert_eq!(rest.header("export-until").is_some(), after < last);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_names_no_person_and_no_client() {
    let node = Node::start().await;
    let (auditor, customer) = trail(&node).await;
    for query in ["?format=ndjson", "?format=ocsf", "?format=ocsf&ocsf_version=1.9.0", "?format=leaves"] {
        let text = export(&auditor, query).await.text.to_lowercase();
        for planted in ["planted", "nïcode", "example.com", "example.net", "@", "127.0.0.1", &customer.email] {
            assert!(!text.contains(&planted.to_lowercase()), "{query}: {planted}");
        }
        assert!(text.contains(&customer.account.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_a_format_does_not_have_are_refused() {
    let node = Node::start().await;
    let auditor = node.auditor().await;
    for (query, pointer) in [
        ("?format=csv", "/format"),
        ("?format=ocsf&ocsf_version=1.0.0", "/ocsf_version"),
        ("?ocsf_version=1.8.0", "/ocsf_version"),
        ("?format=leaves&category=session", "/format"),
        ("?format=leaves&type=session.started", "/format"),
        ("?after=-1", "/after"),
        ("?from=yesterday", "/from"),
    ] {
        let answer = auditor.get(&format!("{EXPORT}{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{query}: {answer:?}");
        assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{query}: {answer:?}");
    }
    assert_eq!(node.customer().await.get(EXPORT).await.status, 403);
    assert_eq!(node.app().exports.taken(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_which_cannot_tell_a_cut_from_an_end_is_refused() {
    let node = Node::start().await;
    let token = node.auditor().await.access_token.unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", node.port())).await.unwrap();
    let request = format!("GET {EXPORT} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 400 ") && answer.contains("HTTP/1.0 does not tell"), "{answer}");
}

/// A node on a long log, whose read models have applied it.
async fn long() -> Node {
    let database = Arc::new(Database::create().await);
    history::fill(&database, LONG).await;
    let node = Node::join(&database).await;
    let auditor = node.auditor().await;
    eventually("the index has applied the log", async || {
        auditor.get("/v1/audit/events?limit=1").await.position() + 1 >= LONG as u64
    })
    .await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_hold_no_connection_and_no_more_than_their_places() {
    let node = long().await;
    let mut exports = Vec::new();
    let mut callers = Vec::new();
    for _ in 0..MAX_EXPORTS.div_ceil(MAX_EXPORTS_OF_CALLER) {
        let auditor = node.auditor().await;
        for _ in 0..MAX_EXPORTS_OF_CALLER {
            let mut response = open(&auditor, "?format=ocsf").await;
            assert_eq!(response.status(), 200);
            response.body_mut().frame().await.unwrap().unwrap();
            exports.push(response);
        }
        let refused = auditor.get(EXPORT).await;
        assert_eq!((refused.status, refused.code()), (429, "rate_limited"), "{refused:?}");
        assert_eq!(refused.header("retry-after"), Some("10"));
        callers.push(auditor);
    }
    let another = node.auditor().await;
    let refused = another.get(EXPORT).await;
    assert_eq!((refused.status, refused.code()), (503, "overloaded"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    // Nobody reads: after what sockets hold the tasks wait, and have no connection.
    let pool = &node.app().pool;
    eventually("no connection is in use", async || pool.num_idle() == usize::try_from(pool.size()).unwrap()).await;
    for _ in 0..20 {
        assert_eq!(another.get("/v1/audit/events?category=session&limit=200").await.status, 200);
    }
    // The log grows; an export ends where it was to end.
    let until: u64 = exports[0].headers()["export-until"].to_str().unwrap().parse().unwrap();
    assert!(log_size(&node).await > until + 1);
    let (bytes, is_whole) = rest(&mut exports[0]).await;
    assert!(is_whole);
    let last: Value =
        serde_json::from_slice(bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(last["metadata"]["sequence"], until);
    // The others leave in the middle.
    drop(exports);
    all_ended(&node).await;
    eventually("no connection is in use", async || pool.num_idle() == usize::try_from(pool.size()).unwrap()).await;
    let answer = export(&callers[1], "?format=leaves").await;
    assert_eq!(answer.text.lines().count() as u64, answer.position() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_an_error_once_its_caller_may_not_read_on() {
    let node = long().await;
    let admin = node.admin().await;
    let (logged_out, demoted) = (node.auditor().await, node.auditor().await);
    let key = create_key(&admin).await;
    let siem = Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..node.anonymous() };
    let id = key.json["api_key_id"].as_str().unwrap();
    let mut exports = Vec::new();
    for caller in [&logged_out, &demoted, &siem] {
        let mut response = open(caller, "").await;
        assert_eq!(response.status(), 200);
        response.body_mut().frame().await.unwrap().unwrap();
        exports.push(response);
    }
    assert_eq!(node.app().exports.taken(), 3);
    assert!(logged_out.post_nothing("/v1/auth/logout").await.status < 300);
    let role = format!("/v1/accounts/{}/roles/auditor", demoted.account);
    let reason = json!({"reason": "moved to another department"});
    assert_eq!(admin.delete_with(&role, reason.clone()).await.status, 200);
    let revoked = admin.delete_with(&format!("/v1/api-keys/{id}"), reason).await;
    assert!(revoked.status < 300, "{revoked:?}");
    // Nobody reads meanwhile: each is ended all the same.
    all_ended(&node).await;
    for mut response in exports {
        let (bytes, is_whole) = rest(&mut response).await;
        assert!(!is_whole, "{} bytes", bytes.len());
    }
}

/// Creates a key that expires within a year.
async fn create_key(admin: &Client) -> Answer {
    let expires_at = clock::now() + TimeDelta::days(30);
    let body = json!({"name": "siem", "permissions": ["audit.read"], "expires_at": expires_at});
    let answer = admin.post("/v1/api-keys", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer
}

/// The most events that the tree may not have hashed: its last tile.
const TILE: usize = 256;

#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_an_error_at_an_event_that_was_altered_or_lost() {
    let database = Arc::new(Database::create().await);
    history::fill(&database, 2 * TILE).await;
    let node = Node::join(&database).await;
    let (auditor, _) = trail(&node).await;
    let pool = superuser(&database).await;
    eventually("the tree has the altered event", async || {
        let size: i64 = sqlx::query_scalar("select size from tree.head").fetch_one(&pool).await.unwrap();
        size > 2 * TILE as i64
    })
    .await;
    let category: String =
        sqlx::query_scalar("select category from log.event where position = 99").fetch_one(&pool).await.unwrap();
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        // With the hash next to it: only the tree knows.
        "update log.event_0 e set leaf = changed.leaf, leaf_hash = sha256(decode('00', 'hex') || changed.leaf)
         from (select position, convert_to(replace(convert_from(leaf, 'utf8'), '\"policy_version\":', '\"policy_version\":1'),
               'utf8') leaf from log.event_0) changed
         where e.position = 77 and changed.position = e.position",
        "delete from log.event_0 where position = 99",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let filtered = format!("?format=ndjson&category={category}&after=77");
    let queries = ["?format=ndjson", "?format=ocsf", "?format=leaves", "?after=77", &filtered];
    for (query, end) in queries.into_iter().zip([77, 77, 77, 99, 99]) {
        let mut response = open(&auditor, query).await;
        assert_eq!(response.status(), 200);
        let (bytes, is_whole) = rest(&mut response).await;
        assert!(!is_whole, "{query}");
        let lines: Vec<Value> =
            String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let positions: Vec<u64> = lines.iter().filter_map(|line| line["position"].as_u64()).collect();
        match query {
            // All that is sound, and nothing of the rest.
            "?format=ndjson" => assert_eq!(positions, (0..end).collect::<Vec<_>>()),
            "?after=77" => assert_eq!(positions, (78..end).collect::<Vec<_>>()),
            "?format=ocsf" | "?format=leaves" => assert_eq!(lines.len() as u64, end, "{query}"),
            _ => assert!(positions.iter().all(|position| *position < end), "{query}: {positions:?}"),
        }
    }
    let mut compressed = open(&auditor.with_header("accept-encoding", "gzip"), "").await;
    assert!(!rest(&mut compressed).await.1);
    // Over HTTP/2 the stream is reset, and the connection lives on.
    let io = TokioIo::new(TcpStream::connect(("127.0.0.1", node.port())).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    for (query, is_sound) in [("", false), ("?after=99", true)] {
        let token = auditor.access_token.as_ref().unwrap();
        let request =
            Request::get(format!("{}{EXPORT}{query}", node.url)).header("authorization", format!("Bearer {token}"));
        let mut response = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(rest(&mut response).await.1, is_sound, "{query}");
    }
    connection.abort();
    let whole = export(&auditor, "?after=99").await;
    assert_eq!(whole.text.lines().count() as u64, whole.position() - 99);
    all_ended(&node).await;
}
