//! The roles of the service that administrators defined: those that permit too much.

use std::collections::BTreeMap;

use fulexo_domain::permission::{CustomRoles, Permission, Permissions, effective_permissions};
use fulexo_domain::values::RoleName;
use sqlx::PgConnection;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#accounts-roles-and-keys";

const ALL_PERMISSIONS: Rule = Rule {
    id: "roles.all_permissions",
    title: "a role other than admin has every permission",
    severity: Severity::High,
    remedy: "Take away what its holders do not use: `PUT /v1/roles/{role}`. Grant admin to those who need everything.",
    reference: REFERENCE,
};
const AUDITOR_WRITES: Rule = Rule {
    id: "roles.auditor_writes",
    title: "a role that reads the audit trail can also change what the trail records",
    severity: Severity::Medium,
    remedy: "Divide it into a role that reads and one that changes: nobody should audit their own acts.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "roles",
    title: "no role permits more than one job needs",
    rules: &[ALL_PERMISSIONS, AUDITOR_WRITES],
};

/// The most roles that are read.
const MOST: i64 = 10_000;

/// Makes the check, and returns the roles for others.
pub async fn check(connection: &mut PgConnection) -> (Check, CustomRoles) {
    match roles(connection).await {
        Ok(custom) => (CHECK.with(judge(&custom), format!("{} roles", custom.len())), custom),
        Err(error) => (CHECK.asked(Err(error)), CustomRoles::new()),
    }
}

/// Reads the roles that are not retired. A permission that this build does not know adds nothing.
async fn roles(connection: &mut PgConnection) -> Result<CustomRoles, sqlx::Error> {
    let rows = sqlx::query!("select role, permissions from access.role where not retired order by role limit $1", MOST)
        .fetch_all(connection)
        .await?;
    let named: BTreeMap<_, _> = rows
        .into_iter()
        .filter_map(|row| Some((RoleName::parse(&row.role).ok()?, permissions_of(&row.permissions))))
        .collect();
    Ok(named)
}

/// Returns the permissions of these names.
pub fn permissions_of(names: &[String]) -> Permissions {
    let known: Vec<Permission> = names.iter().filter_map(|name| Permission::parse(name).ok()).collect();
    Permissions::of(&known)
}

/// Returns the permissions of a role.
pub fn permissions_of_role(role: &str, custom: &CustomRoles) -> Permissions {
    RoleName::parse(role).map_or(Permissions::NONE, |role| effective_permissions([&role], custom))
}

/// `true` if the permissions lead to all others: whoever grants roles can grant every role to an accomplice.
pub fn is_administrative(permissions: Permissions) -> bool {
    permissions.contains(Permission::RolesGrant)
}

/// `true` if whoever uses the permission leaves an event. The others only read.
pub const fn leaves_events(permission: Permission) -> bool {
    match permission {
        Permission::AccountsManage
        | Permission::AccountsErase
        | Permission::SessionsRevoke
        | Permission::RolesGrant
        | Permission::RolesManage
        | Permission::PolicyChange
        | Permission::ApiKeysManage
        | Permission::AuditUnseal
        | Permission::LockdownManage
        | Permission::IncidentsManage
        | Permission::IncidentsAlert => true,
        Permission::AccountsRead
        | Permission::SessionsRead
        | Permission::RolesRead
        | Permission::PolicyRead
        | Permission::TokensIntrospect
        | Permission::AuditRead
        | Permission::MetricsRead => false,
    }
}

fn judge(custom: &CustomRoles) -> AuditFindings {
    let mut findings = AuditFindings::default();
    for (role, permissions) in custom {
        if permissions.covers(Permissions::of(&Permission::ALL)) {
            findings.push(&ALL_PERMISSIONS, role.as_str(), format!("{} permissions", Permission::ALL.len()));
            continue;
        }
        // To unseal is what an auditor does.
        let changes = |permission: &Permission| leaves_events(*permission) && *permission != Permission::AuditUnseal;
        let changing: Vec<_> = permissions.iter().filter(changes).map(Permission::as_str).collect();
        if permissions.contains(Permission::AuditRead) && !changing.is_empty() {
            findings.push(&AUDITOR_WRITES, role.as_str(), format!("audit.read with {}", changing.join(", ")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(permissions: &[Permission]) -> Vec<String> {
        let custom = [(RoleName::parse("support").unwrap(), Permissions::of(permissions))].into();
        let check = CHECK.with(judge(&custom), "");
        check.findings().iter().map(|it| it.rule.to_string()).collect()
    }

    #[test]
    fn a_role_of_everything_and_an_auditor_who_acts_are_found() {
        assert_eq!(found(&Permission::ALL), [ALL_PERMISSIONS.id]);
        assert_eq!(found(&[Permission::AuditRead, Permission::AccountsManage]), [AUDITOR_WRITES.id]);
        assert_eq!(found(&[Permission::AuditRead, Permission::AuditUnseal, Permission::AccountsRead]), [""; 0]);
        assert_eq!(found(&[Permission::AccountsManage, Permission::SessionsRevoke]), [""; 0]);
    }
}
