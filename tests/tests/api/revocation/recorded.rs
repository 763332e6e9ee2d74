//! The record of it: one event at once, the end of each session later, and once; and what readers see.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_tests::{Database, caught_up, eventually, log_size};

use super::*;

async fn live(reader: &Client, account: &Client, position: u64) -> usize {
    let path = format!("/v1/sessions?account_id={}&live=true&limit=200", account.account);
    let listed = reader.seeing(position).get(&path).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    listed.json["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_over_at_the_answers_position_and_each_end_is_recorded_once_at_two_nodes() {
    let database = Arc::new(Database::create().await);
    let (one, two) = (Node::join(&database).await, Node::join(&database).await);
    let (admin, ann) = (one.admin().await, one.customer().await);
    enforce(&admin, |policy| policy["sessions"]["max_per_account"] = json!(1_000)).await;
    let all = sessions(&[&one, &two], &ann, 249).await;
    let before = log_size(&one).await - 1;
    let answer = act(&admin, &ann, "suspend").await;
    assert_eq!((answer.status, answer.json["enforced_on"].as_u64()), (200, Some(2)), "{answer:?}");
    let (position, reader) = (answer.position(), there(&two, &admin));
    assert_eq!(live(&reader, &ann, position).await, 0, "at once, and at the other node");
    for session in all.iter().step_by(10) {
        assert_over(&there(&two, session), "at the other node").await;
    }
    let path = |as_of| format!("/v1/sessions?account_id={}&live=true&limit=200&as_of={as_of}", ann.account);
    assert_eq!(reader.get(&path(before)).await.json["items"].as_array().unwrap().len(), 200, "as many as are listed");
    assert_eq!(reader.get(&path(position)).await.json["items"], json!([]));

    eventually("each end is recorded", async || recorded(&one, &ann, "session.revoked").await.len() >= 250).await;
    let ends = recorded(&one, &ann, "session.revoked").await;
    let streams: std::collections::BTreeSet<&str> = ends.iter().map(|end| end["stream"].as_str().unwrap()).collect();
    assert_eq!((ends.len(), streams.len()), (250, 250), "once");
    assert!(ends.iter().all(|end| end["data"] == json!({"by": "suspension"}) && end["actor"]["kind"] == "system"));
    let roots = "select count(*) from vault.refresh_root where account_id = $1";
    let roots: i64 = sqlx::query_scalar(roots).bind(ann.account).fetch_one(&database.pool().await).await.unwrap();
    assert_eq!(roots, 0, "what refresh tokens are made of goes with them");

    caught_up(&one, &admin).await;
    let listed = admin.get(&format!("/v1/sessions?account_id={}&limit=200", ann.account)).await;
    let said = recorded(&one, &ann, "account.sessions_revoked").await;
    assert_eq!(said.len(), 1);
    for session in listed.json["items"].as_array().unwrap() {
        assert_eq!(session["ended_by"], "suspension");
        let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
        assert_eq!(time(&session["ended_at"]), time(&said[0]["time"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_session_is_left_to_end_nothing_is_recorded() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let others = ann.post_nothing("/v1/me/sessions/revoke-others").await;
    assert_eq!((others.status, &others.json["revoked"]), (200, &json!(0)), "{others:?}");
    assert!(others.position() > 0);
    let path = format!("/v1/accounts/{}/sessions/revoke", ann.account);
    assert_eq!(admin.post_nothing(&path).await.json["revoked"], json!(1));
    let again = admin.post_nothing(&path).await;
    assert_eq!((again.status, &again.json["revoked"]), (200, &json!(0)), "{again:?}");
    let said = recorded(&node, &ann, "account.sessions_revoked").await;
    let data: Vec<&Value> = said.iter().map(|leaf| &leaf["data"]).collect();
    assert_eq!(data, [&json!({"by": "admin"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_that_asks_is_kept_and_says_so() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let others = sessions(&[&node], &ann, 3).await;
    let answer = ann.post_nothing("/v1/me/sessions/revoke-others").await;
    assert_eq!(answer.json["revoked"], json!(3), "{answer:?}");
    for other in &others {
        assert_over(other, "another one").await;
    }
    assert_eq!(refresh(&ann).await.status, 200);
    let mine = ann.seeing(answer.position()).get("/v1/me/sessions").await;
    assert_eq!(mine.json["items"].as_array().unwrap().len(), 1, "{mine:?}");
    let said = recorded(&node, &ann, "account.sessions_revoked").await;
    assert_eq!(said[0]["data"], json!({"by": "owner", "except_session": ann.session}));
    // A session that was not kept does not return by keeping itself.
    let refused = others[0].post_nothing("/v1/me/sessions/revoke-others").await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(ann.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_asked_for_again_is_in_force_when_it_is_refused() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!(act(&admin, &ann, "suspend").await.status, 200);
    let again = act(&admin, &ann, "suspend").await;
    assert_eq!((again.status, again.code()), (409, "already_suspended"), "{again:?}");
    assert_over(&ann, "suspended").await;
    assert_eq!(act(&admin, &ann, "reinstate").await.status, 200);
    assert_over(&ann, "reinstated").await;
    assert_eq!(node.log_in(&ann.email, ann.account).await.get("/v1/auth/session").await.status, 200);
}
