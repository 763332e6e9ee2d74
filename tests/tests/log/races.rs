//! Two commands that decide on the same facts at the same moment: one of them decides again.

use chrono::TimeDelta;
use fulexo_commands::context::Context;
use fulexo_commands::{CommandError, NewAccount, ProvisioningRequest};
use fulexo_domain::account::{AccountError, AccountEvent};
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::password::Password;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::{AccountId, EmailAddress, Reason, RoleName};
use fulexo_tests::{Client, Database, Node, PASSWORD, consistent, operator};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::audit::audit;
use crate::waiting::{Held, until_waiting};

/// Returns the log's events of sessions, from their beginnings on.
async fn of_sessions(database: &Database) -> Vec<SessionEvent> {
    let of_session = |recorded: RecordedEvent| match recorded.event {
        Event::Session(event) => Some(event),
        _ => None,
    };
    audit(database).await.into_iter().filter_map(of_session).collect()
}

/// Both have loaded the account, decided, and wait to append before either does.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_concurrent_grants_of_a_role_one_is_recorded_and_the_other_refused() {
    let one = Node::start().await;
    let other = Node::join(&one.database).await;
    let account = one.register(&[]).await.1;
    let role = RoleName::parse("auditor").unwrap();
    let held = Held::lock(&one.database).await;
    let grants = [&one, &other].map(|node| {
        let (commands, role) = (&node.app().commands, role.clone());
        async move {
            let (all, reason) = (Permissions::of(&Permission::ALL), Reason::parse("needed").unwrap());
            let granted = commands.grant_role(&operator(), all, AccountId(account), role, reason).await;
            granted.map(|done| done.position.is_some())
        }
    });
    let released = async {
        until_waiting(&one.database, 2).await;
        held.release().await;
    };
    let (granted, ()) = tokio::join!(join_all(grants), released);

    let recorded = granted.iter().filter(|granted| matches!(granted, Ok(true))).count();
    let held = |error: &CommandError| matches!(error, CommandError::Account(AccountError::RoleAlreadyGranted));
    let refused = granted.iter().filter(|granted| granted.as_ref().is_err_and(held)).count();
    assert_eq!((recorded, refused), (1, 1));
    let grant = Event::Account(AccountEvent::RoleGranted { role });
    assert_eq!(audit(&one.database).await.iter().filter(|recorded| recorded.event == grant).count(), 1);
    other.stop().await;
    one.stop().await;
}

/// The means by which somebody gets a role.
#[derive(Debug, Clone, Copy)]
enum Way {
    Grant,
    Register,
    Create,
}

async fn come_to_hold(node: &Node, way: Way, account: AccountId, role: RoleName) -> Result<(), CommandError> {
    let (commands, all) = (&node.app().commands, Permissions::of(&Permission::ALL));
    let email = EmailAddress::parse(&format!("{role}@example.com")).unwrap();
    match way {
        Way::Grant => {
            let reason = Reason::parse("needed").unwrap();
            commands.grant_role(&operator(), all, account, role, reason).await.map(|_| ())
        }
        Way::Register => {
            let password = Password::new(PASSWORD.to_owned());
            let new = NewAccount { email, password, display_name: None, roles: vec![role] };
            commands.register(&operator(), new).await.map(|_| ())
        }
        Way::Create => {
            let new = ProvisioningRequest { email, display_name: None, roles: vec![role] };
            commands.create_account(&operator(), all, new).await.map(|_| ())
        }
    }
}

