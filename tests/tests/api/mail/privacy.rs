//! A waiting mail is nobody else's business.

use fulexo_tests::{columns, superuser};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn neither_address_nor_token_nor_origin_is_in_a_table_in_the_clear() {
    let post = Post::start().await;
    let agent = "Quokkabrowser/7 of a very particular kind";
    let ann = post.customer().await;
    let elsewhere = post.node.anonymous().with_header("user-agent", agent);
    let body = json!({"email": ann.email, "password": PASSWORD});
    assert_eq!(elsewhere.post("/v1/auth/login", body).await.status, 200);
    let reset = post.reset_token(&ann.email).await;
    let not_me = post.mailbox.expect(&ann.email, "not-me").await.token();
    let verify = post.mailbox.expect(&ann.email, "verify-email").await.token();
    let pool = superuser(&post.node.database).await;
    for secret in [ann.email.as_str(), &reset, &not_me, &verify, agent] {
        for column in columns(&pool).await {
            for value in column.values {
                let found = value.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} in {}", column.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_while_it_waits_for_the_mail_server() {
    let database = Arc::new(Database::create().await);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = super::outbox::by_smtp(&database, &format!("smtp://{closed}")).await;
    let agent = "Quokkabrowser/7 of a very particular kind";
    let body = json!({"email": "ann.particular@example.com", "password": PASSWORD});
    let client = node.anonymous().with_header("user-agent", agent);
    assert_eq!(client.post("/v1/auth/register", body.clone()).await.status, 201);
    for _ in 0..2 {
        assert_eq!(client.post("/v1/auth/login", body.clone()).await.status, 200);
    }
    let pool = superuser(&database).await;
    let kinds: Vec<String> =
        sqlx::query_scalar("select kind from vault.mail order by 1").fetch_all(&pool).await.unwrap();
    assert_eq!(kinds, ["email_verification", "new_device"]);
    for secret in ["ann.particular", agent, "127.0.0.1"] {
        for column in columns(&pool).await {
            for value in column.values {
                let found = value.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} in {}", column.name);
            }
        }
    }
}
