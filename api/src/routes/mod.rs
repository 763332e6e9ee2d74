//! The HTTP contract: one struct a resource, its request and response types beside it. Handlers parse, call one
//! command or query, and map what it gave.

mod account_acts;
mod accounts;
mod api_keys;
mod as_of;
mod audit;
mod auth;
mod document;
mod grants;
mod health;
mod input;
mod lockdown;
mod me;
mod metrics;
mod policy;
mod recovery;
mod roles;
mod security;
mod sessions;
mod tag;
mod tokens;
mod well_known;

use fulexo_node::http::Operations;
use poem_openapi::{ContactObject, LicenseObject, OpenApiService, ServerObject};

pub(crate) type Apis = Operations<(
    auth::Auth,
    recovery::Recovery,
    me::Me,
    accounts::Accounts,
    account_acts::AccountActs,
    sessions::Sessions,
    roles::Roles,
    grants::Grants,
    api_keys::ApiKeys,
    policy::Policies,
    lockdown::Lockdowns,
    audit::Audit,
    security::Security,
    health::Health,
    well_known::WellKnown,
)>;

pub(crate) fn service() -> OpenApiService<Apis, ()> {
    let apis = (
        auth::Auth,
        recovery::Recovery,
        me::Me,
        accounts::Accounts,
        account_acts::AccountActs,
        sessions::Sessions,
        roles::Roles,
        grants::Grants,
        api_keys::ApiKeys,
        policy::Policies,
        lockdown::Lockdowns,
        audit::Audit,
        security::Security,
        health::Health,
        well_known::WellKnown,
    );
    OpenApiService::new(Operations(apis), "Fulexo", env!("CARGO_PKG_VERSION"))
        .contact(ContactObject::new().name("Fulexo"))
        .license(LicenseObject::new("Apache-2.0").url("https://www.apache.org/licenses/LICENSE-2.0"))
        .server(ServerObject::new("/").description("The service that this document comes from."))
        .description(
            "Every login, lockout, session and role grant is an immutable event; the event log itself is the \
         audit trail.\n\n\
         Refusals are RFC 9457 problems with a stable `code`. Every response carries `Request-Id`. A call that records \
         something answers with `Log-Position`; a query that is given it as `Log-Min-Position` sees what was recorded; \
         what is below `/v1/me` sees the caller's login or refresh in any case. \
         With `as_of`, a position or a time, a query answers as it would have done then. \
         An unsafe call may be repeated with the same `Idempotency-Key`.\n\n\
         Browsers may have their tokens in cookies (`cookies` of a login): the access token in \
         `__Host-fulexo-access` is then taken for a bearer token, and a call that is not a GET needs the answer's \
         `csrf_token` as `X-CSRF-Token`.\n\n\
         Requests are limited by address and by account; answers say where the caller stands in `RateLimit-Policy` \
         and `RateLimit`, and 429 says in `Retry-After` when to come back.",
        )
}

/// The OpenAPI document, as text.
#[must_use]
pub fn spec() -> String {
    let document = service().spec();
    document::complete(&document).unwrap_or(document)
}
