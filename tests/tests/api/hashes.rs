//! Hashes of passwords are shared out: no address and no account fills the pool, each has a budget of them, and a
//! refusal costs as little as possible.

use std::sync::Arc;
use std::time::Duration;

use fulexo_commands::password_hash::{PERMITS_PER_HOLDER, PermitHolder};
use fulexo_domain::values::AccountId;
use fulexo_tests::{Answer, Client, Database, Dice, Mailbox, Node, PASSWORD, leaves};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

const LOGIN: &str = "/v1/auth/login";
const STEP_UP: &str = "/v1/auth/step-up";
const CHANGE: &str = "/v1/me/password";
const ATTACKER: &str = "203.0.113.1";
/// Connections of the one address.
const CROWD: usize = 280;
/// Former passwords, the last one current.
const FORMER: [&str; 5] =
    [PASSWORD, "kestrel-Over1thefen", "kestrel-Over2thefen", "kestrel-Over3thefen", "kestrel-Over4thefen"];

/// Starts a node with these variables, which trusts its proxy.
async fn node(changes: &[(&str, &str)], mailbox: Option<&Mailbox>) -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.extend(mailbox.map(Mailbox::env).unwrap_or_default());
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    env.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Node::with(&database, env).await
}

async fn limited(quotas: &str) -> Node {
    node(&[("FULEXO_RATE_LIMITS", quotas)], None).await
}

fn at(client: &Client, address: &str) -> Client {
    client.with_header("x-forwarded-for", address)
}

fn network(address: &str) -> PermitHolder {
    PermitHolder::at(Some(address.parse().unwrap()), None)
}

fn credentials(email: &str) -> Value {
    json!({"email": email, "password": PASSWORD})
}

async fn change(client: &Client, current: &str, new: &str) -> Answer {
    client.post(CHANGE, json!({"current_password": current, "new_password": new})).await
}

