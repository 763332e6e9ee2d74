//! The counter of guesses in Postgres, held against its model: `fulexo_domain::lockout::AttemptCounter` and the real
//! stack are driven side by side, at times that the tests choose, and must say the same of every attempt.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::context::Context;
use fulexo_commands::{CommandError, Credentials, LoginResult, Retention};
use fulexo_domain::event::Actor;
use fulexo_domain::lockout::{AttemptCounter, AttemptReservation, COUNTER_RETENTION, Lockout};
use fulexo_domain::password::Password;
use fulexo_domain::policy::LockoutPolicy;
use fulexo_domain::values::{AccountId, EmailAddress, Reason};
use fulexo_tests::{Client, Dice, Node, PASSWORD, log_size, operator, superuser};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

const WRONG: &str = "not-the-Passw0rd!";

/// Returns the context of an anonymous request at this time.
fn at(now: DateTime<Utc>) -> Context {
    Context { actor: Actor::Anonymous, now, ..operator() }
}

fn credentials(email: &str, password: &str, device_token: Option<&str>) -> Credentials {
    Credentials {
        email: EmailAddress::parse(email).unwrap(),
        password: Password::new(password.to_owned()),
        device_token: device_token.map(str::to_owned),
    }
}

/// Returns the log from this position on.
async fn leaves(superuser: &PgPool, from: u64) -> Vec<Value> {
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar("select leaf from log.event where position >= $1 order by position")
        .bind(i64::try_from(from).unwrap())
        .fetch_all(superuser)
        .await
        .unwrap();
    leaves.iter().map(|leaf| serde_json::from_slice(leaf).unwrap()).collect()
}

