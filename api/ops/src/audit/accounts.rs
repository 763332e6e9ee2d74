//! The people: administrators without a second factor, accounts that nobody uses, and roles that were granted and never used.
//! An account is named by its id.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::permission::{CustomRoles, Permissions};
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit_check::{AuditCheck, AuditFindings};
use super::roles::{is_administrative, leaves_events, permissions_of_role};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#accounts-roles-and-keys";

const ADMINISTRATOR_WITHOUT_FACTOR: Rule = Rule {
    id: "accounts.administrator_without_second_factor",
    title: "an administrator has no second factor",
    severity: Severity::High,
    remedy: "Have the administrator enrol one, or revoke the role. Whoever learns the password until then enrols their own.",
    reference: REFERENCE,
};
const STAFF_WITHOUT_FACTOR: Rule = Rule {
    id: "accounts.staff_without_second_factor",
    title: "a holder of permissions over others has no second factor",
    severity: Severity::Medium,
    remedy: "Add the role to second_factor.required_for of the policy, and have the holder enrol one.",
    reference: REFERENCE,
};
const MANY_ADMINISTRATORS: Rule = Rule {
    id: "accounts.many_administrators",
    title: "more accounts are administrators than the organisation says it needs",
    severity: Severity::Medium,
    remedy: "Revoke the role from those who do other work, or give a higher --max-administrators.",
    reference: REFERENCE,
};
const ONE_ADMINISTRATOR: Rule = Rule {
    id: "accounts.one_administrator",
    title: "fewer than two active accounts are administrators",
    severity: Severity::Medium,
    remedy: "Register a second one: `fulexo register --role admin`. One lost telephone must not close the service to its owners.",
    reference: REFERENCE,
};
const DORMANT_STAFF: Rule = Rule {
    id: "accounts.dormant_staff",
    title: "a holder of permissions over others does not log in",
    severity: Severity::Medium,
    remedy: "Suspend the account, or revoke its roles.",
    reference: REFERENCE,
};
const DORMANT: Rule = Rule {
    id: "accounts.dormant",
    title: "accounts without permissions over others do not log in",
    severity: Severity::Low,
    remedy: "Suspend or erase them if your rules of retention say so, give a larger --dormant-days, or accept the finding.",
    reference: REFERENCE,
};
const SUSPENDED_WITH_ROLES: Rule = Rule {
    id: "accounts.suspended_with_roles",
    title: "a suspended account still holds permissions over others",
    severity: Severity::Low,
    remedy: "Revoke its roles: whoever reinstates it gives them back unseen.",
    reference: REFERENCE,
};
const UNUSED_GRANT: Rule = Rule {
    id: "accounts.unused_grant",
    title: "a role that permits changes was granted and is not used",
    severity: Severity::Low,
    remedy: "Revoke the role, and grant it again when it is needed.",
    reference: REFERENCE,
};
const TOO_MANY: Rule = Rule {
    id: "accounts.too_many_grants",
    title: "more roles are granted than the audit examines",
    severity: Severity::Medium,
    remedy: "Review the grants with `GET /v1/grants`: so many holders of permissions over others are rarely meant.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "accounts",
    title: "accounts with power are few, used, and have a second factor",
    rules: &[
        ADMINISTRATOR_WITHOUT_FACTOR,
        STAFF_WITHOUT_FACTOR,
        MANY_ADMINISTRATORS,
        ONE_ADMINISTRATOR,
        DORMANT_STAFF,
        DORMANT,
        SUSPENDED_WITH_ROLES,
        UNUSED_GRANT,
        TOO_MANY,
    ],
};

/// The most grants that are examined.
const MOST_GRANTS: usize = 10_000;
/// The most dormant accounts that are counted.
const MOST_DORMANT: i64 = 10_000;
/// The newest events of an actor that are searched for an act.
const NEWEST: i64 = 1_000;

/// The figures that an organisation chooses.
#[derive(Clone, Copy, Debug)]
pub struct AccountLimits {
    /// The days without a login, or without an act, after which an account or a grant counts as unused.
    pub dormant_days: u32,
    /// The most administrators.
    pub most_administrators: u32,
}

