//! The devices that an account knows: a bounded list, each with an end, seen and forgotten by its owner; and the
//! guesses that all of them together may make.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_commands::Retention;
use fulexo_node::clock;
use fulexo_tests::{Answer, Authenticator, Client, Database, Dice, Node, PASSWORD, leaves, superuser};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::assert_evaluated;

const WRONG: &str = "not-the-Passw0rd!";
const NEW_PASSWORD: &str = "kestrel-Over9thefen";
const DEVICES: &str = "/v1/me/devices";

async fn log_in(client: &Client, email: &str, password: &str, device_token: Option<&str>) -> Answer {
    let mut body = json!({"email": email, "password": password});
    if let Some(token) = device_token {
        body["device_token"] = token.into();
    }
    client.post("/v1/auth/login", body).await
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["device_token"].as_str().unwrap().to_owned()
}

/// Logs in this many times without a token; returns the token of the device that each login made known.
async fn tokens(node: &Node, email: &str, count: usize) -> Vec<String> {
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(token_of(&log_in(&node.anonymous(), email, PASSWORD, None).await));
    }
    tokens
}

/// `true` if a login with this token is from a known device: then its answer has the same token.
async fn is_known(node: &Node, email: &str, password: &str, token: &str) -> bool {
    token_of(&log_in(&node.anonymous(), email, password, Some(token)).await) == token
}

async fn rows(database: &Database, account: Uuid) -> i64 {
    let statement = "select count(*) from vault.known_device where account_id = $1";
    sqlx::query_scalar(statement).bind(account).fetch_one(&superuser(database).await).await.unwrap()
}

/// Returns the attempts that the log has of an account, by factor and outcome.
async fn outcomes(database: &Database, account: Uuid) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for leaf in leaves(database).await.iter().filter(|leaf| leaf["subject"] == json!(account)) {
        let data = &leaf["data"];
        let scope = if data["scope"] == "account" { " all" } else { "" };
        let name = match leaf["type"].as_str().unwrap() {
            "authentication.failed" => data["reason"].as_str().unwrap(),
            "authentication.locked_out" => "locked_out",
            _ => continue,
        };
        *outcomes.entry(format!("{name}{scope}")).or_default() += 1;
    }
    outcomes
}

async fn change_password(client: &Client, current: &str, new: &str) {
    let body = json!({"current_password": current, "new_password": new});
    let changed = client.post("/v1/me/password", body).await;
    assert_eq!(changed.status, 204, "{changed:?}");
}

async fn set_up_totp(client: &Client) -> Authenticator {
    let started = client.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = client.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(0)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    app
}

