//! Permissions, and the roles that bundle them. Operations require permissions, never roles.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::values::{InvalidValue, RoleName};

/// A permission of a caller, named `<resource>.<verb>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Permission {
    /// Read any account, its roles and its state.
    #[serde(rename = "accounts.read")]
    AccountsRead,
    /// Suspend, reinstate and unlock accounts; reset their second factors; expire their passwords.
    #[serde(rename = "accounts.manage")]
    AccountsManage,
    /// Erase accounts, at once and for good.
    #[serde(rename = "accounts.erase")]
    AccountsErase,
    /// Read any session.
    #[serde(rename = "sessions.read")]
    SessionsRead,
    /// Revoke any session.
    #[serde(rename = "sessions.revoke")]
    SessionsRevoke,
    /// Read roles and their permissions.
    #[serde(rename = "roles.read")]
    RolesRead,
    /// Grant and revoke roles.
    #[serde(rename = "roles.grant")]
    RolesGrant,
    /// Define, change and retire roles.
    #[serde(rename = "roles.manage")]
    RolesManage,
    /// Read the security policy, and preview another one.
    #[serde(rename = "policy.read")]
    PolicyRead,
    /// Change the security policy.
    #[serde(rename = "policy.change")]
    PolicyChange,
    /// Create, list and revoke API keys.
    #[serde(rename = "api_keys.manage")]
    ApiKeysManage,
    /// Introspect a token (RFC 7662).
    #[serde(rename = "tokens.introspect")]
    TokensIntrospect,
    /// Read the audit trail.
    #[serde(rename = "audit.read")]
    AuditRead,
    /// Open what is sealed alongside the events of the audit trail.
    #[serde(rename = "audit.unseal")]
    AuditUnseal,
    /// Read metrics: the numbers of events, accounts and sessions.
    #[serde(rename = "metrics.read")]
    MetricsRead,
    /// Start and lift a lockdown, and work during one.
    #[serde(rename = "lockdown.manage")]
    LockdownManage,
    /// Open incidents, work on them and read them.
    #[serde(rename = "incidents.manage")]
    IncidentsManage,
    /// Report alerts, which open incidents.
    #[serde(rename = "incidents.alert")]
    IncidentsAlert,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 18] = [
        Self::AccountsRead,
        Self::AccountsManage,
        Self::AccountsErase,
        Self::SessionsRead,
        Self::SessionsRevoke,
        Self::RolesRead,
        Self::RolesGrant,
        Self::RolesManage,
        Self::PolicyRead,
        Self::PolicyChange,
        Self::ApiKeysManage,
        Self::TokensIntrospect,
        Self::AuditRead,
        Self::AuditUnseal,
        Self::MetricsRead,
        Self::LockdownManage,
        Self::IncidentsManage,
        Self::IncidentsAlert,
    ];

    /// Reads a permission by its name.
    ///
    /// # Errors
    /// The permission does not exist.
    pub fn parse(name: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|permission| permission.as_str() == name);
        known.ok_or(InvalidValue("must be a permission; list permissions with GET /v1/permissions"))
    }

    /// The description for people.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::AccountsRead => "Read all accounts, their roles and their states.",
            Self::AccountsManage => {
                "Create, suspend, reinstate and unlock accounts, reset second factors and expire passwords."
            }
            Self::AccountsErase => "Erase accounts, at once and for good.",
            Self::SessionsRead => "Read the sessions of all accounts.",
            Self::SessionsRevoke => "Revoke the sessions of all accounts.",
            Self::RolesRead => "Read roles, permissions and grants.",
            Self::RolesGrant => "Grant and revoke roles.",
            Self::RolesManage => "Define, change and retire roles.",
            Self::PolicyRead => "Read the security policy and preview changes to it.",
            Self::PolicyChange => "Change the security policy.",
            Self::ApiKeysManage => "Create, list and revoke API keys.",
            Self::TokensIntrospect => "Introspect tokens (RFC 7662).",
            Self::AuditRead => "Read the audit trail.",
            Self::AuditUnseal => "Open the sealed fields of events, with a reason; each time is an event.",
            Self::MetricsRead => "Read counts of events, accounts and sessions.",
            Self::LockdownManage => "Impose and lift a lockdown, and work during one.",
            Self::IncidentsManage => "Open incidents, work on them and read what was written about them.",
            Self::IncidentsAlert => "Report alerts of a monitor, which open incidents.",
        }
    }

    /// The name in leaves, tables and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountsRead => "accounts.read",
            Self::AccountsManage => "accounts.manage",
            Self::AccountsErase => "accounts.erase",
            Self::SessionsRead => "sessions.read",
            Self::SessionsRevoke => "sessions.revoke",
            Self::RolesRead => "roles.read",
            Self::RolesGrant => "roles.grant",
            Self::RolesManage => "roles.manage",
            Self::PolicyRead => "policy.read",
            Self::PolicyChange => "policy.change",
            Self::ApiKeysManage => "api_keys.manage",
            Self::TokensIntrospect => "tokens.introspect",
            Self::AuditRead => "audit.read",
            Self::AuditUnseal => "audit.unseal",
            Self::MetricsRead => "metrics.read",
            Self::LockdownManage => "lockdown.manage",
            Self::IncidentsManage => "incidents.manage",
            Self::IncidentsAlert => "incidents.alert",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of permissions; serialised as the list of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Permission>", into = "Vec<Permission>")]
