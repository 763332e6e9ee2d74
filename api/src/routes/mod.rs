//! The HTTP API: one struct per resource, with its request and response types. Handlers parse the request, call one command or
//! query, and map the result.

mod account_acts;
mod accounts;
mod alerts;
mod api_keys;
mod as_of;
mod audit;
mod audit_address;
mod audit_change;
mod audit_export;
mod audit_filter;
mod audit_log;
mod audit_stream;
mod auth;
mod containment;
mod document;
mod erasure;
mod grants;
mod health;
mod incidents;
mod input;
mod live_events;
mod lockdown;
mod me;
mod metrics;
mod my_export;
mod policy;
mod recovery;
mod roles;
mod security;
mod sessions;
mod standing;
mod tag;
mod tokens;
mod well_known;

use std::sync::LazyLock;

pub use self::audit_log::tiles_before;
use fulexo_node::http::Operations;
use poem_openapi::{ContactObject, LicenseObject, OpenApiService, ServerObject};

pub(crate) type Apis = Operations<(
    auth::Auth,
    recovery::Recovery,
    (me::Me, my_export::MyData),
    (accounts::Accounts, standing::AccountStandings, account_acts::AccountActions, erasure::Erasures),
    sessions::Sessions,
    roles::Roles,
    grants::Grants,
    api_keys::ApiKeys,
    policy::Policies,
    (lockdown::Lockdowns, incidents::Incidents, containment::Containments, alerts::Alerts),
    // A tuple has at most 16 members.
    (
        audit::Audit,
        audit_address::AuditAddresses,
        audit_export::AuditExports,
        audit_stream::AuditStream,
        audit_log::TransparencyLog,
    ),
    security::Security,
    health::Health,
    well_known::WellKnown,
)>;

pub(crate) fn service() -> OpenApiService<Apis, ()> {
    let apis = (
        auth::Auth,
        recovery::Recovery,
        (me::Me, my_export::MyData),
        (accounts::Accounts, standing::AccountStandings, account_acts::AccountActions, erasure::Erasures),
        sessions::Sessions,
        roles::Roles,
        grants::Grants,
        api_keys::ApiKeys,
        policy::Policies,
        (lockdown::Lockdowns, incidents::Incidents, containment::Containments, alerts::Alerts),
        (
            audit::Audit,
            audit_address::AuditAddresses,
            audit_export::AuditExports,
            audit_stream::AuditStream,
            audit_log::TransparencyLog,
        ),
        security::Security,
        health::Health,
        well_known::WellKnown,
    );
    OpenApiService::new(Operations(apis), "Fulexo", env!("CARGO_PKG_VERSION"))
        .contact(ContactObject::new().name("Fulexo"))
        .license(LicenseObject::new("Apache-2.0").url("https://www.apache.org/licenses/LICENSE-2.0"))
        .server(ServerObject::new("/").description("The service that serves this document."))
        .description(
            "Fulexo records every login, lockout, session and role grant as an immutable event. The event log is the \
         audit trail.\n\n\
         **Errors.** An error is a problem (RFC 9457) with a stable `code`. `GET /problems` explains every code. Every \
         response has a `Request-Id`.\n\n\
         **Consistency.** A call that records an event returns its position in `Log-Position`. Send this position as \
         `Log-Min-Position` to read your own write. Queries below `/v1/me` include your last login or refresh in any \
         case. With `as_of`, a position or a time, a query returns the state of that moment.\n\n\
         **Idempotency.** Send an `Idempotency-Key` with an unsafe call, and you can repeat the call with the same key.\n\n\
         **Elevation.** Sensitive calls need an elevated session. A login or `POST /v1/auth/step-up` elevates a session \
         for 10 minutes by default. Without elevation they are refused with 403 `step_up_required`.\n\n\
         **Cookies.** A browser can receive its tokens in cookies: set `cookies` at the login. The cookie \
         `__Host-fulexo-access` then replaces the bearer token, and every call except GET needs the `csrf_token` of the \
         login in `X-CSRF-Token`.\n\n\
         **Rate limits.** Requests are limited per address and per account. Every response has the quotas in \
         `RateLimit-Policy` and `RateLimit`. A response 429 has the time to wait in `Retry-After`.",
        )
}

/// Returns the OpenAPI document as JSON text. A process generates it once.
#[must_use]
pub fn spec() -> &'static str {
    static SPEC: LazyLock<String> = LazyLock::new(|| {
        let document = service().spec();
        document::complete(&document).unwrap_or(document)
    });
    &SPEC
}
