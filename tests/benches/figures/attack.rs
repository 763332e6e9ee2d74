//! The time that other people's logins take while one address spends its quotas in the costliest ways; and the password
//! that is the costliest to judge of those that a search finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use fulexo_domain::password::{Password, violations};
use fulexo_domain::values::EmailAddress;
use fulexo_tests::{Client, Database, Dice, Node, PASSWORD};
use memchr::memmem;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::{load, table};

/// The attacker's connections, and the requests of each: together they are the quota of an address for a minute.
const CONNECTIONS: usize = 64;
const REQUESTS: usize = 18;
/// The other people, who log in repeatedly.
const OTHERS: usize = 4;
const ROUNDS: usize = 15;
/// Logins of each of the others while nobody attacks.
const QUIET: usize = 120;
const KINDS: [&str; 6] =
    ["change of password", "step-up", "registration", "login of nobody", "dearest password", "a body of many names"];
/// The factor by which others may wait longer.
const WANTED: f64 = 2.0;
/// Passwords judged in the search.
const JUDGED: usize = 2_000;

pub fn run(runtime: &Runtime) {
    let node = runtime.block_on(node());
    let mut logins = Vec::new();
    for _ in 0..OTHERS {
        let (email, _) = runtime.block_on(node.register(&["customer"]));
        let body = json!({"email": email, "password": PASSWORD}).to_string();
        logins.push(load::request("POST", "/v1/auth/login", None, Some(&body)));
    }
    let others = Others { logins, address: Arc::default() };
    let quiet = runtime.block_on(others.log_in(&node, &AtomicBool::new(false), QUIET));
    table::head("others' logins while one address spends its quotas, milliseconds", "attacked", "quiet");
    let mut attackers = 0;
    for (kind, name) in KINDS.into_iter().enumerate() {
        let mut attacked = Vec::new();
        for _ in 0..ROUNDS {
            attackers += 1;
            let address = format!("203.0.113.{attackers}");
            let request = load::forwarded(&runtime.block_on(strike(&node, kind)), &address);
            attacked.extend(runtime.block_on(async {
                let is_over = AtomicBool::new(false);
                let attack = async {
                    attack(&node, &request).await;
                    is_over.store(true, Ordering::Relaxed);
                };
                tokio::join!(attack, others.log_in(&node, &is_over, usize::MAX)).1
            }));
        }
        for (share, percentile) in [("p50", 0.5), ("p99", 0.99)] {
            let (ours, reference) = (percentile_of(&attacked, percentile), percentile_of(&quiet, percentile));
            table::line_at_most(&format!("{name}, {share}"), ours, reference, WANTED);
        }
    }
    runtime.block_on(node.stop());

    let (worst, text) = dearest();
    println!("\ndearest of {JUDGED} passwords to judge: {} ms, {text:?}", table::number(worst));
}

/// Starts a node with the default quotas.
async fn node() -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("FULEXO_BCRYPT_COST".into(), "10".into());
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    env.insert("FULEXO_RATE_LIMITS".into(), String::new());
    Node::with(&database, env).await
}

struct Others {
    logins: Vec<Vec<u8>>,
    /// The last address that a login came from: each login is from another one.
    address: Arc<AtomicUsize>,
}

impl Others {
    /// Logs in until `is_over`, or at most `most` times each. Returns the milliseconds of each login.
    async fn log_in(&self, node: &Node, is_over: &AtomicBool, most: usize) -> Vec<f64> {
        let people = self.logins.iter().map(|login| async move {
            let mut stream = connect(node).await;
            let (mut buffer, mut times) = (Vec::new(), Vec::new());
            while times.len() < most && !is_over.load(Ordering::Relaxed) {
                let number = self.address.fetch_add(1, Ordering::Relaxed);
                let login = load::forwarded(login, &format!("10.{}.{}.1", number / 250 % 250, number % 250));
                let sent = Instant::now();
                assert_eq!(load::send(&mut stream, &mut buffer, &login).await, 200);
                times.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            times
        });
        futures_util::future::join_all(people).await.concat()
    }
}

async fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Returns one request of this kind, by a caller who has not asked for anything before.
async fn strike(node: &Node, kind: usize) -> Vec<u8> {
    let owner = async || {
        let owner: Client = node.customer().await;
        owner.access_token.unwrap()
    };
    let post = |path: &str, token: Option<&str>, body: serde_json::Value| {
        load::request("POST", path, token, Some(&body.to_string()))
    };
    let change = |new: &str| json!({"current_password": PASSWORD, "new_password": new});
    match kind {
        // The password is compared with all former ones, and is among them.
        0 => post("/v1/me/password", Some(&owner().await), change(PASSWORD)),
        1 => post("/v1/auth/step-up", Some(&owner().await), json!({"password": PASSWORD})),
        // The password is judged and hashed, and then the address is taken.
        2 => {
            let (email, _) = node.register(&["customer"]).await;
            post("/v1/auth/register", None, json!({"email": email, "password": PASSWORD}))
        }
        3 => post("/v1/auth/login", None, json!({"email": "nobody@example.com", "password": PASSWORD})),
        4 => post("/v1/me/password", Some(&owner().await), change(&"4@8({[<369|1!70$5+%2".repeat(3))),
        _ => {
            let zeros = vec!["0"; 16_000].join(",");
            let body = format!("{{\"{}\":[{zeros}]}}", "k".repeat(32_000));
            load::request("PUT", "/v1/policy", None, Some(&body))
        }
    }
}

async fn attack(node: &Node, request: &[u8]) {
    let connections = (0..CONNECTIONS).map(|_| async {
        let (mut stream, mut buffer) = (connect(node).await, Vec::new());
        for _ in 0..REQUESTS {
            let answered = load::try_send(&mut stream, &mut buffer, request).await;
            if answered.is_err() || memmem::find(&buffer, b"\r\nconnection: close\r\n").is_some() {
                stream = connect(node).await;
            }
        }
    });
    futures_util::future::join_all(connections).await;
}

fn percentile_of(times: &[f64], share: f64) -> f64 {
    load::Round { rate: 0.0, latencies: times.to_vec() }.percentile(share)
}

/// Returns the milliseconds, and the password: signs that stand for letters, words, and earlier costly passwords with a
/// few signs changed.
fn dearest() -> (f64, String) {
    let signs: Vec<char> = "4@8({[<369|1!70$5+%2".chars().collect();
    let words = ["p4$5w0rd", "l33t", "7h3", "1|1", "qwerty", "aaaa", "abcabc", "1991", "12/12/91", "lil", "0o0"];
    let email = EmailAddress::parse("annabel@example.com").unwrap();
    let mut dice = Dice(11);
    let mut worst: Vec<(f64, String)> = Vec::new();
    for number in 0..JUDGED {
        let mut text: Vec<char> = Vec::new();
        if number % 3 == 0 && !worst.is_empty() {
            text = worst[dice.index(worst.len())].1.chars().collect();
            for _ in 0..4 {
                let at = dice.index(text.len());
                text[at] = dice.pick(&signs);
            }
        }
        while text.len() < 72 {
            match dice.index(3) {
                0 => text.extend(dice.pick(&words).chars()),
                _ => text.push(dice.pick(&signs)),
            }
        }
        let text: String = text.into_iter().take(72).collect();
        let started = Instant::now();
        std::hint::black_box(violations(&Password::new(text.clone()), &email, None));
        worst.push((started.elapsed().as_secs_f64() * 1e3, text));
        worst.sort_by(|one, other| other.0.total_cmp(&one.0));
        worst.truncate(20);
    }
    worst.swap_remove(0)
}
