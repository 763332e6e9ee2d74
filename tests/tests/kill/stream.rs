//! `fulexo serve`, killed while it streams events: a client that resumes with the last id that it has sees every event once.

use fulexo_tests::{Client, Database, EventSource, PASSWORD, Program, leaves};
use serde_json::{Value, json};
use tokio::task::block_in_place;

const KILLS: usize = 6;
/// Accounts that register between two kills, with two events each.
const ACCOUNTS: usize = 20;
const EMAIL: &str = "audrey@example.com";

/// Registers an auditor, whom the operator alone can make one, and logs in.
async fn auditor(url: &str, database: &Database) -> Client {
    let arguments = ["register", "--email", EMAIL, "--role", "auditor", "--role", "customer", "--json"];
    let ended = Program::run(&arguments, &database.env());
    assert!(ended.status.success(), "{}", ended.errors);
    let registered: Value = serde_json::from_str(&ended.said).unwrap();
    let credentials = json!({"email": EMAIL, "password": registered["password"]});
    let mut client = Client::new(url);
    let answer = client.post("/v1/auth/login", credentials).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    client.log_in_with(&answer);
    client
}

async fn next(source: &mut EventSource, seen: &mut Vec<u64>) -> bool {
    let event = source.event().await;
    seen.extend(event.iter().filter_map(|event| event["position"].as_u64()));
    event.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resumes_after_each_kill_sees_every_event_once() {
    let database = Database::create().await;
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    let (mut seen, mut last, mut reader) = (Vec::new(), 0, None::<Client>);
    for kill in 0..=KILLS {
        let mut program = block_in_place(|| Program::start(&["serve"], &env));
        let url = block_in_place(|| program.says("listening on "));
        let client = match reader.take() {
            Some(client) => Client { url: url.clone(), ..client },
            None => auditor(&url, &database).await,
        };
        let mut source = client.resume("/v1/audit/stream", last).await.unwrap();
        let nobody = Client::new(&url);
        let recording = async {
            for number in 0..ACCOUNTS {
                let new = json!({"email": format!("{kill}-{number}@example.com"), "password": PASSWORD});
                assert_eq!(nobody.post("/v1/auth/register", new).await.status, 201);
            }
        };
        let before = seen.len();
        let reading = async {
            while seen.len() < before + ACCOUNTS / 2 {
                assert!(next(&mut source, &mut seen).await);
            }
        };
        tokio::join!(recording, reading);
        if kill < KILLS {
            // Events are under way, some of which arrive.
            program.kill();
            while next(&mut source, &mut seen).await {}
        } else {
            let end = leaves(&database).await.len() as u64;
            while seen.last().is_none_or(|last| last + 1 < end) {
                assert!(next(&mut source, &mut seen).await);
            }
        }
        last = source.last_event_id.unwrap();
        reader = Some(client);
    }
    let end = seen.last().unwrap() + 1;
    assert_eq!(seen, (1..end).collect::<Vec<_>>());
}