pub struct Permissions(u32);

impl From<Vec<Permission>> for Permissions {
    fn from(permissions: Vec<Permission>) -> Self {
        Self::of(&permissions)
    }
}

impl From<Permissions> for Vec<Permission> {
    fn from(permissions: Permissions) -> Self {
        permissions.iter().collect()
    }
}

impl Permissions {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns the set of these permissions.
    #[must_use]
    pub fn of(permissions: &[Permission]) -> Self {
        Self(permissions.iter().fold(0, |set, p| set | p.bit()))
    }

    /// `true` if the set contains this permission.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// `true` if the set contains every permission of the other.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the permissions, in declaration order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |p| self.contains(*p))
    }
}

/// The built-in roles and their permissions. They cannot be changed.
const BUILT_IN: [(&str, &[Permission]); 3] = [
    ("admin", &Permission::ALL),
    ("auditor", &[Permission::RolesRead, Permission::PolicyRead, Permission::AuditRead, Permission::MetricsRead]),
    ("customer", &[]),
];

/// Returns the names of the built-in roles.
pub fn built_in_roles() -> impl Iterator<Item = RoleName> {
    BUILT_IN.iter().filter_map(|(name, _)| RoleName::parse(name).ok())
}

/// The permissions of a built-in role; `None` if the role is not built in.
#[must_use]
pub fn built_in_permissions(role: &RoleName) -> Option<Permissions> {
    BUILT_IN.iter().find(|(name, _)| *name == role.as_str()).map(|(_, permissions)| Permissions::of(permissions))
}

/// The custom roles, defined by administrators, and their permissions.
pub type CustomRoles = BTreeMap<RoleName, Permissions>;

/// Returns the union of the permissions of these roles. A role that does not exist, or is retired, adds nothing.
#[must_use]
pub fn effective_permissions<'a>(roles: impl IntoIterator<Item = &'a RoleName>, custom: &CustomRoles) -> Permissions {
    let of = |role: &RoleName| built_in_permissions(role).or_else(|| custom.get(role).copied()).unwrap_or_default();
    roles.into_iter().map(of).fold(Permissions::NONE, Permissions::union)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_may_do_nothing_to_others_and_an_unknown_role_nothing_at_all() {
        let role = |name| RoleName::parse(name).unwrap();
        assert_eq!(built_in_permissions(&role("customer")), Some(Permissions::NONE));
        assert_eq!(built_in_permissions(&role("root")), None);
        assert_eq!(effective_permissions([&role("root"), &role("customer")], &CustomRoles::new()), Permissions::NONE);
    }

    #[test]
    fn an_auditor_reads_and_changes_nothing() {
        let auditor = built_in_permissions(&RoleName::parse("auditor").unwrap()).unwrap();
        let expected = [Permission::RolesRead, Permission::PolicyRead, Permission::AuditRead, Permission::MetricsRead];
        assert_eq!(auditor.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_custom_role_adds_what_it_was_given_and_never_replaces_a_built_in_one() {
        let role = |name| RoleName::parse(name).unwrap();
        let reads = Permissions::of(&[Permission::AccountsRead]);
        let custom: CustomRoles =
            [(role("support"), reads), (role("customer"), Permissions::of(&Permission::ALL))].into();
        assert_eq!(effective_permissions([&role("support"), &role("customer")], &custom), reads);
    }

    #[test]
    fn every_permission_is_written_as_clients_name_it() {
        for permission in Permission::ALL {
            assert_eq!(serde_json::to_value(permission).unwrap(), permission.as_str());
            assert_eq!(Permission::parse(permission.as_str()), Ok(permission));
        }
    }
}
