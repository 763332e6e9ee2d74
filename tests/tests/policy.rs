//! The security policy: who sees and changes it, from when on it holds and what for, and what another one would have
//! done.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::context::Context;
use fulexo_commands::{Credentials, LoggedIn};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, FailureReason, LiftedBy, Method};
use fulexo_domain::event::{Actor, Category, Field, Stream};
use fulexo_domain::leaf::{self, Draft};
use fulexo_domain::lockout::{Counter, Lockout};
use fulexo_domain::password::Password;
use fulexo_domain::policy::Policy;
use fulexo_domain::values::{EmailAddress, SessionId};
use fulexo_tests::{Answer, Authenticator, Client, Database, Node, PASSWORD, operator};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const POLICY: &str = "/v1/policy";
const PREVIEW: &str = "/v1/policy/preview";
const WRONG: &str = "not-the-Passw0rd!";
const BECAUSE: &str = "the auditors asked for it";

/// Numbers that look random, and are the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).unwrap()
    }
}

/// The policy in force, as the body of a change.
async fn proposal(reader: &Client) -> Value {
    let answer = reader.get(POLICY).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut proposal = answer.json;
    proposal.as_object_mut().unwrap().remove("version");
    proposal["reason"] = json!(BECAUSE);
    proposal
}

/// Tries to put the policy in force that is in force now, but for this.
async fn change(admin: &Client, change: impl FnOnce(&mut Value)) -> Answer {
    let mut proposal = proposal(admin).await;
    change(&mut proposal);
    admin.put(POLICY, proposal).await
}

