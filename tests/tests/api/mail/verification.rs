//! The proof that an address is its owner's.

use futures_util::future::join_all;

use super::*;

const AGAIN: &str = "/v1/me/email-verification";

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_followed_by_a_link_that_verifies_the_address() {
    let post = Post::start().await;
    let credentials = json!({"email": "ann@example.com", "password": PASSWORD});
    let registered = post.node.anonymous().post("/v1/auth/register", credentials).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    let account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
    let ann = post.node.log_in("ann@example.com", account).await;
    assert_eq!(ann.get("/v1/me").await.json["email_verified"], false);
    let token = post.mailbox.expect("ann@example.com", "verify-email").await.token();
    let answer = post.follow(VERIFY, &token).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let seen = ann.seeing(answer.position());
    assert_eq!(seen.get("/v1/me").await.json["email_verified"], true);
    let admin = post.node.admin().await;
    let row = admin.seeing(answer.position()).get(&format!("/v1/accounts/{account}")).await;
    assert_eq!(row.json["email_verified"], true, "{row:?}");
    assert_spent(&post.follow(VERIFY, &token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_may_be_asked_for_again_a_few_times_and_not_once_it_was_followed() {
    let post = Post::start().await;
    let ann = post.customer().await;
    post.mailbox.expect(&ann.email, "verify-email").await;
    for _ in 0..6 {
        assert_eq!(ann.post_nothing(AGAIN).await.status, 202);
        all_is_sent(&post.node.database).await;
    }
    let mails = post.mailbox.to(&ann.email);
    let links: Vec<_> = mails.iter().filter(|mail| mail.leads_to("verify-email")).collect();
    assert_eq!(links.len(), 3, "one by itself and two more");
    assert_eq!(post.follow(VERIFY, &links[1].token()).await.status, 204);
    assert_spent(&post.follow(VERIFY, &links[2].token()).await);
    assert_eq!(ann.post_nothing(AGAIN).await.status, 202);
    all_is_sent(&post.node.database).await;
    assert_eq!(post.mailbox.to(&ann.email).len(), mails.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_links_are_mailed_than_may_be_though_thirty_are_asked_for_at_once_at_two_nodes() {
    let post = Post::start().await;
    let other = on(&post.node.database, &post.mailbox).await;
    let ann = post.customer().await;
    let there = fulexo_tests::there(&other, &ann);
    let (verifications, resets) = tokio::join!(
        join_all((0..30).map(|number| [&ann, &there][number % 2].post_nothing(AGAIN))),
        join_all((0..30).map(|number| [&ann, &there][number % 2].post(RESET, json!({"email": ann.email})))),
    );
    for answer in verifications.into_iter().chain(resets) {
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    // The tasks that run after the answers.
    for node in [&post.node, &other] {
        assert_eq!(node.app().tasks.ended(std::time::Duration::from_secs(60)).await, 0);
    }
    let pool = superuser(&post.node.database).await;
    let mails = "select kind, count(*) from vault.mail where account_id = $1 group by kind order by kind";
    let mails: Vec<(String, i64)> = sqlx::query_as(mails).bind(ann.account).fetch_all(&pool).await.unwrap();
    assert_eq!(mails, [("email_verification".to_owned(), 3), ("password_reset".to_owned(), 3)]);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_verifies_the_address_too_and_spends_the_earlier_link() {
    let post = Post::start().await;
    let (email, account) = post.register().await;
    let verification = post.mailbox.expect(&email, "verify-email").await.token();
    let reset = post.reset_token(&email).await;
    assert_eq!(post.confirm(&reset, NEW).await.status, 204);
    assert_spent(&post.follow(VERIFY, &verification).await);
    let admin = post.node.admin().await;
    let last = fulexo_tests::log_size(&post.node).await - 1;
    assert_eq!(admin.seeing(last).get(&format!("/v1/accounts/{account}")).await.json["email_verified"], true);
}
