//! The objects of OCSF that records have, as far as they are filled.

use fulexo_domain::authentication::{AuthenticationMethod, Factor};
use fulexo_domain::event::Actor;
use fulexo_domain::permission::Permission;
use serde::Serialize;
use uuid::Uuid;

use super::vocabulary::PRODUCT;

/// An account, by its id alone.
#[derive(Serialize)]
pub(super) struct OcsfUser {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    type_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<Uuid>,
}

impl OcsfUser {
    /// The account, or nobody known.
    pub(super) fn of(id: Option<Uuid>) -> Self {
        match id {
            Some(id) => Self { name: None, type_id: 1, uid: Some(id) },
            None => Self { name: Some("unknown"), type_id: 0, uid: None },
        }
    }

    const fn operator() -> Self {
        Self { name: Some("operator"), type_id: 2, uid: None }
    }
}

/// The actor of an event.
#[derive(Default, Serialize)]
pub(super) struct OcsfActor {
    #[serde(skip_serializing_if = "Option::is_none")]
    app_name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_uid: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<OcsfUser>,
}

impl From<Actor> for OcsfActor {
    fn from(actor: Actor) -> Self {
        match actor {
            Actor::Account { id } => Self { user: Some(OcsfUser::of(Some(id))), ..Self::default() },
            Actor::ApiKey { id } => Self { app_uid: Some(id), app_name: Some("API key"), ..Self::default() },
            Actor::Anonymous => Self { user: Some(OcsfUser::of(None)), ..Self::default() },
            Actor::Operator => Self { user: Some(OcsfUser::operator()), ..Self::default() },
            Actor::System => Self { app_name: Some(PRODUCT), ..Self::default() },
        }
    }
}

/// Something that has a name.
#[derive(Serialize)]
pub(super) struct OcsfNamed<'a> {
    pub(super) name: &'a str,
}

/// A session. Times are in milliseconds.
#[derive(Default, Serialize)]
pub(super) struct OcsfSession {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expiration_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expiration_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_mfa: Option<bool>,
    pub(super) uid: Uuid,
}

/// A factor of an authentication.
#[derive(Serialize)]
pub(super) struct OcsfAuthFactor {
    factor_type: &'static str,
    factor_type_id: u32,
}

impl From<AuthenticationMethod> for OcsfAuthFactor {
    fn from(method: AuthenticationMethod) -> Self {
        match method {
            AuthenticationMethod::Password => Self { factor_type: "Password", factor_type_id: 11 },
            AuthenticationMethod::OneTime => Self { factor_type: "OTP", factor_type_id: 7 },
        }
    }
}

impl From<Factor> for OcsfAuthFactor {
    fn from(factor: Factor) -> Self {
        match factor {
            Factor::Password => AuthenticationMethod::Password.into(),
            Factor::SecondFactor => AuthenticationMethod::OneTime.into(),
        }
    }
}

/// A role.
#[derive(Serialize)]
pub(super) struct OcsfRole<'a> {
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) privileges: Option<&'a [Permission]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<Uuid>,
}

/// Something other than an account that is managed.
#[derive(Serialize)]
pub(super) struct OcsfEntity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    pub(super) r#type: &'static str,
    pub(super) type_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
}

/// An operation of the API.
#[derive(Serialize)]
pub(super) struct OcsfApi {
    pub(super) operation: &'static str,
}

/// The subject of a finding. Times are in milliseconds.
#[derive(Serialize)]
pub(super) struct OcsfFindingInfo {
    pub(super) first_seen_time: i64,
    pub(super) last_seen_time: i64,
    pub(super) title: &'static str,
    pub(super) uid: Uuid,
}
