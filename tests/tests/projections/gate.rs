//! The gate of requests in a node's memory: it knows, or it says that it does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::permission::CustomRoles;
use fulexo_domain::policy::{ActivePolicy, Policy};
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_projections::gate::{Gate, LEASE, SessionElevation, SessionVerdict, TokenClaims, session_permissions};
use fulexo_tests::{Database, draft, operator};
use uuid::Uuid;

/// Opens a gate that knows nothing yet, and holds no lease.
async fn gate() -> Gate {
    let database = Database::create().await;
    Gate::open(
        &database.pool().await,
        TimeDelta::hours(1),
        Arc::new(ActivePolicy::new(Policy::default())),
        operator().now,
    )
    .await
    .unwrap()
}

fn ann() -> (AccountId, SessionId) {
    (AccountId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)))
}

/// Returns an end for a lease that does not run out while a test is slow.
pub fn far_off() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Returns the gate's verdict on a token that was issued at this position to an account with these roles.
fn judged(gate: &Gate, position: u64, roles: &[&str]) -> SessionVerdict {
    let roles: Vec<RoleName> = roles.iter().map(|role| RoleName::parse(role).unwrap()).collect();
    let (account, session) = ann();
    match gate.judge(TokenClaims {
        account,
        session,
        position,
        epoch: gate.epoch(),
        roles: &roles,
        second_factor: false,
    }) {
        // The verdict does not name the roles: they are those of the token.
        SessionVerdict::Current { roles: None, permissions, second_factor, elevated } => {
            let roles = Some(roles.into_iter().collect());
            SessionVerdict::Current { roles, permissions, second_factor, elevated }
        }
        verdict => verdict,
    }
}

fn current(roles: &[&str]) -> SessionVerdict {
    let roles: std::collections::BTreeSet<RoleName> = roles.iter().map(|role| RoleName::parse(role).unwrap()).collect();
    let permissions = session_permissions(&roles, &CustomRoles::new(), &Policy::default(), false);
    let elevated =
        SessionElevation { after_login: Some(Policy::default().sessions.elevation), until: None, restored: None };
    SessionVerdict::Current { roles: Some(roles), permissions, second_factor: false, elevated }
}

