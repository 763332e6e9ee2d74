//! A forgotten password, and a new one by mail.

use chrono::TimeDelta;
use fulexo_commands::CommandError;
use fulexo_domain::password::Password;
use fulexo_tests::{Authenticator, Client, Mail, leaves, operator};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_reset_by_mail_and_everybody_is_out() {
    let post = Post::start().await;
    let ann = post.customer().await;
    let token = post.reset_token(&ann.email).await;
    let answer = post.confirm(&token, NEW).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(post.log_in(&ann.email, PASSWORD).await.status, 401);
    assert_eq!(post.log_in(&ann.email, NEW).await.status, 200);
    assert_eq!(ann.get("/v1/me").await.status, 401, "sessions have ended");
    assert_eq!(ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await.status, 401);
    let types: Vec<String> = leaves(&post.node.database).await.iter().map(|leaf| leaf["type"].to_string()).collect();
    for event in ["authentication.password_reset_requested", "account.password_changed", "account.email_verified"] {
        assert!(types.contains(&format!("\"{event}\"")), "{event}: {types:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_whether_there_is_an_account() {
    let post = Post::start().await;
    let (known, _) = post.register().await;
    let (suspended, account) = post.register().await;
    let admin = post.node.admin().await;
    let path = format!("/v1/accounts/{account}/suspend");
    assert_eq!(admin.post(&path, json!({"reason": "r"})).await.status, 200);
    let shape = |answer: &Answer| {
        let headers = answer.headers.iter().filter(|(name, _)| !["date", "request-id"].contains(&name.as_str()));
        let headers: Vec<_> = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        (answer.status, answer.text.clone(), headers)
    };
    let expected = shape(&post.ask_for_reset("nobody@example.com").await);
    for email in [&known, &suspended] {
        assert_eq!(shape(&post.ask_for_reset(email).await), expected);
    }
    post.mailbox.expect(&known, "reset-password").await;
    assert!(post.mailbox.to("nobody@example.com").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_suspended_account_the_mail_says_so_and_has_no_link() {
    let post = Post::start().await;
    let (email, account) = post.register().await;
    let admin = post.node.admin().await;
    let path = format!("/v1/accounts/{account}");
    assert_eq!(admin.post(&format!("{path}/suspend"), json!({"reason": "r"})).await.status, 200);
    post.ask_for_reset(&email).await;
    let is_said = |mail: &Mail| mail.header("Subject").as_deref() == Some("Your account is suspended");
    eventually("a mail", async || post.mailbox.to(&email).iter().any(is_said)).await;
    for mail in post.mailbox.to(&email) {
        assert!(!mail.leads_to("reset-password"), "{}", mail.data);
        assert!(!is_said(&mail) || !mail.text().contains("://"), "{}", mail.data);
    }
    assert_eq!(admin.post(&format!("{path}/reinstate"), json!({"reason": "r"})).await.status, 200);
    let token = post.reset_token(&email).await;
    assert_eq!(post.confirm(&token, NEW).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_good_once_also_for_many_at_once() {
    let post = Post::start().await;
    let (email, _) = post.register().await;
    let token = post.reset_token(&email).await;
    let password = |number: usize| format!("kestrel-Over{number}thefen");
    let answers = join_all((0..20).map(|number| {
        let (post, token) = (&post, &token);
        async move { post.confirm(token, &password(number)).await }
    }))
    .await;
    let winners: Vec<usize> = (0..20).filter(|number| answers[*number].status == 204).collect();
    assert_eq!(winners.len(), 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for answer in answers.iter().filter(|answer| answer.status != 204) {
        assert!([401, 409, 503].contains(&answer.status), "{answer:?}");
    }
    assert_eq!(post.log_in(&email, &password(winners[0])).await.status, 200);
    assert_spent(&post.confirm(&token, NEW).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_token_resets_a_password() {
    let post = Post::start().await;
    let (email, _) = post.register().await;
    let token = post.reset_token(&email).await;
    let verification = post.mailbox.expect(&email, "verify-email").await.token();
    let altered: String = token.chars().rev().collect();
    for wrong in ["", "x", &altered, &token[..42], &format!("{token}x"), &verification, &"x".repeat(5_000)] {
        assert_spent(&post.confirm(wrong, NEW).await);
    }
    for path in [VERIFY, NOT_ME] {
        assert_spent(&post.follow(path, &token).await);
    }
    let mut late = operator();
    late.now += TimeDelta::minutes(31);
    let refused = post.node.app().commands.reset_password(&late, &token, Password::new(NEW.into())).await;
    assert!(matches!(refused, Err(CommandError::InvalidCredentials)), "too old");
    assert_eq!(post.log_in(&email, PASSWORD).await.status, 200, "nothing was changed");
    assert_eq!(post.confirm(&token, NEW).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_breaks_the_rules_spends_nothing() {
    let post = Post::start().await;
    let (email, _) = post.register().await;
    let token = post.reset_token(&email).await;
    for weak in ["short", PASSWORD, &"x".repeat(80)] {
        let answer = post.confirm(&token, weak).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{answer:?}");
        assert_eq!(answer.json["errors"][0]["pointer"], "/new_password", "{answer:?}");
    }
    assert_eq!(post.confirm(&token, NEW).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_compares_five_passwords_with_the_last_ones_and_each_is_recorded() {
    let post = Post::start().await;
    let (email, account) = post.register().await;
    let token = post.reset_token(&email).await;
    // A password that breaks another rule is not compared.
    for weak in ["short", &"x".repeat(80)] {
        assert_eq!(post.confirm(&token, weak).await.status, 400);
    }
    // A few at a time: no address has more of the hashing pool than its share.
    let answers = stream::iter((0..20).map(|_| post.confirm(&token, PASSWORD))).buffer_unordered(4);
    let answers: Vec<Answer> = answers.collect().await;
    let compared = answers.iter().filter(|answer| answer.status == 400).count();
    assert_eq!(compared, 5, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for answer in answers.iter().filter(|answer| answer.status != 400) {
        assert_spent(answer);
    }
    let refused = |leaf: &serde_json::Value| leaf["type"] == "authentication.password_reset_refused";
    let recorded: Vec<_> = leaves(&post.node.database).await.into_iter().filter(refused).collect();
    let mut numbers: Vec<_> = recorded.iter().map(|leaf| leaf["data"]["attempt"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(recorded.iter().all(|leaf| leaf["subject"] == json!(account)));
    assert_spent(&post.confirm(&token, NEW).await);
    assert_eq!(post.log_in(&email, PASSWORD).await.status, 200, "nothing was changed");
    post.ask_for_reset(&email).await;
    let another = post.mailbox.expect_nth(&email, "reset-password", 1).await.token();
    assert_eq!(post.confirm(&another, NEW).await.status, 204, "its owner asks for another link");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_lifts_the_lock_of_the_password() {
    let post = Post::start().await;
    let (email, _) = post.register().await;
    for _ in 0..6 {
        assert_eq!(post.log_in(&email, "not-the-Passw0rd!").await.status, 401);
    }
    assert_eq!(post.log_in(&email, PASSWORD).await.status, 401, "locked");
    let token = post.reset_token(&email).await;
    assert_eq!(post.confirm(&token, NEW).await.status, 204);
    assert_eq!(post.log_in(&email, NEW).await.status, 200);
    let lifted =
        |leaf: &serde_json::Value| leaf["type"] == "authentication.lock_lifted" && leaf["data"]["by"] == "reset";
    assert!(leaves(&post.node.database).await.iter().any(lifted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_no_second_factor_away_and_no_guess_at_it_back() {
    let post = Post::start().await;
    let ann = post.customer().await;
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let code = json!({"code": app.code(0)});
    assert_eq!(ann.post("/v1/me/second-factor/totp/confirm", code).await.status, 200);
    let guess = async |password: &str| {
        let login = post.log_in(&ann.email, password).await;
        assert_eq!(login.json["status"], "second_factor_required", "{login:?}");
        let body = json!({"challenge_token": login.json["challenge_token"], "code": "000000"});
        post.node.anonymous().post("/v1/auth/second-factor", body).await.status
    };
    for _ in 0..5 {
        assert_eq!(guess(PASSWORD).await, 401);
    }
    let token = post.reset_token(&ann.email).await;
    assert_eq!(post.confirm(&token, NEW).await.status, 204);
    let login = post.log_in(&ann.email, NEW).await;
    assert_eq!(login.json["status"], "second_factor_required", "{login:?}");
    let body = json!({"challenge_token": login.json["challenge_token"], "code": app.code(1)});
    let right = post.node.anonymous().post("/v1/auth/second-factor", body).await;
    assert_eq!(right.status, 401, "locked as before: {right:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_gets_three_such_mails_at_most() {
    let post = Post::start().await;
    let (email, _) = post.register().await;
    for nth in 0..3 {
        post.ask_for_reset(&email).await;
        post.mailbox.expect_nth(&email, "reset-password", nth).await;
    }
    for _ in 0..10 {
        post.ask_for_reset(&email).await;
    }
    // They are carried out after they were answered; a later request is mailed later.
    let (later, _) = post.register().await;
    post.reset_token(&later).await;
    all_is_sent(&post.node.database).await;
    let mails = post.mailbox.to(&email);
    let resets: Vec<_> = mails.iter().filter(|mail| mail.leads_to("reset-password")).collect();
    assert_eq!(resets.len(), 3);
    assert_eq!(post.confirm(&resets[0].token(), NEW).await.status, 204);
    assert_spent(&post.confirm(&resets[1].token(), NEW).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_mail_is_sent_everybody_is_told_so() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let calls = [
        (RESET, json!({"email": ann.email})),
        (CONFIRM, json!({"token": "x", "new_password": NEW})),
        (VERIFY, json!({"token": "x"})),
        (NOT_ME, json!({"token": "x"})),
    ];
    for (path, body) in calls {
        let answer = node.anonymous().post(path, body).await;
        assert_eq!((answer.status, answer.code()), (403, "mail_not_configured"), "{path}: {answer:?}");
    }
    let answer = ann.post_nothing("/v1/me/email-verification").await;
    assert_eq!((answer.status, answer.code()), (403, "mail_not_configured"), "{answer:?}");
    let rows: i64 = sqlx::query_scalar("select count(*) from vault.mail")
        .fetch_one(&fulexo_tests::superuser(&node.database).await)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    let _: &Client = &ann;
}
