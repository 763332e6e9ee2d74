//! The preview of another policy.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use fulexo_tests::{Authenticator, Client, Dice, Node, PASSWORD, leaves, log_size};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    BECAUSE, FIGURES, POLICY, PREVIEW, WRONG, accounts, enforce, guess, lockout, log_in, log_in_twice, of_type,
    pointers, preview, time, trail, unlock, version,
};

/// Returns the preview of the policy in force.
async fn preview_of_now(node: &Node, reader: &Client) -> Value {
    let lockout = reader.get(POLICY).await.json["lockout"].take();
    preview(node, reader, lockout).await
}

/// Panics unless the preview of the policy in force equals the record, counter by counter.
async fn assert_is_what_was(node: &Node, reader: &Client) -> Value {
    let preview = preview_of_now(node, reader).await;
    assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
    assert_eq!(preview["truncated"], json!(false));
    // Each lock, and the time at which the failure that led to it was recorded.
    let mut locks = BTreeMap::<_, Vec<_>>::new();
    let (mut evaluated, mut refused, mut before) = (0, 0, DateTime::UNIX_EPOCH);
    for leaf in leaves(&node.database).await {
        // Attempts on addresses that nobody registered have no subject.
        if leaf["subject"].is_null() {
            continue;
        }
        let now = time(&leaf["time"]);
        let (text, data) = (|value: &Value| value.as_str().unwrap_or_default().to_owned(), &leaf["data"]);
        let locks_out = leaf["type"] == "authentication.locked_out";
        match leaf["type"].as_str().unwrap() {
            "authentication.locked_out" => {
                let all_devices = data["scope"] == "account";
                let key = (text(&leaf["subject"]), text(&data["factor"]), text(&data["device"]), all_devices);
                locks.entry(key).or_default().push((leaf, before));
            }
            "authentication.failed" if data["reason"] == "locked" => refused += 1,
            "authentication.lock_lifted" | "authentication.new_device_seen" => {}
            other if other.starts_with("authentication.") => evaluated += 1,
            _ => {}
        }
        // One failure may lead to two locks.
        before = if locks_out { before } else { now };
    }
    let recorded =
        json!({"locks": locks.values().map(Vec::len).sum::<usize>(), "evaluated": evaluated, "refused": refused});
    assert_eq!(preview["recorded"], recorded, "{preview:#}");
    assert_eq!(preview["attempts"], json!(evaluated + refused));
    let listed = preview["accounts"].as_array().unwrap();
    assert_eq!(listed.len(), locks.len(), "{preview:#}");
    for item in listed {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let all_devices = item["all_devices"] == true;
        let locks = &locks[&(text("account_id"), text("factor"), text("device"), all_devices)];
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
    // The harness made three logins, and a correct attempt that met a lock counts as wrong.
    assert_eq!(preview["attempts"], json!(3 + 4 + 1 + 7 + 1 + 3));
    assert_eq!(accounts(&preview, ann.account)[""]["correct_refused"], json!(0), "nobody looked at it");
    assert!(accounts(&preview, bob.account).is_empty());
    let (from, to) = (time(&preview["from"]), time(&preview["to"]));
    assert_eq!(to - from, TimeDelta::days(30));
}

/// Returns a user whose account has a second factor, and ten codes that stand in for it.
async fn enrolled(node: &Node) -> (Client, Vec<String>) {
    let ann = node.customer().await;
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = ann.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(-1)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let codes = confirmed.json["recovery_codes"].as_array().unwrap().iter();
    (ann, codes.map(|code| code.as_str().unwrap().to_owned()).collect())
}

/// A code in the valid form that belongs to nobody.
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
    assert_eq!(admin.post(&path, json!({"reason": BECAUSE})).await.status, 200);
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
        let figures = |policy: &mut Value| {
            policy["lockout"]["threshold"] = json!(threshold);
            policy["lockout"]["account_threshold"] = json!(threshold + 2);
        };
        enforce(&admin, figures).await;
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
                    assert_eq!(admin.post(&path, json!({"reason": BECAUSE})).await.status, 200);
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
    // Two were refused unseen: ann's right password, and bob's fourth wrong one.
    assert_eq!(stricter["proposed"]["refused"], json!(2));
    for (client, correct_refused) in [(&ann, 1), (&bob, 0)] {
        let wrong: Vec<_> = trail(&node, &auditor, client.account)
            .await
            .into_iter()
            .filter(|event| event["data"]["reason"] == "wrong_password")
            .collect();
        let item = &accounts(&stricter, client.account)[""];
        assert_eq!((&item["factor"], &item["device"]), (&json!("password"), &Value::Null));
        assert_eq!((&item["locks_proposed"], &item["locks_recorded"]), (&json!(1), &json!(0)));
        assert_eq!(item["correct_refused"], json!(correct_refused), "{item}");
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
                     "max_duration_seconds": 86_400});
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
    assert_eq!(counters[device.as_str().unwrap()]["correct_refused"], json!(1));
    assert_eq!(counters[""]["correct_refused"], json!(0), "the stranger's lock does not lock the owner out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_begins_anew_in_a_preview_too() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    guess(&node, &ann.email, 6).await;
    unlock(&admin, &ann).await;
    guess(&node, &ann.email, 4).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    // A counter that is not locked is forgotten, too.
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
    let lockouts: Vec<_> = FIGURES.iter().filter(|(pointer, ..)| pointer.starts_with("/lockout/")).collect();
    let mut beyond = json!({"lockout": lockout(3), "days": 91});
    for (pointer, _, most) in &lockouts {
        beyond["lockout"][pointer.trim_start_matches("/lockout/")] = json!(most + 1);
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
    // A preview that waits for a read model holds the place.
}
