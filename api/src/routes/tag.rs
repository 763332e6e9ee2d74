//! The groups of operations in the documentation.

use poem_openapi::Tags;

/// A group of operations.
#[derive(Tags)]
pub enum Tag {
    /// Registration, login, refresh, step-up, introspection and logout.
    Authentication,
    /// Password reset, address verification and the report of an intrusion, by e-mail.
    Recovery,
    /// Your own account, sessions, devices and events.
    Me,
    /// Accounts and their roles, for administrators.
    Accounts,
    /// The erasure of accounts, and its receipts.
    Erasure,
    /// Sessions of all accounts, for administrators.
    Sessions,
    /// Roles, permissions and grants.
    Roles,
    /// API keys, the credentials of services.
    #[oai(rename = "API keys")]
    ApiKeys,
    /// The security policy, its changes and previews.
    Policy,
    /// Incident response: incidents and the lockdown.
    Incidents,
    /// The audit trail: the events of the log.
    Audit,
    /// Counts of events, and gauges of accounts, sessions and roles.
    Metrics,
    /// Health, metrics and metadata of the service.
    Service,
}
