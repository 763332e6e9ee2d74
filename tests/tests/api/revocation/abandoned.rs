//! The caller leaves before the answer, at any moment: what was recorded holds as a whole.

use std::sync::Arc;
use std::time::Duration;

use fulexo_tests::{Authenticator, Database, Dice, Mailbox};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::*;

/// Sends a request and closes the connection after this time.
async fn abandon(client: &Client, path: &str, body: &Value, after: Duration) {
    let (body, authority) = (body.to_string(), client.url.trim_start_matches("http://"));
    let token = client.access_token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
        token.unwrap_or_default(),
        body.len()
    );
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    // The client leaves at a moment that chance decides.
    sleep(after).await;
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Suspend,
    Expire,
    ResetFactor,
    ChangePassword,
    Reset,
    Report,
}

async fn an_act_that_is_abandoned_is_done_or_not_done(act: Act, count: usize, rounds: u64) {
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let mut env = database.env();
    env.extend(mailbox.env());
    let node = Node::with(&database, env).await;
    let admin = node.admin().await;
    enforce(&admin, |policy| policy["sessions"]["max_per_account"] = json!(1_000)).await;
    for seed in 0..rounds {
        let mut dice = Dice(seed);
        let owner = node.customer().await;
        let (asking, path, body) = match act {
            Act::Suspend | Act::Expire | Act::ResetFactor => {
                let verb = match act {
                    Act::Suspend => "suspend",
                    Act::Expire => "expire-password",
                    _ => "reset-second-factor",
                };
                (admin.clone(), format!("/v1/accounts/{}/{verb}", owner.account), json!({"reason": BECAUSE}))
            }
            Act::ChangePassword => {
                let body = json!({"current_password": PASSWORD, "new_password": NEW});
                (owner.clone(), "/v1/me/password".to_owned(), body)
            }
            Act::Reset => {
                let asked = node.anonymous().post("/v1/auth/password-reset", json!({"email": owner.email})).await;
                assert_eq!(asked.status, 202, "{asked:?}");
                let token = mailbox.expect(&owner.email, "reset-password").await.token();
                let body = json!({"token": token, "new_password": NEW});
                (node.anonymous(), "/v1/auth/password-reset/confirm".to_owned(), body)
            }
            Act::Report => {
                node.log_in(&owner.email, owner.account).await;
                let token = mailbox.expect(&owner.email, "not-me").await.token();
                (node.anonymous(), "/v1/auth/not-me".to_owned(), json!({"token": token}))
            }
        };
        let mut all = sessions(&[&node], &owner, count).await;
        if let Act::ResetFactor = act {
            let started = owner.post_nothing("/v1/me/second-factor/totp").await;
            let app = Authenticator::of(started.json["secret"].as_str().unwrap());
            let confirmed = owner.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(0)})).await;
            assert_eq!(confirmed.status, 200, "{confirmed:?}");
        }
        let kept = matches!(act, Act::ChangePassword);
        if !kept {
            all.push(owner.clone());
        }
        let after = Duration::from_millis(dice.roll(61));
        abandon(&asking, &path, &body, after).await;
        // A second request does it now if it was not done before; and changes nothing if it was.
        let again = asking.post(&path, body).await;
        assert!([200, 204, 401, 409].contains(&again.status), "{again:?}");
        let what = format!("{act:?}, seed {seed}, after {after:?}");
        let over = join_all(all.iter().map(|session| assert_over(session, &what)));
        over.await;
        assert_eq!(owner.get("/v1/auth/session").await.status == 200, kept, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_that_is_abandoned_leaves_no_session_alive() {
    an_act_that_is_abandoned_is_done_or_not_done(Act::Suspend, 375, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_password_that_is_abandoned_leaves_no_other_session_alive() {
    an_act_that_is_abandoned_is_done_or_not_done(Act::ChangePassword, 120, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_of_the_password_that_is_abandoned_leaves_no_session_alive() {
    an_act_that_is_abandoned_is_done_or_not_done(Act::Expire, 120, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_second_factor_that_is_abandoned_leaves_no_session_alive() {
    an_act_that_is_abandoned_is_done_or_not_done(Act::ResetFactor, 120, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_password_that_is_abandoned_leaves_no_session_alive() {
    an_act_that_is_abandoned_is_done_or_not_done(Act::Reset, 120, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_an_intrusion_that_is_abandoned_leaves_no_session_alive() {
    an_act_that_is_abandoned_is_done_or_not_done(Act::Report, 120, 2).await;
}
