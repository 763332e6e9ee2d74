//! Notices of what happened, and a link to report that it was somebody else.

use fulexo_tests::{Authenticator, Client, leaves};

use super::*;

/// Returns the number of notices, once no more are on their way.
async fn notices(post: &Post, email: &str) -> usize {
    all_is_sent(&post.node.database).await;
    post.mailbox.to(email).iter().filter(|mail| mail.leads_to("not-me")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_from_a_new_device_is_told_and_one_from_a_known_device_is_not() {
    let post = Post::start().await;
    let ann = post.customer().await;
    assert_eq!(notices(&post, &ann.email).await, 0, "the first login is nothing new");
    let body = json!({"email": ann.email, "password": PASSWORD, "device_token": ann.device_token});
    assert_eq!(post.node.anonymous().post("/v1/auth/login", body).await.status, 200);
    assert_eq!(notices(&post, &ann.email).await, 0);
    let elsewhere = post.node.anonymous().with_header("user-agent", "Mozilla/5.0 Firefox/141.0");
    let body = json!({"email": ann.email, "password": PASSWORD});
    assert_eq!(elsewhere.post("/v1/auth/login", body).await.status, 200);
    let mail = post.mailbox.expect(&ann.email, "not-me").await;
    assert!(mail.text().contains("127.0.0.1") && mail.text().contains("Firefox"), "{}", mail.text());
    assert_eq!(notices(&post, &ann.email).await, 1);
    let seen = leaves(&post.node.database).await;
    assert_eq!(seen.iter().filter(|leaf| leaf["type"] == "authentication.new_device_seen").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_told_once() {
    let post = Post::start().await;
    let (email, _) = post.register().await;
    for _ in 0..30 {
        assert_eq!(post.log_in(&email, "not-the-Passw0rd!").await.status, 401);
    }
    assert_eq!(notices(&post, &email).await, 1);
    assert_eq!(post.log_in("nobody@example.com", "not-the-Passw0rd!").await.status, 401);
    assert!(post.mailbox.to("nobody@example.com").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_password_and_second_factor_are_told() {
    const TOTP: &str = "/v1/me/second-factor/totp";
    let post = Post::start().await;
    let ann = post.customer().await;
    let change = json!({"current_password": PASSWORD, "new_password": NEW});
    assert_eq!(ann.post("/v1/me/password", change).await.status, 204);
    assert_eq!(notices(&post, &ann.email).await, 1);
    let started = ann.post_nothing(TOTP).await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    assert_eq!(ann.post(&format!("{TOTP}/confirm"), json!({"code": app.code(0)})).await.status, 200);
    assert_eq!(notices(&post, &ann.email).await, 2, "its recovery codes come with it");
    assert_eq!(ann.post_nothing("/v1/me/recovery-codes").await.status, 200);
    assert_eq!(notices(&post, &ann.email).await, 3);
    assert_eq!(ann.delete(TOTP).await.status, 204);
    assert_eq!(notices(&post, &ann.email).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_that_it_was_somebody_else_has_them_out_and_gets_a_way_back() {
    let post = Post::start().await;
    let ann = post.customer().await;
    let stale = post.reset_token(&ann.email).await;
    // The thief knows the password.
    let thief = post.node.log_in(&ann.email, ann.account).await;
    let token = post.mailbox.expect(&ann.email, "not-me").await.token();
    let answer = post.follow(NOT_ME, &token).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    for client in [&thief, &ann] {
        assert_eq!(client.get("/v1/me").await.status, 401);
        let refresh = json!({"refresh_token": client.refresh_token});
        assert_eq!(client.post("/v1/auth/refresh", refresh).await.status, 401);
    }
    assert_eq!(post.log_in(&ann.email, PASSWORD).await.status, 401, "what the thief knows opens nothing");
    let with_device = json!({"email": ann.email, "password": PASSWORD, "device_token": thief.device_token});
    assert_eq!(thief.post("/v1/auth/login", with_device).await.status, 401);
    assert_spent(&post.follow(NOT_ME, &token).await);
    assert_spent(&post.confirm(&stale, "thiefs-Choice77x").await);
    let token = post.mailbox.expect_nth(&ann.email, "reset-password", 1).await.token();
    let reused = post.confirm(&token, PASSWORD).await;
    assert_eq!(reused.status, 400, "the password that the thief knows does not come back: {reused:?}");
    assert_eq!(post.confirm(&token, NEW).await.status, 204);
    assert_eq!(post.log_in(&ann.email, NEW).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_mailed_says_that_it_was_somebody_else() {
    let post = Post::start().await;
    let ann = post.customer().await;
    let other: Client = post.customer().await;
    assert_eq!(post.log_in(&ann.email, PASSWORD).await.status, 200);
    let token = post.mailbox.expect(&ann.email, "not-me").await.token();
    for path in [CONFIRM, VERIFY] {
        let body = json!({"token": token, "new_password": NEW});
        let body = if path == CONFIRM { body } else { json!({"token": token}) };
        assert_spent(&post.node.anonymous().post(path, body).await);
    }
    assert_spent(&post.follow(NOT_ME, &token[1..]).await);
    assert_eq!(ann.get("/v1/me").await.status, 200);
    assert_eq!(post.follow(NOT_ME, &token).await.status, 204);
    assert_eq!(other.get("/v1/me").await.status, 200, "somebody else's session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thief_who_resets_and_an_owner_who_reports_at_once_the_owner_has_the_last_word() {
    let post = Post::start().await;
    for round in 0..12 {
        let ann = post.customer().await;
        let reset = post.reset_token(&ann.email).await;
        post.node.log_in(&ann.email, ann.account).await;
        let report = post.mailbox.expect(&ann.email, "not-me").await.token();
        let thiefs = format!("thiefs-Choice{round}x");
        // One hash alone takes as long as the other, so they meet at the log.
        let (confirmed, reported) = tokio::join!(post.confirm(&reset, &thiefs), post.follow(NOT_ME, &report));
        assert_eq!(reported.status, 204, "{reported:?}");
        assert!([204, 401, 409].contains(&confirmed.status), "{confirmed:?}");
        assert_eq!(post.log_in(&ann.email, &thiefs).await.status, 401, "round {round}: {confirmed:?}");
        let way_back = post.mailbox.expect_nth(&ann.email, "reset-password", 1).await.token();
        assert_eq!(post.confirm(&way_back, NEW).await.status, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_is_mailed_however_many_resets_were_asked_for() {
    let post = Post::start().await;
    let ann = post.customer().await;
    post.node.log_in(&ann.email, ann.account).await;
    let report = post.mailbox.expect(&ann.email, "not-me").await.token();
    for nth in 0..3 {
        post.ask_for_reset(&ann.email).await;
        post.mailbox.expect_nth(&ann.email, "reset-password", nth).await;
    }
    assert_eq!(post.follow(NOT_ME, &report).await.status, 204);
    let way_back = post.mailbox.expect_nth(&ann.email, "reset-password", 3).await.token();
    assert_eq!(post.confirm(&way_back, NEW).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flood_of_logins_floods_the_mailbox_or_spoils_the_first_link() {
    let post = Post::start().await;
    let ann = post.customer().await;
    for _ in 0..15 {
        post.node.log_in(&ann.email, ann.account).await;
    }
    assert_eq!(notices(&post, &ann.email).await, 10);
    let first = post.mailbox.expect(&ann.email, "not-me").await.token();
    assert_eq!(post.follow(NOT_ME, &first).await.status, 204);
}