/// Puts this lockout policy in force.
async fn enforce(admin: &Client, lockout: Value) {
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["lockout"] = lockout;
    policy["reason"] = json!("to see what it does");
    let answer = admin.put("/v1/policy", policy).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn figures(threshold: u32, window: i64, duration: i64, longest: i64) -> Value {
    json!({"enabled": true, "threshold": threshold, "account_threshold": 2 * threshold, "window_seconds": window,
           "duration_seconds": duration, "max_duration_seconds": longest})
}

/// The log's record of one attempt: its outcome; for a lock, which one and its end.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Lifted(&'static str),
    Refused(&'static str),
    Succeeded,
    LockedOut { failures: u32, nth: u32, until: DateTime<Utc>, all_devices: bool },
}

fn said(leaf: &Value) -> Option<Said> {
    let data = &leaf["data"];
    let number = |name: &str| u32::try_from(data[name].as_u64().unwrap()).unwrap();
    Some(match leaf["type"].as_str().unwrap() {
        "authentication.failed" if data["reason"] == "locked" => Said::Refused("locked"),
        "authentication.failed" if data["reason"] == "too_many_concurrent" => Said::Refused("too_many_concurrent"),
        "authentication.failed" if data["reason"] == "wrong_password" => Said::Refused("wrong_password"),
        "authentication.succeeded" => Said::Succeeded,
        "authentication.lock_lifted" if data["by"] == "expired" => Said::Lifted("expired"),
        "authentication.lock_lifted" if data["by"] == "admin" => Said::Lifted("admin"),
        "authentication.locked_out" => Said::LockedOut {
            failures: number("failures"),
            nth: number("nth"),
            until: data["until"].as_str().unwrap().parse().unwrap(),
            all_devices: data["scope"] == "account",
        },
        // It does not concern counting.
        "authentication.new_device_seen" => return None,
        other if other.starts_with("authentication.") => panic!("not expected: {leaf}"),
        _ => return None,
    })
}

/// Returns the model's outcome of an attempt.
fn model(
    own: &mut AttemptCounter,
    all: &mut AttemptCounter,
    now: DateTime<Utc>,
    policy: &LockoutPolicy,
    right: bool,
) -> Vec<Said> {
    let AttemptReservation::Granted { number, lock_expired } = own.reserve(now, policy) else {
        return vec![Said::Refused("locked")];
    };
    let mut said: Vec<Said> = lock_expired.then_some(Said::Lifted("expired")).into_iter().collect();
    let AttemptReservation::Granted { number: of_all, lock_expired } = all.reserve(now, &policy.for_account()) else {
        own.release(now);
        said.push(Said::Refused("locked"));
        return said;
    };
    said.extend(lock_expired.then_some(Said::Lifted("expired")));
    if right {
        *own = AttemptCounter::default();
        all.release(now);
        said.push(Said::Succeeded);
    } else {
        said.push(Said::Refused("wrong_password"));
        let locked = |lock: Option<Lockout>, failures, all_devices| {
            lock.map(|Lockout { nth, until }| Said::LockedOut { failures, nth, until, all_devices })
        };
        said.extend(locked(own.record_failure(number, now, policy), number, false));
        said.extend(locked(all.record_failure(of_all, now, &policy.for_account()), of_all, true));
    }
    said
}

/// Returns the counters that Postgres has of an account and of addresses, in any order.
async fn stored(superuser: &PgPool, account: Uuid) -> Vec<AttemptCounter> {
    let statement = "select recent, locked_until, locks, window_ends_at from vault.attempt
                     where account_id is null or account_id = $1";
    type Row = (Vec<DateTime<Utc>>, Option<DateTime<Utc>>, i32, DateTime<Utc>);
    let rows: Vec<Row> = sqlx::query_as(statement).bind(account).fetch_all(superuser).await.unwrap();
    let counters = rows.into_iter().map(|(recent, locked_until, locks, ends)| {
        let window_ends_at = Some(ends);
        AttemptCounter { recent, locked_until, locks: locks.unsigned_abs(), window_ends_at }
    });
    counters.collect()
}

/// A node, a user with three known devices, and the model of their counters.
struct Trial {
    node: Node,
    admin: Client,
    superuser: PgPool,
    ann: Client,
    /// The tokens of the devices.
    tokens: Vec<String>,
    /// The counters of the address, and of each device.
    counters: [AttemptCounter; 4],
    /// The counter over all devices.
    all: AttemptCounter,
    now: DateTime<Utc>,
    outcomes: BTreeMap<String, usize>,
}

impl Trial {
    async fn begin() -> Self {
        let node = Node::start().await;
        let (admin, ann) = (node.admin().await, node.customer().await);
        let superuser = superuser(&node.database).await;
        let mut tokens = vec![ann.device_token.clone()];
        for _ in 0..2 {
            tokens.push(node.log_in(&ann.email, ann.account).await.device_token);
        }
        sqlx::query("delete from vault.attempt").execute(&superuser).await.unwrap();
        let (counters, all, now) = (Default::default(), AttemptCounter::default(), operator().now);
        Self { node, admin, superuser, ann, tokens, counters, all, now, outcomes: BTreeMap::new() }
    }

    /// Makes one login, in the model and in the stack: from an unknown device for 0, on a known device for any other
    /// number.
    async fn attempt(&mut self, device: usize, right: bool) {
        let policy = self.node.app().commands.policy().lockout.clone();
        let expected = model(&mut self.counters[device], &mut self.all, self.now, &policy, right);

        let before = log_size(&self.node).await;
        let password = if right { PASSWORD } else { WRONG };
        let token = device.checked_sub(1).map(|index| self.tokens[index].as_str());
        let login = self.node.app().commands.login(&at(self.now), credentials(&self.ann.email, password, token)).await;
        let let_in = expected.contains(&Said::Succeeded);
        match login {
            Ok(done) => {
                assert!(let_in && matches!(done.value, LoginResult::Session(_)), "at {}: {expected:?}", self.now)
            }
            Err(CommandError::InvalidCredentials) => assert!(!let_in, "at {}: {expected:?}", self.now),
            Err(error) => panic!("{error}"),
        }
        if device == 0 && let_in {
            // Otherwise no other device would be known in the end.
            let newest = "delete from vault.known_device where account_id = $1
                          and used = (select max(used) from vault.known_device where account_id = $1)";
            sqlx::query(newest).bind(self.ann.account).execute(&self.superuser).await.unwrap();
        }
        let leaves = leaves(&self.superuser, before).await;
        let found: Vec<Said> = leaves.iter().filter_map(said).collect();
        assert_eq!(found, expected, "at {} under {policy:?}", self.now);
        for leaf in leaves.iter().filter(|leaf| said(leaf).is_some() && leaf["data"]["scope"].is_null()) {
            assert_eq!(leaf["data"].get("device").is_some(), device > 0, "{leaf}");
        }
        for said in found {
            let name = match said {
                Said::Lifted(by) => format!("lifted: {by}"),
                Said::Refused(reason) => reason.to_owned(),
                Said::Succeeded => "succeeded".to_owned(),
                Said::LockedOut { all_devices: false, .. } => "locked_out".to_owned(),
                Said::LockedOut { all_devices: true, .. } => "all locked out".to_owned(),
            };
            *self.outcomes.entry(name).or_default() += 1;
        }
        self.compare_counters().await;
    }

    /// An administrator lifts any lock.
    async fn unlock(&mut self) {
        let before = log_size(&self.node).await;
        let context = Context { now: self.now, ..operator() };
        let (account, reason) = (AccountId(self.ann.account), Reason::parse("they asked").unwrap());
        self.node.app().commands.unlock(&context, account, reason).await.unwrap();
        (self.counters, self.all) = (Default::default(), AttemptCounter::default());
        let found: Vec<Said> = leaves(&self.superuser, before).await.iter().filter_map(said).collect();
        assert_eq!(found, [Said::Lifted("admin")]);
        *self.outcomes.entry("lifted: admin".to_owned()).or_default() += 1;
        self.compare_counters().await;
    }

    /// Compares row by row: Postgres holds the model's counters, and no row for an empty one.
    async fn compare_counters(&self) {
        let mut stored = stored(&self.superuser, self.ann.account).await;
        let counted = self.counters.iter().chain([&self.all]).filter(|counter| **counter != AttemptCounter::default());
        let mut expected: Vec<AttemptCounter> = counted.cloned().collect();
        for counters in [&mut stored, &mut expected] {
            counters.sort_by_cached_key(|counter| format!("{counter:?}"));
        }
        assert_eq!(stored, expected, "at {}", self.now);
    }

    /// Lets some time pass: none, seconds, minutes, hours, or exactly as much as makes a difference.
    fn wait(&mut self, dice: &mut Dice) {
        let policy = self.node.app().commands.policy().lockout.clone();
        let counter = match dice.index(5) {
            4 => &self.all,
            index => &self.counters[index],
        };
        let rest = counter.window_ends_at.max(counter.locked_until).map(|ends| ends + COUNTER_RETENTION);
        let window = counter.recent.first().map(|first| *first + policy.window);
        let edges = [counter.locked_until, counter.locked_until, window, window, rest];
        let edge = dice.pick(&edges);
        self.now = match dice.roll(10) {
            0 | 1 => self.now,
            2..=4 => self.now + TimeDelta::milliseconds(dice.between(1, 30_000)),
            5 => self.now + TimeDelta::seconds(dice.between(30, 900)),
            6 => self.now + TimeDelta::seconds(dice.between(900, 30_000)),
            // The clock of another node lags a little.
            7 => self.now - TimeDelta::milliseconds(dice.between(0, 3_000)),
            _ => edge.map_or(self.now, |edge| edge + TimeDelta::microseconds(dice.between(-1, 1))).max(self.now),
        };
    }

    async fn run(&mut self, dice: &mut Dice, steps: usize) {
        for _ in 0..steps {
            self.wait(dice);
            let (device, right) = (dice.index(4), dice.roll(9) == 0);
            if dice.roll(60) == 0 {
                self.unlock().await;
            } else {
                self.attempt(device, right).await;
            }
        }
    }
}

async fn hold_against_the_model(seed: u64, lockout: Value) -> BTreeMap<String, usize> {
    let mut trial = Trial::begin().await;
    enforce(&trial.admin, lockout).await;
    trial.run(&mut Dice(seed), 300).await;
    trial.outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_first_policy_postgres_counts_as_the_model_does() {
    let mut trial = Trial::begin().await;
    trial.run(&mut Dice(1), 400).await;
    let every = ["lifted: admin", "lifted: expired", "locked", "locked_out", "succeeded", "wrong_password"];
    let seen: Vec<_> = trial.outcomes.keys().filter(|outcome| *outcome != "all locked out").collect();
    assert_eq!(seen, every, "the trial is to see everything that there is");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_lock_shorter_than_the_window_postgres_counts_as_the_model_does() {
    let outcomes = hold_against_the_model(2, figures(3, 3_600, 60, 200)).await;
    assert!(
        outcomes["locked_out"] > 5 && outcomes["all locked out"] > 5 && outcomes["lifted: expired"] > 5,
        "{outcomes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_window_shorter_than_the_lock_postgres_counts_as_the_model_does() {
    let outcomes = hold_against_the_model(3, figures(4, 60, 7_200, 604_800)).await;
    assert!(outcomes["locked_out"] > 2, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_single_failure_locks_postgres_counts_as_the_model_does() {
    let outcomes = hold_against_the_model(4, figures(1, 60, 60, 86_400)).await;
    assert!(outcomes["locked_out"] > 5 && !outcomes.is_empty(), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_hundred_failures_lock_postgres_counts_as_the_model_does() {
    let outcomes = hold_against_the_model(5, figures(100, 86_400, 900, 900)).await;
    assert!(outcomes["wrong_password"] > 100, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_policy_changes_postgres_counts_as_the_model_does() {
    let mut trial = Trial::begin().await;
    let mut dice = Dice(6);
    for round in 0..20 {
        let duration = dice.between(60, 3_600);
        let mut lockout = figures(
            u32::try_from(dice.between(1, 7)).unwrap(),
            dice.between(60, 7_200),
            duration,
            dice.between(duration, 86_400),
        );
        lockout["enabled"] = json!(round % 5 != 3);
        enforce(&trial.admin, lockout).await;
        trial.run(&mut dice, 20).await;
    }
    assert!(trial.outcomes["locked_out"] > 5, "{:?}", trial.outcomes);
}

/// Makes the attempts under these contexts, and counts them by outcome.
async fn guess_at(
    node: &Node,
    email: &str,
    times: impl IntoIterator<Item = DateTime<Utc>>,
) -> BTreeMap<String, Vec<DateTime<Utc>>> {
    let contexts: Vec<Context> = times.into_iter().map(at).collect();
    let before = log_size(node).await;
    let guesses = contexts.iter().map(|context| node.app().commands.login(context, credentials(email, WRONG, None)));
    let mut counted = 0;
    // Of so many attempts at once none may exceed its time for a connection, even on a busy machine.
    let mut guesses = stream::iter(guesses).buffer_unordered(100);
    while let Some(guess) = guesses.next().await {
        match guess {
            Err(CommandError::InvalidCredentials) => counted += 1,
            // The pool had no room: then nothing was counted either.
            Err(CommandError::Overloaded) => {}
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a wrong password was right"),
        }
    }
    let made: HashMap<Uuid, DateTime<Utc>> = contexts.iter().map(|made| (made.correlation, made.now)).collect();
    let (mut outcomes, mut recorded) = (BTreeMap::<String, Vec<_>>::new(), 0);
    for leaf in leaves(&superuser(&node.database).await, before).await {
        let outcome = match leaf["type"].as_str().unwrap() {
            "authentication.failed" => leaf["data"]["reason"].as_str().unwrap().to_owned(),
            other => other.to_owned(),
        };
        recorded += usize::from(leaf["type"] == "authentication.failed");
        let correlation: Uuid = leaf["correlation"].as_str().unwrap().parse().unwrap();
        outcomes.entry(outcome).or_default().push(made[&correlation]);
    }
    assert_eq!(recorded, counted, "every refusal is an event");
    outcomes
}

async fn four_failures(node: &Node) -> (String, DateTime<Utc>) {
    let ((email, _), start) = (node.register(&["customer"]).await, operator().now);
    for _ in 0..4 {
        guess_at(node, &email, [start]).await;
    }
    (email, start)
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_window_of_four_failures_one_guess_of_500_is_evaluated() {
    let node = Node::start().await;
    let (email, start) = four_failures(&node).await;
    let now = start + TimeDelta::seconds(899);
    let outcomes = guess_at(&node, &email, std::iter::repeat_n(now, 500)).await;
    assert_eq!(outcomes["wrong_password"].len(), 1);
    assert_eq!(outcomes["authentication.locked_out"].len(), 1);
    let outcomes = guess_at(&node, &email, [start + TimeDelta::seconds(901)]).await;
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["locked"], "and the lock does not end with the window");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_window_of_four_failures_they_no_longer_count() {
    let node = Node::start().await;
    let (email, start) = four_failures(&node).await;
    let outcomes = guess_at(&node, &email, [start + TimeDelta::seconds(901)]).await;
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["wrong_password"]);
    let now = start + TimeDelta::seconds(901);
    let outcomes = guess_at(&node, &email, std::iter::repeat_n(now, 500)).await;
    assert_eq!(outcomes["wrong_password"].len(), 4, "with the one before, five");
    assert_eq!(outcomes["authentication.locked_out"].len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_counts_until_the_very_end_of_its_window() {
    let node = Node::start().await;
    for (microseconds, evaluated) in [(-1, 1), (0, 5), (1, 5)] {
        let (email, start) = four_failures(&node).await;
        let now = start + TimeDelta::seconds(900) + TimeDelta::microseconds(microseconds);
        let mut seen = 0;
        for _ in 0..7 {
            let outcomes = guess_at(&node, &email, [now]).await;
            seen += outcomes.get("wrong_password").map_or(0, Vec::len);
        }
        assert_eq!(seen, evaluated, "{microseconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_guesses_on_both_sides_of_the_windows_end_no_more_than_five_are_evaluated() {
    let node = Node::start().await;
    for _ in 0..3 {
        let (email, start) = four_failures(&node).await;
        let times = (0..500).map(|number| start + TimeDelta::seconds(if number % 2 == 0 { 899 } else { 901 }));
        let outcomes = guess_at(&node, &email, times).await;
        let evaluated = outcomes["wrong_password"].len();
        assert!((1..=5).contains(&evaluated), "{outcomes:?}");
        assert!(outcomes.contains_key("authentication.locked_out"), "{outcomes:?}");
        let later = guess_at(&node, &email, [start + TimeDelta::seconds(905)]).await;
        assert_eq!(later.keys().collect::<Vec<_>>(), ["locked"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_in_bursts_over_hours_are_evaluated_five_in_a_window_and_none_during_a_lock() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let (mut now, mut evaluated, mut dice) = (operator().now, Vec::new(), Dice(7));
    let mut locked_until = DateTime::UNIX_EPOCH;
    let superuser = superuser(&node.database).await;
    for _ in 0..40 {
        now += TimeDelta::seconds(dice.between(1, 1_200));
        let size = usize::try_from(dice.between(1, 12)).unwrap();
        let outcomes = guess_at(&node, &email, std::iter::repeat_n(now, size)).await;
        let seen = outcomes.get("wrong_password").cloned().unwrap_or_default();
        assert!(seen.is_empty() || now >= locked_until, "evaluated during a lock");
        evaluated.extend(seen);
        let locked: Option<DateTime<Utc>> =
            sqlx::query_scalar("select max(locked_until) from vault.attempt").fetch_one(&superuser).await.unwrap();
        locked_until = locked.unwrap_or(locked_until);
    }
    for (index, first) in evaluated.iter().enumerate() {
        let within = evaluated.iter().skip(index).filter(|at| **at < *first + TimeDelta::minutes(15)).count();
        assert!(within <= 5, "{within} within 15 minutes of {first}");
    }
    assert!(evaluated.len() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_at_rest_for_more_than_a_day_is_swept_away_and_the_model_forgets_it_too() {
    let mut trial = Trial::begin().await;
    for _ in 0..5 {
        trial.attempt(0, false).await;
    }
    trial.now = trial.counters[0].locked_until.unwrap() + TimeDelta::hours(25);
    // The time passes for the database, too.
    sqlx::query("update vault.attempt set window_ends_at = window_ends_at - $1, locked_until = locked_until - $1")
        .bind(trial.now - operator().now)
        .execute(&superuser(&trial.node.database).await)
        .await
        .unwrap();
    Retention::new(trial.node.database.pool().await, TimeDelta::days(90)).sweep(trial.now).await.unwrap();
    for _ in 0..5 {
        trial.attempt(0, false).await;
    }
}
