//! The table from events to OCSF: one line per event type, or per case of one whose cases differ. The compiler asks for the
//! line of a new type.

use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::audit::AuditTrailEvent;
use fulexo_domain::authentication::{AuthenticationEvent, FailureReason};
use fulexo_domain::backup::{BackupEvent, RungResult, RungVerdict};
use fulexo_domain::checkpoint::{CheckpointEvent, CheckpointRefusal};
use fulexo_domain::event::Event;
use fulexo_domain::incident::{IncidentEvent, IncidentSeverity};
use fulexo_domain::key::KeyEvent;
use fulexo_domain::lockdown::LockdownEvent;
use fulexo_domain::policy::{FingerprintPolicy, PolicyEvent};
use fulexo_domain::rate_limit::RateLimitEvent;
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::{RevocationCause, SessionEvent};

use super::vocabulary::OcsfClass::{
    self, AccountChange, ApiActivity, Authentication, AuthorizeSession, DetectionFinding, EntityManagement,
    IncidentFinding, RoleManagement, UserAccess, UserManagement,
};
use super::vocabulary::OcsfSeverity::{self, Critical, High, Informational, Low, Medium};
use super::vocabulary::OcsfStatus::{self, Closed, Failure, InProgress, New, Resolved, Success};
use super::vocabulary::{OcsfActivity, OcsfVersion};

/// The place of an event in OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OcsfMapping {
    /// The class.
    pub class: OcsfClass,
    /// The activity.
    pub activity: OcsfActivity,
    /// The severity.
    pub severity: OcsfSeverity,
    /// The status.
    pub status: OcsfStatus,
}

/// The class and the activity in 1.8, and in 1.9 where that differs.
#[derive(Clone, Copy)]
struct OcsfAct {
    v1_8: (OcsfClass, OcsfActivity),
    v1_9: (OcsfClass, OcsfActivity),
}

/// An activity that both versions have.
const fn act(class: OcsfClass, id: u32, name: &'static str) -> OcsfAct {
    OcsfAct { v1_8: (class, OcsfActivity { id, name }), v1_9: (class, OcsfActivity { id, name }) }
}

/// An activity that OCSF has no number for.
const fn other(class: OcsfClass, name: &'static str) -> OcsfAct {
    act(class, OTHER, name)
}

/// A change of an account, by its numbers in 1.8 and in 1.9.
const fn account(v1_8: u32, v1_9: u32, name: &'static str) -> OcsfAct {
    OcsfAct {
        v1_8: (AccountChange, OcsfActivity { id: v1_8, name }),
        v1_9: (UserManagement, OcsfActivity { id: v1_9, name }),
    }
}

/// A factor of an account, which has other names in 1.9.
const fn factor(v1_8: (u32, &'static str), v1_9: (u32, &'static str)) -> OcsfAct {
    OcsfAct {
        v1_8: (AccountChange, OcsfActivity { id: v1_8.0, name: v1_8.1 }),
        v1_9: (UserManagement, OcsfActivity { id: v1_9.0, name: v1_9.1 }),
    }
}

/// A role of an account: privileges in 1.8.
const fn grant(v1_8: (u32, &'static str), v1_9: (u32, &'static str)) -> OcsfAct {
    OcsfAct {
        v1_8: (UserAccess, OcsfActivity { id: v1_8.0, name: v1_8.1 }),
        v1_9: (UserManagement, OcsfActivity { id: v1_9.0, name: v1_9.1 }),
    }
}

/// A change of a role: an entity in 1.8.
const fn role(v1_8: u32, v1_9: u32, name: &'static str) -> OcsfAct {
    OcsfAct {
        v1_8: (EntityManagement, OcsfActivity { id: v1_8, name }),
        v1_9: (RoleManagement, OcsfActivity { id: v1_9, name }),
    }
}

/// The number of an activity that has a name alone.
const OTHER: u32 = 99;

