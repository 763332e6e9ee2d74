//! Policies out of bounds.

use fulexo_tests::{Node, log_size};
use serde_json::{Value, json};

use super::{FIGURES, PREVIEW, change, enforce, lockout, pointers, version};

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_that_is_out_of_bounds_is_named_at_once() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let all = change(&admin, |policy| {
        for (pointer, _, most) in FIGURES {
            *policy.pointer_mut(pointer).unwrap() = json!(most + 1);
        }
    })
    .await;
    assert_eq!((all.status, all.code()), (400, "invalid_input"), "{all:?}");
    assert_eq!(pointers(&all), FIGURES.map(|(pointer, ..)| pointer), "{all:?}");
    let all = change(&admin, |policy| {
        for (pointer, least, _) in FIGURES {
            *policy.pointer_mut(pointer).unwrap() = json!(least.saturating_sub(1));
        }
    })
    .await;
    let named: Vec<_> = FIGURES.iter().filter(|(_, least, _)| *least > 0).map(|(pointer, ..)| *pointer).collect();
    assert_eq!(pointers(&all), named, "{all:?}");
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_figure_out_of_its_bounds_is_named_alone() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (pointer, least, most) in FIGURES {
        // The bounds that depend on this value change with it.
        let values = [least.checked_sub(1), Some(most + 1), Some(u64::from(u32::MAX))];
        for value in values.into_iter().flatten() {
            let refused = change(&admin, |policy| {
                policy["lockout"]["max_duration_seconds"] = json!(604_800);
                policy["lockout"]["duration_seconds"] = json!(60);
                policy["sessions"]["absolute_timeout_seconds"] = json!(31_536_000);
                policy["sessions"]["idle_timeout_seconds"] = json!(300);
                *policy.pointer_mut(pointer).unwrap() = json!(value);
            })
            .await;
            let named = pointers(&refused);
            assert!(named.contains(&pointer.to_owned()), "{pointer} {value}: {refused:?}");
            // The longest lock is as long as the first at least, and the same of sessions.
            let follows = ["/lockout/max_duration_seconds", "/sessions/absolute_timeout_seconds"];
            assert!(named.iter().all(|named| named == pointer || follows.contains(&named.as_str())), "{refused:?}");
        }
    }
    assert_eq!(version(&admin).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longest_lock_below_the_first_and_an_end_before_the_idle_timeout_are_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let refused = change(&admin, |policy| {
        policy["lockout"]["max_duration_seconds"] = json!(899);
        policy["sessions"]["absolute_timeout_seconds"] = json!(604_799);
    })
    .await;
    assert_eq!(
        pointers(&refused),
        ["/lockout/max_duration_seconds", "/sessions/absolute_timeout_seconds"],
        "{refused:?}"
    );
    let equal = change(&admin, |policy| {
        policy["lockout"]["max_duration_seconds"] = json!(900);
        policy["sessions"]["absolute_timeout_seconds"] = json!(604_800);
    })
    .await;
    assert_eq!(equal.status, 200, "{equal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_themselves_are_policies() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for bounds in
        [FIGURES.map(|(pointer, _, most)| (pointer, most)), FIGURES.map(|(pointer, least, _)| (pointer, least))]
    {
        let changed = enforce(&admin, |policy| {
            for (pointer, value) in bounds {
                *policy.pointer_mut(pointer).unwrap() = json!(value);
            }
        })
        .await;
        for (pointer, value) in bounds {
            assert_eq!(changed.json.pointer(pointer), Some(&json!(value)), "{pointer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_with_unknown_missing_or_mistyped_members_is_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    for (place, member) in [
        ("", "surprise"),
        ("/lockout", "max"),
        ("/sessions", "idle"),
        ("/passwords", "rotation"),
        ("/second_factor", "for"),
    ] {
        let refused = change(&admin, |policy| {
            policy["lockout"]["threshold"] = json!(3);
            policy.pointer_mut(place).unwrap()[member] = json!(1);
        })
        .await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{place}/{member}: {refused:?}");
        assert_eq!(pointers(&refused), [format!("{place}/{member}")], "{refused:?}");
    }
    for missing in ["lockout", "sessions", "passwords", "second_factor", "reason"] {
        let refused = change(&admin, |policy| {
            policy.as_object_mut().unwrap().remove(missing);
        })
        .await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{missing}: {refused:?}");
    }
    for (pointer, value) in [
        ("/lockout/threshold", json!(2.5)),
        ("/lockout/threshold", json!("3")),
        ("/lockout/enabled", json!(1)),
        ("/lockout", json!(null)),
        ("/sessions/fingerprint", json!("ignore")),
        ("/second_factor/required_for", json!("admin")),
        ("/reason", json!(" ")),
        ("/reason", json!("x".repeat(501))),
    ] {
        let refused = change(&admin, |policy| *policy.pointer_mut(pointer).unwrap() = value.clone()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{pointer} {value}: {refused:?}");
        assert_eq!(pointers(&refused), [pointer], "{refused:?}");
    }
    for value in [json!(-1), json!(4_294_967_296_u64), json!(u64::MAX), json!(i64::MIN)] {
        let refused = change(&admin, |policy| policy["lockout"]["threshold"] = value.clone()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{value}: {refused:?}");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_figure_that_no_figure_can_be_is_named_by_its_pointer() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for value in [json!(-1), json!(4_294_967_296_u64), json!(u64::MAX), json!(i64::MIN)] {
        let refused = change(&admin, |policy| policy["lockout"]["threshold"] = value.clone()).await;
        assert_eq!(pointers(&refused), ["/lockout/threshold"], "{value}: {refused:?}");
        let refused = admin.post(PREVIEW, json!({"lockout": lockout(3), "days": value})).await;
        assert_eq!(pointers(&refused), ["/days"], "{value}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_required_of_roles_that_exist_alone() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let require = async |roles: Value| change(&admin, |policy| policy["second_factor"]["required_for"] = roles).await;
    let size = log_size(&node).await;
    for roles in [json!(["support"]), json!(["auditor", "root"])] {
        let refused = require(roles).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_input"), "{refused:?}");
        assert!(pointers(&refused)[0].starts_with("/second_factor/required_for"), "{refused:?}");
    }
    let refused = require(json!(["auditor", "", "Not A Name"])).await;
    assert_eq!(pointers(&refused), ["/second_factor/required_for/1", "/second_factor/required_for/2"], "{refused:?}");
    assert_eq!(log_size(&node).await, size);
    let defined = admin.put("/v1/roles/support", json!({"permissions": ["accounts.read"], "reason": "r"})).await;
    assert_eq!(defined.status, 200, "{defined:?}");
    assert_eq!(
        require(json!(["support", "auditor"])).await.json["second_factor"]["required_for"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_required_of_fifty_roles_at_most() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut roles: Vec<String> = Vec::new();
    for number in 0..51 {
        let role = format!("role-{number}");
        let body = json!({"permissions": ["roles.read"], "reason": "r"});
        let defined = admin.put(&format!("/v1/roles/{role}"), body).await;
        assert_eq!(defined.status, 200, "{defined:?}");
        roles.push(role);
    }
    let refused = change(&admin, |policy| policy["second_factor"]["required_for"] = json!(roles)).await;
    assert_eq!(pointers(&refused), ["/second_factor/required_for"], "{refused:?}");
    roles.pop();
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(roles)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_that_a_change_names_is_left_out_however_often_others_are_named() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut roles = vec!["customer"; 100];
    roles.push("auditor");
    let answer = change(&admin, |policy| policy["second_factor"]["required_for"] = json!(roles)).await;
    if answer.status == 200 {
        assert_eq!(answer.json["second_factor"]["required_for"], json!(["auditor", "customer"]), "{answer:?}");
    } else {
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_names_a_role_retired_since_can_still_be_changed() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let defined = admin.put("/v1/roles/support", json!({"permissions": ["accounts.read"], "reason": "r"})).await;
    assert_eq!(defined.status, 200, "{defined:?}");
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["support"])).await;
    let retired = admin.delete_with("/v1/roles/support", json!({"reason": "r"})).await;
    if retired.status == 200 {
        let changed = change(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
        assert_eq!(changed.status, 200, "nothing is wrong with what was changed: {changed:?}");
    } else {
        assert_eq!(retired.status, 409, "{retired:?}");
    }
}
