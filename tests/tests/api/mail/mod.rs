//! Mail: a way back into an account, proof that an address is its owner's, and news of what happened; never lost, never
//! twice, and never a way in for anybody else.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod notices;
mod outbox;
mod privacy;
mod reset;
mod verification;

use std::sync::Arc;

use fulexo_tests::{Answer, Client, Database, Mailbox, Node, PASSWORD, eventually, superuser};
use serde_json::json;
use uuid::Uuid;

const NEW: &str = "kestrel-Over9thefen";
const RESET: &str = "/v1/auth/password-reset";
const CONFIRM: &str = "/v1/auth/password-reset/confirm";
const VERIFY: &str = "/v1/auth/email-verification";
const NOT_ME: &str = "/v1/auth/not-me";

/// A node, and the mailbox that its mail goes to.
struct Post {
    node: Node,
    mailbox: Mailbox,
}

impl Post {
    async fn start() -> Self {
        let database = Arc::new(Database::create().await);
        let mailbox = Mailbox::create();
        let node = on(&database, &mailbox).await;
        Self { node, mailbox }
    }

    /// Registers a user, who is not logged in yet.
    async fn register(&self) -> (String, Uuid) {
        // No two tests share an address, so none reads another's mail.
        self.node.register(&["customer"]).await
    }

    /// Registers a customer, and logs in.
    async fn customer(&self) -> Client {
        self.node.customer().await
    }

    async fn ask_for_reset(&self, email: &str) -> Answer {
        let answer = self.node.anonymous().post(RESET, json!({"email": email})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer
    }

    /// Returns the token in a mailed link to a new password.
    async fn reset_token(&self, email: &str) -> String {
        self.ask_for_reset(email).await;
        self.mailbox.expect(email, "reset-password").await.token()
    }

    async fn confirm(&self, token: &str, password: &str) -> Answer {
        self.node.anonymous().post(CONFIRM, json!({"token": token, "new_password": password})).await
    }

    async fn follow(&self, path: &str, token: &str) -> Answer {
        self.node.anonymous().post(path, json!({"token": token})).await
    }

    async fn log_in(&self, email: &str, password: &str) -> Answer {
        self.node.anonymous().post("/v1/auth/login", json!({"email": email, "password": password})).await
    }
}

/// Starts another node on a database, whose mail goes to the same mailbox.
async fn on(database: &Arc<Database>, mailbox: &Mailbox) -> Node {
    let mut env = database.env();
    env.extend(mailbox.env());
    Node::with(database, env).await
}

fn assert_spent(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{answer:?}");
}

/// Returns the number of mails that wait to be sent.
async fn waiting(database: &Database) -> i64 {
    let pool = superuser(database).await;
    sqlx::query_scalar("select count(*) from vault.mail where sealed is not null").fetch_one(&pool).await.unwrap()
}

/// Waits until nothing more is on its way: a mail waits from the commit of its event on.
async fn all_is_sent(database: &Database) {
    eventually("all is sent", async || waiting(database).await == 0).await;
}