impl OcsfMapping {
    /// Looks the event up.
    #[must_use]
    pub const fn of(event: &Event, version: OcsfVersion) -> Self {
        let (act, severity, status) = match event {
            Event::Account(event) => of_account(event),
            Event::Authentication(event) => of_authentication(event),
            Event::Session(event) => of_session(event),
            Event::Role(RoleEvent::Defined { .. }) => (role(1, 1, "Create"), Low, Success),
            Event::Role(RoleEvent::PermissionsChanged { .. }) => (role(3, 2, "Update"), Medium, Success),
            Event::Role(RoleEvent::Retired { .. }) => (role(4, 3, "Delete"), Low, Success),
            Event::Policy(PolicyEvent::Changed { .. }) => (act(EntityManagement, 3, "Update"), Medium, Success),
            Event::ApiKey(ApiKeyEvent::Created { .. }) => (act(EntityManagement, 1, "Create"), Low, Success),
            Event::ApiKey(ApiKeyEvent::Revoked {}) => (act(EntityManagement, 4, "Delete"), Low, Success),
            Event::RateLimit(RateLimitEvent::Violated { .. }) => {
                (other(ApiActivity, "Requests beyond a quota"), Medium, Failure)
            }
            Event::Lockdown(LockdownEvent::Started { .. }) => (act(EntityManagement, 8, "Enable"), High, Success),
            Event::Lockdown(LockdownEvent::Lifted {}) => (act(EntityManagement, 9, "Disable"), Medium, Success),
            Event::Checkpoint(CheckpointEvent::RefusalEnded { reason, .. }) => {
                let severity = match reason {
                    CheckpointRefusal::Shorter | CheckpointRefusal::Different => Critical,
                    CheckpointRefusal::OtherLog | CheckpointRefusal::Memory => High,
                };
                (act(DetectionFinding, 3, "Close"), severity, Resolved)
            }
            Event::Key(KeyEvent::Rotated { .. }) => (act(EntityManagement, 3, "Update"), Low, Success),
            Event::Key(KeyEvent::Destroyed { .. }) => (act(EntityManagement, 4, "Delete"), Low, Success),
            Event::Incident(event) => of_incident(event),
            Event::Backup(event) => of_backup(event),
            Event::Audit(AuditTrailEvent::Unsealed { .. } | AuditTrailEvent::AddressSearched { .. }) => {
                (act(ApiActivity, 2, "Read"), Medium, Success)
            }
            Event::Audit(AuditTrailEvent::Exported { .. }) => (act(ApiActivity, 2, "Read"), Informational, Success),
        };
        let (class, activity) = match version {
            OcsfVersion::V1_8 => act.v1_8,
            OcsfVersion::V1_9 => act.v1_9,
        };
        Self { class, activity, severity, status }
    }

    /// The number of the type: the class and the activity in one.
    #[must_use]
    pub const fn type_uid(self) -> u32 {
        self.class.uid() * 100 + self.activity.id
    }

    /// `true` if OCSF has no number for the activity.
    #[must_use]
    pub const fn is_other(self) -> bool {
        self.activity.id == OTHER
    }
}

const fn of_incident(event: &IncidentEvent) -> (OcsfAct, OcsfSeverity, OcsfStatus) {
    let update = act(IncidentFinding, 2, "Update");
    match event {
        IncidentEvent::Opened { severity, .. } => (act(IncidentFinding, 1, "Create"), of_severity(*severity), New),
        IncidentEvent::Triaged { severity, .. } => (update, of_severity(*severity), InProgress),
        IncidentEvent::ContainmentStarted { .. } | IncidentEvent::Contained { .. } => (update, High, InProgress),
        IncidentEvent::Eradicated {} => (update, Medium, InProgress),
        IncidentEvent::Recovered {} => (update, Medium, Resolved),
        IncidentEvent::Closed {} => (act(IncidentFinding, 3, "Close"), Informational, Closed),
        IncidentEvent::Noted { .. } => (update, Informational, InProgress),
    }
}

const fn of_backup(event: &BackupEvent) -> (OcsfAct, OcsfSeverity, OcsfStatus) {
    match event {
        BackupEvent::Taken { .. } => (act(EntityManagement, 1, "Create"), Informational, Success),
        BackupEvent::Verified { rungs, .. } => {
            let (severity, status) =
                if has_failed(rungs.as_slice()) { (High, Failure) } else { (Informational, Success) };
            (other(EntityManagement, "Verification"), severity, status)
        }
        BackupEvent::Restored { .. } => (other(EntityManagement, "Restore"), High, Success),
    }
}

const fn has_failed(mut rungs: &[RungResult]) -> bool {
    while let [first, rest @ ..] = rungs {
        match first.verdict {
            RungVerdict::Failed => return true,
            RungVerdict::Passed | RungVerdict::NotClimbed => rungs = rest,
        }
    }
    false
}

const fn of_severity(severity: IncidentSeverity) -> OcsfSeverity {
    match severity {
        IncidentSeverity::Low => Low,
        IncidentSeverity::Medium => Medium,
        IncidentSeverity::High => High,
        IncidentSeverity::Critical => Critical,
    }
}

