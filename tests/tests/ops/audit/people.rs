//! Weaknesses of accounts, roles, API keys, the policy and keys.

use fulexo_domain::policy::Policy;

use super::{Instance, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_weak_administrator_and_a_forgotten_account_are_found_as_themselves() {
    let instance = Instance::start().await;
    let [one, other] = instance.administrators;
    let of = |rule: &str| format!("accounts.{rule} account {one}");
    let long_ago =
        format!("update read.account set last_login_at = now() - interval '91 days' where account_id = '{one}'");
    for (weakness, mended, findings) in [
        (
            format!("update access.account set second_factor_enabled = false where account_id = '{one}'"),
            format!("update access.account set second_factor_enabled = true where account_id = '{one}'"),
            set([&of("administrator_without_second_factor")]),
        ),
        (
            long_ago,
            format!("update read.account set last_login_at = now() where account_id = '{one}'"),
            set([&of("dormant_staff")]),
        ),
        (
            format!("update access.account set suspended = true where account_id = '{one}'"),
            format!("update access.account set suspended = false where account_id = '{one}'"),
            set([&of("suspended_with_roles"), "accounts.one_administrator administrators"]),
        ),
        (
            format!("update read.role_grant set granted_at = now() - interval '91 days' where account_id = '{other}'"),
            format!("update read.role_grant set granted_at = now() where account_id = '{other}'"),
            set([&format!("accounts.unused_grant admin of account {other}")]),
        ),
    ] {
        assert_eq!(instance.found(&weakness, &mended).await, findings, "{weakness}");
    }

    // An administrator who acts uses the role.
    let act = "insert into read.audit
               select position + 1000000, 'account.suspended', 'account', gen_random_uuid(), $1, gen_random_uuid(), now(),
                      gen_random_uuid() from log.head";
    sqlx::query(act).bind(other).execute(&instance.superuser).await.unwrap();
    let used =
        format!("update read.role_grant set granted_at = now() - interval '91 days' where account_id = '{other}'");
    let mended = "delete from read.audit where position >= 1000000; update read.role_grant set granted_at = now()";
    assert_eq!(instance.found(&used, mended).await, set([]));

    // Customers are many: they are one finding.
    for _ in 0..2 {
        instance.node().register(&["customer"]).await;
    }
    instance.settled().await;
    let dormant = "update read.account set registered_at = now() - interval '91 days' where roles = '{customer}'";
    assert_eq!(instance.found(dormant, "select 1").await, set(["accounts.dormant customers"]));
    assert_eq!(instance.audit(&["--dormant-days", "92"]).beyond_sound(), set([]));

    instance.node().register(&["admin"]).await;
    instance.settled().await;
    instance.plant("update access.account set second_factor_enabled = true").await;
    let many = instance.audit(&["--dormant-days", "92", "--max-administrators", "2"]);
    assert_eq!(many.beyond_sound(), set(["accounts.many_administrators administrators"]));
    instance.plant("update projection.checkpoint set stopped_because = 'poison' where name = 'accounts'").await;
    let stopped = instance.audit(&[]).unchecked();
    assert!(stopped["accounts"].contains("fulexo projections"), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_without_a_second_factor_and_more_grants_than_are_examined_are_found_as_themselves() {
    let instance = Instance::start().await;
    let auditor = instance.node().register(&["auditor"]).await.1;
    instance.settled().await;
    let factors = "update access.account set second_factor_enabled = true";
    instance.plant(factors).await;
    let of_auditor = format!("update access.account set second_factor_enabled = false where account_id = '{auditor}'");
    let found = instance.found(&of_auditor, factors).await;
    assert_eq!(found, set([&format!("accounts.staff_without_second_factor account {auditor}")]));
    // Of a role that permits nothing any more: only their number matters.
    let many = "insert into access.role_grant select gen_random_uuid(), 'retired', 1 from generate_series(1, 10000)";
    let found = instance.found(many, "delete from access.role_grant where role = 'retired'").await;
    assert!(found.contains("accounts.too_many_grants grants"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broad_role_and_a_bad_api_key_are_found_as_themselves() {
    let instance = Instance::start().await;
    let [one, _] = instance.administrators;
    let role = |permissions: &str| {
        format!("insert into access.role values ('support', array[{permissions}], false, 1, now())")
    };
    let all = fulexo_domain::permission::Permission::ALL.map(|it| format!("'{}'", it.as_str())).join(", ");
    for (permissions, finding) in [
        (all.as_str(), "roles.all_permissions support"),
        ("'audit.read', 'accounts.manage'", "roles.auditor_writes support"),
    ] {
        assert_eq!(instance.found(&role(permissions), "delete from access.role").await, set([finding]));
    }
    let id = "00000000-0000-7000-8000-00000000000a";
    let key = |permission: &str, creator: &str, age: u32, life: &str| {
        format!(
            "insert into access.api_key values ('{id}', 'n', array['{permission}'], {creator},
             now() - interval '{age} days', {life}, null, 1)"
        )
    };
    let soon = "now() + interval '1 day'";
    let of = |rule: &str| format!("api_keys.{rule} API key {id}");
    for (weakness, findings) in [
        (key("metrics.read", "null", 364, soon), set([])),
        (key("metrics.read", "null", 366, soon), set([&of("old")])),
        (key("metrics.read", "null", 1, "'infinity'"), set([&of("long_lived")])),
        (key("sessions.revoke", "null", 91, soon), set([&of("unused")])),
        (key("roles.grant", "null", 1, soon), set([&of("broad")])),
        (
            format!(
                "{}; update access.account set suspended = true where account_id = '{one}'",
                key("metrics.read", &format!("'{one}'"), 1, soon)
            ),
            set([
                &of("orphaned"),
                &format!("accounts.suspended_with_roles account {one}"),
                "accounts.one_administrator administrators",
            ]),
        ),
    ] {
        let mended = "delete from access.api_key; update access.account set suspended = false";
        assert_eq!(instance.found(&weakness, mended).await, findings, "{weakness}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_was_turned_off_and_a_key_that_is_too_old_are_found_as_themselves() {
    let instance = Instance::start().await;
    let mut lax = Policy::default();
    lax.lockout.enabled = false;
    lax.second_factor.required_for.clear();
    let insert = |text: &str| format!("insert into access.policy values (true, '{text}', 1, now())");
    let lax = insert(&serde_json::to_string(&lax).unwrap());
    let findings = set(["policy.no_lockout policy", "policy.optional_second_factor policy"]);
    assert_eq!(instance.found(&lax, "delete from access.policy").await, findings);
    let unreadable = instance.found(&insert("{}"), "delete from access.policy").await;
    assert_eq!(unreadable, set(["policy.unreadable policy"]));

    let id: String = sqlx::query_scalar("select key_id from vault.key_epoch where kind = 'encryption'")
        .fetch_one(&instance.superuser)
        .await
        .unwrap();
    let age = |days: u32| {
        format!("update vault.key_epoch set first_used_at = now() - interval '{days} days' where kind = 'encryption'")
    };
    let old = instance.found(&age(31), &age(0)).await;
    assert_eq!(old, set([&format!("keys.old_encryption_key encryption key {id}")]));
    let id: String =
        sqlx::query_scalar("select key_id from vault.key_epoch where kind = 'signing' and replaced_at is null")
            .fetch_one(&instance.superuser)
            .await
            .unwrap();
    let age = |days: u32| {
        format!("update vault.key_epoch set first_used_at = now() - interval '{days} days' where kind = 'signing'")
    };
    let old = instance.found(&age(31), &age(0)).await;
    assert_eq!(old, set([&format!("keys.old_signing_key signing key {id}")]));
    // A key of the log has a row once it was rotated.
    let old =
        "insert into vault.key_epoch (kind, key_id, first_used_at) values ('log', 'old', now() - interval '361 days')";
    let old = instance.found(old, "delete from vault.key_epoch where kind = 'log'").await;
    assert_eq!(old, set(["keys.old_log_key log key old"]));
    let half = "insert into vault.key_epoch (kind, key_id, first_used_at, replaced_at)
                values ('signing', 'before', now() - interval '20 days', now() - interval '8 days')";
    let half = instance.found(half, "delete from vault.key_epoch where key_id = 'before'").await;
    assert_eq!(half, set(["keys.unfinished_rotation signing key before"]));
}
