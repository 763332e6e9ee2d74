//! One batch, and the outcome of each request in it.

use fulexo_commands::log::{AppendError, AppendOutcome, AppendRequest, BATCH_EVENTS, ExpectedVersion};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Reason, RoleName};
use fulexo_tests::{Database, Node, operator};
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::audit::audit;
use crate::writing::{
    Running, account, appended, change, claim, command, ids, in_one_batch, is_new, new_id, observation, one, one_on,
    prepared, refresh_root, started,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_stream_in_another_state_conflicts_and_writes_nothing() {
    let database = Database::create().await;
    let id = new_id();
    let answers = in_one_batch(
        &database.url(),
        vec![
            one_on(id, change(), ExpectedVersion::Exact(1)),
            one_on(id, change(), ExpectedVersion::New),
            one_on(id, change(), ExpectedVersion::New),
            one_on(id, change(), ExpectedVersion::Exact(2)),
            one_on(id, change(), ExpectedVersion::Exact(1)),
            one_on(id, change(), ExpectedVersion::Any),
        ],
    )
    .await;
    let conflict = |actual| Err(AppendError::Conflict { stream: account(id), actual });
    assert_eq!((&answers[0], &answers[2], &answers[3]), (&conflict(0), &conflict(1), &conflict(1)));
    assert!([1, 4, 5].iter().all(|number: &usize| is_new(&answers[*number])), "{answers:?}");
    assert_eq!(audit(&database).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_command_is_answered_with_the_stored_result_and_done_once() {
    let database = Database::create().await;
    let request = |result| AppendRequest { command: Some(command(1, 1, result)), ..one(new_id(), change()) };
    // The second one is decided in the batch of the first, the third one by the table.
    let mut answers = in_one_batch(&database.url(), vec![request("first"), request("second")]).await;
    answers.extend(in_one_batch(&database.url(), vec![request("third")]).await);
    let duplicate = Ok(AppendOutcome::Duplicate { result: "first".into() });
    assert!(is_new(&answers[0]) && answers[1] == duplicate && answers[2] == duplicate, "{answers:?}");
    assert_eq!(audit(&database).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_good_for_one_request_alone() {
    let database = Database::create().await;
    let request = |hash| AppendRequest { command: Some(command(1, hash, "")), ..one(new_id(), change()) };
    let mut answers = in_one_batch(&database.url(), vec![request(1), request(2)]).await;
    answers.extend(in_one_batch(&database.url(), vec![request(3)]).await);
    assert!(is_new(&answers[0]), "{answers:?}");
    assert_eq!(answers[1..], [Err(AppendError::IdempotencyKeyReused), Err(AppendError::IdempotencyKeyReused)]);
    assert_eq!(audit(&database).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_belongs_to_whoever_claims_it_first() {
    let database = Database::create().await;
    let request = |value| {
        let holder = new_id();
        AppendRequest { claims: vec![claim(value, holder)], ..one(holder, change()) }
    };
    let mut answers = in_one_batch(&database.url(), vec![request(1), request(1), request(2)]).await;
    answers.extend(in_one_batch(&database.url(), vec![request(2)]).await);
    let taken = Err(AppendError::KeyTaken { scope: "email" });
    assert!(is_new(&answers[0]) && is_new(&answers[2]) && answers[1] == taken && answers[3] == taken, "{answers:?}");
    assert_eq!(audit(&database).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_events_writes_its_secrets_and_claims_its_keys() {
    let database = Database::create().await;
    let running = Running::start(&database.url()).await;
    let (one, other) = (new_id(), new_id());
    for request in [
        AppendRequest { vault: vec![refresh_root(one, one)], ..AppendRequest::default() },
        AppendRequest { claims: vec![claim(1, other)], ..AppendRequest::default() },
    ] {
        assert!(is_new(&running.log.append(request).await));
    }
    let written = "select (select count(*) from vault.refresh_root), (select count(*) from log.unique_key)";
    let written: (i64, i64) = sqlx::query_as(written).fetch_one(&running.pool).await.unwrap();
    assert_eq!(written, (1, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_leaves_no_secret_no_key_and_no_result() {
    let database = Database::create().await;
    let request = |number, expected| {
        let id = new_id();
        AppendRequest {
            vault: vec![refresh_root(id, id)],
            claims: vec![claim(number, id)],
            command: Some(command(number, 1, "")),
            ..one_on(id, change(), expected)
        }
    };
    let requests =
        vec![request(1, ExpectedVersion::New), request(2, ExpectedVersion::Exact(1)), request(3, ExpectedVersion::New)];
    let answers = in_one_batch(&database.url(), requests).await;
    assert!(is_new(&answers[0]) && !is_new(&answers[1]) && is_new(&answers[2]), "{answers:?}");
    let left: (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from vault.refresh_root), (select count(*) from log.unique_key),
                (select count(*) from log.command)",
    )
    .fetch_one(&database.pool().await)
    .await
    .unwrap();
    assert_eq!(left, (2, 2, 2));
}

/// A constraint of the vault, one of the access tables, and the append function itself refuse one request each.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_is_rejected_without_its_neighbours() {
    let database = Database::create().await;
    let taken = new_id();
    let first = AppendRequest { vault: vec![refresh_root(taken, taken)], ..one(taken, started(taken)) };
    assert!(is_new(&in_one_batch(&database.url(), vec![first]).await[0]));

    let bad = [7, 8, 21];
    let requests: Vec<AppendRequest> = (0..30)
        .map(|number| match number {
            7 => AppendRequest { vault: vec![refresh_root(taken, taken)], ..one(new_id(), change()) },
            8 => one(taken, started(taken)),
            21 => AppendRequest { claims: vec![claim(9, taken), claim(9, taken)], ..one(new_id(), change()) },
            _ => {
                let session = new_id();
                AppendRequest { vault: vec![refresh_root(session, taken)], ..one(session, started(taken)) }
            }
        })
        .collect();
    let wanted: Vec<Uuid> = requests.iter().flat_map(ids).collect();
    let answers = in_one_batch(&database.url(), requests).await;
    for (number, constraint) in bad.into_iter().zip(["refresh_root_pkey", "session_pkey", "unique_key_pkey"]) {
        let Err(AppendError::Rejected(reason)) = &answers[number] else { panic!("{:?}", answers[number]) };
        assert!(reason.to_string().contains(constraint), "{reason}");
    }
    let log: Vec<Uuid> = audit(&database).await.iter().skip(1).map(|event| event.id).collect();
    let kept: Vec<Uuid> = answers.iter().flat_map(appended).collect();
    assert_eq!((kept.len(), &log), (27, &kept), "in the order in which they came");
    assert!(bad.iter().all(|number| !log.contains(&wanted[*number])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_row_that_the_database_refuses_rejects_its_own_request_alone() {
    let node = Node::start().await;
    let mut superuser = PgConnection::connect(&node.database.superuser_url()).await.unwrap();
    sqlx::query("alter table log.sealed add constraint sealed_is_short check (octet_length(ciphertext) < 300)")
        .execute(&mut superuser)
        .await
        .unwrap();
    let mut accounts = Vec::new();
    for _ in 0..12 {
        accounts.push(AccountId(node.register(&[]).await.1));
    }
    let grants =
        accounts.iter().enumerate().map(|(number, account)| {
            let reason = if number % 4 == 0 { "x".repeat(400) } else { "a short one".to_owned() };
            let (all, role) = (Permissions::of(&Permission::ALL), RoleName::parse("auditor").unwrap());
            let commands = &node.app().commands;
            async move {
                commands.grant_role(&operator(), all, *account, role, Reason::parse(&reason).unwrap()).await.is_ok()
            }
        });
    let granted = join_all(grants).await;
    let expected: Vec<bool> = (0..12).map(|number| number % 4 != 0).collect();
    assert_eq!(granted, expected);
    assert_eq!(audit(&node.database).await.iter().filter(|event| event.version == 2).count(), 9);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_holds_as_many_events_as_a_batch_and_no_more() {
    let database = Database::create().await;
    let log = Running::start(&database.url()).await;
    let of = |count| AppendRequest {
        events: (0..count).map(|_| prepared(Uuid::nil(), observation())).collect(),
        ..AppendRequest::default()
    };
    assert_eq!(log.log.append(of(BATCH_EVENTS + 1)).await, Err(AppendError::TooLarge));
    assert!(is_new(&log.log.append(of(BATCH_EVENTS)).await));
    assert_eq!(audit(&database).await.len(), BATCH_EVENTS);
    log.stop().await;
}
