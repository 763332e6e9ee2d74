//! The actors in a storm of commands, and their means: people with passwords, sessions, devices, second factors and
//! mail. Nobody knows exactly what they have, since a client that leaves is not told the outcome.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fulexo_node::clock;
use fulexo_tests::spec::{Operation, sample};
use fulexo_tests::{Answer, Authenticator, Client, Dice, Leave, Mailbox, PASSWORD};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

/// The longest that a client waits before it leaves.
const PATIENCE_MS: i64 = 50;

/// The credentials of a person, as far as they were told.
struct Person {
    email: String,
    account: Uuid,
    /// The passwords, the latest last; a change whose answer was not awaited may have been made or not.
    passwords: Vec<String>,
    sessions: Vec<Client>,
    challenges: Vec<String>,
    authenticator: Option<Authenticator>,
    recovery_codes: Vec<String>,
}

/// All people, and the objects that they act on.
pub struct Cast {
    people: Mutex<Vec<Person>>,
    admin: Mutex<Client>,
    mailbox: Mailbox,
    api_keys: Mutex<Vec<Uuid>>,
    policy: Value,
}

/// One request, and what its answer can teach.
struct Act {
    client: Client,
    person: usize,
    method: Method,
    target: String,
    content_type: String,
    body: String,
    /// The password that it sets, if it does.
    sets: Option<String>,
}

impl Cast {
    /// Gathers this many people, each logged in.
    pub async fn gather(url: &str, admin: Client, mailbox: Mailbox, people: usize) -> Arc<Self> {
        let mut policy = admin.get("/v1/policy").await.json;
        policy.as_object_mut().unwrap().remove("version");
        let mut gathered = Vec::new();
        for number in 0..people {
            let email = format!("storm-{}-{number}@example.com", fulexo_tests::operator().new_id().simple());
            let body = json!({"email": email, "password": PASSWORD});
            let registered = Client::new(url).post("/v1/auth/register", body.clone()).await;
            assert_eq!(registered.status, 201, "{registered:?}");
            let account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
            let mut person = Person {
                email,
                account,
                passwords: vec![PASSWORD.to_owned()],
                sessions: Vec::new(),
                challenges: Vec::new(),
                authenticator: None,
                recovery_codes: Vec::new(),
            };
            let login = Client::new(url).post("/v1/auth/login", body).await;
            assert_eq!(login.status, 200, "{login:?}");
            person.learn(&login, url);
            gathered.push(person);
        }
        let (people, admin) = (Mutex::new(gathered), Mutex::new(admin));
        Arc::new(Self { people, admin, mailbox, api_keys: Mutex::default(), policy })
    }

    /// Plays one operation at this node, and leaves at a moment that chance decides; returns the status, if it was
    /// awaited.
    pub async fn play(&self, operation: &Operation, url: &str, dice: &mut Dice) -> Option<u16> {
        let act = self.act(operation, url, dice);
        let how = dice.pick(&[Leave::Close, Leave::Reset]);
        let after = Duration::from_millis(dice.between(0, PATIENCE_MS).unsigned_abs());
        let content_type = (!act.body.is_empty()).then_some(act.content_type.as_str());
        let request = (act.method, act.target.as_str(), content_type, act.body.as_str());
        let answer = act.client.send_and_leave(how, sleep(after), request).await;
        {
            let person = &mut self.people.lock().unwrap()[act.person];
            // The password may have been set or not.
            person.passwords.extend(act.sets);
            if let Some(answer) = &answer {
                person.learn(answer, url);
            }
        }
        if let Some(key) = answer.as_ref().and_then(|answer| answer.json["api_key_id"].as_str()) {
            self.api_keys.lock().unwrap().push(key.parse().unwrap());
        }
        answer.map(|answer| answer.status)
    }

