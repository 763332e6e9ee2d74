//! The attributes of a record that depend on the event: those that its class requires, and those that its data fill.

use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::audit::AuditTrailEvent;
use fulexo_domain::authentication::{AuthenticationEvent, AuthenticationMethod, FailureReason};
use fulexo_domain::backup::BackupEvent;
use fulexo_domain::checkpoint::CheckpointEvent;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::incident::IncidentEvent;
use fulexo_domain::key::KeyEvent;
use fulexo_domain::lockdown::LockdownEvent;
use fulexo_domain::policy::PolicyEvent;
use fulexo_domain::rate_limit::{RateLimitEvent, RouteGroup};
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::AccountId;
use serde::Serialize;

use super::objects::{
    OcsfApi, OcsfAuthFactor, OcsfEntity, OcsfFindingInfo, OcsfNamed, OcsfRole, OcsfSession, OcsfUser,
};
use super::vocabulary::{OcsfClass, OcsfVersion, PRODUCT};

/// The attributes.
#[derive(Default, Serialize)]
pub(super) struct OcsfDetails<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<OcsfApi>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assignee: Option<OcsfUser>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assignee_group: Option<OcsfNamed<'static>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    auth_factors: Vec<OcsfAuthFactor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<OcsfEntity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding_info: Option<OcsfFindingInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding_info_list: Option<[OcsfFindingInfo; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iam_role: Option<OcsfRole<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iam_roles: Option<[OcsfRole<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_mfa: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privileges: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<OcsfNamed<'static>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<OcsfSession>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_endpoint: Option<OcsfNamed<'static>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_detail: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_role: Option<OcsfRole<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<OcsfUser>,
}

impl<'a> OcsfDetails<'a> {
    pub(super) fn of(version: OcsfVersion, class: OcsfClass, recorded: &'a RecordedEvent) -> Self {
        let mut details = match &recorded.event {
            Event::Account(event) => of_account(version, event),
            Event::Authentication(event) => of_authentication(event),
            Event::Session(event) => of_session(event, recorded),
            Event::Role(event) => of_role(version, event, recorded),
            Event::Policy(PolicyEvent::Changed { before: _, after }) => Self {
                entity: Some(OcsfEntity {
                    name: Some("security policy"),
                    r#type: "Policy",
                    type_id: 5,
                    uid: None,
                    version: Some(after.version.to_string()),
                }),
                ..Self::default()
            },
            Event::ApiKey(event) => {
                let name = match event {
                    ApiKeyEvent::Created { name, permissions: _, expires_at: _ } => Some(name.as_str()),
                    ApiKeyEvent::Revoked {} => None,
                };
                Self { entity: Some(entity(name, "API key", recorded)), ..Self::default() }
            }
            Event::RateLimit(RateLimitEvent::Violated { layer: _, route, started_at, ended_at, count }) => Self {
                api: Some(OcsfApi { operation: route.map_or("any", RouteGroup::as_str) }),
                count: Some(*count),
                start_time: Some(started_at.timestamp_millis()),
                end_time: Some(ended_at.timestamp_millis()),
                // Required, and sealed alongside the log.
                src_endpoint: Some(OcsfNamed { name: "sealed" }),
                ..Self::default()
            },
            Event::Audit(AuditTrailEvent::Unsealed { position: _, fields: _ }) => Self {
                api: Some(OcsfApi { operation: "unseal_audit_event" }),
                // Required, and not recorded.
                src_endpoint: Some(OcsfNamed { name: "unknown" }),
                ..Self::default()
            },
            Event::Audit(AuditTrailEvent::AddressSearched { kind: _ }) => Self {
                api: Some(OcsfApi { operation: "digest_address" }),
                // Required, and not recorded.
                src_endpoint: Some(OcsfNamed { name: "unknown" }),
                ..Self::default()
            },
            Event::Audit(AuditTrailEvent::Exported { form, first: _, last: _, filter: _ }) => Self {
                api: Some(OcsfApi { operation: form.operation() }),
                // Required, and not recorded.
                src_endpoint: Some(OcsfNamed { name: "unknown" }),
                ..Self::default()
            },
            Event::Lockdown(LockdownEvent::Started { .. } | LockdownEvent::Lifted {}) => {
                Self { entity: Some(entity(Some("lockdown"), "Lockdown", recorded)), ..Self::default() }
            }
            Event::Key(KeyEvent::Rotated { to: label, .. } | KeyEvent::Destroyed { id: label, .. }) => {
                Self { entity: Some(entity(Some(label.as_str()), "Key", recorded)), ..Self::default() }
            }
            Event::Backup(event) => {
                let name = match event {
                    BackupEvent::Taken { backup, .. }
                    | BackupEvent::Verified { backup, .. }
                    | BackupEvent::Restored { backup: Some(backup), .. } => Some(backup.name.as_str()),
                    BackupEvent::Restored { backup: None, .. } => None,
                };
                Self { entity: Some(entity(name, "Backup", recorded)), ..Self::default() }
            }
            Event::Incident(event) => {
                let at = recorded.recorded_at.timestamp_millis();
                // The summary is sealed.
                let finding = OcsfFindingInfo {
                    first_seen_time: at,
                    last_seen_time: at,
                    title: "Incident",
                    uid: recorded.stream.id,
                };
                Self {
                    assignee: owner_of(event).map(|owner| OcsfUser::of(Some(owner.0))),
                    // Required without an assignee, and the same for every incident.
                    assignee_group: Some(OcsfNamed { name: "incident responders" }),
                    finding_info_list: Some([finding]),
                    ..Self::default()
                }
            }
            Event::Checkpoint(CheckpointEvent::RefusalEnded { reason, started_at, ended_at }) => {
                of_refusal(reason.as_str(), *started_at, *ended_at, recorded)
            }
        };
        match class {
            OcsfClass::Authentication => {
                details.user = Some(OcsfUser::of(recorded.subject));
                details.service = Some(OcsfNamed { name: PRODUCT });
            }
            OcsfClass::AccountChange
            | OcsfClass::AuthorizeSession
            | OcsfClass::UserAccess
            | OcsfClass::UserManagement => {
                details.user = Some(OcsfUser::of(recorded.subject));
            }
            OcsfClass::DetectionFinding
            | OcsfClass::IncidentFinding
            | OcsfClass::EntityManagement
            | OcsfClass::RoleManagement
            | OcsfClass::ApiActivity => {}
        }
        details
    }
}

