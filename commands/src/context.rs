//! The facts that a command needs about its request: actor, time, origin. The caller supplies them, so that no command
//! reads a clock or decides on an identity.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use fulexo_domain::event::Actor;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::AccountId;
use uuid::{NoContext, Timestamp, Uuid};

use crate::vault::PersonalData;

pub(crate) fn network_facts(context: &Context) -> PersonalData {
    let ip = context.origin.ip.map(|ip| ip.to_string());
    PersonalData::default()
        .with(SealedField::Ip, ip.as_deref())
        .with(SealedField::UserAgent, context.origin.user_agent.as_deref())
}

/// One request, as commands see it.
#[derive(Clone)]
pub struct Context {
    /// The actor on whose authority the command runs.
    pub actor: Actor,
    /// The request's id. Every event that the request causes carries it.
    pub correlation: Uuid,
    /// The arrival time, truncated to microseconds.
    pub now: DateTime<Utc>,
    /// The origin, as far as it is known. Personal data.
    pub origin: RequestOrigin,
    /// The client's `Idempotency-Key`, if it sent one.
    pub idempotency_key: Option<String>,
}

/// The origin of a request. Personal data: no `Debug`.
#[derive(Clone, Default)]
pub struct RequestOrigin {
    /// The client's address. A forwarded address counts only if a trusted proxy sent it.
    pub ip: Option<IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
}

impl Context {
    /// Returns a new id that sorts by time (UUIDv7, RFC 9562, section 5.7).
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        let seconds = u64::try_from(self.now.timestamp()).unwrap_or(0);
        Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, self.now.timestamp_subsec_nanos()))
    }

    /// Returns the account that acts, or `None` for any other actor.
    #[must_use]
    pub fn account(&self) -> Option<AccountId> {
        match self.actor {
            Actor::Account { id } => Some(AccountId(id)),
            Actor::ApiKey { .. } | Actor::Anonymous | Actor::Operator | Actor::System => None,
        }
    }

    /// Returns the same request with this account as its actor.
    #[must_use]
    pub fn acting_as(&self, account: AccountId) -> Self {
        Self { actor: Actor::Account { id: account.0 }, ..self.clone() }
    }
}
