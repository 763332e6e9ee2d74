//! People who log in and lose what they had, and others who try it everywhere; every decision is written down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fulexo_tests::{Answer, Client, PASSWORD, operator};
use hyper::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The people who log in, each repeatedly.
const PEOPLE: usize = 6;
/// The probers who try tokens, at each node.
const PROBERS: usize = 6;
/// The longest wait, longer than any fault: a request waits for a suspended node.
const PATIENCE: Duration = Duration::from_secs(25);
/// The path that the role allows, until the role is taken away.
const ROLES: &str = "/v1/permissions";
/// The number of tokens that are tried, the youngest first.
const YOUNG: usize = 60;

/// A token's right, and its end.
#[derive(Clone)]
pub struct Right {
    /// The path that is tried with it; it is allowed when the answer is 200.
    pub path: &'static str,
    token: String,
    pub session: Uuid,
    /// The time at which the call that took it away was answered, and the answer.
    pub taken: Arc<Mutex<Option<(Instant, Answer)>>>,
    /// The time at which it was asked for again, if it was: a role, for its holder's older sessions, too.
    pub again: Arc<Mutex<Option<Instant>>>,
}

/// One request: its right, its node, the times at which it was sent and answered, and the answer.
pub struct Decision {
    pub right: usize,
    pub node: usize,
    pub sent: Instant,
    pub answered: Instant,
    pub status: u16,
}

/// The acts and observations of a load.
#[derive(Default)]
pub struct Record {
    pub rights: Mutex<Vec<Right>>,
    pub decisions: Mutex<Vec<Decision>>,
}