fn of_account(version: OcsfVersion, event: &AccountEvent) -> OcsfDetails<'_> {
    match event {
        AccountEvent::SecondFactorEnabled { .. } | AccountEvent::SecondFactorDisabled { .. } => {
            OcsfDetails { auth_factors: vec![AuthenticationMethod::OneTime.into()], ..OcsfDetails::default() }
        }
        AccountEvent::RoleGranted { role } | AccountEvent::RoleRevoked { role } => match version {
            // It has no roles, and requires privileges: the role is the privilege.
            OcsfVersion::V1_8 => OcsfDetails { privileges: Some([role.as_str()]), ..OcsfDetails::default() },
            OcsfVersion::V1_9 => {
                let role = OcsfRole { name: role.as_str(), privileges: None, uid: None };
                OcsfDetails { iam_roles: Some([role]), ..OcsfDetails::default() }
            }
        },
        AccountEvent::SessionsRevoked { by, .. } => {
            OcsfDetails { status_detail: Some(by.as_str()), ..OcsfDetails::default() }
        }
        AccountEvent::Registered {}
        | AccountEvent::ProfileChanged {}
        | AccountEvent::PasswordChanged { .. }
        | AccountEvent::PasswordExpired {}
        | AccountEvent::SecondFactorEnrolmentStarted {}
        | AccountEvent::RecoveryCodesIssued { .. }
        | AccountEvent::RecoveryCodeUsed { .. }
        | AccountEvent::EmailVerified {}
        | AccountEvent::Suspended {}
        | AccountEvent::Reinstated {}
        | AccountEvent::ErasureStarted { .. }
        | AccountEvent::ErasureWithdrawn {}
        | AccountEvent::Erased { .. }
        | AccountEvent::ErasureCompleted { .. } => OcsfDetails::default(),
    }
}

fn of_authentication<'a>(event: &AuthenticationEvent) -> OcsfDetails<'a> {
    match event {
        AuthenticationEvent::Succeeded { methods, session, .. } => OcsfDetails {
            auth_factors: methods.iter().copied().map(OcsfAuthFactor::from).collect(),
            is_mfa: Some(is_mfa(methods)),
            session: Some(OcsfSession { uid: session.0, ..OcsfSession::default() }),
            ..OcsfDetails::default()
        },
        AuthenticationEvent::PasswordChangeRequired { factor, .. } | AuthenticationEvent::Confirmed { factor, .. } => {
            OcsfDetails { auth_factors: vec![(*factor).into()], ..OcsfDetails::default() }
        }
        AuthenticationEvent::Failed { factor, reason, .. } => OcsfDetails {
            auth_factors: vec![(*factor).into()],
            status_detail: Some(name_of(*reason)),
            ..OcsfDetails::default()
        },
        AuthenticationEvent::LockedOut { .. }
        | AuthenticationEvent::LockLifted { .. }
        | AuthenticationEvent::SecondFactorRequired { .. }
        | AuthenticationEvent::PasswordResetRequested {}
        | AuthenticationEvent::DeviceForgotten { .. } => OcsfDetails::default(),
        AuthenticationEvent::PasswordResetRefused { .. } => {
            OcsfDetails { status_detail: Some("recent_password"), ..OcsfDetails::default() }
        }
        AuthenticationEvent::NewDeviceSeen { session } => OcsfDetails {
            session: Some(OcsfSession { uid: session.0, ..OcsfSession::default() }),
            ..OcsfDetails::default()
        },
    }
}

