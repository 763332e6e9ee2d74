//! Permissions and the roles that bundle them. Calls are guarded by permissions, never by role names.

use crate::values::RoleName;

/// One thing a caller may be allowed to do, named `<resource>.<verb>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// See any account, its roles and its state.
    AccountsRead,
    /// Suspend, reinstate and unlock accounts.
    AccountsManage,
    /// See any session.
    SessionsRead,
    /// End any session.
    SessionsRevoke,
    /// Grant and revoke roles.
    RolesGrant,
    /// Read the audit trail.
    AuditRead,
}

impl Permission {
    /// Every permission there is.
    pub const ALL: [Self; 6] = [
        Self::AccountsRead,
        Self::AccountsManage,
        Self::SessionsRead,
        Self::SessionsRevoke,
        Self::RolesGrant,
        Self::AuditRead,
    ];

    /// The name clients see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountsRead => "accounts.read",
            Self::AccountsManage => "accounts.manage",
            Self::SessionsRead => "sessions.read",
            Self::SessionsRevoke => "sessions.revoke",
            Self::RolesGrant => "roles.grant",
            Self::AuditRead => "audit.read",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u32);

impl Permissions {
    /// May do nothing.
    pub const NONE: Self = Self(0);

    /// The set of exactly these.
    #[must_use]
    pub fn of(permissions: &[Permission]) -> Self {
        Self(permissions.iter().fold(0, |set, p| set | p.bit()))
    }

    /// Whether the set holds this one.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether the set holds every permission of the other.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members, in declaration order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |p| self.contains(*p))
    }
}

/// The built-in roles: name, what it is for, what it may do.
const BUILT_IN: [(&str, &[Permission]); 3] =
    [("admin", &Permission::ALL), ("auditor", &[Permission::AuditRead]), ("customer", &[])];

/// The names of the roles there are.
pub fn built_in_roles() -> impl Iterator<Item = RoleName> {
    BUILT_IN.iter().filter_map(|(name, _)| RoleName::parse(name).ok())
}

/// What a role may do; `None` when there is no such role.
#[must_use]
pub fn permissions_of(role: &RoleName) -> Option<Permissions> {
    BUILT_IN.iter().find(|(name, _)| *name == role.as_str()).map(|(_, permissions)| Permissions::of(permissions))
}

/// What these roles may do together. A role that no longer exists adds nothing.
#[must_use]
pub fn permissions_of_all<'a>(roles: impl IntoIterator<Item = &'a RoleName>) -> Permissions {
    roles.into_iter().filter_map(permissions_of).fold(Permissions::NONE, Permissions::union)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_may_do_nothing_to_others_and_an_unknown_role_nothing_at_all() {
        let role = |name| RoleName::parse(name).unwrap();
        assert_eq!(permissions_of(&role("customer")), Some(Permissions::NONE));
        assert_eq!(permissions_of(&role("root")), None);
        assert_eq!(permissions_of_all([&role("root"), &role("customer")]), Permissions::NONE);
    }

    #[test]
    fn an_auditor_reads_the_trail_and_changes_nothing() {
        let auditor = permissions_of(&RoleName::parse("auditor").unwrap()).unwrap();
        assert_eq!(auditor.iter().collect::<Vec<_>>(), [Permission::AuditRead]);
    }
}