fn at(position: u64, event: impl Into<Event>, stream: Uuid) -> Arc<RecordedEvent> {
    Arc::new(draft(event, stream).encode().unwrap().recorded_event(position, operator().now, position + 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_a_lease_knows_nothing() {
    let gate = gate().await;
    gate.observe(&[at(0, AccountEvent::Registered {}, ann().0.0)]);
    assert_eq!(judged(&gate, 0, &["admin"]), SessionVerdict::Unknown);
    gate.renew_lease(far_off());
    assert_eq!(judged(&gate, 0, &["admin"]), current(&["admin"]));
    gate.renew_lease(Instant::now().checked_sub(LEASE).unwrap());
    assert_eq!(judged(&gate, 0, &["admin"]), SessionVerdict::Unknown, "it has run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_ended_is_ended_with_or_without_a_lease() {
    let gate = gate().await;
    gate.observe(&[at(0, SessionEvent::Revoked { by: RevocationCause::Owner }, ann().1.0)]);
    assert_eq!(judged(&gate, 0, &[]), SessionVerdict::Ended);
    gate.renew_lease(far_off());
    assert_eq!(judged(&gate, 9, &[]), SessionVerdict::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_takes_a_role_change_for_what_it_came_after() {
    let gate = gate().await;
    gate.renew_lease(far_off());
    let auditor = RoleName::parse("auditor").unwrap();
    gate.observe(&[
        at(0, AccountEvent::RoleGranted { role: auditor.clone() }, ann().0.0),
        at(1, SessionEvent::Expired {}, Uuid::from_u128(3)),
        at(2, AccountEvent::RoleRevoked { role: RoleName::parse("admin").unwrap() }, ann().0.0),
        at(3, AccountEvent::RoleRevoked { role: auditor }, Uuid::from_u128(4)),
    ]);
    assert_eq!(
        judged(&gate, 1, &["admin"]),
        current(&[]),
        "admin was revoked after the token; auditor, before it, is not in it"
    );
    assert_eq!(
        judged(&gate, 2, &["admin"]),
        current(&["admin"]),
        "the token knows of the revocation, so this is a new grant"
    );
    assert_eq!(gate.applied(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_a_position_that_the_gate_has_not_reached_is_unknown() {
    let gate = gate().await;
    gate.renew_lease(far_off());
    assert_eq!(judged(&gate, 0, &[]), SessionVerdict::Unknown);
    gate.observe(&[at(0, AccountEvent::Registered {}, ann().0.0)]);
    assert_eq!(judged(&gate, 0, &[]), current(&[]));
    assert_eq!(judged(&gate, 1, &[]), SessionVerdict::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_told_twice_or_out_of_order_come_to_the_same() {
    let gate = gate().await;
    gate.renew_lease(far_off());
    let role = RoleName::parse("auditor").unwrap();
    let granted = at(1, AccountEvent::RoleGranted { role: role.clone() }, ann().0.0);
    let revoked = at(2, AccountEvent::RoleRevoked { role }, ann().0.0);
    gate.observe(&[Arc::clone(&revoked)]);
    assert_eq!(gate.applied(), 0, "the mark does not move over a gap");
    gate.observe(&[at(0, AccountEvent::Registered {}, ann().0.0), granted, revoked]);
    assert_eq!((gate.applied(), judged(&gate, 0, &["auditor"])), (3, current(&[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_history_is_unknown_even_of_a_session_that_ended() {
    let gate = gate().await;
    gate.renew_lease(far_off());
    gate.observe(&[at(0, SessionEvent::Expired {}, ann().1.0)]);
    let (account, session) = ann();
    let epoch = fulexo_domain::values::Epoch::from(Uuid::from_u128(7));
    assert_ne!(epoch, gate.epoch());
    let claim = TokenClaims { account, session, position: 0, epoch, roles: &[], second_factor: false };
    assert_eq!(gate.judge(claim), SessionVerdict::Unknown);
    assert_eq!(judged(&gate, 0, &[]), SessionVerdict::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_step_up_may_be_forgotten_is_asked_for_until_none_that_was_holds_any_more() {
    let gate = gate().await;
    let now = operator().now;
    let until = now + TimeDelta::minutes(10);
    let elevated = SessionEvent::Elevated { methods: vec![AuthenticationMethod::Password], until, restored: false };
    gate.observe(&[at(0, elevated, ann().1.0)]);
    gate.renew_lease(far_off());
    assert!(matches!(
        judged(&gate, 0, &[]),
        SessionVerdict::Current { elevated: SessionElevation { until: Some(_), .. }, .. }
    ));

    // These are as many as it keeps, and younger.
    let ended = draft(SessionEvent::Expired {}, Uuid::from_u128(3)).encode().unwrap();
    let events: Vec<_> =
        (1..=100_000).map(|position| Arc::new(ended.recorded_event(position, now, position + 1))).collect();
    gate.observe(&events);
    gate.renew_lease(far_off());
    assert_eq!(judged(&gate, 100_000, &[]), SessionVerdict::Unknown, "issued later, in the same session");
    gate.observe(&[Arc::new(ended.recorded_event(100_001, until + TimeDelta::seconds(1), 100_002))]);
    assert_eq!(judged(&gate, 100_000, &[]), current(&[]), "it has run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_older_than_the_gates_memory_is_unknown() {
    let gate = gate().await;
    gate.renew_lease(far_off());
    let (now, ended) = (operator().now, draft(SessionEvent::Expired {}, Uuid::from_u128(3)).encode().unwrap());
    // This is one more than it keeps.
    let events: Vec<_> =
        (0..=100_000).map(|position| Arc::new(ended.recorded_event(position, now, position + 1))).collect();
    gate.observe(&events);
    gate.renew_lease(far_off());
    assert_eq!(judged(&gate, 0, &[]), SessionVerdict::Unknown, "what position 0 changed is forgotten");
    assert_eq!(judged(&gate, 1, &[]), current(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_forgets_because_a_clock_is_ahead_it_does_not_take_for_unchanged() {
    let role = RoleName::parse("admin").unwrap();
    let taken: [(Event, Uuid); 2] = [
        (SessionEvent::Revoked { by: RevocationCause::Admin }.into(), ann().1.0),
        (AccountEvent::RoleRevoked { role }.into(), ann().0.0),
    ];
    for (event, stream) in taken {
        let gate = gate().await;
        let ahead = draft(SessionEvent::Expired {}, Uuid::from_u128(3)).encode().unwrap();
        gate.observe(&[
            at(0, AccountEvent::Registered {}, ann().0.0),
            at(1, event, stream),
            Arc::new(ahead.recorded_event(2, operator().now + TimeDelta::hours(3), 3)),
        ]);
        gate.renew_lease(far_off());
        let verdict = judged(&gate, 0, &["admin"]);
        assert!(verdict == SessionVerdict::Unknown || verdict == SessionVerdict::Ended, "{verdict:?}");
        assert_eq!(judged(&gate, 2, &["admin"]), current(&["admin"]), "nothing was forgotten that it does not know of");
    }
}

/// The gate's clock is ahead, or tokens lived longer when they were issued.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_does_not_learn_when_it_opens_it_does_not_take_for_unchanged() {
    let node = fulexo_tests::Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let issued = fulexo_tests::log_size(&node).await - 1;
    let revoked = admin.delete(&format!("/v1/sessions/{}", ann.session)).await.position();
    let pool = node.database.pool().await;
    for hours in [0, 2, 24 * 365] {
        let now = operator().now + TimeDelta::hours(hours);
        let policy = Arc::new(ActivePolicy::new(Policy::default()));
        let gate = Gate::open(&pool, TimeDelta::hours(1), policy, now).await.unwrap();
        gate.renew_lease(far_off());
        let claim = |position, session| TokenClaims {
            account: AccountId(ann.account),
            session: SessionId(session),
            position,
            epoch: gate.epoch(),
            roles: &[],
            second_factor: false,
        };
        let verdict = gate.judge(claim(issued, ann.session));
        let expected = if hours == 0 { SessionVerdict::Ended } else { SessionVerdict::Unknown };
        assert_eq!(verdict, expected, "{hours}");
        let lives = gate.judge(claim(revoked, admin.session));
        assert_eq!(matches!(lives, SessionVerdict::Current { .. }), hours == 0, "{hours}: {lives:?}");
    }
}
