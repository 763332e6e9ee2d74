//! Random histories: at each moment the standing says what a login then does.

use chrono::TimeDelta;
use fulexo_commands::LoginResult;
use fulexo_commands::context::Context;
use fulexo_domain::values::AccountId;
use fulexo_tests::{Dice, operator};

use super::*;

/// A person, and what is needed to log in as them.
struct Person {
    client: Client,
    password: String,
    app: Option<Authenticator>,
    /// The name in the log of the device that they use.
    device: String,
}

/// The world of one history.
struct World {
    node: Node,
    admin: Client,
    person: Person,
    passwords: u32,
}

impl World {
    async fn begin() -> Self {
        let node = Node::start().await;
        let (admin, client) = (node.admin().await, node.customer().await);
        let device = last_event(&node, client.account, "authentication.succeeded").await;
        let device = device["data"]["trusted_device"].as_str().unwrap().to_owned();
        let person = Person { client, password: PASSWORD.to_owned(), app: None, device };
        Self { node, admin, person, passwords: 0 }
    }

    /// Lets something happen, at random.
    async fn happen(&mut self, dice: &mut Dice) -> &'static str {
        let account = self.person.client.account;
        match dice.roll(22) {
            0 | 1 => {
                act(&self.admin, account, "suspend").await;
                "suspend"
            }
            2..5 => {
                act(&self.admin, account, "reinstate").await;
                "reinstate"
            }
            5 => {
                act(&self.admin, account, "expire-password").await;
                "expire the password"
            }
            6..8 => {
                self.change_password().await;
                "change the password"
            }
            8 | 9 => {
                let token = (dice.roll(2) == 0).then(|| self.person.client.device_token.clone());
                for _ in 0..=dice.roll(5) {
                    log_in(&self.node, &self.person.client.email, WRONG, token.as_deref()).await;
                }
                "wrong passwords"
            }
            10 => {
                let token = (dice.roll(2) == 0).then(|| self.person.client.device_token.clone());
                self.guess_codes(dice.roll(6), token.as_deref()).await;
                "wrong codes"
            }
            11 => {
                act(&self.admin, account, "unlock").await;
                "unlock"
            }
            12 | 13 => {
                self.enrol().await;
                "enrol a second factor"
            }
            14 => {
                act(&self.admin, account, "reset-second-factor").await;
                "reset the second factor"
            }
            15 => {
                let body = json!({"role": "auditor", "reason": BECAUSE});
                self.admin.post(&format!("/v1/accounts/{account}/roles"), body).await;
                "grant a role"
            }
            16 => {
                let path = format!("/v1/accounts/{account}/roles/auditor");
                self.admin.delete_with(&path, json!({"reason": BECAUSE})).await;
                "revoke a role"
            }
            17 => {
                let scope = dice.pick(&["logins", "all"]);
                self.admin.post("/v1/lockdown", json!({"scope": scope, "reason": BECAUSE})).await;
                "start a lockdown"
            }
            18 => {
                self.admin.delete_with("/v1/lockdown", json!({"reason": BECAUSE})).await;
                "lift the lockdown"
            }
            19 => {
                let required = dice.pick(&[&["auditor"][..], &[]]);
                enforce(&self.admin, |policy| policy["second_factor"]["required_for"] = json!(required)).await;
                "require a second factor, or not"
            }
            20 => {
                let (enabled, threshold, of_account) =
                    dice.pick(&[(true, 5, 20), (true, 2, 2), (true, 3, 4), (false, 5, 20)]);
                enforce(&self.admin, |policy| {
                    policy["lockout"]["enabled"] = json!(enabled);
                    policy["lockout"]["threshold"] = json!(threshold);
                    policy["lockout"]["account_threshold"] = json!(of_account);
                })
                .await;
                "count differently"
            }
            _ => {
                self.let_time_pass(dice.pick(&[300.0, 1_000.0, 4_000.0, 100_000.0])).await;
                "time passes"
            }
        }
    }

    /// Moves the counters, and nothing else, into the past.
    async fn let_time_pass(&self, seconds: f64) {
        let statement = "update vault.attempt set
                recent = array(select t - make_interval(secs => $1) from unnest(recent) t),
                pending = array(select t - make_interval(secs => $1) from unnest(pending) t),
                window_ends_at = window_ends_at - make_interval(secs => $1),
                locked_until = locked_until - make_interval(secs => $1)";
        sqlx::query(statement).bind(seconds).execute(&superuser(&self.node.database).await).await.unwrap();
    }

    /// Changes the password with the challenge of a login, if there is one.
    async fn change_password(&mut self) {
        let login = self.log_in(true).await;
        if login.json["status"] != "password_change_required" {
            return;
        }
        self.passwords += 1;
        let new = format!("kestrel-Over{}thefen", self.passwords);
        let pending =
            Client { access_token: login.json["challenge_token"].as_str().map(str::to_owned), ..self.node.anonymous() };
        let body = json!({"current_password": self.person.password, "new_password": new});
        let changed = pending.post("/v1/me/password", body).await;
        assert!([204, 401, 503].contains(&changed.status), "{changed:?}");
        if changed.status == 204 {
            self.person.password = new;
        }
    }

    /// Enrols a second factor, in a session or with the challenge of a login.
    async fn enrol(&mut self) {
        if self.person.app.is_some() {
            return;
        }
        let login = self.log_in(true).await;
        let token = [&login.json["access_token"], &login.json["challenge_token"]];
        let token = token.into_iter().find_map(|token| token.as_str().map(str::to_owned));
        if login.json["status"] == "password_change_required" || token.is_none() {
            return;
        }
        self.person.app = enrol(&Client { access_token: token, ..self.node.anonymous() }).await;
    }

    async fn guess_codes(&self, times: u64, device_token: Option<&str>) {
        let login = log_in(&self.node, &self.person.client.email, &self.person.password, device_token).await;
        let Some(app) = self.person.app.as_ref().filter(|_| login.json["status"] == "second_factor_required") else {
            return;
        };
        let shown: Vec<String> = (-3..=40).map(|step| app.code(step)).collect();
        let wrong = (100_000..).map(|number| number.to_string()).find(|code| !shown.contains(code)).unwrap();
        for _ in 0..times {
            let body = json!({"challenge_token": login.json["challenge_token"], "code": wrong});
            self.node.anonymous().post("/v1/auth/second-factor", body).await;
        }
    }

    /// Logs in rightly, on the person's device or on an unknown one, and remembers the device.
    async fn log_in(&mut self, on_device: bool) -> Answer {
        let Person { client, password, app, .. } = &self.person;
        let token = on_device.then(|| client.device_token.clone());
        let answer = log_in_rightly(&self.node, client, password, app.as_ref(), token.as_deref()).await;
        if on_device && answer.json["status"] == "authenticated" {
            let account = self.person.client.account;
            let event = last_event(&self.node, account, "authentication.succeeded").await;
            if let Some(device) = event["data"]["trusted_device"].as_str() {
                self.person.device = device.to_owned();
            }
            self.person.client.log_in_with(&answer);
        }
        answer
    }

    /// Compares the standing with a login on an unknown device, and on the device of the person. Adds the reasons seen.
    async fn check(&mut self, story: &[&str], seen: &mut Vec<String>) {
        for on_device in [false, true] {
            let standing = standing(&self.admin, self.person.client.account).await;
            let known = standing["known_devices"].as_array().unwrap().iter();
            let device = known.into_iter().find(|known| known["device"] == json!(self.person.device));
            let judged = device.filter(|_| on_device).unwrap_or(&standing).clone();
            let size = fulexo_tests::log_size(&self.node).await;
            let login = self.log_in(on_device).await;
            let reasons = codes(&judged["reasons"]);
            let about = format!("{story:?}, on their device: {on_device}: {judged}\n{login:?}");
            assert_eq!(judged["can_log_in"], json!(reasons.is_empty()), "{about}");
            let mut failed = leaves(&self.node.database).await.into_iter().skip(size.try_into().unwrap());
            let failed = failed.rfind(|leaf| leaf["type"] == "authentication.failed");
            let failed = failed.and_then(|leaf| leaf["data"]["reason"].as_str().map(str::to_owned));
            let (status, answer, recorded) = match reasons.first() {
                None => (200, "authenticated", None),
                Some(&"password_expired") => (200, "password_change_required", None),
                Some(&"second_factor_missing") => (200, "second_factor_enrolment_required", None),
                Some(&("locked" | "attempts_spent")) => (401, "invalid_credentials", Some("locked")),
                Some(&"suspended") => (401, "invalid_credentials", Some("suspended")),
                Some(&"lockdown") => (503, "locked_down", Some("lockdown")),
                Some(other) => panic!("{other}: {about}"),
            };
            // During a lockdown all refusals are the same.
            let (status, answer) = match status {
                401 if reasons.contains(&"lockdown") => (503, "locked_down"),
                status => (status, answer),
            };
            let told = login.json["status"].as_str().filter(|_| login.status == 200).unwrap_or_else(|| login.code());
            assert_eq!((login.status, told, failed.as_deref()), (status, answer, recorded), "{about}");
            seen.extend(reasons.into_iter().map(str::to_owned));
        }
    }
}

