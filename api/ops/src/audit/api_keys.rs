//! The API keys that are valid: old ones, unused ones, and those that could give themselves more. A key is named by its id.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::permission::{Permission, Permissions};
use sqlx::PgConnection;

use super::audit_check::{AuditCheck, AuditFindings};
use super::roles::{leaves_events, permissions_of};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/production.md#give-services-api-keys";

const OLD: Rule = Rule {
    id: "api_keys.old",
    title: "an API key is older than a year",
    severity: Severity::Medium,
    remedy: "Create another one, give it to the service, and revoke this one: `DELETE /v1/api-keys/{key_id}`.",
    reference: REFERENCE,
};
const LONG_LIVED: Rule = Rule {
    id: "api_keys.long_lived",
    title: "an API key is valid for longer than the service allows",
    severity: Severity::High,
    remedy: "Revoke it, and find out who changed the row: the service creates no key for longer than 366 days.",
    reference: REFERENCE,
};
const UNUSED: Rule = Rule {
    id: "api_keys.unused",
    title: "an API key that permits changes is not used for any",
    severity: Severity::Low,
    remedy: "Revoke it, or replace it by one that only reads.",
    reference: REFERENCE,
};
const BROAD: Rule = Rule {
    id: "api_keys.broad",
    title: "an API key can give itself or others more permissions",
    severity: Severity::High,
    remedy: "Replace it by one without roles.grant, roles.manage and api_keys.manage.",
    reference: REFERENCE,
};
const ORPHANED: Rule = Rule {
    id: "api_keys.orphaned",
    title: "the account that created an API key is suspended or erased",
    severity: Severity::Medium,
    remedy: "Revoke it, and have its owner create another one.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "api_keys",
    title: "API keys are young, used, and limited",
    rules: &[OLD, LONG_LIVED, UNUSED, BROAD, ORPHANED],
};

/// The most keys that are examined.
const MOST: i64 = 10_000;
/// The age from which on a key is old.
const YEAR: TimeDelta = TimeDelta::days(365);

/// Makes the check, as the application's role.
pub async fn check(connection: &mut PgConnection, dormant_days: u32, now: DateTime<Utc>) -> Check {
    CHECK.asked(keys(connection, dormant_days, now).await)
}

async fn keys(
    connection: &mut PgConnection,
    dormant_days: u32,
    now: DateTime<Utc>,
) -> Result<(AuditFindings, String), sqlx::Error> {
    // Times are judged here: one that was written past the service may be no time that can be read.
    let rows = sqlx::query!(
        r#"select k.key_id, k.permissions, k.created_at < $2 as "is_old!", k.created_at < $3 as "is_older_than_cutoff!",
                  k.expires_at > k.created_at + interval '367 days' as "is_long_lived!",
                  coalesce(a.suspended or p.erased, false) as "is_orphaned!",
                  coalesce((select e.recorded_at >= $3 from read.audit e where e.actor_id = k.key_id
                            order by e.position desc limit 1), false) as "is_used!"
           from access.api_key k
           left join access.account a on a.account_id = k.created_by
           left join read.account p on p.account_id = k.created_by
           where k.revoked_at is null and k.expires_at > $1
           order by k.key_id limit $4"#,
        now,
        now - YEAR,
        now - TimeDelta::days(dormant_days.into()),
        MOST
    )
    .fetch_all(connection)
    .await?;
    let (mut findings, count) = (AuditFindings::default(), rows.len());
    for row in rows {
        let subject = format!("API key {}", row.key_id);
        let permissions = permissions_of(&row.permissions);
        if row.is_long_lived {
            findings.push(&LONG_LIVED, subject.as_str(), "its end is more than 367 days after its beginning");
        }
        if row.is_old {
            findings.push(&OLD, subject.as_str(), "created more than 365 days ago");
        }
        if row.is_orphaned {
            findings.push(&ORPHANED, subject.as_str(), "its creator is suspended or erased");
        }
        let broad = widening(permissions);
        if !broad.is_empty() {
            findings.push(&BROAD, subject.as_str(), format!("it has {}", broad.join(", ")));
        }
        // What only reads leaves no event.
        if row.is_older_than_cutoff && !row.is_used && permissions.iter().any(leaves_events) {
            findings.push(&UNUSED, subject, format!("no event of it in {dormant_days} days"));
        }
    }
    Ok((findings, format!("{count} valid keys")))
}

/// The permissions that lead to more of them.
fn widening(permissions: Permissions) -> Vec<&'static str> {
    let widening = [Permission::RolesGrant, Permission::RolesManage, Permission::ApiKeysManage];
    widening.into_iter().filter(|permission| permissions.contains(*permission)).map(Permission::as_str).collect()
}