const fn of_account(event: &AccountEvent) -> (OcsfAct, OcsfSeverity, OcsfStatus) {
    let (act, severity) = match event {
        AccountEvent::Registered {} => (account(1, 1, "Create"), Informational),
        AccountEvent::ProfileChanged {} => (account(OTHER, OTHER, "Profile change"), Informational),
        AccountEvent::PasswordChanged { how } => match how {
            PasswordChangeCause::Owner | PasswordChangeCause::Expired => {
                (account(3, 8, "Password Change"), Informational)
            }
            PasswordChangeCause::Reset => (account(4, 9, "Password Reset"), Low),
            PasswordChangeCause::Rehash => (account(OTHER, OTHER, "Password rehash"), Informational),
            PasswordChangeCause::Reported => (account(4, 9, "Password Reset"), High),
        },
        AccountEvent::PasswordExpired {} => (account(OTHER, OTHER, "Password expiry"), Low),
        AccountEvent::SecondFactorEnrolmentStarted {} => {
            (account(OTHER, OTHER, "Second factor enrolment"), Informational)
        }
        AccountEvent::SecondFactorEnabled { .. } => {
            (factor((10, "MFA Factor Enable"), (12, "Enable MFA Factors")), Informational)
        }
        AccountEvent::SecondFactorDisabled { .. } => {
            (factor((11, "MFA Factor Disable"), (13, "Disable MFA Factors")), Medium)
        }
        AccountEvent::RecoveryCodesIssued { .. } => (account(OTHER, OTHER, "Recovery code issue"), Low),
        AccountEvent::RecoveryCodeUsed { .. } => (account(OTHER, OTHER, "Recovery code use"), Low),
        AccountEvent::RoleGranted { .. } => (grant((1, "Assign Privileges"), (16, "Assign Roles")), Low),
        AccountEvent::RoleRevoked { .. } => (grant((2, "Revoke Privileges"), (17, "Remove Roles")), Low),
        AccountEvent::EmailVerified {} => (account(OTHER, OTHER, "E-mail address verification"), Informational),
        AccountEvent::Suspended {} => (account(5, 5, "Disable"), Medium),
        AccountEvent::Reinstated {} => (account(2, 4, "Enable"), Medium),
        AccountEvent::SessionsRevoked { by, .. } => (act(Authentication, 2, "Logoff"), of_cause(*by)),
        AccountEvent::ErasureStarted { .. } => (account(OTHER, OTHER, "Erasure request"), Low),
        AccountEvent::ErasureWithdrawn {} => (account(OTHER, OTHER, "Erasure withdrawal"), Informational),
        AccountEvent::Erased { .. } => (account(6, 3, "Delete"), Medium),
        AccountEvent::ErasureCompleted { .. } => (account(OTHER, OTHER, "Erasure receipt"), Informational),
    };
    (act, severity, Success)
}

const fn of_authentication(event: &AuthenticationEvent) -> (OcsfAct, OcsfSeverity, OcsfStatus) {
    match event {
        AuthenticationEvent::Succeeded { .. } => (act(Authentication, 1, "Logon"), Informational, Success),
        AuthenticationEvent::SecondFactorRequired { .. } => {
            (other(Authentication, "Second factor required"), Informational, Success)
        }
        AuthenticationEvent::PasswordChangeRequired { .. } => {
            (other(Authentication, "Password change required"), Informational, Success)
        }
        AuthenticationEvent::Confirmed { .. } => (other(Authentication, "Step-up"), Informational, Success),
        AuthenticationEvent::Failed { reason, .. } => {
            let severity = match reason {
                FailureReason::UnknownAccount
                | FailureReason::WrongPassword
                | FailureReason::WrongCode
                | FailureReason::ExpiredChallenge => Low,
                FailureReason::Locked
                | FailureReason::TooManyConcurrent
                | FailureReason::Suspended
                | FailureReason::Lockdown => Medium,
            };
            (act(Authentication, 1, "Logon"), severity, Failure)
        }
        AuthenticationEvent::LockedOut { .. } => (account(9, 6, "Lock"), High, Success),
        AuthenticationEvent::LockLifted { .. } => (account(12, 7, "Unlock"), Informational, Success),
        AuthenticationEvent::PasswordResetRequested {} => {
            (account(OTHER, OTHER, "Password reset request"), Low, Success)
        }
        AuthenticationEvent::PasswordResetRefused { .. } => (account(4, 9, "Password Reset"), Low, Failure),
        AuthenticationEvent::NewDeviceSeen { .. } => (other(Authentication, "New device"), Low, Success),
        AuthenticationEvent::DeviceForgotten { .. } => {
            (account(OTHER, OTHER, "Device removal"), Informational, Success)
        }
    }
}

const fn of_session(event: &SessionEvent) -> (OcsfAct, OcsfSeverity, OcsfStatus) {
    match event {
        SessionEvent::Started { .. } => (other(Authentication, "Session start"), Informational, Success),
        SessionEvent::Refreshed { .. } => (other(Authentication, "Token refresh"), Informational, Success),
        SessionEvent::RefreshReused { .. } => (other(Authentication, "Reuse of a spent token"), High, Failure),
        SessionEvent::Elevated { .. } => (act(AuthorizeSession, 1, "Assign Privileges"), Informational, Success),
        SessionEvent::FingerprintMismatched { action, .. } => {
            let status = match action {
                FingerprintPolicy::Record => Success,
                FingerprintPolicy::RequireStepUp | FingerprintPolicy::Revoke => Failure,
            };
            (other(Authentication, "Another client"), Medium, status)
        }
        SessionEvent::Revoked { by } => (act(Authentication, 2, "Logoff"), of_cause(*by), Success),
        SessionEvent::Expired {} => (act(Authentication, 2, "Logoff"), Informational, Success),
    }
}

const fn of_cause(by: RevocationCause) -> OcsfSeverity {
    match by {
        RevocationCause::Owner
        | RevocationCause::PasswordChange
        | RevocationCause::SessionLimit
        | RevocationCause::Erasure => Informational,
        RevocationCause::Admin
        | RevocationCause::Suspension
        | RevocationCause::SecondFactorReset
        | RevocationCause::PasswordExpired => Low,
        RevocationCause::FingerprintMismatch => Medium,
        RevocationCause::Reuse => High,
    }
}
