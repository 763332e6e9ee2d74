//! The groups of operations in the documentation.

use poem_openapi::Tags;

/// A group of operations.
#[derive(Tags)]
pub enum Tag {
    /// Log in, stay logged in, log out.
    Authentication,
    /// A new password and a verified address, by mail.
    Recovery,
    /// The caller's own account.
    Me,
    /// Accounts and their roles, for administrators.
    Accounts,
    /// Sessions, for administrators.
    Sessions,
    /// Roles and permissions.
    Roles,
    /// API keys, by which services act.
    #[oai(rename = "API keys")]
    ApiKeys,
    /// The security policy, and what another one would have done.
    Policy,
    /// What is done about incidents.
    Incidents,
    /// The audit trail: the event log itself.
    Audit,
    /// What happened, counted.
    Metrics,
    /// Whether the service works, and the keys that its tokens are verified with.
    Service,
}
