//! `fulexo incident contain`, killed at each commit and run again. It has no key from a client: a run that was killed after its
//! last commit is another containment, which finds everything done.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::{Database, Fate, HeldCommits, Node, Program, leaves};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::boundaries::{Incident, REASON, boundaries, lift};

#[tokio::test(flavor = "multi_thread")]
async fn a_containment_by_the_operator_that_is_killed_at_any_commit_is_run_again_and_puts_nobody_out_twice() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let responder = node.admin().await;
    let mut held = HeldCommits::on(&database).await;
    for (kind, nth, fate) in boundaries() {
        let round = format!("{kind} {nth} {fate:?}");
        println!("{round}");
        let admin = node.as_if_logged_in(TimeDelta::zero(), &responder, &["admin", "customer"]);
        let incident = Incident::open(&node, &admin).await;
        let mut arguments =
            ["incident", "contain", "--json", "--lockdown", "logins", "--reason", REASON].map(str::to_owned).to_vec();
        arguments.push(incident.id.to_string());
        arguments.extend(["--sessions-of".to_owned(), incident.sessions[0].account.to_string()]);
        arguments.extend(incident.api_keys.iter().flat_map(|key| ["--revoke-key".to_owned(), key.to_string()]));
        arguments.extend(incident.suspended.iter().flat_map(|one| ["--suspend".to_owned(), one.account.to_string()]));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (base, env) = (leaves(&database).await.len(), database.env());

        held.hold(kind, nth).await;
        let mut program = block_in_place(|| Program::start(&arguments, &env));
        held.waits(&round).await;
        block_in_place(|| program.kill());
        held.end(fate).await;

        let again = Program::run(&arguments, &env);
        assert_eq!(again.status.code(), Some(0), "{round}: {}", again.errors);
        let again: Value = serde_json::from_str(&again.said).unwrap();
        let measures = again["measures"].as_array().unwrap();
        assert_eq!(measures.len(), 4, "{round}: {again}");
        assert!(measures.iter().all(|measure| measure["refused"] == json!([])), "{round}: {again}");
        let recorded_before = kind == "incident.contained" && fate == Fate::Recorded;
        let contained = incident.assert_contained(&node, &admin, &database, base).await;
        assert_eq!(contained, if recorded_before { 2 } else { 1 }, "{round}");
        lift(&admin).await;
    }
}
