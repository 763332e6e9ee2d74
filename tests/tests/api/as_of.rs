//! The past, asked through the API and the command line: who held what, what was live or locked, how much there was.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use fulexo_commands::log::{AppendRequest, EventLog, ExpectedVersion, LogHooks};
use fulexo_domain::authentication::AuthenticationEvent;
use fulexo_domain::leaf::EventDraft;
use fulexo_node::clock;
use fulexo_projections::access;
use fulexo_tests::{Answer, Client, Node, Program, draft, eventually, leaves, log_size, operator, superuser};
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

#[tokio::test(flavor = "multi_thread")]
async fn grants_of_the_past_say_who_held_what_and_who_gave_it() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let path = format!("/v1/accounts/{}/roles", ann.account);
    let granted = admin.post(&path, json!({"role": "auditor", "reason": "r"})).await.position();
    let because = json!({"reason": "r"});
    let revoked = admin.delete_with(&format!("{path}/auditor"), because).await.position();
    for (as_of, held) in [
        ((granted - 1).to_string(), false),
        (granted.to_string(), true),
        ((revoked - 1).to_string(), true),
        (revoked.to_string(), false),
        (time_of(&admin, granted).await, true),
        (time_of(&admin, revoked).await, false),
        (before(&time_of(&admin, granted).await), false),
        (before(&time_of(&admin, revoked).await), true),
    ] {
        let page = get(&admin, &format!("/v1/grants?account_id={}&as_of={as_of}", ann.account)).await;
        let roles: Vec<&str> = items(&page).iter().map(|it| it["role"].as_str().unwrap()).collect();
        assert_eq!(roles, if held { vec!["auditor", "customer"] } else { vec!["customer"] }, "{as_of}");
        let by_role = get(&admin, &format!("/v1/grants?role=auditor&as_of={as_of}")).await;
        assert_eq!(items(&by_role).len(), usize::from(held), "{as_of}");
        let holders = get(&admin, &format!("/v1/roles?as_of={as_of}")).await;
        let auditor = items(&holders).iter().find(|role| role["role"] == "auditor").unwrap();
        assert_eq!(auditor["holders"], json!(u64::from(held)), "{as_of}");
        let account = get(&admin, &format!("/v1/accounts/{}?as_of={as_of}", ann.account)).await;
        assert_eq!(account["roles"].as_array().unwrap().len(), roles.len(), "{as_of}");
    }
    let page = get(&admin, &format!("/v1/grants?role=auditor&as_of={granted}")).await;
    let grant = &items(&page)[0];
    assert_eq!(grant["granted_by"], json!({"kind": "account", "id": admin.account}));
    assert_eq!(grant["granted_position"], json!(granted));
    assert!(grant["permissions"].as_array().unwrap().contains(&json!("audit.read")), "{grant}");
    assert_eq!(page["as_of"]["position"], json!(granted));
    let now = get(&admin, "/v1/grants?role=auditor").await;
    assert_eq!((items(&now).len(), now.get("as_of")), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_allowed_then_what_it_allowed_then() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let define = async |permissions: Value| {
        let body = json!({"permissions": permissions, "reason": "r"});
        admin.put("/v1/roles/support", body).await.position()
    };
    let first = define(json!(["accounts.read"])).await;
    let path = format!("/v1/accounts/{}/roles", ann.account);
    let granted = admin.post(&path, json!({"role": "support", "reason": "r"})).await.position();
    let second = define(json!(["sessions.read"])).await;
    assert_eq!(admin.delete_with(&format!("{path}/support"), json!({"reason": "r"})).await.status, 200);
    let retired = admin.delete_with("/v1/roles/support", json!({"reason": "r"})).await.position();
    for (as_of, defined, allowed) in [
        (first - 1, None, None),
        (first, Some(json!(["accounts.read"])), None),
        (granted, Some(json!(["accounts.read"])), Some(json!(["accounts.read"]))),
        (second, Some(json!(["sessions.read"])), Some(json!(["sessions.read"]))),
        (retired, Some(json!([])), None),
    ] {
        let roles = get(&admin, &format!("/v1/roles?as_of={as_of}")).await;
        let role = items(&roles).iter().find(|role| role["role"] == "support");
        assert_eq!(role.map(|role| role["permissions"].clone()), defined, "{as_of}");
        assert_eq!(role.is_some_and(|role| role["retired"] == true), as_of == retired, "{as_of}");
        let grants = get(&admin, &format!("/v1/grants?role=support&as_of={as_of}")).await;
        assert_eq!(items(&grants).first().map(|grant| grant["permissions"].clone()), allowed, "{as_of}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_given_twice_at_once_is_held_once_and_taken_away_once() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let body = json!({"email": "twice@example.com", "roles": ["customer", "auditor", "auditor"]});
    let created = admin.post("/v1/accounts", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let account = created.json["account_id"].as_str().unwrap();
    let held = async || {
        let page = get(&admin.seeing(log_size(&node).await - 1), &format!("/v1/grants?account_id={account}")).await;
        items(&page).len()
    };
    assert_eq!(held().await, 2);
    let path = format!("/v1/accounts/{account}/roles/auditor");
    assert_eq!(admin.delete_with(&path, json!({"reason": "r"})).await.status, 200);
    assert_eq!(held().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_was_live_until_it_ended_and_an_account_open_until_it_was_suspended() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let started = log_size(&node).await - 1;
    let ended = ann.post_nothing("/v1/auth/logout").await.position();
    let path = format!("/v1/accounts/{}", ann.account);
    let suspended = admin.post(&format!("{path}/suspend"), json!({"reason": "r"})).await.position();
    let reinstated = admin.post(&format!("{path}/reinstate"), json!({"reason": "r"})).await.position();
    let live = async |as_of: String| {
        let sessions = get(&admin, &format!("/v1/sessions?account_id={}&live=true&as_of={as_of}", ann.account)).await;
        items(&sessions).len()
    };
    assert_eq!(live(started.to_string()).await, 1);
    assert_eq!(live((ended - 1).to_string()).await, 1);
    assert_eq!(live(ended.to_string()).await, 0);
    assert_eq!(live(before(&time_of(&admin, ended).await)).await, 1);
    let all = get(&admin, &format!("/v1/sessions?account_id={}&as_of={}", ann.account, ended - 1)).await;
    assert!(items(&all)[0].get("ended_at").is_none_or(Value::is_null), "{all}");
    let all = get(&admin, &format!("/v1/sessions?account_id={}&as_of={ended}", ann.account)).await;
    assert_eq!(items(&all)[0]["ended_by"], "owner");
    for (as_of, is) in [(suspended - 1, false), (suspended, true), (reinstated - 1, true), (reinstated, false)] {
        let account = get(&admin, &format!("{path}?as_of={as_of}")).await;
        assert_eq!(account["suspended"], json!(is), "{as_of}");
        assert_eq!(account["email"], json!(ann.email));
        let listed = get(&admin, &format!("/v1/accounts?suspended=true&as_of={as_of}")).await;
        assert_eq!(items(&listed).len(), usize::from(is), "{as_of}");
    }
    let registered = leaves(&node.database).await;
    let registered = registered.iter().position(|leaf| leaf["stream"] == json!(ann.account)).unwrap();
    assert_eq!(admin.get(&format!("{path}?as_of={}", registered - 1)).await.status, 404);
    assert_eq!(admin.get(&format!("{path}?as_of={registered}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_judged_by_the_clock_of_the_moment_asked_for() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    for _ in 0..5 {
        let wrong = json!({"email": ann.email, "password": "wrong"});
        assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    }
    let leaves = leaves(&node.database).await;
    let locked = leaves.iter().position(|leaf| leaf["type"] == "authentication.locked_out").unwrap();
    for (as_of, is) in [(locked - 1, false), (locked, true)] {
        let account = get(&admin, &format!("/v1/accounts/{}?as_of={as_of}", ann.account)).await;
        assert_eq!(account["locked"], json!(is), "{as_of}");
        let listed = get(&admin, &format!("/v1/accounts?locked=true&as_of={as_of}")).await;
        assert_eq!(items(&listed).len(), usize::from(is), "{as_of}");
        let metrics = get(&admin, &format!("/v1/security/metrics?as_of={as_of}")).await;
        assert_eq!(metrics["gauges"]["locked"], json!(u64::from(is)), "{as_of}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_means_the_last_event_recorded_by_then() {
    let node = Node::start().await;
    let admin = node.admin().await;
    burst(&node).await;
    let leaves = leaves(&node.database).await;
    let times: Vec<&str> = leaves.iter().map(|leaf| leaf["time"].as_str().unwrap()).collect();
    assert!(times.windows(2).any(|pair| pair[0] == pair[1]), "a burst within one microsecond: {times:?}");
    let position =
        async |as_of: &str| get(&admin, &format!("/v1/accounts?as_of={as_of}")).await["as_of"]["position"].clone();
    for time in &times {
        let last = times.iter().rposition(|other| other == time).unwrap();
        assert_eq!(position(time).await, json!(last), "{time}");
        let earlier = times.iter().filter(|other| *other < time).count();
        let expected = if earlier == 0 { Value::Null } else { json!(earlier - 1) };
        assert_eq!(position(&before(time)).await, expected, "before {time}");
    }
    let nothing = get(&admin, "/v1/accounts?as_of=2001-01-01T00:00Z").await;
    assert_eq!((items(&nothing).len(), &nothing["as_of"]["position"]), (0, &Value::Null));
    let future = get(&admin, "/v1/accounts?as_of=2999-01-01T00:00Z").await;
    assert_eq!(future["as_of"]["position"], json!(log_size(&node).await - 1));
    let now: DateTime<Utc> = future["as_of"]["time"].as_str().unwrap().parse().unwrap();
    assert!(now <= operator().now, "a time to come is the present: {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_moment_is_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let account = format!("/v1/accounts/{}", admin.account);
    let paths = [
        "/v1/accounts",
        &account,
        "/v1/sessions",
        "/v1/roles",
        "/v1/grants",
        "/v1/security/metrics",
        "/v1/audit/events",
    ];
    for path in paths {
        for as_of in
            ["yesterday", "-1", "2026-11-01", "18446744073709551616", &size.to_string(), "9223372036854775808", ""]
        {
            let answer = admin.get(&format!("{path}?as_of={as_of}")).await;
            assert_eq!(answer.status, 400, "{path} {as_of}: {answer:?}");
            assert_eq!(answer.json["errors"][0]["pointer"], "/as_of", "{path} {as_of}: {answer:?}");
        }
    }
    for query in ["window=1s", "window=24h&step=7h", "window=10d&step=1m", "step=0h", "window=-1h"] {
        let answer = admin.get(&format!("/v1/security/metrics?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_for_those_who_may_see_the_present() {
    let node = Node::start().await;
    let (ann, auditor) = (node.customer().await, node.auditor().await);
    for (path, auditors) in [
        ("/v1/accounts?as_of=0", 403),
        (&format!("/v1/accounts/{}?as_of=0", ann.account), 403),
        ("/v1/sessions?as_of=0", 403),
        ("/v1/roles?as_of=0", 200),
        ("/v1/grants", 200),
        ("/v1/grants?as_of=0", 200),
        ("/v1/security/metrics", 200),
        ("/v1/security/metrics?as_of=0", 200),
        ("/v1/audit/events?as_of=0", 200),
    ] {
        assert_eq!(ann.get(path).await.status, 403, "{path}");
        assert_eq!(auditor.get(path).await.status, auditors, "{path}");
        assert_eq!(node.anonymous().get(path).await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_past_are_of_one_moment_while_writers_are_busy() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for _ in 0..8 {
        node.customer().await;
    }
    let is_over = AtomicBool::new(false);
    let writing = async {
        while !is_over.load(Ordering::Relaxed) {
            node.customer().await;
        }
    };
    let reading = async {
        for (path, key) in
            [("/v1/accounts", "account_id"), ("/v1/sessions", "session_id"), ("/v1/grants", "account_id")]
        {
            // The present moves: each first page is of another moment, and all that follow are of that one.
            let mut seen = Vec::new();
            let first = get(&admin, &format!("{path}?as_of=2999-01-01T00:00Z&limit=3")).await;
            let (as_of, mut page) = (first["as_of"].clone(), first);
            loop {
                assert_eq!(page["as_of"], as_of);
                seen.extend(items(&page).iter().map(|it| format!("{}{}", it[key], it["role"])));
                let Some(cursor) = page["next_cursor"].as_str().map(str::to_owned) else { break };
                page = get(&admin, &format!("{path}?as_of=2999-01-01T00:00Z&limit=3&cursor={cursor}")).await;
            }
            let at_once = get(&admin, &format!("{path}?as_of={}&limit=200", as_of["position"])).await;
            let at_once: Vec<String> = items(&at_once).iter().map(|it| format!("{}{}", it[key], it["role"])).collect();
            assert_eq!(seen, at_once, "{path}");
            assert!(seen.len() >= 9, "{path}");
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(writing, reading);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_belongs_to_its_moment() {
    let node = Node::start().await;
    let admin = node.admin().await;
    node.customer().await;
    let position = log_size(&node).await - 1;
    let now = get(&admin.seeing(position), "/v1/accounts?limit=1").await["next_cursor"].as_str().unwrap().to_owned();
    let then = get(&admin, &format!("/v1/accounts?limit=1&as_of={position}")).await["next_cursor"].clone();
    let then = then.as_str().unwrap();
    let (_, key) = then.rsplit_once('.').unwrap();
    for (query, status) in [
        (format!("as_of={position}&cursor={then}"), 200),
        (format!("cursor={then}"), 200),
        (format!("cursor={now}"), 200),
        (format!("as_of={position}&cursor={now}"), 400),
        (format!("as_of={}&cursor={then}", position - 1), 400),
        (format!("cursor=9223372036854775807.0.{key}"), 400),
        (format!("cursor=-2.0.{key}"), 400),
        (format!("cursor=0.9223372036854775807.{key}"), 400),
        (format!("cursor=0.0.0.{key}"), 400),
    ] {
        assert_eq!(admin.get(&format!("/v1/accounts?{query}")).await.status, status, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_the_past_are_what_the_audit_trail_lists() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for _ in 0..3 {
        let ann = node.customer().await;
        let wrong = json!({"email": ann.email, "password": "wrong"});
        assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
        assert_eq!(ann.post_nothing("/v1/auth/logout").await.status, 204);
    }
    let leaves = leaves(&node.database).await;
    // Each of these is in the middle of a minute, or all but one is.
    for position in 0..leaves.len() {
        let metrics = get(&admin, &format!("/v1/security/metrics?window=2h&step=1m&as_of={position}")).await;
        let steps = metrics["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 120);
        let mut counted = 0;
        for count in steps.iter().flat_map(|step| step["events"].as_array().unwrap()) {
            counted += count["count"].as_u64().unwrap();
            if position % 7 == 0 {
                let listed = get(&admin, &format!("{}&limit=200", count["list"].as_str().unwrap())).await;
                assert_eq!(json!(items(&listed).len()), count["count"], "as of {position}: {count}");
                assert!(items(&listed).iter().all(|event| event["type"] == count["type"]));
            }
        }
        assert_eq!(counted, position as u64 + 1, "as of {position}");
        let so_far = &leaves[..=position];
        let of = |kind: &str| so_far.iter().filter(|leaf| leaf["type"] == kind).count();
        let gauges = &metrics["gauges"];
        assert_eq!(gauges["accounts"], json!(of("account.registered")), "as of {position}");
        let live = of("session.started") - of("session.revoked");
        assert_eq!(gauges["live_sessions"], json!(live), "as of {position}");
        let (good, bad) = (of("authentication.succeeded"), of("authentication.failed"));
        let rate = metrics["login_success_rate"].as_f64();
        let expected = (good + bad > 0).then(|| good as f64 / (good + bad) as f64);
        assert!(rate.is_some() == expected.is_some(), "as of {position}");
        assert!((rate.unwrap_or_default() - expected.unwrap_or_default()).abs() < 0.000_1, "as of {position}");
        let customers = gauges["holders"].as_array().unwrap().iter().find(|it| it["role"] == "customer");
        let granted = so_far.iter().filter(|leaf| leaf["data"]["role"] == "customer").count();
        assert_eq!(customers.map_or(0, |it| it["holders"].as_u64().unwrap()), granted as u64, "as of {position}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_whose_clock_is_ahead_has_recorded_is_of_the_present() {
    let node = Node::start().await;
    let admin = node.admin().await;
    by_the_clock(&node, || clock::now() + TimeDelta::minutes(5)).await;
    let last = log_size(&node).await - 1;
    let asked = admin.seeing(last);
    let a_minute_on = (operator().now + TimeDelta::minutes(1)).to_rfc3339_opts(SecondsFormat::Micros, true);
    let same = |shown: &Value, expected: &str| {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).unwrap();
        time(shown["time"].as_str().unwrap()) == time(expected)
    };
    let metrics = get(&asked, "/v1/security/metrics").await;
    assert_eq!(metrics["as_of"]["position"], json!(last), "{metrics}");
    assert!(same(&metrics["as_of"], &time_of(&admin, last).await), "{metrics}");
    node.customer().await;
    let last = log_size(&node).await - 1;
    let asked = admin.seeing(last);
    let mut path = format!("/v1/accounts?limit=1&as_of={a_minute_on}");
    for _ in 0..2 {
        let accounts = get(&asked, &path).await;
        assert_eq!(accounts["as_of"]["position"], json!(last), "{accounts}");
        assert!(same(&accounts["as_of"], &a_minute_on), "no later than was asked for: {accounts}");
        let Some(next) = accounts["next_cursor"].as_str() else { break };
        path = format!("/v1/accounts?limit=1&as_of={a_minute_on}&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_the_past_and_holds_it_against_the_log() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let path = format!("/v1/accounts/{}/roles", ann.account);
    let granted = admin.post(&path, json!({"role": "auditor", "reason": "r"})).await.position();
    let revoked = admin.delete_with(&format!("{path}/auditor"), json!({"reason": "r"})).await.position();
    let (at, until) = (granted.to_string(), revoked.to_string());

    let (code, said, errors) = run(&node, &["as-of", &at, "grants"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.starts_with(&format!("as of position {granted}, ")), "{said}");
    let line = said.lines().find(|line| line.contains("auditor")).unwrap();
    for part in [ann.account.to_string(), admin.account.to_string(), at.clone(), "audit.read".to_owned()] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    let (_, said, _) = run(&node, &["as-of", &until, "grants", "--json"]);
    let grants: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(grants.iter().all(|grant| grant["role"] != "auditor") && grants.len() == 3, "{said}");
    for what in ["accounts", "sessions", "roles", "metrics"] {
        let (code, said, errors) = run(&node, &["as-of", "2999-01-01T00:00Z", what]);
        assert_eq!(code, Some(0), "{errors}");
        assert!(said.lines().count() >= 4, "{what}: {said}");
    }
    let (code, said, _) = run(&node, &["as-of", "2001-01-01T00:00Z", "accounts"]);
    assert_eq!((code, said.lines().count()), (Some(0), 2), "{said}");
    assert_eq!(run(&node, &["as-of", "yesterday", "grants"]).0, Some(2));
    assert_eq!(run(&node, &["as-of", "1000000", "grants"]).0, Some(2));

    let (code, said, errors) = run(&node, &["replay", "--until", &at]);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert_eq!(said.lines().filter(|line| line.contains(" agrees ")).count(), 15, "{said}");
    let altered = format!("update read.role_grant_past set until = until - 1 where account_id = '{}'", ann.account);
    assert_eq!(superuser_does(&node, altered).await, 1);
    let (code, said, _) = run(&node, &["replay", "--until", &at]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.lines().any(|line| line.starts_with("role_grant ") && line.contains(" differs ")), "{said}");
    // The server drops the temporary tables when it notices that the program has ended.
    let database = superuser(&node.database).await;
    let leaves_nothing = async || {
        let left: i64 = sqlx::query_scalar(
            "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relname = 'account' and n.nspname <> 'read' and n.nspname <> 'access'",
        )
        .fetch_one(&database)
        .await
        .unwrap();
        left == 0
    };
    eventually("it leaves nothing behind", leaves_nothing).await;
}

/// Records three events of one microsecond, as a node with a slow clock records them.
async fn burst(node: &Node) {
    by_the_clock(node, || DateTime::UNIX_EPOCH).await;
}

/// Does the same by another clock.
async fn by_the_clock(node: &Node, clock: fn() -> DateTime<Utc>) {
    let hooks = LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock };
    let (log, sequencer) = EventLog::new(node.database.pool().await, hooks);
    let (stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    for _ in 0..3 {
        let id = operator().new_id();
        let draft = EventDraft { subject: None, ..draft(AuthenticationEvent::PasswordResetRequested {}, id) };
        let expected = vec![(draft.stream, ExpectedVersion::New)];
        let events = vec![draft.encode().unwrap()];
        let request = AppendRequest { events, expected, ..AppendRequest::default() };
        log.append(request).await.unwrap();
    }
    stop.send(()).unwrap();
    sequencer.await.unwrap();
}

async fn superuser_does(node: &Node, statement: String) -> u64 {
    let done = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&superuser(&node.database).await).await;
    done.unwrap().rows_affected()
}

/// Runs the program on the node's database; returns its exit code and its output.
fn run(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    let ended = Program::run(args, &node.database.env());
    (ended.status.code(), ended.said, ended.errors)
}

async fn get(client: &Client, path: &str) -> Value {
    let Answer { status, json, text, .. } = client.send(Method::GET, path, None, "").await;
    assert_eq!(status, 200, "{path}: {text}");
    json
}

fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().unwrap()
}

/// Returns the time at which an event was recorded, as its leaf has it.
async fn time_of(client: &Client, position: u64) -> String {
    let event = get(client, &format!("/v1/audit/events/{position}")).await;
    let time: DateTime<Utc> = event["time"].as_str().unwrap().parse().unwrap();
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Returns the time one microsecond earlier.
fn before(time: &str) -> String {
    let time: DateTime<Utc> = time.parse().unwrap();
    (time - TimeDelta::microseconds(1)).to_rfc3339_opts(SecondsFormat::Micros, true)
}