/// Puts another policy in force.
async fn enforce(admin: &Client, edit: impl FnOnce(&mut Value)) -> Answer {
    let answer = change(admin, edit).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

async fn version(reader: &Client) -> u64 {
    reader.get(POLICY).await.json["version"].as_u64().unwrap()
}

async fn log_in(node: &Node, email: &str, password: &str, device_token: Option<&str>) -> Answer {
    let mut body = json!({"email": email, "password": password});
    if let Some(token) = device_token {
        body["device_token"] = token.into();
    }
    node.anonymous().post("/v1/auth/login", body).await
}

/// So many wrong passwords.
async fn guess(node: &Node, email: &str, times: usize) {
    for _ in 0..times {
        assert_eq!(log_in(node, email, WRONG, None).await.status, 401);
    }
}

async fn log_size(node: &Node) -> u64 {
    node.app().commands.log().size().await.unwrap()
}

async fn leaves(database: &Database) -> Vec<Value> {
    let superuser = PgPool::connect(&database.superuser_url()).await.unwrap();
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("select leaf from log.event order by position").fetch_all(&superuser).await.unwrap();
    leaves.iter().map(|leaf| serde_json::from_slice(leaf).unwrap()).collect()
}

/// Events of this type, the oldest first.
async fn of_type(node: &Node, event_type: &str) -> Vec<Value> {
    leaves(&node.database).await.into_iter().filter(|leaf| leaf["type"] == event_type).collect()
}

/// The audit trail of an account, all of it.
async fn trail(node: &Node, auditor: &Client, account: Uuid) -> Vec<Value> {
    let (auditor, mut events, mut cursor) = (auditor.seeing(log_size(node).await - 1), Vec::new(), String::new());
    loop {
        let page = auditor.get(&format!("/v1/audit/events?limit=200&subject={account}{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        events.extend(page.json["items"].as_array().unwrap().clone());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return events,
        }
    }
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

fn pointers(answer: &Answer) -> Vec<String> {
    let errors = answer.json["errors"].as_array().unwrap();
    errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
}

/// Looks again and again, for half a minute at most.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(30), looking).await.is_ok(), "never: {what}");
}

/// The same caller at another node.
fn there(node: &Node, client: &Client) -> Client {
    Client { url: node.url.clone(), ..client.clone() }
}

// Who sees and changes it.

#[tokio::test(flavor = "multi_thread")]
async fn administrators_and_auditors_see_the_policy_and_customers_do_not() {
    let node = Node::start().await;
    for client in [node.admin().await, node.auditor().await] {
        let answer = client.get(POLICY).await;
        let first = json!({
            "version": 1,
            "lockout": {"enabled": true, "threshold": 5, "window_seconds": 900, "duration_seconds": 900,
                        "longest_seconds": 86_400},
            "sessions": {"idle_seconds": 604_800, "absolute_seconds": 2_592_000, "refresh_grace_seconds": 10,
                         "elevation_seconds": 600, "fingerprint": "require_step_up"},
            "passwords": {"history": 5, "max_age_days": null},
            "second_factor": {"required_for": []},
        });
        assert_eq!((answer.status, &answer.json), (200, &first), "{answer:?}");
    }
    let refused = node.customer().await.get(POLICY).await;
    assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    assert_eq!(node.anonymous().get(POLICY).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sees_the_policy_by_its_key_and_does_not_change_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let key = async |permissions: Value| {
        let expires_at = operator().now + TimeDelta::days(1);
        let body = json!({"name": "a-service", "permissions": permissions, "expires_at": expires_at});
        let made = admin.post("/v1/api-keys", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        Client { access_token: made.json["secret"].as_str().map(str::to_owned), ..node.anonymous() }
    };
    let reader = key(json!(["policy.read", "policy.change"])).await;
    assert_eq!(reader.get(POLICY).await.status, 200);
    assert_eq!(reader.put(POLICY, proposal(&admin).await).await.status, 401);
    assert_eq!(key(json!(["roles.read"])).await.get(POLICY).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_counts_the_version_up_and_is_recorded_with_before_and_after() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let before = admin.get(POLICY).await.json;
    let changed = enforce(&admin, |policy| {
        policy["lockout"]["threshold"] = json!(3);
        policy["second_factor"]["required_for"] = json!(["auditor", "auditor"]);
        policy["passwords"]["max_age_days"] = json!(365);
    })
    .await;
    let mut after = before.clone();
    after["version"] = json!(2);
    after["lockout"]["threshold"] = json!(3);
    after["second_factor"]["required_for"] = json!(["auditor"]);
    after["passwords"]["max_age_days"] = json!(365);
    assert_eq!(changed.json, after);
    assert_eq!(admin.get(POLICY).await.json, after);

    let events = of_type(&node, "policy.changed").await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((&event["data"]["before"], &event["data"]["after"]), (&before, &after));
    assert_eq!(event["actor"], json!({"kind": "account", "id": admin.account}));
    assert_eq!((&event["policy_version"], &event["subject"]), (&json!(1), &Value::Null));
    assert_eq!((&event["stream"], &event["version"]), (&json!(Uuid::nil()), &json!(1)));
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(4)).await;
    assert_eq!(version(&admin).await, 3);
    assert_eq!(of_type(&node, "policy.changed").await[1]["data"]["before"], after);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_change_is_sealed_beside_the_event_and_nowhere_in_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let changed = enforce(&admin, |policy| policy["passwords"]["history"] = json!(7)).await;
    let event = of_type(&node, "policy.changed").await.remove(0);
    assert!(!event.to_string().contains(BECAUSE), "{event}");
    assert_eq!(event["sealed"][0]["fields"], json!(["reason"]));
    let position = i64::try_from(changed.position()).unwrap();
    let opened = node.app().commands.vault().open_personal(&[position]).await.unwrap();
    assert_eq!(opened[&position].get(Field::Reason), Some(BECAUSE));
    let auditor = node.auditor().await.seeing(changed.position());
    let shown = auditor.get(&format!("/v1/audit/events/{position}")).await;
    assert_eq!((shown.status, &shown.json["type"]), (200, &json!("policy.changed")));
    assert!(!shown.text.contains(BECAUSE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_the_permission_and_a_fresh_login() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let mut proposal = proposal(&admin).await;
    proposal["lockout"]["threshold"] = json!(3);
    let size = log_size(&node).await;
    for client in [&auditor, &node.as_if_logged_in(TimeDelta::minutes(11), &auditor, &["auditor"])] {
        let refused = client.put(POLICY, proposal.clone()).await;
        assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    }
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]);
    let refused = stale.put(POLICY, proposal.clone()).await;
    assert_eq!((refused.status, refused.code()), (403, "step_up_required"), "{refused:?}");
    assert_eq!(stale.get(POLICY).await.status, 200, "reading needs none");
    assert_eq!(node.anonymous().put(POLICY, proposal.clone()).await.status, 401);
    assert_eq!(log_size(&node).await, size);
    assert_eq!(stale.post("/v1/auth/step-up", json!({"password": PASSWORD})).await.status, 200);
    assert_eq!(stale.put(POLICY, proposal).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_version_that_was_replaced_is_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let with = async |version: u64, threshold: u64| {
        change(&admin, |policy| {
            policy["version"] = json!(version);
            policy["lockout"]["threshold"] = json!(threshold);
        })
        .await
    };
    assert_eq!(with(1, 3).await.status, 200);
    let size = log_size(&node).await;
    for stale in [0, 1, 3, 4_000_000_000] {
        for threshold in [3, 4] {
            let refused = with(stale, threshold).await;
            assert_eq!((refused.status, refused.code()), (409, "policy_replaced"), "{refused:?}");
        }
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(with(2, 4).await.json["version"], json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_of_the_same_version_at_once_one_is_made() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    let mut proposal = proposal(&admin).await;
    for round in 1..=10_u64 {
        let mut change = |client: &Client, history: u64| {
            proposal["version"] = json!(round);
            proposal["passwords"]["history"] = json!(history);
            let (client, body) = (client.clone(), proposal.clone());
            async move { client.put(POLICY, body).await }
        };
        let elsewhere = there(&other, &admin);
        let (here, there) = tokio::join!(change(&admin, round % 2 * 10 + 1), change(&elsewhere, round % 2 * 10 + 2));
        let (won, lost) = if here.status == 200 { (here, there) } else { (there, here) };
        assert_eq!((won.status, &won.json["version"]), (200, &json!(round + 1)), "{won:?} {lost:?}");
        assert_eq!((lost.status, lost.code()), (409, "policy_replaced"), "{lost:?}");
        assert_eq!(admin.get(POLICY).await.json, won.json);
    }
    assert_eq!(of_type(&node, "policy.changed").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_that_name_no_version_are_made_one_after_the_other() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let proposal = proposal(&admin).await;
    let changes = (1..=8).map(|threshold| {
        let mut body = proposal.clone();
        body["lockout"]["threshold"] = json!(threshold + 10);
        let admin = admin.clone();
        async move { admin.put(POLICY, body).await }
    });
    let mut versions: Vec<u64> = Vec::new();
    for answer in join_all(changes).await {
        match answer.status {
            200 => versions.push(answer.json["version"].as_u64().unwrap()),
            _ => assert_eq!((answer.status, answer.code()), (409, "contended"), "{answer:?}"),
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..2 + versions.len() as u64).collect::<Vec<_>>());
    let events = of_type(&node, "policy.changed").await;
    assert_eq!(events.len(), versions.len());
    for pair in events.windows(2) {
        assert_eq!(pair[0]["data"]["after"], pair[1]["data"]["before"], "none is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_policy_once_more_records_nothing() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let unchanged = enforce(&admin, |_| {}).await;
    assert_eq!(unchanged.json["version"], json!(1));
    assert_eq!(enforce(&admin, |policy| policy["version"] = json!(1)).await.json["version"], json!(1));
    assert_eq!(log_size(&node).await, size);
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
    assert_eq!(enforce(&admin, |_| {}).await.json["version"], json!(2));
    assert_eq!(log_size(&node).await, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_repeated_with_its_idempotency_key_is_made_once() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let keyed = admin.with_header("idempotency-key", "a key");
    let mut proposal = proposal(&admin).await;
    proposal["lockout"]["threshold"] = json!(3);
    let first = keyed.put(POLICY, proposal.clone()).await;
    assert_eq!(first.json["version"], json!(2), "{first:?}");
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(4)).await;
    let again = keyed.put(POLICY, proposal.clone()).await;
    assert_eq!((again.status, &again.json), (200, &first.json), "the answer of then");
    assert_eq!(version(&admin).await, 3);
    assert_eq!(of_type(&node, "policy.changed").await.len(), 2);
    proposal["lockout"]["threshold"] = json!(5);
    let reused = keyed.put(POLICY, proposal.clone()).await;
    assert_eq!((reused.status, reused.code()), (409, "idempotency_key_reused"), "{reused:?}");
    let other = node.admin().await.with_header("idempotency-key", "a key");
    assert_eq!(other.put(POLICY, proposal).await.json["version"], json!(4), "another caller's key is another key");
}

// What is no policy.

const FIGURES: [(&str, u64, u64); 10] = [
    ("/lockout/threshold", 1, 100),
    ("/lockout/window_seconds", 60, 86_400),
    ("/lockout/duration_seconds", 60, 86_400),
    ("/lockout/longest_seconds", 60, 604_800),
    ("/sessions/idle_seconds", 300, 7_776_000),
    ("/sessions/absolute_seconds", 300, 31_536_000),
    ("/sessions/refresh_grace_seconds", 0, 60),
    ("/sessions/elevation_seconds", 60, 3_600),
    ("/passwords/history", 1, 24),
    ("/passwords/max_age_days", 1, 3_650),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_that_is_out_of_bounds_is_named_at_once() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let all = change(&admin, |policy| {
        for (pointer, _, most) in FIGURES {
            *policy.pointer_mut(pointer).unwrap() = json!(most + 1);
        }
    })
    .await;
    assert_eq!((all.status, all.code()), (400, "invalid_input"), "{all:?}");
    assert_eq!(pointers(&all), FIGURES.map(|(pointer, ..)| pointer), "{all:?}");
    let all = change(&admin, |policy| {
        for (pointer, least, _) in FIGURES {
            *policy.pointer_mut(pointer).unwrap() = json!(least.saturating_sub(1));
        }
    })
    .await;
    let named: Vec<_> = FIGURES.iter().filter(|(_, least, _)| *least > 0).map(|(pointer, ..)| *pointer).collect();
    assert_eq!(pointers(&all), named, "{all:?}");
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_figure_out_of_its_bounds_is_named_alone() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (pointer, least, most) in FIGURES {
        // What the bounds of others rest on goes with it.
        let values = [least.checked_sub(1), Some(most + 1), Some(u64::from(u32::MAX))];
        for value in values.into_iter().flatten() {
            let refused = change(&admin, |policy| {
                policy["lockout"]["longest_seconds"] = json!(604_800);
                policy["lockout"]["duration_seconds"] = json!(60);
                policy["sessions"]["absolute_seconds"] = json!(31_536_000);
                policy["sessions"]["idle_seconds"] = json!(300);
                *policy.pointer_mut(pointer).unwrap() = json!(value);
            })
            .await;
            let named = pointers(&refused);
            assert!(named.contains(&pointer.to_owned()), "{pointer} {value}: {refused:?}");
            // The longest lock is as long as the first at least, and the same of sessions.
            let follows = ["/lockout/longest_seconds", "/sessions/absolute_seconds"];
            assert!(named.iter().all(|named| named == pointer || follows.contains(&named.as_str())), "{refused:?}");
        }
    }
    assert_eq!(version(&admin).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longest_lock_below_the_first_and_an_end_before_the_idle_timeout_are_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let refused = change(&admin, |policy| {
        policy["lockout"]["longest_seconds"] = json!(899);
        policy["sessions"]["absolute_seconds"] = json!(604_799);
    })
    .await;
    assert_eq!(pointers(&refused), ["/lockout/longest_seconds", "/sessions/absolute_seconds"], "{refused:?}");
    let equal = change(&admin, |policy| {
        policy["lockout"]["longest_seconds"] = json!(900);
        policy["sessions"]["absolute_seconds"] = json!(604_800);
    })
    .await;
    assert_eq!(equal.status, 200, "{equal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_themselves_are_policies() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for bounds in
        [FIGURES.map(|(pointer, _, most)| (pointer, most)), FIGURES.map(|(pointer, least, _)| (pointer, least))]
    {
        let changed = enforce(&admin, |policy| {
            for (pointer, value) in bounds {
                *policy.pointer_mut(pointer).unwrap() = json!(value);
            }
        })
        .await;
        for (pointer, value) in bounds {
            assert_eq!(changed.json.pointer(pointer), Some(&json!(value)), "{pointer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_with_unknown_missing_or_mistyped_members_is_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    for (place, member) in [
        ("", "surprise"),
        ("/lockout", "max"),
        ("/sessions", "idle"),
        ("/passwords", "rotation"),
        ("/second_factor", "for"),
    ] {
        let refused = change(&admin, |policy| {
            policy["lockout"]["threshold"] = json!(3);
            policy.pointer_mut(place).unwrap()[member] = json!(1);
        })
        .await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{place}/{member}: {refused:?}");
        assert_eq!(pointers(&refused), [format!("{place}/{member}")], "{refused:?}");
    }
    for missing in ["lockout", "sessions", "passwords", "second_factor", "reason"] {
        let refused = change(&admin, |policy| {
            policy.as_object_mut().unwrap().remove(missing);
        })
        .await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{missing}: {refused:?}");
    }
    for (pointer, value) in [
        ("/lockout/threshold", json!(2.5)),
        ("/lockout/threshold", json!("3")),
        ("/lockout/enabled", json!(1)),
        ("/lockout", json!(null)),
        ("/sessions/fingerprint", json!("ignore")),
        ("/second_factor/required_for", json!("admin")),
        ("/reason", json!(" ")),
        ("/reason", json!("x".repeat(501))),
    ] {
        let refused = change(&admin, |policy| *policy.pointer_mut(pointer).unwrap() = value.clone()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{pointer} {value}: {refused:?}");
        assert_eq!(pointers(&refused), [pointer], "{refused:?}");
    }
    for value in [json!(-1), json!(4_294_967_296_u64), json!(u64::MAX), json!(i64::MIN)] {
        let refused = change(&admin, |policy| policy["lockout"]["threshold"] = value.clone()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{value}: {refused:?}");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_figure_that_no_figure_can_be_is_named_by_its_pointer() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for value in [json!(-1), json!(4_294_967_296_u64), json!(u64::MAX), json!(i64::MIN)] {
        let refused = change(&admin, |policy| policy["lockout"]["threshold"] = value.clone()).await;
        assert_eq!(pointers(&refused), ["/lockout/threshold"], "{value}: {refused:?}");
        let refused = admin.post(PREVIEW, json!({"lockout": lockout(3), "days": value})).await;
        assert_eq!(pointers(&refused), ["/days"], "{value}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_required_of_roles_that_exist_alone() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let require = async |roles: Value| change(&admin, |policy| policy["second_factor"]["required_for"] = roles).await;
    let size = log_size(&node).await;
    for roles in [json!(["support"]), json!(["auditor", "root"])] {
        let refused = require(roles).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{refused:?}");
        assert!(pointers(&refused)[0].starts_with("/second_factor/required_for"), "{refused:?}");
    }
    let refused = require(json!(["auditor", "", "Not A Name"])).await;
    assert_eq!(pointers(&refused), ["/second_factor/required_for/1", "/second_factor/required_for/2"], "{refused:?}");
    assert_eq!(log_size(&node).await, size);
    let defined = admin.put("/v1/roles/support", json!({"permissions": ["accounts.read"], "reason": "r"})).await;
    assert_eq!(defined.status, 200, "{defined:?}");
    assert_eq!(
        require(json!(["support", "auditor"])).await.json["second_factor"]["required_for"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_required_of_fifty_roles_at_most() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut roles: Vec<String> = Vec::new();
    for number in 0..51 {
        let role = format!("role-{number}");
        let body = json!({"permissions": ["roles.read"], "reason": "r"});
        let defined = admin.put(&format!("/v1/roles/{role}"), body).await;
        assert_eq!(defined.status, 200, "{defined:?}");
        roles.push(role);
    }
    let refused = change(&admin, |policy| policy["second_factor"]["required_for"] = json!(roles)).await;
    assert_eq!(pointers(&refused), ["/second_factor/required_for"], "{refused:?}");
    roles.pop();
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(roles)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_that_a_change_names_is_left_out_however_often_others_are_named() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut roles = vec!["customer"; 100];
    roles.push("auditor");
    let answer = change(&admin, |policy| policy["second_factor"]["required_for"] = json!(roles)).await;
    if answer.status == 200 {
        assert_eq!(answer.json["second_factor"]["required_for"], json!(["auditor", "customer"]), "{answer:?}");
    } else {
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_names_a_role_retired_since_can_still_be_changed() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let defined = admin.put("/v1/roles/support", json!({"permissions": ["accounts.read"], "reason": "r"})).await;
    assert_eq!(defined.status, 200, "{defined:?}");
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["support"])).await;
    let retired = admin.delete_with("/v1/roles/support", json!({"reason": "r"})).await;
    if retired.status == 204 {
        let changed = change(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
        assert_eq!(changed.status, 200, "nothing is wrong with what was changed: {changed:?}");
    } else {
        assert_eq!(retired.status, 409, "{retired:?}");
    }
}

// From when on it holds.

fn lasts_minutes(session: &Answer, logged_in: DateTime<Utc>) -> i64 {
    (time(&session.json["elevated_until"]) - logged_in + TimeDelta::seconds(30)).num_minutes()
}

/// How long an elevation lasts, as a node judges it.
async fn elevation_at(node: &Node, client: &Client) -> i64 {
    let now = operator().now;
    let fresh = node.as_if_logged_in(TimeDelta::zero(), &there(node, client), &["customer"]);
    lasts_minutes(&fresh.get("/v1/auth/session").await, now)
}

async fn set_elevation(admin: &Client, minutes: i64) {
    enforce(admin, |policy| policy["sessions"]["elevation_seconds"] = json!(minutes * 60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_at_once_here_and_a_moment_later_on_other_nodes() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!((elevation_at(&node, &ann).await, elevation_at(&other, &ann).await), (10, 10));
    for minutes in [20, 5, 60] {
        set_elevation(&admin, minutes).await;
        assert_eq!(elevation_at(&node, &ann).await, minutes, "at once");
        let shown = there(&other, &admin).get(POLICY).await;
        assert_eq!(shown.json["sessions"]["elevation_seconds"], json!(minutes * 60), "shown at once everywhere");
        eventually("the other node learns of it", async || elevation_at(&other, &ann).await == minutes).await;
    }
    // And it decides by it.
    let (email, _) = node.register(&["customer"]).await;
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(1)).await;
    eventually("it decides by it", async || other.app().commands.policy().lockout.threshold == 1).await;
    guess(&other, &email, 1).await;
    assert_eq!(log_in(&node, &email, PASSWORD, None).await.status, 401, "locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_on_other_nodes_without_nats_too() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("NATS_URL");
    let (node, other) = (Node::with(&database, env.clone()).await, Node::with(&database, env).await);
    let (admin, ann) = (node.admin().await, node.customer().await);
    set_elevation(&admin, 30).await;
    assert_eq!(elevation_at(&node, &ann).await, 30);
    eventually("the other node learns of it", async || elevation_at(&other, &ann).await == 30).await;
    set_elevation(&there(&other, &admin), 40).await;
    eventually("and the other way round", async || elevation_at(&node, &ann).await == 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_after_a_restart() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    set_elevation(&admin, 20).await;
    let changed = enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(2)).await;
    let database = Arc::clone(&node.database);
    node.stop().await;
    let node = Node::join(&database).await;
    assert_eq!(there(&node, &admin).get(POLICY).await.json, changed.json);
    assert_eq!(elevation_at(&node, &ann).await, 20);
    guess(&node, &ann.email, 2).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401, "locked");
    assert_eq!(of_type(&node, "authentication.locked_out").await[0]["policy_version"], json!(3));
    assert_eq!(enforce(&there(&node, &admin), |policy| policy["version"] = json!(3)).await.json["version"], json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_carry_the_version_that_they_were_decided_under() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let changed = enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(1)).await;
    guess(&node, &ann.email, 1).await;
    node.customer().await;
    assert_eq!(ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await.status, 200);
    let leaves = leaves(&node.database).await;
    let boundary = usize::try_from(changed.position()).unwrap();
    for (position, leaf) in leaves.iter().enumerate() {
        let expected = if position <= boundary { 1 } else { 2 };
        assert_eq!(leaf["policy_version"], json!(expected), "{position}: {leaf}");
    }
    let after: BTreeSet<&str> = leaves[boundary + 1..].iter().map(|leaf| leaf["type"].as_str().unwrap()).collect();
    assert!(after.len() >= 6, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_life_of_refresh_tokens_shapes_the_first_policy_alone() {
    for (life, idle, absolute) in [("14d", 14, 30), ("60d", 60, 60)] {
        let database = Arc::new(Database::create().await);
        let mut env = database.env();
        env.insert("JWT_REFRESH_EXPIRES_IN".into(), life.into());
        let node = Node::with(&database, env).await;
        let admin = node.admin().await;
        let policy = admin.get(POLICY).await.json;
        let days = |name: &str, policy: &Value| policy["sessions"][name].as_i64().unwrap() / 86_400;
        assert_eq!(policy["version"], json!(1));
        assert_eq!((days("idle_seconds", &policy), days("absolute_seconds", &policy)), (idle, absolute));
        let started = &of_type(&node, "session.started").await[0];
        let span = time(&started["data"]["expires_at"]) - time(&started["data"]["idle_expires_at"]);
        assert_eq!(span, TimeDelta::days(absolute - idle));

        enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
        assert_eq!(of_type(&node, "policy.changed").await[0]["data"]["before"], policy);
        node.stop().await;
        let node = Node::join(&database).await;
        let policy = there(&node, &admin).get(POLICY).await.json;
        assert_eq!((days("idle_seconds", &policy), &policy["version"]), (idle, &json!(2)), "the event says so now");
    }
}

/// Writes an event of a type that nobody knows: nodes that follow the log stop before it.
async fn cut_off(node: &Node) {
    let (id, account) = (operator().new_id(), operator().new_id());
    let draft = Draft {
        id,
        stream: Stream { category: Category::Authentication, id: account },
        subject: None,
        actor: Actor::System,
        correlation: id,
        causation: None,
        policy_version: 1,
        event: failed(FailureReason::Locked, None).into(),
        sealed: Vec::new(),
    };
    let leaf = String::from_utf8(draft.prepare().unwrap().leaf(operator().now, 1)).unwrap();
    let leaf = leaf.replace("authentication.failed", "authentication.fumbled").into_bytes();
    let superuser = PgPool::connect(&node.database.superuser_url()).await.unwrap();
    let mut transaction = superuser.begin().await.unwrap();
    let head: i64 =
        sqlx::query_scalar("select position from log.head for update").fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    let statement = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                     values ($1, $2, 'authentication', 1, $3, $4)";
    let hash = leaf::hash(&leaf).to_vec();
    sqlx::query(statement).bind(head).bind(account).bind(leaf).bind(hash).execute(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    sqlx::query("update log.head set position = position + 1").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    eventually("the lease has run out", async || !node.app().gate.holds_lease()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_what_roles_need() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    cut_off(&other).await;
    let elsewhere = there(&other, &auditor);
    assert_eq!(elsewhere.get("/v1/roles").await.status, 200);
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    assert_eq!(elsewhere.get("/v1/roles").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_how_long_an_elevation_lasts() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    cut_off(&other).await;
    set_elevation(&admin, 1).await;
    assert_eq!(elevation_at(&other, &ann).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_decides_under_the_policy_in_force() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    cut_off(&other).await;
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(1)).await;
    guess(&other, &ann.email, 1).await;
    assert_eq!(log_in(&other, &ann.email, PASSWORD, None).await.status, 401, "locked");
}

// What it holds for.

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_of_three_locks_after_three() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
    guess(&node, &ann.email, 2).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    guess(&node, &bob.email, 3).await;
    assert_eq!(log_in(&node, &bob.email, PASSWORD, None).await.status, 401);
    let locks = of_type(&node, "authentication.locked_out").await;
    assert_eq!(locks.len(), 1);
    assert_eq!((&locks[0]["subject"], &locks[0]["data"]["failures"]), (&json!(bob.account), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_lockout_switched_off_nobody_is_locked_and_who_was_is_free() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    guess(&node, &bob.email, 5).await;
    assert_eq!(log_in(&node, &bob.email, PASSWORD, None).await.status, 401);
    enforce(&admin, |policy| policy["lockout"]["enabled"] = json!(false)).await;
    guess(&node, &ann.email, 20).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    assert_eq!(log_in(&node, &bob.email, PASSWORD, None).await.status, 200);
    assert_eq!(of_type(&node, "authentication.locked_out").await.len(), 1, "that of before");
    let failed = of_type(&node, "authentication.failed").await;
    assert_eq!(failed.iter().filter(|leaf| leaf["data"]["reason"] == "wrong_password").count(), 25, "all evaluated");
    enforce(&admin, |policy| policy["lockout"]["enabled"] = json!(true)).await;
    guess(&node, &ann.email, 5).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401, "and on again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_lasts_as_long_as_the_policy_says() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (duration, longest) in [(60, 86_400), (86_400, 604_800)] {
        let (email, account) = node.register(&["customer"]).await;
        enforce(&admin, |policy| {
            policy["lockout"]["threshold"] = json!(1);
            policy["lockout"]["duration_seconds"] = json!(duration);
            policy["lockout"]["longest_seconds"] = json!(longest);
        })
        .await;
        let asked = operator().now;
        guess(&node, &email, 1).await;
        let locks = of_type(&node, "authentication.locked_out").await;
        let lock = locks.iter().find(|leaf| leaf["subject"] == json!(account)).unwrap();
        let (until, duration) = (time(&lock["data"]["until"]), TimeDelta::seconds(duration));
        assert!((asked + duration..=time(&lock["time"]) + duration).contains(&until), "{lock}");
    }
}

async fn log_in_at(node: &Node, now: DateTime<Utc>, email: &str, password: &str) -> Option<LoggedIn> {
    let context = Context { actor: Actor::Anonymous, now, ..operator() };
    let (email, password) = (EmailAddress::parse(email).unwrap(), Password::new(password.to_owned()));
    let login = node.app().commands.login(&context, Credentials { email, password, device_token: None }).await;
    login.ok().map(|done| done.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_further_apart_than_the_window_of_the_policy_do_not_add_up() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    enforce(&admin, |policy| {
        policy["lockout"]["threshold"] = json!(2);
        policy["lockout"]["window_seconds"] = json!(60);
    })
    .await;
    let now = operator().now;
    for (client, wait, locks) in [(&ann, 61, 0), (&bob, 59, 1)] {
        for seconds in [0, wait] {
            assert!(log_in_at(&node, now + TimeDelta::seconds(seconds), &client.email, WRONG).await.is_none());
        }
        let locked = of_type(&node, "authentication.locked_out").await;
        assert_eq!(locked.iter().filter(|leaf| leaf["subject"] == json!(client.account)).count(), locks, "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_elevation_lasts_as_long_as_the_policy_says() {
    let node = Node::start().await;
    let (admin, other) = (node.admin().await, node.admin().await);
    let after = |minutes: i64| {
        let old = node.as_if_logged_in(TimeDelta::minutes(minutes), &other, &["admin"]);
        let path = format!("/v1/accounts/{}/unlock", Uuid::nil());
        async move { old.post(&path, json!({"reason": BECAUSE})).await.code().to_owned() }
    };
    assert_eq!(after(15).await, "step_up_required");
    set_elevation(&admin, 60).await;
    assert_ne!(after(15).await, "step_up_required");
    assert_ne!(after(55).await, "step_up_required");
    assert_eq!(after(61).await, "step_up_required");
    set_elevation(&admin, 1).await;
    assert_eq!(after(2).await, "step_up_required");
    let stepped = other.post("/v1/auth/step-up", json!({"password": PASSWORD})).await;
    assert_eq!(stepped.status, 200, "{stepped:?}");
    let elevated = of_type(&node, "session.elevated").await.remove(0);
    let until = time(&elevated["data"]["until"]);
    assert!(until <= time(&elevated["time"]) + TimeDelta::minutes(1), "{elevated}");
    assert!(until > time(&elevated["time"]), "{elevated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_unused_or_in_any_case_when_the_policy_says_so() {
    let node = Node::start().await;
    let admin = node.admin().await;
    enforce(&admin, |policy| {
        policy["sessions"]["idle_seconds"] = json!(300);
        policy["sessions"]["absolute_seconds"] = json!(700);
    })
    .await;
    let asked = operator().now;
    let ann = node.customer().await;
    let started = of_type(&node, "session.started").await.pop().unwrap();
    let idle = time(&started["data"]["idle_expires_at"]);
    let began = idle - TimeDelta::seconds(300);
    assert!((asked..=time(&started["time"])).contains(&began), "{started}");
    assert_eq!(time(&started["data"]["expires_at"]), began + TimeDelta::seconds(700));

    let at = |seconds: i64| Context { now: began + TimeDelta::seconds(seconds), ..operator() };
    let (commands, mut token) = (&node.app().commands, ann.refresh_token.clone());
    for seconds in [299, 598] {
        let done = commands.refresh(&at(seconds), &token, None).await;
        let Ok(done) = done else { unreachable!("at {seconds}") };
        token = done.value.refresh_token.to_string();
    }
    let refreshed = of_type(&node, "session.refreshed").await.pop().unwrap();
    assert_eq!(refreshed["data"]["idle_expires_at"], started["data"]["expires_at"], "no later than the end");
    assert!(commands.refresh(&at(701), &token, None).await.is_err(), "its end in any case");
    let bob = node.customer().await;
    let late = Context { now: operator().now + TimeDelta::seconds(301), ..operator() };
    assert!(commands.refresh(&late, &bob.refresh_token, None).await.is_err(), "unused");
    assert_eq!(of_type(&node, "session.expired").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_of_a_spent_refresh_token_is_what_the_policy_says() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (grace, status) in [(60, 200), (0, 401)] {
        enforce(&admin, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(grace)).await;
        let ann = node.customer().await;
        let refresh = || ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token}));
        assert_eq!(refresh().await.status, 200);
        let refreshed = of_type(&node, "session.refreshed").await.pop().unwrap();
        let span = time(&refreshed["data"]["grace_until"]) - time(&refreshed["time"]);
        assert!(span <= TimeDelta::seconds(grace), "{refreshed}");
        assert_eq!(refresh().await.status, status, "{grace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_old_passwords_may_not_come_back_as_the_policy_says() {
    const OTHER: &str = "kestrel-Over9thefen";
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let set = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        ann.post("/v1/me/password", body).await.status
    };
    assert_eq!(set(PASSWORD, OTHER).await, 204);
    assert_eq!(set(OTHER, PASSWORD).await, 400, "one of the last five");
    enforce(&admin, |policy| policy["passwords"]["history"] = json!(1)).await;
    assert_eq!(set(OTHER, OTHER).await, 400, "the current one");
    assert_eq!(set(OTHER, PASSWORD).await, 204, "an old one");
    assert_eq!(set(PASSWORD, OTHER).await, 204, "and back");
    enforce(&admin, |policy| policy["passwords"]["history"] = json!(2)).await;
    assert_eq!(set(OTHER, "plover-Under7thedyke").await, 204);
    assert_eq!(set("plover-Under7thedyke", OTHER).await, 400, "one of the last two");
    assert_eq!(set("plover-Under7thedyke", PASSWORD).await, 204, "not one of the last two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_older_than_the_policy_allows_is_changed_at_the_next_login() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let later = async |hours: i64| {
        let now = operator().now + TimeDelta::hours(hours);
        matches!(log_in_at(&node, now, &ann.email, PASSWORD).await, Some(LoggedIn::Session(_)))
    };
    assert!(later(24 * 300).await, "it may grow old");
    enforce(&admin, |policy| policy["passwords"]["max_age_days"] = json!(1)).await;
    assert!(later(23).await);
    assert!(!later(25).await);
    assert_eq!(of_type(&node, "authentication.password_change_required").await.len(), 1);
    enforce(&admin, |policy| policy["passwords"]["max_age_days"] = json!(null)).await;
    assert!(later(25).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_requires_a_second_factor_allows_nothing_without_one_from_then_on() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    assert_eq!(auditor.get("/v1/audit/events?limit=1").await.status, 200);
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    assert_eq!(auditor.get("/v1/audit/events?limit=1").await.status, 403, "at once");
    let elsewhere = there(&other, &auditor);
    eventually("elsewhere too", async || elsewhere.get("/v1/audit/events?limit=1").await.status == 403).await;
    let login = log_in(&node, &auditor.email, PASSWORD, None).await;
    assert_eq!(login.json["status"], "second_factor_enrolment_required", "{login:?}");
    let customer = node.customer().await;
    assert_eq!(log_in(&node, &customer.email, PASSWORD, None).await.json["status"], "authenticated");
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!([])).await;
    assert_eq!(auditor.get("/v1/audit/events?limit=1").await.status, 200, "and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_who_requires_a_second_factor_of_themselves_gets_back_in_by_enrolling() {
    let node = Node::start().await;
    let admin = node.admin().await;
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["admin"])).await;
    let refused = admin.get(POLICY).await;
    assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    let due = log_in(&node, &admin.email, PASSWORD, None).await;
    assert_eq!(due.json["status"], "second_factor_enrolment_required", "{due:?}");
    let token = due.json["challenge_token"].as_str().map(str::to_owned);
    let enrolling = Client { access_token: token, ..node.anonymous() };
    assert_eq!(enrolling.get(POLICY).await.status, 401, "good for the enrolment alone");
    let started = enrolling.post_nothing("/v1/me/second-factor/totp").await;
    assert_eq!(started.status, 200, "{started:?}");
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = enrolling.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(-1)})).await;
    let code = confirmed.json["recovery_codes"][0].as_str().unwrap();
    let login = log_in_twice(&node, &admin, Some(code)).await;
    assert_eq!(login.status, 200, "{login:?}");
    let mut admin = admin.clone();
    admin.log_in_with(&login);
    assert_eq!(enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(4)).await.json["version"], json!(3));
}

// The preview.

fn lockout(threshold: u64) -> Value {
    json!({"enabled": true, "threshold": threshold, "window_seconds": 900, "duration_seconds": 900,
           "longest_seconds": 86_400})
}

/// What this policy would have done to all that the log holds now.
async fn preview(node: &Node, reader: &Client, lockout: Value) -> Value {
    let reader = reader.seeing(log_size(node).await - 1);
    let answer = reader.post(PREVIEW, json!({"lockout": lockout})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

/// What the policy in force would have done.
async fn preview_of_now(node: &Node, reader: &Client) -> Value {
    let lockout = reader.get(POLICY).await.json["lockout"].take();
    preview(node, reader, lockout).await
}

/// What the preview says of an account, each of its counters by the device.
fn accounts(preview: &Value, account: Uuid) -> BTreeMap<String, Value> {
    let listed = preview["accounts"].as_array().unwrap().iter();
    let own = listed.filter(|item| item["account_id"] == json!(account));
    own.map(|item| (item["device"].as_str().unwrap_or_default().to_owned(), item.clone())).collect()
}

/// Under the policy in force, what would have been is what was, counter by counter.
async fn assert_is_what_was(node: &Node, reader: &Client) -> Value {
    let preview = preview_of_now(node, reader).await;
    assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
    assert_eq!(preview["truncated"], json!(false));
    // Each lock, and when the failure that led to it was recorded.
    let mut locks = BTreeMap::<_, Vec<_>>::new();
    let (mut evaluated, mut refused, mut before) = (0, 0, DateTime::UNIX_EPOCH);
    for leaf in leaves(&node.database).await {
        // What is tried on addresses that nobody registered is about nobody.
        if leaf["subject"].is_null() {
            continue;
        }
        let now = time(&leaf["time"]);
        let (text, data) = (|value: &Value| value.as_str().unwrap_or_default().to_owned(), &leaf["data"]);
        match leaf["type"].as_str().unwrap() {
            "authentication.locked_out" => {
                let key = (text(&leaf["subject"]), text(&data["factor"]), text(&data["device"]));
                locks.entry(key).or_default().push((leaf, before));
            }
            "authentication.failed" if data["reason"] == "locked" => refused += 1,
            "authentication.lock_lifted" => {}
            other if other.starts_with("authentication.") => evaluated += 1,
            _ => {}
        }
        before = now;
    }
    let recorded =
        json!({"locks": locks.values().map(Vec::len).sum::<usize>(), "evaluated": evaluated, "refused": refused});
    assert_eq!(preview["recorded"], recorded, "{preview:#}");
    assert_eq!(preview["attempts"], json!(evaluated + refused));
    let listed = preview["accounts"].as_array().unwrap();
    assert_eq!(listed.len(), locks.len(), "{preview:#}");
    for item in listed {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let locks = &locks[&(text("account_id"), text("factor"), text("device"))];
        assert_eq!((&item["locks_recorded"], &item["locks_proposed"]), (&json!(locks.len()), &json!(locks.len())));
        for (lock, (leaf, failed)) in item["locks"].as_array().unwrap().iter().zip(locks) {
            assert_eq!(time(&lock["at"]), *failed, "{lock} {leaf}");
            assert_eq!(lock["nth"], leaf["data"]["nth"], "{lock} {leaf}");
            // The request came in a moment before it was recorded.
            let early = time(&lock["until"]) - time(&leaf["data"]["until"]);
            assert!(early >= TimeDelta::zero() && early < TimeDelta::minutes(1), "{lock} {leaf}");
        }
    }
    preview
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_in_force_would_have_done_what_it_did() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    guess(&node, &ann.email, 4).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    guess(&node, &ann.email, 7).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401);
    guess(&node, &bob.email, 3).await;
    guess(&node, "nobody@example.com", 7).await;
    let preview = assert_is_what_was(&node, &admin).await;
    assert_eq!(preview["recorded"]["locks"], json!(1));
    // Three logins by the harness, and a locked one that was right counts as wrong.
    assert_eq!(preview["attempts"], json!(3 + 4 + 1 + 7 + 1 + 3));
    assert_eq!(accounts(&preview, ann.account)[""]["right_refused"], json!(0), "nobody looked at it");
    assert!(accounts(&preview, bob.account).is_empty());
    let (from, to) = (time(&preview["from"]), time(&preview["to"]));
    assert_eq!(to - from, TimeDelta::days(30));
}

/// Somebody whose account has a second factor, and ten codes that stand in for it.
async fn enrolled(node: &Node) -> (Client, Vec<String>) {
    let ann = node.customer().await;
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = ann.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(-1)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let codes = confirmed.json["recovery_codes"].as_array().unwrap().iter();
    (ann, codes.map(|code| code.as_str().unwrap().to_owned()).collect())
}

/// The second step of a login, begun by the password; without a code it is left at that.
async fn log_in_twice(node: &Node, client: &Client, code: Option<&str>) -> Answer {
    let challenge = log_in(node, &client.email, PASSWORD, None).await;
    assert_eq!(challenge.json["status"], "second_factor_required", "{challenge:?}");
    let Some(code) = code else { return challenge };
    let body = json!({"challenge_token": challenge.json["challenge_token"], "code": code});
    node.anonymous().post("/v1/auth/second-factor", body).await
}

/// A code that is one, but of nobody.
const WRONG_CODE: &str = "00000-00000";

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_in_force_would_have_done_what_it_did_to_second_factors_too() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (ann, codes) = enrolled(&node).await;
    for code in [WRONG_CODE, WRONG_CODE, WRONG_CODE, WRONG_CODE] {
        assert_eq!(log_in_twice(&node, &ann, Some(code)).await.status, 401);
    }
    assert_eq!(log_in_twice(&node, &ann, Some(&codes[0])).await.status, 200, "forgiven");
    guess(&node, &ann.email, 4).await;
    log_in_twice(&node, &ann, None).await;
    for _ in 0..6 {
        assert_eq!(log_in_twice(&node, &ann, Some(WRONG_CODE)).await.status, 401);
    }
    assert_eq!(log_in_twice(&node, &ann, Some(&codes[1])).await.status, 401, "locked");
    for _ in 0..5 {
        assert_eq!(ann.post("/v1/auth/step-up", json!({"code": WRONG_CODE})).await.status, 401);
    }
    let preview = assert_is_what_was(&node, &admin).await;
    let locked: Vec<_> = accounts(&preview, ann.account).into_values().map(|item| item["factor"].clone()).collect();
    assert_eq!(locked, ["second_factor", "second_factor"], "at login, and on the device at step-up");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_in_force_would_have_done_what_it_did_to_password_changes_too() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let new = ["kestrel-Over9thefen", "plover-Under7thedyke"];
    let change = async |client: &Client, current: &str, new: &str| {
        client.post("/v1/me/password", json!({"current_password": current, "new_password": new})).await.status
    };
    for _ in 0..4 {
        assert_eq!(change(&ann, WRONG, new[0]).await, 401);
    }
    assert_eq!(change(&ann, PASSWORD, new[0]).await, 204, "forgiven");
    for _ in 0..4 {
        assert_eq!(change(&ann, WRONG, new[1]).await, 401);
    }
    let path = format!("/v1/accounts/{}/expire-password", ann.account);
    assert_eq!(admin.post(&path, json!({"reason": BECAUSE})).await.status, 204);
    let due = log_in(&node, &ann.email, new[0], None).await;
    assert_eq!(due.json["status"], "password_change_required", "{due:?}");
    let token = due.json["challenge_token"].as_str().map(str::to_owned);
    let half_way = Client { access_token: token, ..node.anonymous() };
    for _ in 0..6 {
        assert_eq!(change(&half_way, WRONG, new[1]).await, 401);
    }
    assert_eq!(change(&half_way, new[0], new[1]).await, 401, "locked");
    let preview = assert_is_what_was(&node, &admin).await;
    assert_eq!(preview["recorded"]["locks"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_whatever_order_guesses_at_once_were_recorded_they_come_to_the_same() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let guesses = (0..120).map(|_| log_in(&node, &ann.email, WRONG, None));
    let refused = join_all(guesses).await.into_iter().filter(|answer| answer.status == 401).count();
    let preview = preview_of_now(&node, &admin).await;
    assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
    // Two logins by the harness were right.
    assert_eq!(preview["recorded"], json!({"locks": 1, "evaluated": 7, "refused": refused - 5}));
    assert_eq!(preview["attacks"][0]["attempts"], json!(refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_people_do_the_policy_in_force_would_have_done_what_it_did() {
    for (seed, threshold) in [(1, 5), (2, 3), (3, 2)] {
        let node = Node::start().await;
        let (admin, mut dice) = (node.admin().await, Dice(seed));
        enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(threshold)).await;
        let mut people = Vec::new();
        for _ in 0..3 {
            let client = node.customer().await;
            people.push((vec![client.device_token.clone()], client));
        }
        for _ in 0..200 {
            let (devices, client) = &mut people[dice.index(3)];
            let right = dice.roll(3) == 0;
            let password = if right { PASSWORD } else { WRONG };
            match dice.roll(20) {
                0 => {
                    let path = format!("/v1/accounts/{}/unlock", client.account);
                    assert_eq!(admin.post(&path, json!({"reason": BECAUSE})).await.status, 204);
                }
                1 | 2 => {
                    client.post("/v1/auth/step-up", json!({"password": password})).await;
                }
                3 => {
                    client.post("/v1/me/password", json!({"current_password": WRONG, "new_password": WRONG})).await;
                }
                number => {
                    let device = (number < 10).then(|| devices[dice.index(devices.len())].clone());
                    let answer = log_in(&node, &client.email, password, device.as_deref()).await;
                    assert!(answer.status == 401 || right, "{answer:?}");
                    if answer.status == 200 && device.is_none() && devices.len() < 3 {
                        devices.push(answer.json["device_token"].as_str().unwrap().to_owned());
                    }
                }
            }
        }
        let preview = assert_is_what_was(&node, &admin).await;
        assert!(preview["recorded"]["locks"].as_u64().unwrap() > 3, "{preview:#}");
        assert!(preview["recorded"]["refused"].as_u64().unwrap() > 3, "{preview:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stricter_policy_would_have_locked_these_then_and_refused_their_owners() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let (ann, bob, carol) = (node.customer().await, node.customer().await, node.customer().await);
    guess(&node, &ann.email, 3).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    guess(&node, &bob.email, 4).await;
    guess(&node, &carol.email, 2).await;
    assert_eq!(log_in(&node, &carol.email, PASSWORD, None).await.status, 200);

    let stricter = preview(&node, &admin, lockout(3)).await;
    assert_eq!(stricter["recorded"]["locks"], json!(0));
    assert_eq!(stricter["proposed"]["locks"], json!(2));
    // Refused unseen: ann's right password, bob's fourth wrong one.
    assert_eq!(stricter["proposed"]["refused"], json!(2));
    for (client, right_refused) in [(&ann, 1), (&bob, 0)] {
        let wrong: Vec<_> = trail(&node, &auditor, client.account)
            .await
            .into_iter()
            .filter(|event| event["data"]["reason"] == "wrong_password")
            .collect();
        let item = &accounts(&stricter, client.account)[""];
        assert_eq!((&item["factor"], &item["device"]), (&json!("password"), &Value::Null));
        assert_eq!((&item["locks_proposed"], &item["locks_recorded"]), (&json!(1), &json!(0)));
        assert_eq!(item["right_refused"], json!(right_refused), "{item}");
        let lock = &item["locks"][0];
        assert_eq!(time(&lock["at"]), time(&wrong[2]["time"]), "that of the third failure");
        assert_eq!(time(&lock["until"]), time(&wrong[2]["time"]) + TimeDelta::minutes(15));
        assert_eq!(lock["nth"], json!(1));
    }
    assert!(accounts(&stricter, carol.account).is_empty());
    let mut longer = lockout(3);
    longer["duration_seconds"] = json!(3_600);
    let longer = preview(&node, &admin, longer).await;
    let lock = &accounts(&longer, ann.account)[""]["locks"][0];
    assert_eq!(time(&lock["until"]) - time(&lock["at"]), TimeDelta::hours(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_is_listed_with_when_the_policy_would_have_stopped_it_if_at_all() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let (ann, bob) = (node.customer().await, node.customer().await);
    guess(&node, &ann.email, 30).await;
    guess(&node, &bob.email, 9).await;
    let failures: Vec<_> = trail(&node, &auditor, ann.account)
        .await
        .into_iter()
        .filter(|event| event["type"] == "authentication.failed")
        .map(|event| time(&event["time"]))
        .collect();
    assert_eq!(failures.len(), 30);
    let off = json!({"enabled": false, "threshold": 5, "window_seconds": 900, "duration_seconds": 900,
                     "longest_seconds": 86_400});
    for (policy, evaluated, stopped) in [
        (lockout(5), 5, Some(4)),
        (lockout(3), 3, Some(2)),
        (lockout(1), 1, Some(0)),
        (lockout(30), 30, Some(29)),
        (lockout(31), 30, None),
        (lockout(100), 30, None),
        (off, 30, None),
    ] {
        let preview = preview(&node, &admin, policy.clone()).await;
        let attacks = preview["attacks"].as_array().unwrap();
        assert_eq!(attacks.len(), 1, "nine are no attack: {preview:#}");
        let attack = &attacks[0];
        assert_eq!((&attack["account_id"], &attack["factor"]), (&json!(ann.account), &json!("password")));
        assert_eq!((&attack["attempts"], &attack["evaluated_recorded"]), (&json!(30), &json!(5)));
        assert_eq!(attack["evaluated_proposed"], json!(evaluated), "{policy}");
        assert_eq!(time(&attack["started_at"]), failures[0]);
        assert_eq!(time(&attack["ended_at"]), failures[29]);
        match stopped {
            Some(index) => assert_eq!(time(&attack["stopped_at"]), failures[index], "{policy}"),
            None => assert_eq!(attack["stopped_at"], Value::Null, "{policy}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_of_its_owner_has_a_counter_of_its_own_in_a_preview_too() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    for _ in 0..3 {
        assert_eq!(log_in(&node, &ann.email, WRONG, None).await.status, 401);
        assert_eq!(log_in(&node, &ann.email, WRONG, Some(&ann.device_token)).await.status, 401);
    }
    let six = preview(&node, &admin, lockout(4)).await;
    assert_eq!(six["proposed"]["locks"], json!(0), "six failures, but three of each");
    let three = preview(&node, &admin, lockout(3)).await;
    let counters = accounts(&three, ann.account);
    assert_eq!(counters.len(), 2, "{three:#}");
    let device = of_type(&node, "authentication.failed").await[1]["data"]["device"].clone();
    assert!(counters.contains_key("") && counters.contains_key(device.as_str().unwrap()), "{three:#}");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, Some(&ann.device_token)).await.status, 200);
    let three = preview(&node, &admin, lockout(3)).await;
    let counters = accounts(&three, ann.account);
    assert_eq!(counters[device.as_str().unwrap()]["right_refused"], json!(1));
    assert_eq!(counters[""]["right_refused"], json!(0), "the stranger's lock does not lock the owner out");
}

async fn unlock(admin: &Client, client: &Client) {
    let answer = admin.post(&format!("/v1/accounts/{}/unlock", client.account), json!({"reason": BECAUSE})).await;
    assert_eq!(answer.status, 204, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_begins_anew_in_a_preview_too() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    guess(&node, &ann.email, 6).await;
    unlock(&admin, &ann).await;
    guess(&node, &ann.email, 4).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    // What is not locked is forgotten, too.
    for _ in 0..4 {
        assert_eq!(log_in(&node, &bob.email, WRONG, Some(&bob.device_token)).await.status, 401);
    }
    guess(&node, &bob.email, 4).await;
    unlock(&admin, &bob).await;
    guess(&node, &bob.email, 4).await;
    for _ in 0..4 {
        assert_eq!(log_in(&node, &bob.email, WRONG, Some(&bob.device_token)).await.status, 401);
    }
    let preview = assert_is_what_was(&node, &admin).await;
    assert_eq!(preview["recorded"]["locks"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_of_the_password_forgets_failed_codes_in_a_preview_too() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (ann, _) = enrolled(&node).await;
    let wrong_codes = async || {
        for _ in 0..4 {
            assert_eq!(log_in_twice(&node, &ann, Some(WRONG_CODE)).await.status, 401);
        }
    };
    wrong_codes().await;
    guess(&node, &ann.email, 5).await;
    unlock(&admin, &ann).await;
    wrong_codes().await;
    assert_eq!(of_type(&node, "authentication.locked_out").await.len(), 1, "the password's alone");
    assert_is_what_was(&node, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_taken_away_and_set_up_anew_begins_anew_in_a_preview_too() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (ann, _) = enrolled(&node).await;
    let wrong_codes = async || {
        for _ in 0..4 {
            assert_eq!(ann.post("/v1/auth/step-up", json!({"code": WRONG_CODE})).await.status, 401);
        }
    };
    wrong_codes().await;
    assert_eq!(ann.delete("/v1/me/second-factor/totp").await.status, 204);
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    assert_eq!(ann.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(0)})).await.status, 200);
    wrong_codes().await;
    assert!(of_type(&node, "authentication.locked_out").await.is_empty());
    assert_is_what_was(&node, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_password_beside_a_new_one_that_will_not_do_is_seen_by_a_preview_too() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let wrong = async || {
        for _ in 0..4 {
            assert_eq!(ann.post("/v1/auth/step-up", json!({"password": WRONG})).await.status, 401);
        }
    };
    wrong().await;
    let refused = ann.post("/v1/me/password", json!({"current_password": PASSWORD, "new_password": "weak"})).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    wrong().await;
    assert!(of_type(&node, "authentication.locked_out").await.is_empty());
    assert_is_what_was(&node, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_an_address_do_not_count_against_who_registers_it_later() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let email = "newcomer@example.com";
    guess(&node, email, 4).await;
    let body = json!({"email": email, "password": PASSWORD});
    assert_eq!(node.anonymous().post("/v1/auth/register", body).await.status, 201);
    guess(&node, email, 1).await;
    assert_is_what_was(&node, &admin).await;
    assert_eq!(log_in(&node, email, PASSWORD, None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_needs_the_permission_and_no_fresh_login_and_records_nothing() {
    let node = Node::start().await;
    let (admin, auditor, ann) = (node.admin().await, node.auditor().await, node.customer().await);
    guess(&node, &ann.email, 6).await;
    let size = log_size(&node).await;
    let body = json!({"lockout": lockout(3)});
    for client in [&admin, &auditor, &node.as_if_logged_in(TimeDelta::hours(2), &admin, &["admin"])] {
        assert_eq!(client.post(PREVIEW, body.clone()).await.status, 200);
    }
    let refused = ann.post(PREVIEW, body.clone()).await;
    assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    assert_eq!(node.anonymous().post(PREVIEW, body).await.status, 401);
    assert_eq!(log_size(&node).await, size);
    assert_eq!(version(&admin).await, 1);
    assert_eq!(log_in(&node, &auditor.email, PASSWORD, None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_preview_cannot_try_is_named_all_at_once() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for days in [1, 30, 90] {
        let answer = admin.post(PREVIEW, json!({"lockout": lockout(3), "days": days})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let span = time(&answer.json["to"]) - time(&answer.json["from"]);
        assert_eq!(span, TimeDelta::days(days));
    }
    for days in [json!(0), json!(91), json!(4_294_967_295_u64), json!(1.5), json!("1")] {
        let refused = admin.post(PREVIEW, json!({"lockout": lockout(3), "days": days})).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{days}: {refused:?}");
        assert_eq!(pointers(&refused), ["/days"], "{refused:?}");
    }
    let lockouts = &FIGURES[..4];
    let mut beyond = json!({"lockout": lockout(3), "days": 91});
    for (pointer, _, most) in lockouts {
        *beyond.pointer_mut(pointer).unwrap() = json!(most + 1);
    }
    let refused = admin.post(PREVIEW, beyond).await;
    let mut named: Vec<&str> = lockouts.iter().map(|(pointer, ..)| *pointer).collect();
    named.push("/days");
    assert_eq!(pointers(&refused), named, "{refused:?}");
    let mut unknown = json!({"lockout": lockout(3)});
    unknown["lockout"]["x"] = json!(1);
    assert_eq!(pointers(&admin.post(PREVIEW, unknown).await), ["/lockout/x"]);
    assert_eq!(admin.post(PREVIEW, json!({"lockout": lockout(3), "sessions": {}})).await.status, 400);
    assert_eq!(admin.post(PREVIEW, json!({})).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_is_never_behind_the_log() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    for number in 1..=30 {
        guess(&node, &ann.email, 1).await;
        let answer = admin.post(PREVIEW, json!({"lockout": lockout(100)})).await;
        assert_eq!((answer.status, &answer.json["attempts"]), (200, &json!(2 + number)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_at_once_are_made_or_put_off() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    guess(&node, &ann.email, 30).await;
    let previews = (0..40).map(|_| admin.post(PREVIEW, json!({"lockout": lockout(3)})));
    let mut made = 0;
    for answer in join_all(previews).await {
        match answer.status {
            200 => made += 1,
            _ => {
                assert_eq!((answer.status, answer.code()), (503, "overloaded"), "{answer:?}");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
            }
        }
    }
    assert!(made > 0);
    // One that waits for a read model holds the place.
}

// A preview of weeks: the history is older than the node.

/// Writes events of these accounts at these times into an empty log.
async fn write_history(database: &Database, events: &[(DateTime<Utc>, Uuid, AuthenticationEvent)]) {
    let superuser = PgPool::connect(&database.superuser_url()).await.unwrap();
    let mut transaction = superuser.begin().await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    let mut versions: BTreeMap<Uuid, u64> = BTreeMap::new();
    for (position, (at, account, event)) in events.iter().enumerate() {
        let version = versions.entry(*account).and_modify(|version| *version += 1).or_insert(1);
        let draft = Draft {
            id: operator().new_id(),
            stream: Stream { category: Category::Authentication, id: *account },
            subject: Some(*account),
            actor: Actor::Anonymous,
            correlation: operator().new_id(),
            causation: None,
            policy_version: 1,
            event: event.clone().into(),
            sealed: vec![],
        };
        let leaf = draft.prepare().unwrap().leaf(*at, *version);
        let statement = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                         values ($1, $2, 'authentication', $3, $4, $5)";
        let insert = sqlx::query(statement)
            .bind(i64::try_from(position).unwrap())
            .bind(account)
            .bind(i64::try_from(*version).unwrap())
            .bind(leaf.clone())
            .bind(leaf::hash(&leaf).to_vec());
        insert.execute(&mut *transaction).await.unwrap();
    }
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    sqlx::query("update log.head set position = $1, recorded_at = $2")
        .bind(i64::try_from(events.len()).unwrap())
        .bind(events.last().unwrap().0)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
}

fn failed(reason: FailureReason, device: Option<String>) -> AuthenticationEvent {
    AuthenticationEvent::Failed { factor: Factor::Password, reason, device }
}

fn succeeded(device: Option<String>) -> AuthenticationEvent {
    AuthenticationEvent::Succeeded { methods: vec![Method::Password], session: SessionId(operator().new_id()), device }
}

/// What the service records of guesses and logins over eighty days.
fn weeks(dice: &mut Dice) -> Vec<(DateTime<Utc>, Uuid, AuthenticationEvent)> {
    let policy = Policy::default().lockout;
    let accounts = [1, 2, 3].map(|_| operator().new_id());
    let mut counters: BTreeMap<(Uuid, Option<String>), Counter> = BTreeMap::new();
    let (mut now, mut events) = (operator().now - TimeDelta::days(80), Vec::new());
    while now < operator().now - TimeDelta::days(1) {
        now += match dice.roll(40) {
            0 => TimeDelta::minutes(i64::try_from(dice.roll(2_000)).unwrap()),
            1..=9 => TimeDelta::seconds(i64::try_from(dice.roll(1_200)).unwrap()),
            _ => TimeDelta::milliseconds(i64::try_from(dice.roll(40_000)).unwrap()),
        };
        let account = accounts[dice.index(3)];
        let device = (dice.roll(4) == 0).then(|| format!("device-{}", dice.roll(2)));
        let right = dice.roll(12) == 0;
        let counter = counters.entry((account, device.clone())).or_default();
        let mut record = |event| events.push((now, account, event));
        let Lockout::Open { number, lock_passed } = counter.reserve(now, &policy) else {
            record(failed(FailureReason::Locked, device));
            continue;
        };
        let factor = Factor::Password;
        if lock_passed {
            record(AuthenticationEvent::LockLifted { factor, by: LiftedBy::Expired, device: device.clone() });
        }
        if right {
            *counter = Counter::default();
            record(succeeded(device));
            continue;
        }
        record(failed(FailureReason::WrongPassword, device.clone()));
        if let Some(lock) = counter.fail(number, now, &policy) {
            let (nth, until) = (lock.nth, lock.until);
            record(AuthenticationEvent::LockedOut { factor, failures: number, nth, until, device });
        }
    }
    events
}

/// Everything that the log of a node holds, under a policy.
async fn preview_of(node: &Node, lockout: Value, days: u32) -> Value {
    let auditor = node.auditor().await;
    let body = json!({"lockout": lockout, "days": days});
    let seen = auditor.seeing(log_size(node).await - 1);
    // Views catch up with all the history first.
    eventually("the index has caught up", async || seen.get("/v1/audit/events?limit=1").await.status == 200).await;
    let answer = seen.post(PREVIEW, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

#[tokio::test(flavor = "multi_thread")]
async fn weeks_of_guesses_come_to_the_same_under_the_same_policy() {
    for seed in [1, 2] {
        let database = Arc::new(Database::create().await);
        let history = weeks(&mut Dice(seed));
        write_history(&database, &history).await;
        let node = Node::join(&database).await;
        let preview = preview_of(&node, lockout(5), 90).await;
        assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
        let mut locks = BTreeMap::<_, Vec<_>>::new();
        for (at, account, event) in &history {
            if let AuthenticationEvent::LockedOut { device, until, nth, .. } = event {
                locks.entry((*account, device.clone().unwrap_or_default())).or_default().push((*at, *until, *nth));
            }
        }
        assert!(locks.values().map(Vec::len).sum::<usize>() > 20, "{preview:#}");
        assert_eq!(preview["accounts"].as_array().unwrap().len(), locks.len());
        for ((account, device), locks) in locks {
            let item = &accounts(&preview, account)[&device];
            assert_eq!((&item["locks_proposed"], &item["right_refused"]), (&json!(locks.len()), &json!(0)));
            let listed = item["locks"].as_array().unwrap().iter();
            let listed: Vec<_> =
                listed.map(|lock| (time(&lock["at"]), time(&lock["until"]), lock["nth"].as_u64().unwrap())).collect();
            // The first twenty.
            let first: Vec<_> = locks.iter().take(20).map(|(at, until, nth)| (*at, *until, u64::from(*nth))).collect();
            assert_eq!(listed, first, "{account} {device:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_goes_back_as_many_days_as_it_is_asked_to() {
    let database = Arc::new(Database::create().await);
    let (now, account) = (operator().now, operator().new_id());
    // One a day, at noon of its day counted from now.
    let guesses: Vec<_> = (1..=85)
        .rev()
        .map(|days| {
            let at = now - TimeDelta::days(days) + TimeDelta::hours(12);
            (at, account, failed(FailureReason::WrongPassword, None))
        })
        .collect();
    write_history(&database, &guesses).await;
    let node = Node::join(&database).await;
    for (days, attempts) in [(1, 1), (2, 2), (30, 30), (84, 84), (85, 85), (90, 85)] {
        let preview = preview_of(&node, lockout(1), days).await;
        let item = &accounts(&preview, account)[""];
        assert_eq!(item["locks_proposed"], json!(attempts), "{days} days: {preview:#}");
        assert_eq!(item["locks"].as_array().unwrap().len(), attempts.min(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_ends_with_an_hour_of_quiet_or_a_right_password() {
    let database = Arc::new(Database::create().await);
    let (start, account) = (operator().now - TimeDelta::days(2), operator().new_id());
    let mut history = Vec::new();
    let mut guesses = |from: i64, to: i64, reason: FailureReason| {
        history.extend((from..to).map(|minute| (start + TimeDelta::minutes(minute), account, failed(reason, None))));
    };
    guesses(0, 12, FailureReason::WrongPassword);
    guesses(70, 81, FailureReason::Locked);
    guesses(140, 149, FailureReason::WrongPassword);
    history.push((start + TimeDelta::minutes(300), account, succeeded(None)));
    history.extend(
        (0..10).map(|minute| {
            (start + TimeDelta::minutes(301 + minute), account, failed(FailureReason::WrongPassword, None))
        }),
    );
    write_history(&database, &history).await;
    let node = Node::join(&database).await;
    let preview = preview_of(&node, lockout(100), 30).await;
    // 11 and 70 are 59 minutes apart: one attack. 80 and 140 are an hour apart: nine more are none.
    let attacks: Vec<_> = preview["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attack| ((time(&attack["started_at"]) - start).num_minutes(), attack["attempts"].as_u64().unwrap()))
        .collect();
    assert_eq!(attacks, [(0, 23), (301, 10)], "the longest first: {preview:#}");
    let first = &preview["attacks"][0];
    assert_eq!((&first["evaluated_recorded"], &first["evaluated_proposed"]), (&json!(12), &json!(23)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_forgets_locks_in_a_row_when_the_service_does() {
    let database = Arc::new(Database::create().await);
    let (start, account) = (operator().now - TimeDelta::days(20), operator().new_id());
    let mut history = Vec::new();
    for days in [0, 3, 6, 9] {
        let at = |seconds| start + TimeDelta::days(days) + TimeDelta::seconds(seconds);
        history.extend((0..5).map(|second| (at(second), account, failed(FailureReason::WrongPassword, None))));
        // After a day of rest the service has swept the counter away: each lock is the first.
        let (factor, until) = (Factor::Password, at(4) + TimeDelta::minutes(15));
        let locked = AuthenticationEvent::LockedOut { factor, failures: 5, nth: 1, until, device: None };
        history.push((at(4), account, locked));
        if days == 9 {
            history.push((at(1_200), account, succeeded(None)));
        }
    }
    write_history(&database, &history).await;
    let node = Node::join(&database).await;
    let preview = preview_of(&node, lockout(5), 30).await;
    assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
    let item = &accounts(&preview, account)[""];
    assert_eq!((&item["right_refused"], &item["locks"][3]["nth"]), (&json!(0), &json!(1)), "{item:#}");
}