/// A grant of a role that permits something.
struct StaffGrant {
    account: Uuid,
    role: String,
    permissions: Permissions,
    is_suspended: bool,
    has_second_factor: bool,
    /// `None` if the read models do not have it yet.
    granted_at: Option<DateTime<Utc>>,
    /// The last login, or else the registration.
    active_at: Option<DateTime<Utc>>,
}

/// Makes the check, as the application's role.
pub async fn check(
    connection: &mut PgConnection,
    custom: &CustomRoles,
    limits: AccountLimits,
    now: DateTime<Utc>,
) -> Check {
    match stopped(connection).await {
        Ok(None) => CHECK.asked(accounts(connection, custom, limits, now).await),
        Ok(Some(name)) => CHECK.unchecked(format!("the read model {name} has stopped: `fulexo projections` says why")),
        Err(error) => CHECK.asked(Err(error)),
    }
}

/// Returns the name of a read model that the check needs and that has stopped.
async fn stopped(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "select name from projection.checkpoint
         where stopped_because is not null and name in ('accounts', 'roles', 'audit') order by name limit 1"
    )
    .fetch_optional(connection)
    .await
}

async fn accounts(
    connection: &mut PgConnection,
    custom: &CustomRoles,
    limits: AccountLimits,
    now: DateTime<Utc>,
) -> Result<(AuditFindings, String), sqlx::Error> {
    let mut findings = AuditFindings::default();
    let staff = staff(connection, custom, &mut findings).await?;
    let cutoff = now - TimeDelta::days(limits.dormant_days.into());
    let administrators = judge_staff(&staff, cutoff, &mut findings);
    let count = administrators.len();
    if count > usize::try_from(limits.most_administrators).unwrap_or(usize::MAX) {
        let evidence = format!("{count} administrators, and {} are allowed", limits.most_administrators);
        findings.push(&MANY_ADMINISTRATORS, "administrators", evidence);
    }
    if count < 2 {
        findings.push(&ONE_ADMINISTRATOR, "administrators", format!("{count} active"));
    }
    unused(connection, &staff, cutoff, &mut findings).await?;
    dormant(connection, cutoff, limits.dormant_days, &mut findings).await?;
    let holders: BTreeSet<Uuid> = staff.iter().map(|grant| grant.account).collect();
    Ok((findings, format!("{} hold permissions over others, {count} of them are administrators", holders.len())))
}

/// Reads the grants of roles that permit something. The index of grants leaves customers out.
async fn staff(
    connection: &mut PgConnection,
    custom: &CustomRoles,
    findings: &mut AuditFindings,
) -> Result<Vec<StaffGrant>, sqlx::Error> {
    let most = i64::try_from(MOST_GRANTS + 1).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"select g.account_id, g.role, coalesce(a.suspended, false) as "suspended!",
                  coalesce(a.second_factor_enabled, false) as "second_factor!",
                  r.granted_at as "granted_at?", coalesce(p.last_login_at, p.registered_at) as active_at
           from access.role_grant g
           left join access.account a on a.account_id = g.account_id
           left join read.account p on p.account_id = g.account_id
           left join read.role_grant r on r.account_id = g.account_id and r.role = g.role
           where g.role <> 'customer' and not coalesce(p.erased, false)
           order by g.account_id, g.role limit $1"#,
        most
    )
    .fetch_all(connection)
    .await?;
    if rows.len() > MOST_GRANTS {
        findings.push(&TOO_MANY, "grants", format!("more than {MOST_GRANTS}: only these were examined, by account"));
    }
    let grants = rows.into_iter().take(MOST_GRANTS).map(|row| StaffGrant {
        permissions: permissions_of_role(&row.role, custom),
        account: row.account_id,
        role: row.role,
        is_suspended: row.suspended,
        has_second_factor: row.second_factor,
        granted_at: row.granted_at,
        active_at: row.active_at,
    });
    Ok(grants.filter(|grant| grant.permissions != Permissions::NONE).collect())
}