fn assert_spent(answer: &Answer, limit: &str) {
    assert_eq!((answer.status, answer.code()), (429, "rate_limited"), "{answer:?}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(wait >= 1, "{answer:?}");
    let policies = answer.headers.get_all("ratelimit-policy").iter();
    let named = policies.into_iter().any(|policy| policy.to_str().unwrap().starts_with(&format!("\"{limit}\";q=")));
    assert!(named, "{limit}: {answer:?}");
    assert_eq!(answer.json["quota"], limit, "{answer:?}");
}

/// An attack with everything that has hashes computed, as often as the attacker likes.
struct Attack {
    owner: Client,
    token: String,
}

impl Attack {
    async fn prepare(node: &Node, mailbox: &Mailbox) -> Self {
        let owner = node.customer().await;
        for pair in FORMER.windows(2) {
            assert_eq!(change(&owner, pair[0], pair[1]).await.status, 204);
        }
        let asked = node.anonymous().post("/v1/auth/password-reset", json!({"email": owner.email})).await;
        assert_eq!(asked.status, 202, "{asked:?}");
        let token = mailbox.expect(&owner.email, "reset-password").await.token();
        Self { owner, token }
    }

    /// Sends one request, of the kind of this number.
    async fn strike(&self, kind: usize, number: usize) -> u16 {
        let owner = at(&self.owner, ATTACKER);
        let stranger = Client { access_token: None, ..owner.clone() };
        let answer = match kind % 6 {
            // The password is compared with all former ones.
            0 => change(&owner, FORMER[4], FORMER[0]).await,
            1 => owner.post(STEP_UP, json!({"password": FORMER[4]})).await,
            2 => {
                let email = format!("stranger-{kind}-{number}@example.com");
                stranger.post("/v1/auth/register", json!({"email": email, "password": PASSWORD})).await
            }
            3 => {
                let body = json!({"token": self.token, "new_password": FORMER[number % 5]});
                stranger.post("/v1/auth/password-reset/confirm", body).await
            }
            4 => stranger.post(LOGIN, credentials(&format!("nobody-{number}@example.com"))).await,
            // This password is costly to judge, and refused.
            _ => {
                let new = "4@8({[<369|1!70$5+%24@8({[<369|1!70$5+%24@8({[<369|1!70$5+%2aaaaaaaa1!aa";
                change(&owner, FORMER[4], new).await
            }
        };
        assert!([200, 201, 204, 400, 401, 409, 429, 503].contains(&answer.status), "{answer:?}");
        answer.status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_one_address_spends_hashes_nobody_elses_login_is_refused() {
    let mailbox = Mailbox::create();
    // The cost is high enough that concurrent requests wait.
    let node = node(&[("FULEXO_BCRYPT_COST", "8")], Some(&mailbox)).await;
    let attack = Attack::prepare(&node, &mailbox).await;
    let mut people = Vec::new();
    for _ in 0..4 {
        people.push(node.register(&["customer"]).await.0);
    }
    let seed = 20_261_128;
    let mut dice = Dice(seed);
    // Each kind alone, and all of them mixed.
    for kind in 0..7 {
        let kinds: Vec<usize> = (0..CROWD).map(|_| if kind < 6 { kind } else { dice.index(6) }).collect();
        let strikes = join_all(kinds.iter().enumerate().map(|(number, kind)| attack.strike(*kind, number)));
        let others = async {
            for round in 0..6 {
                let logins = people.iter().enumerate().map(|(number, email)| {
                    let client = at(&node.anonymous(), &format!("198.51.100.{number}"));
                    async move {
                        loop {
                            let answer = client.post(LOGIN, credentials(email)).await;
                            // The machine is too busy for the database to acknowledge anything: that is not this node's
                            // fault.
                            if answer.code() != "unavailable" {
                                return answer;
                            }
                        }
                    }
                });
                for answer in join_all(logins).await {
                    assert_eq!(answer.status, 200, "seed {seed}, kind {kind}, round {round}: {answer:?}");
                }
                assert!(node.app().commands.permits_held(network(ATTACKER)) <= PERMITS_PER_HOLDER);
            }
        };
        let (statuses, ()) = tokio::join!(strikes, others);
        // A link is good for a few comparisons, and takes no place from then on.
        let is_spent = kind == 3;
        assert!(
            is_spent || statuses.contains(&503),
            "seed {seed}: kind {kind} was not more than a share: {statuses:?}"
        );
        assert!(statuses.iter().any(|status| *status != 503), "seed {seed}: kind {kind} gets its share");
    }
    assert_eq!(node.app().commands.permits_held(network(ATTACKER)), 0, "all is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_fills_no_more_than_its_share_from_however_many_addresses() {
    let node = node(&[("FULEXO_BCRYPT_COST", "8")], None).await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let everywhere = join_all((0..200).map(|number| {
        let client = at(&ann, &format!("203.0.113.{number}"));
        async move { client.post(STEP_UP, json!({"password": PASSWORD})).await.status }
    }));
    let account = PermitHolder { network: None, account: Some(AccountId(ann.account)) };
    let others = async {
        for _ in 0..6 {
            assert_eq!(at(&bob, "198.51.100.1").post(STEP_UP, json!({"password": PASSWORD})).await.status, 200);
            assert!(node.app().commands.permits_held(account) <= PERMITS_PER_HOLDER);
        }
    };
    let (statuses, ()) = tokio::join!(everywhere, others);
    assert!(statuses.contains(&503), "{statuses:?}");
    // Guesses by strangers take nothing from it.
    let login = at(&node.anonymous(), "198.51.100.2").post(LOGIN, credentials(&ann.email)).await;
    assert_eq!(login.status, 200, "{login:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_budget_of_hashes_whatever_computes_them() {
    let node = limited("hashes=4/1d").await;
    let ann = node.log_in(&node.register(&["customer"]).await.0, uuid::Uuid::nil()).await;
    let here = |client: &Client| at(client, "203.0.113.9");
    let nobody = node.anonymous();
    assert_eq!(here(&nobody).post(LOGIN, credentials("nobody@example.com")).await.status, 401);
    assert_eq!(here(&ann).post(STEP_UP, json!({"password": PASSWORD})).await.status, 200);
    let register = json!({"email": "budget@example.com", "password": PASSWORD});
    assert_eq!(here(&nobody).post("/v1/auth/register", register.clone()).await.status, 201);
    // Five comparisons and a new hash are more than is left, which is found before anything is counted or computed.
    let before = leaves(&node.database).await.len();
    assert_spent(&change_at(&ann, "203.0.113.9").await, "hashes");
    assert_eq!(leaves(&node.database).await.len(), before);
    for (client, path, body) in [
        (&nobody, LOGIN, credentials(&ann.email)),
        (&ann, STEP_UP, json!({"password": PASSWORD})),
        (&nobody, "/v1/auth/register", register),
    ] {
        assert_spent(&here(client).post(path, body).await, "hashes");
    }
    assert_eq!(here(&ann).get("/v1/me").await.status, 200, "what computes none goes on");
    assert_eq!(at(&nobody, "203.0.113.10").post(LOGIN, credentials(&ann.email)).await.status, 200);
}

async fn change_at(client: &Client, address: &str) -> Answer {
    change(&at(client, address), PASSWORD, FORMER[1]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_a_budget_of_hashes_wherever_it_asks_and_strangers_spend_none_of_it() {
    // The current password, five comparisons, the new hash, and two more.
    let node = limited("account_hashes=10/1d").await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    for number in 0..20 {
        let client = at(&node.anonymous(), &format!("198.51.100.{number}"));
        assert_eq!(client.post(LOGIN, credentials(&ann.email)).await.status, 200);
    }
    // A new password that is refused costs the proof of the current one alone.
    let weak = change(&at(&ann, "203.0.113.1"), PASSWORD, "password").await;
    assert_eq!(weak.status, 400, "{weak:?}");
    assert!(weak.text.contains("common") && !weak.text.contains("last five"), "{weak:?}");
    // A caller who does not know the current password learns nothing about the new one.
    assert_eq!(change(&at(&ann, "203.0.113.2"), "not-the-Passw0rd!", "password").await.status, 401);
    assert_eq!(change_at(&ann, "203.0.113.3").await.status, 204);
    let step_up = |client: &Client, password: &str| {
        let client = at(client, "203.0.113.4");
        let body = json!({"password": password});
        async move { client.post(STEP_UP, body).await }
    };
    assert_eq!(step_up(&ann, FORMER[1]).await.status, 200);
    assert_spent(&step_up(&ann, FORMER[1]).await, "account_hashes");
    assert_eq!(step_up(&bob, PASSWORD).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_hashes_comes_back_with_time() {
    let node = limited("hashes=2/2s").await;
    let guess = async || at(&node.anonymous(), "203.0.113.9").post(LOGIN, credentials("nobody@example.com")).await;
    let mut refused = guess().await;
    while refused.status == 401 {
        refused = guess().await;
    }
    assert_spent(&refused, "hashes");
    // The wait is as long as the node said.
    tokio::time::sleep(Duration::from_secs(refused.header("retry-after").unwrap().parse().unwrap())).await;
    assert_eq!(guess().await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_budgets_are_one_event_each() {
    let node = limited("hashes=1/1d,account_hashes=1/1d").await;
    let ann = node.customer().await;
    for _ in 0..3 {
        at(&node.anonymous(), "203.0.113.9").post(LOGIN, credentials("nobody@example.com")).await;
    }
    for number in 0..3 {
        at(&ann, &format!("198.51.100.{number}")).post(STEP_UP, json!({"password": PASSWORD})).await;
    }
    let database = Arc::clone(&node.database);
    node.stop().await;
    let mut found: Vec<Value> = Vec::new();
    for leaf in leaves(&database).await.into_iter().filter(|leaf| leaf["type"] == "rate_limit.violated") {
        assert!(!leaf.to_string().contains("203.0.113"), "{leaf}");
        let data = &leaf["data"];
        found.push(json!([data["layer"], data["route"], data["count"], leaf["actor"]["kind"]]));
    }
    found.sort_by_key(Value::to_string);
    let expected = json!([["account", "account_hashes", 2, "account"], ["address", "hashes", 2, "anonymous"]]);
    assert_eq!(Value::from(found), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_change_has_a_quota_of_the_account_from_wherever_it_asks() {
    let node =
        limited("profile=2/1d,password=2/1d,credentials=2/1d,sessions=2/1d,account_refresh=2/1d,administration=2/1d")
            .await;
    let (admin, bob) = (node.admin().await, node.customer().await);
    let change_role = || (Method::PUT, "/v1/roles/desk".to_owned(), json!({"permissions": ["accounts.read"]}));
    let calls: [(&str, Method, String, Value); 6] = [
        ("profile", Method::PATCH, "/v1/me".into(), json!({"display_name": "Ann"})),
        ("password", Method::POST, STEP_UP.into(), json!({"password": PASSWORD})),
        ("credentials", Method::POST, "/v1/me/second-factor/totp".into(), Value::Null),
        ("sessions", Method::POST, "/v1/me/sessions/revoke-others".into(), Value::Null),
        ("administration", change_role().0, change_role().1, change_role().2),
        ("account_refresh", Method::POST, "/v1/auth/refresh".into(), json!({"refresh_token": admin.refresh_token})),
    ];
    for (limit, method, path, body) in calls {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let content_type = (!body.is_empty()).then_some("application/json");
        for number in 0..2 {
            let client = at(&admin, &format!("203.0.113.{number}"));
            let answer = client.send(method.clone(), &path, content_type, &body).await;
            assert_ne!(answer.status, 429, "{limit}: {answer:?}");
        }
        let refused = at(&admin, "203.0.113.77").send(method.clone(), &path, content_type, &body).await;
        assert_spent(&refused, limit);
        if limit != "account_refresh" {
            let other = bob.send(method, &path, content_type, &body).await;
            assert_ne!(other.status, 429, "{limit} is of one account: {other:?}");
        }
    }
}