async fn live(seed: u64, steps: usize) -> Vec<String> {
    let (mut dice, mut world) = (Dice(seed), World::begin().await);
    let (mut story, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let step = world.happen(&mut dice).await;
        if step == "reset the second factor" {
            let account = world.person.client.account;
            let exists = sqlx::query_scalar(
                "select exists (select from vault.credential where account_id = $1 and kind = 'totp')",
            );
            let exists: bool = exists.bind(account).fetch_one(&superuser(&world.node.database).await).await.unwrap();
            world.person.app = world.person.app.take().filter(|_| exists);
        }
        story.push(step);
        world.check(&story, &mut seen).await;
        if story.len() % 20 == 0 {
            // Elevations last ten minutes, and a slow machine takes longer.
            let (email, account) = (world.admin.email.clone(), world.admin.account);
            world.admin = world.node.log_in(&email, account).await;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn at_each_moment_of_random_histories_a_login_does_what_the_standing_says() {
    let mut seen = Vec::new();
    for seed in 1..=4 {
        seen.extend(live(seed, 45).await);
    }
    for code in ["locked", "attempts_spent", "suspended", "lockdown", "password_expired", "second_factor_missing"] {
        let times = seen.iter().filter(|seen| *seen == code).count();
        assert!(times >= 3, "{code} came up {times} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_grows_old_is_named_from_the_moment_on_at_which_a_login_asks_for_another() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let began = operator().now;
    enforce(&admin, |policy| policy["passwords"]["max_age_days"] = json!(1)).await;
    let account = AccountId(ann.account);
    for hours in [1, 23, 25, 240] {
        let now = began + TimeDelta::hours(hours);
        let judged = node.app().commands.login_standing(account, now).await.unwrap();
        let context = Context { now, ..operator() };
        let credentials = fulexo_commands::Credentials {
            email: fulexo_domain::values::EmailAddress::parse(&ann.email).unwrap(),
            password: fulexo_domain::password::Password::new(PASSWORD.to_owned()),
            device_token: None,
        };
        let login = node.app().commands.login(&context, credentials).await.unwrap().value;
        let starts = matches!(login, LoginResult::Session(_));
        assert_eq!((judged.reasons.is_empty(), starts), (hours < 24, hours < 24), "after {hours} hours");
        let Some(reason) = judged.reasons.first() else { continue };
        let set = last_event(&node, ann.account, "account.registered").await;
        assert_eq!(reason.event.map(|(_, position)| position), set["position"].as_u64());
        let since: chrono::DateTime<chrono::Utc> = set["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(reason.since, Some(since + TimeDelta::days(1)));
        assert_eq!(reason.policy_version, 2, "judged at each login");
    }
}
