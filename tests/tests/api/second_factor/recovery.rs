//! Recovery codes: ten, each in place of one code, until there is another set.

use std::collections::BTreeSet;

use fulexo_tests::Node;
use serde_json::json;

use super::{CODES, Owner, assert_refused, challenge_of, count, leaves_of, log_in, present, recovery_codes, step_up};

#[tokio::test(flavor = "multi_thread")]
async fn ten_recovery_codes_are_given_no_two_alike() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let eve = Owner::customer(&node).await;
    let all: BTreeSet<&String> = ann.recovery.iter().chain(&eve.recovery).collect();
    assert_eq!((ann.recovery.len(), all.len()), (10, 20));
    let alphabet = |c: char| c.is_ascii_digit() || (c.is_ascii_lowercase() && !"ilou".contains(c));
    for code in all {
        let (left, right) = code.split_once('-').unwrap();
        assert!([left, right].iter().all(|half| half.len() == 5 && half.chars().all(alphabet)), "{code}");
    }
    let issued = leaves_of(&node.database, ann.client.account, "account.recovery_codes_issued").await;
    assert_eq!(issued.len(), 1);
    assert_eq!(issued[0]["data"], json!({"count": 10}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_is_read_as_people_type_it() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    let plain = ann.recovery[2].replace('-', "");
    let typed = [
        ann.recovery[0].to_uppercase().replace('-', ""),
        format!(" {} ", ann.recovery[1].replace('-', " ")),
        plain.clone(),
        ann.recovery[3].to_uppercase(),
    ];
    for code in &typed {
        let answer = present(&node, &challenge, code).await;
        assert_eq!(answer.status, 200, "{code}: {answer:?}");
    }
    assert_refused(&present(&node, &challenge, &ann.recovery[2]).await);
    let halves = [ann.recovery[4].get(..5).unwrap(), ann.recovery[5].get(5..).unwrap()].concat();
    assert_refused(&present(&node, &challenge, &halves).await);
    assert_refused(&present(&node, &challenge, &format!("{}0", ann.recovery[4])).await);
    assert_eq!(present(&node, &challenge, &ann.recovery[4]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_the_ten_is_good_for_one_login_and_the_rest_is_counted() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    for (used, code) in (1..).zip(&ann.recovery) {
        let answer = present(&node, &challenge, code).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let me = ann.client.seeing(answer.position()).get("/v1/me").await;
        let expected = json!({"enabled": true, "required": false, "recovery_codes": 10 - used});
        assert_eq!(me.json["second_factor"], expected);
    }
    let used = leaves_of(&node.database, ann.client.account, "account.recovery_code_used").await;
    let remaining: Vec<_> = used.iter().map(|leaf| leaf["data"]["remaining"].as_u64().unwrap()).collect();
    assert_eq!(remaining, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert_refused(&present(&node, &challenge, &ann.recovery[0]).await);
    challenge_of(&log_in(&node, &ann.client.email).await);
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200, "the app still is right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_set_of_recovery_codes_takes_the_place_of_the_old_one() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    assert_eq!(present(&node, &challenge, &ann.recovery[0]).await.status, 200);
    let issued = ann.client.post_nothing(CODES).await;
    assert_eq!(issued.status, 200, "{issued:?}");
    assert_eq!(issued.header("cache-control"), Some("no-store"));
    let new = recovery_codes(&issued);
    assert!(new.len() == 10 && new.iter().all(|code| !ann.recovery.contains(code)));
    let me = ann.client.seeing(issued.position()).get("/v1/me").await;
    assert_eq!(me.json["second_factor"]["recovery_codes"], json!(10));
    assert_eq!(
        count(&node, "select count(*) from vault.recovery_code where account_id = $1", ann.client.account).await,
        10
    );
    for old in &ann.recovery[1..4] {
        assert_refused(&present(&node, &challenge, old).await);
    }
    assert_eq!(present(&node, &challenge, &new[0]).await.status, 200);
    for old in &ann.recovery[4..8] {
        assert_refused(&step_up(&ann.client, old).await);
    }
    assert_eq!(step_up(&ann.client, &new[1]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_of_another_account_is_refused_and_stays_good_for_its_own() {
    let node = Node::start().await;
    let (ann, eve) = (Owner::customer(&node).await, Owner::customer(&node).await);
    let (anns, eves) = (ann.challenge(&node).await, eve.challenge(&node).await);
    assert_refused(&present(&node, &anns, &eve.recovery[0]).await);
    assert_refused(&step_up(&ann.client, &eve.recovery[0]).await);
    assert_eq!(present(&node, &eves, &eve.recovery[0]).await.status, 200);
}
