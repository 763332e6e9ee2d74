//! A refresh, or a step-up, that meets the revocation of its session: one is first, and nothing valid is left of it.

use std::sync::Arc;

use fulexo_tests::Database;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_races_a_suspension_yields_no_token_that_is_good() {
    let database = Arc::new(Database::create().await);
    let (one, two) = (Node::join(&database).await, Node::join(&database).await);
    let admin = one.admin().await;
    let mut refreshed = 0;
    for round in 0..40 {
        let ann = one.customer().await;
        let all = sessions(&[&one, &two], &ann, 4).await;
        let refreshing = join_all(all.iter().enumerate().map(|(number, session)| async move {
            let mut session = session.clone();
            // Half of them are ahead, half are late.
            for _ in 0..(round + number) % 4 {
                tokio::task::yield_now().await;
            }
            let answer = refresh(&session).await;
            assert!([200, 401, 409].contains(&answer.status), "{answer:?}");
            if answer.status == 200 {
                session.log_in_with(&answer);
            }
            (answer.status == 200, session)
        }));
        let (suspended, sessions) = tokio::join!(act(&admin, &ann, "suspend"), refreshing);
        assert_eq!(suspended.status, 200, "{suspended:?}");
        for (was_refreshed, session) in sessions {
            refreshed += usize::from(was_refreshed);
            for node in [&one, &two] {
                assert_over(&there(node, &session), &format!("round {round}")).await;
            }
        }
    }
    assert!(refreshed > 0, "some were first");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sessions_that_sign_each_other_out_at_once_one_is_left() {
    let node = Node::start().await;
    for round in 0..20 {
        let ann = node.customer().await;
        let other = node.log_in(&ann.email, ann.account).await;
        let path = "/v1/me/sessions/revoke-others";
        let (one, two) = tokio::join!(ann.post_nothing(path), other.post_nothing(path));
        let mut left = 0;
        for session in [&ann, &other] {
            left += usize::from(session.get("/v1/auth/session").await.status == 200);
        }
        assert_eq!(left, 1, "round {round}: {} {}", one.status, two.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_that_change_the_password_at_once_leave_one_at_most() {
    let node = Node::start().await;
    for round in 0..10 {
        let ann = node.customer().await;
        let other = node.log_in(&ann.email, ann.account).await;
        let change =
            |number: u32| json!({"current_password": PASSWORD, "new_password": format!("kestrel-Over{number}thefen")});
        let (one, two) = tokio::join!(ann.post("/v1/me/password", change(1)), other.post("/v1/me/password", change(2)));
        let changed = [&one, &two].into_iter().filter(|answer| answer.status == 204).count();
        assert_eq!(changed, 1, "round {round}: {one:?} {two:?}");
        assert_eq!(ann.get("/v1/auth/session").await.status == 200, one.status == 204, "round {round}");
        assert_eq!(other.get("/v1/auth/session").await.status == 200, two.status == 204, "round {round}");
    }
}