fn wrong_codes(app: &Authenticator, count: usize) -> Vec<String> {
    let shown: Vec<String> = (-3..=40).map(|step| app.code(step)).collect();
    (100_000..).map(|number| number.to_string()).filter(|code| !shown.contains(code)).take(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_devices_of_somebody_who_knew_the_password_none_guesses_by_itself() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let tokens = tokens(&node, &ann.email, 20).await;
    change_password(&ann, PASSWORD, NEW_PASSWORD).await;
    assert_eq!(ann.post_nothing("/v1/me/sessions/revoke-others").await.status, 200);
    let app = set_up_totp(&ann).await;
    for token in &tokens {
        for _ in 0..5 {
            assert_eq!(log_in(&node.anonymous(), &ann.email, WRONG, Some(token)).await.status, 401);
        }
    }
    let found = outcomes(&node.database, ann.account).await;
    assert_eq!((found["wrong_password"], found["locked"]), (5, 95), "{found:?}");
    assert_eq!(rows(&node.database, ann.account).await, 0);
    drop(app);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_devices_of_somebody_who_knows_the_password_all_share_five_codes() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let tokens = tokens(&node, &ann.email, 20).await;
    let app = set_up_totp(&ann).await;
    let codes = wrong_codes(&app, 5);
    for token in &tokens {
        let login = log_in(&node.anonymous(), &ann.email, PASSWORD, Some(token)).await;
        for code in &codes {
            let body = json!({"challenge_token": login.json["challenge_token"], "code": code});
            assert_eq!(node.anonymous().post("/v1/auth/second-factor", body).await.status, 401);
        }
    }
    let found = outcomes(&node.database, ann.account).await;
    assert_eq!((found["wrong_code"], found["locked"]), (5, 95), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_what_guards_an_account_forgets_its_devices() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let acts = ["password", "totp", "codes", "disable", "suspend", "expire-password", "reset-second-factor"];
    for act in acts {
        let ann = node.customer().await;
        let app = match act {
            "codes" | "disable" | "reset-second-factor" => Some(set_up_totp(&ann).await),
            _ => None,
        };
        let statement =
            "insert into vault.known_device (account_id, device, first_used_at, last_used_at, last_session, used)
                         values ($1, $1, now(), now(), $1, 1)";
        sqlx::query(statement).bind(ann.account).execute(&superuser(&node.database).await).await.unwrap();
        let administered = |verb: &str| {
            let path = format!("/v1/accounts/{}/{verb}", ann.account);
            let admin = admin.clone();
            async move { admin.post(&path, json!({"reason": "to see what it does"})).await.status }
        };
        let status = match act {
            "password" => {
                let body = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
                ann.post("/v1/me/password", body).await.status
            }
            "totp" => {
                set_up_totp(&ann).await;
                200
            }
            "codes" => ann.post_nothing("/v1/me/recovery-codes").await.status,
            "disable" => ann.delete("/v1/me/second-factor/totp").await.status,
            "expire-password" => administered("expire-password").await,
            "reset-second-factor" => administered("reset-second-factor").await,
            verb => administered(verb).await,
        };
        assert!((200..300).contains(&status), "{act}: {status}");
        assert_eq!(rows(&node.database, ann.account).await, 0, "{act}");
        drop(app);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_known_for_400_days_and_no_longer() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let superuser = superuser(&node.database).await;
    let age = async |days: i32| {
        let statement = "update vault.known_device set first_used_at = now() - make_interval(hours => 24 * $2)
                         where account_id = $1";
        sqlx::query(statement).bind(ann.account).bind(days).execute(&superuser).await.unwrap();
    };
    age(399).await;
    assert!(is_known(&node, &ann.email, PASSWORD, &ann.device_token).await);
    age(401).await;
    assert_eq!(ann.get(DEVICES).await.json["items"], json!([]));
    assert!(!is_known(&node, &ann.email, PASSWORD, &ann.device_token).await);
    Retention::new(node.database.pool().await, TimeDelta::days(90)).sweep(clock::now()).await.unwrap();
    assert_eq!(rows(&node.database, ann.account).await, 1, "that of the last login alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eleventh_device_takes_the_place_of_the_least_recently_used() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let others = tokens(&node, &ann.email, 9).await;
    assert!(is_known(&node, &ann.email, PASSWORD, &ann.device_token).await);
    tokens(&node, &ann.email, 1).await;
    assert_eq!(rows(&node.database, ann.account).await, 10);
    assert!(is_known(&node, &ann.email, PASSWORD, &ann.device_token).await, "it was used since");
    assert!(is_known(&node, &ann.email, PASSWORD, &others[1]).await);
    assert!(!is_known(&node, &ann.email, PASSWORD, &others[0]).await, "the least recently used");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_sixteen_clients_at_two_nodes_at_once_leave_ten_devices() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let ann = nodes[0].customer().await;
    // Of concurrent attempts, right or wrong, five are evaluated.
    let admin = nodes[0].admin().await;
    let mut policy = admin.get("/v1/policy").await.json;
    policy["lockout"]["enabled"] = json!(false);
    policy["reason"] = json!("to see what it does");
    assert_eq!(admin.put("/v1/policy", policy).await.status, 200);
    let clients = nodes.each_ref().map(Node::anonymous);
    let logins = (0..1_000).map(|number| {
        let (client, ann) = (&clients[number % 2], &ann);
        // Some present a token that is known, or was.
        async move {
            let token = (number % 7 == 0).then_some(ann.device_token.as_str());
            log_in(client, &ann.email, PASSWORD, token).await
        }
    });
    let mut logins = stream::iter(logins).buffer_unordered(16);
    while let Some(answer) = logins.next().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(rows(&database, ann.account).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_once_on_ten_devices_at_two_nodes_come_to_twenty_and_then_nobody_gets_in() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let ann = nodes[0].customer().await;
    let tokens = tokens(&nodes[0], &ann.email, 9).await;
    let clients = nodes.each_ref().map(Node::anonymous);
    let guesses = (0..90).map(|number| {
        let (client, token) = (&clients[number % 2], &tokens[number % 9]);
        log_in(client, &ann.email, WRONG, Some(token))
    });
    let answers = join_all(guesses).await;
    for answer in &answers {
        assert!(answer.status == 401 || answer.status == 503, "{answer:?}");
    }
    let found = outcomes(&database, ann.account).await;
    assert_evaluated(found["wrong_password"], 20, &answers);
    assert_eq!(found["locked_out all"], 1, "{found:?}");
    let own = log_in(&clients[1], &ann.email, PASSWORD, Some(&ann.device_token)).await;
    assert_eq!(own.status, 401, "behind it all devices wait");
    let admin = nodes[0].admin().await;
    let unlock = format!("/v1/accounts/{}/unlock", ann.account);
    let seen = admin.seeing(fulexo_tests::log_size(&nodes[0]).await - 1);
    let account = seen.get(&format!("/v1/accounts/{}", ann.account)).await;
    assert_eq!(account.json["locked"], true, "{account:?}");
    assert_eq!(admin.post(&unlock, json!({"reason": "they asked"})).await.status, 200);
    assert!(is_known(&nodes[1], &ann.email, PASSWORD, &ann.device_token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_nineteen_failures_of_others_the_owners_device_still_gets_in() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let tokens = tokens(&node, &ann.email, 4).await;
    for token in &tokens {
        for _ in 0..4 {
            assert_eq!(log_in(&node.anonymous(), &ann.email, WRONG, Some(token)).await.status, 401);
        }
    }
    for _ in 0..3 {
        assert_eq!(log_in(&node.anonymous(), &ann.email, WRONG, None).await.status, 401);
    }
    for _ in 0..3 {
        assert!(is_known(&node, &ann.email, PASSWORD, &ann.device_token).await, "and takes nothing but itself back");
    }
    assert_eq!(log_in(&node.anonymous(), &ann.email, WRONG, None).await.status, 401);
    let found = outcomes(&node.database, ann.account).await;
    assert_eq!((found["wrong_password"], found["locked_out all"]), (20, 1), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_is_locked_has_no_place_in_the_count_of_all_devices() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let client = node.anonymous();
    let guesses = (0..200).map(|_| log_in(&client, &ann.email, WRONG, None));
    let (_, owner) = tokio::join!(join_all(guesses), async {
        let mut answers = Vec::new();
        for _ in 0..10 {
            answers.push(log_in(&node.anonymous(), &ann.email, PASSWORD, Some(&ann.device_token)).await);
        }
        answers
    });
    assert!(owner.iter().all(|answer| answer.status == 200 || answer.status == 503), "{owner:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_at_step_up_on_many_devices_come_to_twenty() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(node.log_in(&ann.email, ann.account).await);
    }
    let app = set_up_totp(&ann).await;
    for session in &sessions {
        for code in wrong_codes(&app, 5) {
            let answer = session.post("/v1/auth/step-up", json!({"code": code})).await;
            assert_eq!(answer.status, 401, "{answer:?}");
        }
    }
    let found = outcomes(&node.database, ann.account).await;
    assert_eq!((found["wrong_code"], found["locked_out all"]), (20, 1), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_see_their_devices_and_have_one_forgotten() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let browser = node.anonymous().with_header("user-agent", "Browser/1");
    let token = token_of(&log_in(&browser, &ann.email, PASSWORD, None).await);
    let list = ann.get(DEVICES).await;
    let items = list.json["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{list:?}");
    assert_eq!([&items[0]["current"], &items[1]["current"]], [&json!(false), &json!(true)]);
    assert_eq!((&items[0]["user_agent"], &items[0]["ip"]), (&json!("Browser/1"), &json!("127.0.0.1")), "{list:?}");
    assert!(!list.text.contains(&token) && !list.text.contains(&ann.device_token));
    let path = format!("{DEVICES}/{}", items[0]["device_id"].as_str().unwrap());

    let bob = node.customer().await;
    let others = bob.delete(&path).await;
    assert_eq!((others.status, others.code()), (404, "not_found"));
    assert_eq!(bob.get(DEVICES).await.json["items"].as_array().unwrap().len(), 1);
    let keyed = ann.with_header("idempotency-key", "forget");
    assert_eq!(keyed.delete(&path).await.status, 204);
    assert_eq!(keyed.delete(&path).await.status, 204, "the same call");
    assert_eq!(ann.delete(&path).await.status, 404, "another one");
    assert!(!is_known(&node, &ann.email, PASSWORD, &token).await);
    assert!(is_known(&node, &ann.email, PASSWORD, &ann.device_token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_goes_on_after_a_change_of_password_refreshes_with_its_old_device_token() {
    let node = Node::start().await;
    let ann = node.customer().await;
    change_password(&ann, PASSWORD, NEW_PASSWORD).await;
    let body = json!({"refresh_token": ann.refresh_token, "device_token": ann.device_token});
    let mut refreshed = ann.clone();
    let answer = ann.post("/v1/auth/refresh", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    refreshed.log_in_with(&answer);
    assert_eq!(refreshed.get("/v1/me").await.status, 200, "and is not held");
    assert!(!is_known(&node, &ann.email, NEW_PASSWORD, &ann.device_token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_of_a_device_that_was_forgotten_makes_another_one_known() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let app = set_up_totp(&ann).await;
    let spend = async |challenge: &Value, step| {
        let statement = "update vault.credential set last_step = null where account_id = $1";
        sqlx::query(statement).bind(ann.account).execute(&superuser(&node.database).await).await.unwrap();
        let body = json!({"challenge_token": challenge, "code": app.code(step)});
        token_of(&node.anonymous().post("/v1/auth/second-factor", body).await)
    };
    let unknown = log_in(&node.anonymous(), &ann.email, PASSWORD, None).await;
    let challenge = &unknown.json["challenge_token"];
    let (first, second) = (spend(challenge, 0).await, spend(challenge, 1).await);
    assert_ne!(first, second, "each login draws its own");
    let known = log_in(&node.anonymous(), &ann.email, PASSWORD, Some(&first)).await;
    sqlx::query("delete from vault.known_device").execute(&superuser(&node.database).await).await.unwrap();
    let third = spend(&known.json["challenge_token"], 1).await;
    assert!(third != first && third != second);
    assert_eq!(rows(&node.database, ann.account).await, 1);
}

/// Returns the devices that the log says are known, the latest used first, by the names that the log gives them.
fn replayed(leaves: &[Value], account: Uuid) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for leaf in leaves.iter().filter(|leaf| leaf["subject"] == json!(account)) {
        let data = &leaf["data"];
        match leaf["type"].as_str().unwrap() {
            "authentication.succeeded" => match (data["trusted_device"].as_str(), data["device"].as_str()) {
                (Some(trusted), _) => known.insert(0, trusted.to_owned()),
                (None, Some(used)) if known.iter().any(|name| name == used) => {
                    known.retain(|name| name != used);
                    known.insert(0, used.to_owned());
                }
                (None, _) => {}
            },
            "authentication.device_forgotten" => known.retain(|name| data["device"] != json!(name)),
            "account.password_changed" | "account.suspended" => known.clear(),
            _ => {}
        }
        known.truncate(10);
    }
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_alone_says_which_devices_are_known() {
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let node = Node::start().await;
        let (admin, mut ann) = (node.admin().await, node.customer().await);
        let (mut tokens, mut names) = (vec![ann.device_token.clone()], BTreeMap::new());
        let mut password = PASSWORD.to_owned();
        let first = ann.get(DEVICES).await.json["items"][0]["device_id"].as_str().unwrap().to_owned();
        names.insert(first, replayed(&leaves(&node.database).await, ann.account)[0].clone());
        for step in 0..60 {
            match dice.roll(20) {
                0 => {
                    let new = format!("kestrel-Over9thefen-{step}");
                    change_password(&ann, &password, &new).await;
                    password = new;
                }
                1 => {
                    for verb in ["suspend", "reinstate"] {
                        let path = format!("/v1/accounts/{}/{verb}", ann.account);
                        let done = admin.post(&path, json!({"reason": "to see what it does"})).await;
                        assert_eq!(done.status, 200, "seed {seed}: {done:?}");
                    }
                }
                2 | 3 => {
                    let items = ann.get(DEVICES).await.json["items"].as_array().unwrap().clone();
                    if !items.is_empty() {
                        let id = items[dice.index(items.len())]["device_id"].as_str().unwrap().to_owned();
                        assert_eq!(ann.delete(&format!("{DEVICES}/{id}")).await.status, 204, "seed {seed}");
                    }
                }
                _ => {}
            }
            let token = (dice.roll(3) > 0).then(|| tokens[dice.index(tokens.len())].clone());
            let login = log_in(&node.anonymous(), &ann.email, &password, token.as_deref()).await;
            tokens.push(token_of(&login));
            ann.log_in_with(&login);
            let leaves = leaves(&node.database).await;
            let said = replayed(&leaves, ann.account);
            let items = ann.get(DEVICES).await.json["items"].as_array().unwrap().clone();
            // The one that was just used comes first, in the log and in the list.
            names.insert(items[0]["device_id"].as_str().unwrap().to_owned(), said[0].clone());
            let listed: Vec<&String> = items.iter().map(|item| &names[item["device_id"].as_str().unwrap()]).collect();
            assert_eq!(listed, said.iter().collect::<Vec<_>>(), "seed {seed}, step {step}");
        }
    }
}