fn of_session<'a>(event: &SessionEvent, recorded: &RecordedEvent) -> OcsfDetails<'a> {
    let session = OcsfSession { uid: recorded.stream.id, ..OcsfSession::default() };
    let (session, details) = match event {
        SessionEvent::Started { methods, expires_at, .. } => (
            OcsfSession {
                expiration_time: Some(expires_at.timestamp_millis()),
                is_mfa: Some(is_mfa(methods)),
                ..session
            },
            OcsfDetails {
                auth_factors: methods.iter().copied().map(OcsfAuthFactor::from).collect(),
                is_mfa: Some(is_mfa(methods)),
                ..OcsfDetails::default()
            },
        ),
        SessionEvent::Elevated { .. } => {
            (session, OcsfDetails { privileges: Some(["elevated"]), ..OcsfDetails::default() })
        }
        SessionEvent::Revoked { by } => {
            (OcsfSession { expiration_reason: Some(by.as_str()), ..session }, OcsfDetails::default())
        }
        SessionEvent::Expired {} => {
            (OcsfSession { expiration_reason: Some("expired"), ..session }, OcsfDetails::default())
        }
        SessionEvent::Refreshed { .. }
        | SessionEvent::RefreshReused { .. }
        | SessionEvent::FingerprintMismatched { .. } => (session, OcsfDetails::default()),
    };
    OcsfDetails { session: Some(session), ..details }
}

fn of_role<'a>(version: OcsfVersion, event: &'a RoleEvent, recorded: &RecordedEvent) -> OcsfDetails<'a> {
    let (name, before, after) = match event {
        RoleEvent::Defined { role, permissions } => (role, Some(permissions), None),
        RoleEvent::PermissionsChanged { role, before, after } => (role, Some(before), Some(after)),
        RoleEvent::Retired { role } => (role, None, None),
    };
    let role = |privileges: Option<&'a Vec<_>>| OcsfRole {
        name: name.as_str(),
        privileges: privileges.map(Vec::as_slice),
        uid: Some(recorded.stream.id),
    };
    match version {
        OcsfVersion::V1_8 => {
            OcsfDetails { entity: Some(entity(Some(name.as_str()), "Role", recorded)), ..OcsfDetails::default() }
        }
        OcsfVersion::V1_9 => OcsfDetails {
            iam_role: Some(role(before)),
            updated_role: after.map(|after| role(Some(after))),
            ..OcsfDetails::default()
        },
    }
}

const fn owner_of(event: &IncidentEvent) -> Option<AccountId> {
    match event {
        IncidentEvent::Opened { owner, .. } | IncidentEvent::Triaged { owner, .. } => *owner,
        IncidentEvent::ContainmentStarted { .. }
        | IncidentEvent::Contained { .. }
        | IncidentEvent::Eradicated {}
        | IncidentEvent::Recovered {}
        | IncidentEvent::Closed {}
        | IncidentEvent::Noted { .. } => None,
    }
}

fn of_refusal<'a>(
    reason: &'static str,
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
    recorded: &RecordedEvent,
) -> OcsfDetails<'a> {
    let (began, ended) = (began.timestamp_millis(), ended.timestamp_millis());
    OcsfDetails {
        finding_info: Some(OcsfFindingInfo {
            first_seen_time: began,
            last_seen_time: ended,
            title: "The signer refused to sign the log",
            uid: recorded.id,
        }),
        start_time: Some(began),
        end_time: Some(ended),
        status_detail: Some(reason),
        ..OcsfDetails::default()
    }
}

fn entity<'a>(name: Option<&'a str>, kind: &'static str, recorded: &RecordedEvent) -> OcsfEntity<'a> {
    OcsfEntity { name, r#type: kind, type_id: 99, uid: Some(recorded.stream.id), version: None }
}

fn is_mfa(methods: &[AuthenticationMethod]) -> bool {
    methods.contains(&AuthenticationMethod::OneTime)
}

/// The reason as leaves name it.
const fn name_of(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::UnknownAccount => "unknown_account",
        FailureReason::WrongPassword => "wrong_password",
        FailureReason::WrongCode => "wrong_code",
        FailureReason::Locked => "locked",
        FailureReason::TooManyConcurrent => "too_many_concurrent",
        FailureReason::Suspended => "suspended",
        FailureReason::ExpiredChallenge => "expired_challenge",
        FailureReason::Lockdown => "lockdown",
    }
}