/// Judges each account once, and returns the active administrators.
fn judge_staff(staff: &[StaffGrant], cutoff: DateTime<Utc>, findings: &mut AuditFindings) -> BTreeSet<Uuid> {
    let mut administrators = BTreeSet::new();
    // The grants of an account follow one another.
    for grants in staff.chunk_by(|one, other| one.account == other.account) {
        let Some(first) = grants.first() else { continue };
        let roles: Vec<&str> = grants.iter().map(|grant| grant.role.as_str()).collect();
        let roles = roles.join(", ");
        let subject = format!("account {}", first.account);
        if first.is_suspended {
            findings.push(&SUSPENDED_WITH_ROLES, subject, format!("holds {roles}"));
            continue;
        }
        let is_administrator = grants.iter().any(|grant| is_administrative(grant.permissions));
        if is_administrator {
            administrators.insert(first.account);
        }
        if !first.has_second_factor {
            let rule = if is_administrator { &ADMINISTRATOR_WITHOUT_FACTOR } else { &STAFF_WITHOUT_FACTOR };
            findings.push(rule, subject.as_str(), format!("holds {roles}"));
        }
        if let Some(active_at) = first.active_at.filter(|active_at| *active_at < cutoff) {
            let evidence = format!("holds {roles}; last active on {}", active_at.format("%F"));
            findings.push(&DORMANT_STAFF, subject, evidence);
        }
    }
    administrators
}

/// Finds roles that were granted before the cutoff to accounts that log in and have not acted on anything but themselves.
async fn unused(
    connection: &mut PgConnection,
    staff: &[StaffGrant],
    cutoff: DateTime<Utc>,
    findings: &mut AuditFindings,
) -> Result<(), sqlx::Error> {
    let is_candidate = |grant: &&StaffGrant| {
        !grant.is_suspended
            && grant.permissions.iter().any(leaves_events)
            && grant.granted_at.is_some_and(|granted_at| granted_at < cutoff)
            && grant.active_at.is_some_and(|active_at| active_at >= cutoff)
    };
    let candidates: Vec<&StaffGrant> = staff.iter().filter(is_candidate).collect();
    let accounts: BTreeSet<Uuid> = candidates.iter().map(|grant| grant.account).collect();
    let accounts: Vec<Uuid> = accounts.into_iter().collect();
    let idle = sqlx::query_scalar!(
        r#"select c.account_id as "account_id!" from unnest($1::uuid[]) c (account_id)
           where not exists (
               select from (select e.subject_id, e.recorded_at from read.audit e where e.actor_id = c.account_id
                            order by e.position desc limit $3) newest
               where newest.recorded_at >= $2 and newest.subject_id is distinct from c.account_id)"#,
        &accounts,
        cutoff,
        NEWEST
    )
    .fetch_all(connection)
    .await?;
    let idle: BTreeSet<Uuid> = idle.into_iter().collect();
    for grant in candidates.into_iter().filter(|grant| idle.contains(&grant.account)) {
        let since = grant.granted_at.map_or_else(String::new, |at| at.format("%F").to_string());
        let subject = format!("{} of account {}", grant.role, grant.account);
        findings.push(&UNUSED_GRANT, subject, format!("granted on {since}, and no act since {}", cutoff.format("%F")));
    }
    Ok(())
}

/// Counts the dormant accounts that only act for themselves. One finding has all of them: they are many in any service.
async fn dormant(
    connection: &mut PgConnection,
    cutoff: DateTime<Utc>,
    days: u32,
    findings: &mut AuditFindings,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query!(
        r#"select count(*) as "count!", (array_agg(d.account_id::text order by d.account_id))[:3] as examples
           from (select account_id from read.account
                 where coalesce(last_login_at, registered_at) < $1 and not suspended and not erased
                       and roles <@ array['customer'] limit $2) d"#,
        cutoff,
        MOST_DORMANT
    )
    .fetch_one(connection)
    .await?;
    if row.count > 0 {
        let number = if row.count == MOST_DORMANT { "at least " } else { "" };
        let examples = row.examples.unwrap_or_default().join(", ");
        let evidence = format!("{number}{} without a login for {days} days, among them {examples}", row.count);
        findings.push(&DORMANT, "customers", evidence);
    }
    Ok(())
}