    /// Lifts a lockdown, if somebody began one.
    pub async fn lift(&self, url: &str) {
        let admin = Client { url: url.to_owned(), ..self.admin.lock().unwrap().clone() };
        let body = json!({"reason": "r"}).to_string();
        while admin.try_send(Method::DELETE, "/v1/lockdown", Some("application/json"), &body).await.is_err() {
            // Between two tries.
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Restores what the others took from a person: the use of their account, and a session.
    pub async fn restore(&self, url: &str, dice: &mut Dice) {
        let (index, account, email, passwords) = {
            let people = self.people.lock().unwrap();
            let index = dice.index(people.len());
            let person = &people[index];
            (
                index,
                person.account,
                person.email.clone(),
                person.passwords.iter().rev().take(4).cloned().collect::<Vec<_>>(),
            )
        };
        let admin = Client { url: url.to_owned(), ..self.admin.lock().unwrap().clone() };
        let send = async |client: &Client, path: &str, body: Value| {
            client.try_send(Method::POST, path, Some("application/json"), &body.to_string()).await.ok()
        };
        for verb in ["reinstate", "unlock", "reset-second-factor"] {
            send(&admin, &format!("/v1/accounts/{account}/{verb}"), json!({"reason": "r"})).await;
        }
        for password in passwords {
            let body = json!({"email": email, "password": password});
            let Some(answer) = send(&Client::new(url), "/v1/auth/login", body).await else { return };
            self.people.lock().unwrap()[index].learn(&answer, url);
            if answer.status == 200 {
                return;
            }
        }
    }

    fn act(&self, operation: &Operation, url: &str, dice: &mut Dice) -> Act {
        let mut people = self.people.lock().unwrap();
        let index = dice.index(people.len());
        let others = people.iter().map(|person| person.account).collect::<Vec<_>>();
        let person = &mut people[index];
        // This is mostly the latest: the others have ended.
        let sessions = person.sessions.iter().rev().take(if dice.roll(4) == 0 { 100 } else { 1 }).collect::<Vec<_>>();
        let session = (!sessions.is_empty()).then(|| sessions[dice.index(sessions.len())].clone());
        let half_way = (!person.challenges.is_empty() && dice.roll(3) == 0)
            .then(|| Client { access_token: person.challenges.last().cloned(), ..Client::new(url) });
        let admin = self.admin.lock().unwrap().clone();
        let mut client = match (operation.is_public(), operation.is_own()) {
            (true, _) => Client::new(url),
            (false, true) => half_way.or(session.clone()).unwrap_or_else(|| Client::new(url)),
            (false, false) => admin,
        };
        client.url = url.to_owned();
        let keys = self.api_keys.lock().unwrap().clone();
        let ended = session.as_ref().map_or_else(Uuid::nil, |session| session.session);
        let role = format!("crew-{}", dice.roll(12));
        let other = others[dice.index(others.len())];
        let key = if keys.is_empty() { Uuid::nil() } else { keys[dice.index(keys.len())] };
        let target = operation.target(|name, schema| match name {
            "account_id" => other.to_string().into(),
            "session_id" => ended.to_string().into(),
            "api_key_id" => key.to_string().into(),
            "role" => role.clone().into(),
            _ => sample(name, schema, person.account),
        });
        let mut sets = None;
        let by_password = dice.roll(2) == 0;
        let mut body = operation.body_with(person.account, |name| {
            Some(match name {
                "email" => match operation.id.as_str() {
                    "register" | "create_account" => {
                        format!("new-{}@example.com", fulexo_tests::operator().new_id().simple()).into()
                    }
                    _ => person.email.clone().into(),
                },
                "password" if operation.id == "register" => PASSWORD.into(),
                "password" if operation.id == "step_up" && !by_password => return None,
                "password" | "current_password" => person.password(dice).into(),
                "new_password" => {
                    let new = format!("kestrel-Over{}thefen", dice.roll(1_000_000));
                    sets = Some(new.clone());
                    new.into()
                }
                "code" if operation.id == "step_up" && by_password => return None,
                "code" => person.code(dice).into(),
                "challenge_token" => person.challenges.last()?.clone().into(),
                "refresh_token" => session.as_ref()?.refresh_token.clone().into(),
                "device_token" if dice.roll(2) == 0 => session.as_ref()?.device_token.clone().into(),
                "token" if operation.id != "introspect_token" => {
                    let mails = self.mailbox.to(&person.email);
                    let pages = ["reset-password", "verify-email", "not-me"];
                    let links = mails.iter().filter(|mail| pages.iter().any(|page| mail.leads_to(page)));
                    let links = links.collect::<Vec<_>>();
                    (!links.is_empty()).then(|| links[dice.index(links.len())].token())?.into()
                }
                "role" => role.clone().into(),
                "roles" => json!(["customer"]),
                "permissions" => json!([dice.pick(&["audit.read", "accounts.read"])]),
                "scope" => "logins".into(),
                "lockout" => self.policy["lockout"].clone(),
                "expires_at" => json!(clock::now() + chrono::TimeDelta::days(1)),
                "display_name" => format!("Name {}", dice.roll(1_000)).into(),
                "reason" => "because".into(),
                _ => return None,
            })
        });
        if operation.id == "change_policy" {
            let mut policy = self.policy.clone();
            policy["reason"] = json!("because");
            policy["passwords"]["history"] = json!(dice.between(1, 5));
            body = Some(policy);
        }
        let encoded = body.map(|body| operation.encoded(&body)).unwrap_or_default();
        let content_type = if encoded.is_empty() { String::new() } else { operation.content_type().to_owned() };
        let method = operation.method.clone();
        Act { client, person: index, method, target, content_type, body: encoded, sets }
    }
}

impl Person {
    /// Returns one of the latest passwords, or a wrong one.
    fn password(&self, dice: &mut Dice) -> String {
        let latest = self.passwords.iter().rev().take(2).collect::<Vec<_>>();
        match dice.roll(4) {
            0 => "Wrong-Guess-1-Battery!".to_owned(),
            _ => latest[dice.index(latest.len())].clone(),
        }
    }

    /// Returns a code of the authenticator, a recovery code, or a wrong one.
    fn code(&mut self, dice: &mut Dice) -> String {
        match (dice.roll(4), &self.authenticator) {
            (0, _) | (_, None) => "000000".to_owned(),
            (1, _) if !self.recovery_codes.is_empty() => {
                let index = dice.index(self.recovery_codes.len());
                self.recovery_codes[index].clone()
            }
            (_, Some(authenticator)) => authenticator.code(dice.between(-1, 1)),
        }
    }

    fn learn(&mut self, answer: &Answer, url: &str) {
        let text = |name: &str| answer.json[name].as_str().map(str::to_owned);
        if text("access_token").is_some() {
            let mut client = Client { account: self.account, email: self.email.clone(), ..Client::new(url) };
            client.log_in_with(answer);
            self.sessions.push(client);
        }
        self.challenges.extend(text("challenge_token"));
        if let Some(secret) = text("secret").filter(|_| text("otpauth_uri").is_some()) {
            self.authenticator = Some(Authenticator::of(&secret));
        }
        if let Some(codes) = answer.json["recovery_codes"].as_array() {
            self.recovery_codes = codes.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
    }
}