pub struct Load {
    record: Arc<Record>,
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    pub async fn start(urls: &[String], admin: &Client) -> Self {
        let (record, is_over) = (Arc::new(Record::default()), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for number in 0..PEOPLE {
            let person = Person {
                urls: urls.to_vec(),
                admin: admin.clone(),
                email: format!("person-{number}@example.com"),
                number,
                record: Arc::clone(&record),
            };
            tasks.spawn(person.run(Arc::clone(&is_over)));
        }
        for (node, url) in urls.iter().enumerate() {
            for prober in 0..PROBERS {
                tasks.spawn(probe(url.clone(), node, prober, Arc::clone(&record), Arc::clone(&is_over)));
            }
        }
        let load = Self { record, is_over, tasks };
        load.goes_on(10).await;
        load
    }

    /// Returns when this many more rights were taken away.
    pub async fn goes_on(&self, more: usize) {
        let taken = || self.record.rights.lock().unwrap().iter().filter(|right| right.is_taken()).count();
        let wanted = taken() + more;
        let going = async {
            while taken() < wanted {
                // Between two looks.
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(Duration::from_secs(60), going).await.is_ok(), "the load does not go on");
    }

    pub async fn stop(mut self) -> Arc<Record> {
        // The last rights that were taken away are tried for a while.
        sleep(Duration::from_secs(1)).await;
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.record
    }
}

impl Right {
    pub fn is_taken(&self) -> bool {
        self.taken.lock().unwrap().is_some()
    }

    /// `true` if it is a role's right; otherwise it is a session's.
    pub fn is_a_role(&self) -> bool {
        self.path == ROLES
    }

    /// Returns the position that was acknowledged when it was taken away.
    pub fn acknowledged(&self) -> Option<u64> {
        self.taken.lock().unwrap().as_ref().map(|(_, answer)| answer.json["position"].as_u64().unwrap())
    }

    /// Returns the time at which its end was acknowledged, and the end of that state, if any.
    pub fn gone(&self) -> Option<(Instant, Option<Instant>)> {
        let since = self.taken.lock().unwrap().as_ref().map(|(at, _)| *at)?;
        Some((since, *self.again.lock().unwrap()))
    }
}

struct Person {
    urls: Vec<String>,
    admin: Client,
    email: String,
    number: usize,
    record: Arc<Record>,
}

impl Person {
    async fn run(self, is_over: Arc<AtomicBool>) {
        let body = json!({"email": self.email, "password": PASSWORD});
        let registered = self.ask(&Client::new(""), Method::POST, "/v1/auth/register", &body, 201).await;
        let account = registered.json["account_id"].as_str().unwrap().to_owned();
        let roles = format!("/v1/accounts/{account}/roles");
        // One half loses sessions, the other a role.
        let loses_role = self.number % 2 == 1;
        let again = |own: &[Arc<Mutex<Option<Instant>>>]| {
            own.iter().for_each(|again| {
                again.lock().unwrap().get_or_insert_with(Instant::now);
            });
        };
        let mut own = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            if loses_role {
                again(&own);
                let body = json!({"role": "auditor", "reason": "r"});
                self.ask(&self.admin, Method::POST, &roles, &body, 204).await;
            }
            let login = self.ask(&Client::new(""), Method::POST, "/v1/auth/login", &body, 200).await;
            let session: Uuid = login.json["session_id"].as_str().unwrap().parse().unwrap();
            let right = Right {
                path: if loses_role { ROLES } else { "/v1/auth/session" },
                token: login.json["access_token"].as_str().unwrap().to_owned(),
                session,
                taken: Arc::default(),
                again: Arc::default(),
            };
            own.push(Arc::clone(&right.again));
            self.record.rights.lock().unwrap().push(right.clone());
            // The right is used for a while.
            sleep(Duration::from_millis(60)).await;
            let path = if loses_role { format!("{roles}/auditor") } else { format!("/v1/sessions/{session}") };
            let answer = self.ask(&self.admin, Method::DELETE, &path, &json!({"reason": "r"}), 200).await;
            *right.taken.lock().unwrap() = Some((Instant::now(), answer));
        }
    }

    /// Asks one node after another, under one key, until one gives the wanted answer: an answer may be lost, and the
    /// request is not carried out twice.
    async fn ask(&self, who: &Client, method: Method, path: &str, body: &serde_json::Value, good: u16) -> Answer {
        let who = who.with_header("idempotency-key", &operator().new_id().to_string());
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut turn = self.number;
        loop {
            turn += 1;
            let client = Client { url: self.urls[turn % self.urls.len()].clone(), ..who.clone() };
            let text = body.to_string();
            let asked = client.try_send(method.clone(), path, Some("application/json"), &text);
            let failure = match timeout(Duration::from_secs(5), asked).await {
                Ok(Ok(answer)) if answer.status == good => return answer,
                // Unavailable, or contended; everything else is wrong.
                Ok(Ok(answer)) if answer.status == 503 || answer.code() == "contended" => answer.text,
                Ok(Ok(answer)) => panic!("{method} {path}: {answer:?}"),
                Ok(Err(error)) => error,
                Err(_) => "no answer".to_owned(),
            };
            assert!(Instant::now() < deadline, "{method} {path}: {failure}");
            // Between two tries.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn probe(url: String, node: usize, prober: usize, record: Arc<Record>, is_over: Arc<AtomicBool>) {
    let mut turn = prober * 7;
    while !is_over.load(Ordering::Relaxed) {
        // A prober leaves the machine to the others for a moment.
        sleep(Duration::from_millis(15)).await;
        turn += 1;
        let tried = {
            let rights = record.rights.lock().unwrap();
            let young = rights.len().saturating_sub(YOUNG)..rights.len();
            let chosen = young.clone().nth(turn % young.len().max(1));
            chosen.map(|index| (index, rights[index].clone()))
        };
        let Some((index, right)) = tried else { continue };
        let client = Client { access_token: Some(right.token.clone()), ..Client::new(&url) };
        let sent = Instant::now();
        let asked = timeout(PATIENCE, client.try_send(Method::GET, right.path, None, "")).await;
        if let Ok(Ok(answer)) = asked {
            let decision = Decision { right: index, node, sent, answered: Instant::now(), status: answer.status };
            record.decisions.lock().unwrap().push(decision);
        }
    }
}