/// Both have found that they may, and wait to append before either does.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_either_retired_or_held_however_the_two_meet() {
    let one = Node::start().await;
    let other = Node::join(&one.database).await;
    let account = AccountId(one.register(&[]).await.1);
    let (all, reason) = (Permissions::of(&Permission::ALL), || Reason::parse("needed").unwrap());
    let ways = [Way::Grant, Way::Register, Way::Create].into_iter().flat_map(|way| [(way, true), (way, false)]);
    for (number, (way, is_held_first)) in ways.enumerate() {
        let role = RoleName::parse(&format!("crew-{number}")).unwrap();
        let permissions = Permissions::of(&[Permission::AuditRead]);
        one.app().commands.define_role(&operator(), all, role.clone(), permissions, reason()).await.unwrap();
        let held = Held::lock(&one.database).await;
        let second = async |this_is_first: bool| {
            if !this_is_first {
                until_waiting(&one.database, 1).await;
            }
        };
        let holds = async {
            second(is_held_first).await;
            come_to_hold(&other, way, account, role.clone()).await
        };
        let retires = async {
            second(!is_held_first).await;
            one.app().commands.retire_role(&operator(), all, role.clone(), reason()).await
        };
        let released = async {
            until_waiting(&one.database, 2).await;
            held.release().await;
        };
        let (holds, retires, ()) = tokio::join!(holds, retires, released);
        assert_ne!(holds.is_ok(), retires.is_ok(), "{way:?}, held first: {is_held_first}: {:?}", holds.err());
        match (holds, retires) {
            (Ok(()), Err(CommandError::RoleInUse))
            | (Err(CommandError::Account(AccountError::RoleNotFound)), Ok(_)) => {}
            (holds, retires) => panic!("{way:?}: {:?}, {:?}", holds.err(), retires.err()),
        }
    }
    let nodes = [one, other];
    consistent(&nodes[0].database, &nodes).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_owner_does_slips_in_behind_a_suspension() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    let (email, account) = node.register(&["customer"]).await;
    let act = async |verb: &str| {
        let path = format!("/v1/accounts/{account}/{verb}");
        assert_eq!(admin.post(&path, json!({"reason": "r"})).await.status, 200, "{verb}");
    };
    // These are all that read the account, decide and append.
    let name = json!({"display_name": "Later"}).to_string();
    let password = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"}).to_string();
    let proof = json!({"password": PASSWORD}).to_string();
    for (method, path, body) in [
        (Method::PATCH, "/v1/me", name),
        (Method::POST, "/v1/me/password", password),
        (Method::POST, "/v1/auth/step-up", proof),
        (Method::POST, "/v1/me/second-factor/totp", String::new()),
    ] {
        let client = Client { url: other.url.clone(), ..node.log_in(&email, account).await };
        let content_type = (!body.is_empty()).then_some("application/json");
        let held = Held::lock(&node.database).await;
        let late = async {
            until_waiting(&node.database, 1).await;
            client.send(method.clone(), path, content_type, &body).await
        };
        let released = async {
            // It has decided, and waits for the suspension.
            until_waiting(&node.database, 2).await;
            held.release().await;
        };
        let ((), answer, ()) = tokio::join!(act("suspend"), late, released);
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        act("reinstate").await;
    }
    let mut suspended = false;
    for recorded in audit(&node.database).await.into_iter().filter(|recorded| recorded.stream.id == account) {
        match recorded.event {
            Event::Account(AccountEvent::Suspended {}) => suspended = true,
            Event::Account(AccountEvent::Reinstated {}) => suspended = false,
            Event::Account(event) => assert!(!suspended, "{event:?} behind a suspension"),
            _ => {}
        }
    }
    let nodes = [node, other];
    consistent(&nodes[0].database, &nodes).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_refreshes_of_one_token_at_once_leave_one_live_family() {
    let one = Node::start().await;
    let other = Node::join(&one.database).await;
    let client = one.customer().await;
    let refresh = json!({"refresh_token": client.refresh_token});
    let clients: Vec<_> = (0..50).map(|number| [&one, &other][number % 2].anonymous()).collect();
    let held = Held::lock(&one.database).await;
    let released = async {
        until_waiting(&one.database, 2).await;
        held.release().await;
    };
    let refreshes = clients.iter().map(|client| client.post("/v1/auth/refresh", refresh.clone()));
    let (answers, ()) = tokio::join!(join_all(refreshes), released);

    let tokens: Vec<Option<&Value>> = answers.iter().map(|answer| answer.json.get("refresh_token")).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 50]);
    assert!(tokens.iter().all(|token| token.is_some() && *token == tokens[0]), "all hold the same token");
    let events = of_sessions(&one.database).await;
    assert!(
        matches!(events[..], [SessionEvent::Started { .. }, SessionEvent::Refreshed { generation: 2, .. }]),
        "{events:?}"
    );
    let next = other.anonymous().post("/v1/auth/refresh", json!({"refresh_token": tokens[0]})).await;
    assert_eq!(next.status, 200, "the token that all hold works: {next:?}");
    other.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_refresh_token_is_answered_within_its_grace_and_ends_the_session_after() {
    let node = Node::start().await;
    let client = node.customer().await;
    let commands = &node.app().commands;
    let start = operator();
    let after = |seconds| Context { now: start.now + TimeDelta::seconds(seconds), ..operator() };
    let spent = client.refresh_token.as_str();
    let Ok(new) = commands.refresh(&after(0), spent, None).await else { panic!("the token is good for one use") };
    let Ok(again) = commands.refresh(&after(9), spent, None).await else { panic!("its grace is ten seconds") };
    assert_eq!(*new.value.refresh_token, *again.value.refresh_token);

    for token in [spent, &new.value.refresh_token] {
        assert!(matches!(commands.refresh(&after(10), token, None).await, Err(CommandError::InvalidCredentials)));
    }
    assert_eq!(client.get("/v1/auth/session").await.status, 401, "the access token ends with the session");
    let events = of_sessions(&node.database).await;
    let ended = [SessionEvent::RefreshReused { generation: 1 }, SessionEvent::Revoked { by: RevocationCause::Reuse }];
    assert_eq!(events[2..], ended);
    node.stop().await;
}
