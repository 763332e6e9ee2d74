//! The log at its most talkative, held against everything that must never be in it.

use std::collections::BTreeMap;

use fulexo_dev_servers::{Nats, NatsOptions};
use fulexo_tests::{Client, Database, Program, eventually, own_dir};
use serde_json::json;
use tokio::task::block_in_place;

const NATS: &str = "Planted-Nats-Password-7";
const SMTP: &str = "Planted-Smtp-Password-7";
const PASSWORD: &str = "Planted-Own-Password-7";
const WRONG: &str = "Planted-Wrong-Password-7";
const EMAIL: &str = "planted-address@example.com";
const QUERY: &str = "planted-query-string";
const COOKIE: &str = "planted-cookie-value";
const TOKEN: &str = "planted-token-value";
const BODY: &str = "planted-member-name";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_at_any_level() {
    let database = Database::create().await;
    let options = NatsOptions { password: Some(NATS.to_owned()), ..NatsOptions::default() };
    let nats = block_in_place(|| Nats::start_with(&own_dir(), &options)).unwrap();
    let mut env: BTreeMap<String, String> = database.env();
    env.insert("NATS_URL".into(), nats.url());
    env.insert("FULEXO_PORT".into(), "0".into());
    env.insert("FULEXO_LOG".into(), "trace,async_nats=trace,sqlx=trace,hyper=trace,h2=trace,rustls=trace".into());
    // Nobody listens there: each try to send fails, and says so.
    env.insert("SMTP_URL".into(), format!("smtps://planted-user:{SMTP}@127.0.0.1:9"));
    env.insert("MAIL_FROM".into(), "Fulexo <no-reply@example.com>".into());
    env.insert("FULEXO_PUBLIC_URL".into(), "https://service.example.com".into());
    let mut program = block_in_place(|| Program::start(&["serve"], &env));
    let url = block_in_place(|| program.says("listening on "));

    let stranger = Client::new(&url);
    let credentials = |password: &str| json!({"email": EMAIL, "password": password});
    assert_eq!(stranger.post("/v1/auth/register", credentials(PASSWORD)).await.status, 201);
    assert_eq!(stranger.post("/v1/auth/login", credentials(WRONG)).await.status, 401);
    let answer = stranger.post("/v1/auth/login", credentials(PASSWORD)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = stranger.clone();
    client.log_in_with(&answer);
    assert_eq!(client.get(&format!("/v1/me?q={QUERY}")).await.status, 400, "it has no such parameter");
    let refresh = json!({"refresh_token": client.refresh_token});
    let refreshed = stranger.post("/v1/auth/refresh", refresh).await;
    assert_eq!(refreshed.status, 200);
    assert_eq!(stranger.post("/v1/auth/login", json!({BODY: WRONG})).await.status, 400);
    assert_eq!(stranger.post("/v1/auth/password-reset", json!({"email": EMAIL})).await.status, 202);
    let mut odd = stranger.clone();
    odd.access_token = Some(TOKEN.to_owned());
    odd.headers.push(("cookie".to_owned(), format!("__Host-fulexo-refresh={COOKIE}")));
    assert_eq!(odd.get("/v1/me").await.status, 401);

    // The client repeats its attempts on a lost server, and logs each attempt.
    drop(nats);
    eventually("the loss is noticed", async || {
        let ready = stranger.get("/health/ready").await;
        ready.json["dependencies"].as_array().is_some_and(|all| all.iter().any(|one| one["status"] == "degraded"))
    })
    .await;
    let ended = block_in_place(|| program.stop("TERM"));
    let said = format!("{}{}", ended.said, ended.errors);
    assert!(said.contains("request_id"), "the log is kept: {said}");

    let text = |name: &str| refreshed.json[name].as_str().unwrap_or("none of this name").to_owned();
    let mut secrets: Vec<String> =
        [NATS, SMTP, PASSWORD, WRONG, EMAIL, QUERY, COOKIE, TOKEN, BODY, "planted-address", "only-for-tests"]
            .map(str::to_owned)
            .to_vec();
    secrets.extend([env["JWT_SECRET"].clone(), env["ENCRYPTION_KEY"].clone()]);
    secrets.extend([client.access_token.clone().unwrap(), client.refresh_token.clone(), client.device_token.clone()]);
    secrets.extend([text("access_token"), text("refresh_token")]);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        if let Some(line) = said.lines().find(|line| line.contains(secret.as_str())) {
            panic!("the log says {secret:?}: {line}");
        }
    }
}
