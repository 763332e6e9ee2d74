//! `fulexo serve`, killed right after it took sessions away: they are over, and the end of each is recorded once, by
//! the next process.

use std::collections::BTreeSet;

use fulexo_tests::{Client, Database, PASSWORD, Program, eventually, leaves, superuser};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use uuid::Uuid;

const SESSIONS: usize = 230;

fn serve(database: &Database) -> (Program, String) {
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    block_in_place(|| {
        let mut program = Program::start(&["serve"], &env);
        let url = program.says("listening on ");
        (program, url)
    })
}

async fn ends(database: &Database, account: Uuid) -> Vec<Value> {
    let is_end = |leaf: &Value| leaf["type"] == "session.revoked" && leaf["subject"] == json!(account);
    leaves(database).await.into_iter().filter(is_end).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_were_taken_away_stay_so_and_each_end_is_recorded_once_by_whoever_starts_next() {
    let database = Database::create().await;
    let (mut program, url) = serve(&database);
    let mut ann = Client::new(&url);
    let credentials = json!({"email": "ann@example.com", "password": PASSWORD});
    let registered = ann.post("/v1/auth/register", credentials.clone()).await;
    ann.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
    let pool = superuser(&database).await;
    let mut all = Vec::new();
    for _ in 0..SESSIONS {
        let answer = ann.post("/v1/auth/login", credentials.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut session = ann.clone();
        session.log_in_with(&answer);
        all.push(session);
    }
    let before = ends(&database, ann.account).await.len();
    assert_eq!(before, SESSIONS - 100, "as many live as the policy allows");
    // Nothing follows as long as this trigger exists.
    for statement in [
        "create function access.refuse() returns trigger language plpgsql as $$ begin raise 'not now'; end $$",
        "create trigger refuse before update of ended_at on access.session for each row execute function access.refuse()",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let kept = all.last().unwrap();
    let revoked = kept.post_nothing("/v1/me/sessions/revoke-others").await;
    assert_eq!((revoked.status, &revoked.json["revoked"]), (200, &json!(99)), "{revoked:?}");
    program.kill();
    assert_eq!(ends(&database, ann.account).await.len(), before);
    sqlx::query("drop trigger refuse on access.session").execute(&pool).await.unwrap();

    let ((_one, first), (_two, second)) = (serve(&database), serve(&database));
    for url in [first, second] {
        for session in &all {
            let session = Client { url: url.clone(), ..session.clone() };
            let expected = if session.session == kept.session { 200 } else { 401 };
            assert_eq!(session.get("/v1/auth/session").await.status, expected);
            if expected == 401 {
                let refreshed = session.post("/v1/auth/refresh", json!({"refresh_token": session.refresh_token})).await;
                assert_eq!(refreshed.status, 401, "{refreshed:?}");
            }
        }
    }
    eventually("each end is recorded", async || ends(&database, ann.account).await.len() >= SESSIONS - 1).await;
    let ends = ends(&database, ann.account).await;
    let streams: BTreeSet<&str> = ends.iter().map(|end| end["stream"].as_str().unwrap()).collect();
    assert_eq!((ends.len(), streams.len()), (SESSIONS - 1, SESSIONS - 1), "once");
    assert!(ends.iter().skip(before).all(|end| end["data"]["by"] == "owner"));
    eventually("nothing is due any more", async || {
        let due = sqlx::query_scalar("select exists (select from access.account where ends_due)");
        !due.fetch_one(&pool).await.unwrap_or(true)
    })
    .await;
}
