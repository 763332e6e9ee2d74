//! What a command needs to know of the request behind it: who, when, from where. Made by the caller, so that
//! nothing below reads a clock or decides who somebody is.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Actor, Field};
use fulexo_domain::values::AccountId;
use uuid::{NoContext, Timestamp, Uuid};

use crate::vault::PersonalData;

pub(crate) fn network_facts(context: &Context) -> PersonalData {
    let ip = context.origin.ip.map(|ip| ip.to_string());
    PersonalData::default().with(Field::Ip, ip.as_deref()).with(Field::UserAgent, context.origin.user_agent.as_deref())
}

/// One request.
#[derive(Clone)]
pub struct Context {
    /// On whose authority.
    pub actor: Actor,
    /// The request's id; every event that it leads to carries it.
    pub correlation: Uuid,
    /// When it arrived, cut to microseconds.
    pub now: DateTime<Utc>,
    /// From where, as far as is known. Personal data.
    pub origin: RequestOrigin,
    /// The client's `Idempotency-Key`, if it sent one.
    pub idempotency_key: Option<String>,
}

/// Where a request came from. Personal data: no `Debug`.
#[derive(Clone, Default)]
pub struct RequestOrigin {
    /// The client's address, behind trusted proxies only.
    pub ip: Option<IpAddr>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
}

impl Context {
    /// A new id in the order of time (UUIDv7, RFC 9562, section 5.7).
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        let seconds = u64::try_from(self.now.timestamp()).unwrap_or(0);
        Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, self.now.timestamp_subsec_nanos()))
    }

    /// The account that asks, when one does.
    #[must_use]
    pub fn account(&self) -> Option<AccountId> {
        match self.actor {
            Actor::Account { id } => Some(AccountId(id)),
            Actor::ApiKey { .. } | Actor::Anonymous | Actor::Operator | Actor::System => None,
        }
    }

    /// The same request, now that it is known who makes it.
    #[must_use]
    pub fn acting_as(&self, account: AccountId) -> Self {
        Self { actor: Actor::Account { id: account.0 }, ..self.clone() }
    }
}
