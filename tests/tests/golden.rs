//! Golden events: the bytes of every kind of event, as this build writes them and every later build must read them.
//!
//! `tests/golden/<type>.v<schema version>[.<case>].json` is a leaf, byte for byte; `leaf-hashes.txt` holds the hash of
//! each. A file there is never changed: an event that is to be written in another form gets another schema version, and
//! files of its own. `cargo test -p fulexo-tests --test golden -- --ignored` writes those that are missing.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use fulexo_domain::account::{AccountEvent, Initiator, PasswordChangeCause};
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::audit::{AuditTrailEvent, CopyFilter, CopyForm};
use fulexo_domain::authentication::{
    AuthenticationEvent, AuthenticationMethod, Factor, FailureReason, LockScope, UnlockCause,
};
use fulexo_domain::backup::{
    BackupContent, BackupEvent, BackupPart, BackupPartKind, BackupPlace, BackupRung, DrillFigures, RungResult,
    RungVerdict,
};
use fulexo_domain::checkpoint::{CheckpointEvent, CheckpointRefusal};
use fulexo_domain::erasure::{CopyHolder, CopyHolderKind, CopyHolders, DestroyedData};
use fulexo_domain::event::{Actor, Category, Event, RecordedEvent, SealedDigest, Stream};
use fulexo_domain::incident::{ContainmentMeasures, IncidentEvent, IncidentLinks, IncidentSeverity};
use fulexo_domain::key::{KeyEvent, KeyLabel, KeyPurpose};
use fulexo_domain::leaf::{self, EventDraft, LeafOutline, LeafTemplate};
use fulexo_domain::lockdown::{LockdownEvent, LockdownScope};
use fulexo_domain::permission::Permission;
use fulexo_domain::policy::{FingerprintPolicy, Policy, PolicyEvent};
use fulexo_domain::rate_limit::{RateLimitEvent, RateLimitLayer, RouteGroup};
use fulexo_domain::role::RoleEvent;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::{
    AccountId, AddressKind, ApiKeyName, BackupLabel, Epoch, FindingRule, RoleName, SessionId, Sha256Hex, TreeRoot,
};
use uuid::Uuid;

const POSITION: u64 = 41;
const VERSION: u64 = 7;

/// Returns one event of every type, and of every value that its data can take; the case is empty for the plain one.
fn samples() -> Vec<(&'static str, Event)> {
    use AuthenticationEvent as Auth;
    use Factor::{Password, SecondFactor};
    let failed = |factor, reason| Auth::Failed { factor, reason, device: None }.into();
    let all_devices = Some(LockScope::Account);
    let locked_out = |factor, failures, nth, device, scope| {
        Auth::LockedOut { factor, failures, nth, until: time(900), device, scope }.into()
    };
    let lifted = |factor, by| Auth::LockLifted { factor, by, device: None, scope: None }.into();
    let revoked = |by| SessionEvent::Revoked { by }.into();
    let changed = |how| AccountEvent::PasswordChanged { how }.into();
    let disabled = |by| AccountEvent::SecondFactorDisabled { by }.into();
    let mismatched = |action| SessionEvent::FingerprintMismatched { action, fingerprint: fingerprint() }.into();
    let (device, pwd, both) = (
        Some(device()),
        vec![AuthenticationMethod::Password],
        vec![AuthenticationMethod::Password, AuthenticationMethod::OneTime],
    );
    let session = SessionId(id(3));
    let samples: Vec<(&str, Event)> = vec![
        ("", AccountEvent::Registered {}.into()),
        ("", AccountEvent::ProfileChanged {}.into()),
        ("", changed(PasswordChangeCause::Owner)),
        ("expired", changed(PasswordChangeCause::Expired)),
        ("rehash", changed(PasswordChangeCause::Rehash)),
        ("reset", changed(PasswordChangeCause::Reset)),
        ("reported", changed(PasswordChangeCause::Reported)),
        ("", AccountEvent::EmailVerified {}.into()),
        ("", AccountEvent::PasswordExpired {}.into()),
        ("", AccountEvent::SecondFactorEnrolmentStarted {}.into()),
        ("", AccountEvent::SecondFactorEnabled { session: None }.into()),
        ("in_session", AccountEvent::SecondFactorEnabled { session: Some(session) }.into()),
        ("", disabled(Initiator::Owner)),
        ("admin", disabled(Initiator::Admin)),
        ("", AccountEvent::RecoveryCodesIssued { count: 10 }.into()),
        ("", AccountEvent::RecoveryCodeUsed { remaining: 9 }.into()),
        ("", AccountEvent::RoleGranted { role: role("auditor") }.into()),
        ("", AccountEvent::RoleRevoked { role: role("support-tier_2") }.into()),
        ("", AccountEvent::Suspended {}.into()),
        ("", AccountEvent::Reinstated {}.into()),
        ("", AccountEvent::SessionsRevoked { by: RevocationCause::Suspension, except_session: None }.into()),
        (
            "except_session",
            AccountEvent::SessionsRevoked { by: RevocationCause::PasswordChange, except_session: Some(session) }.into(),
        ),
        ("", AccountEvent::ErasureStarted { due_at: time(604_800) }.into()),
        ("", AccountEvent::ErasureWithdrawn {}.into()),
        ("", AccountEvent::Erased { by: Initiator::Owner }.into()),
        ("admin", AccountEvent::Erased { by: Initiator::Admin }.into()),
        ("", erasure_completed(Some("2026-10".to_owned()), CopyHolders::default())),
        ("no_key", erasure_completed(None, CopyHolders::default())),
        ("copies", erasure_completed(None, copy_holders())),
        ("", Auth::PasswordResetRequested {}.into()),
        ("", Auth::PasswordResetRefused { attempt: 5 }.into()),
        ("", Auth::NewDeviceSeen { session }.into()),
        ("", Auth::Succeeded { methods: pwd.clone(), session, device: None, trusted_device: None }.into()),
        (
            "two_factors",
            Auth::Succeeded { methods: both, session, device: device.clone(), trusted_device: None }.into(),
        ),
        (
            "trusted_device",
            Auth::Succeeded { methods: pwd.clone(), session, device: None, trusted_device: device.clone() }.into(),
        ),
        ("", Auth::DeviceForgotten { device: device.clone().unwrap() }.into()),
        ("", Auth::SecondFactorRequired { enrolled: true, device: None }.into()),
        ("enrolment", Auth::SecondFactorRequired { enrolled: false, device: device.clone() }.into()),
        ("", Auth::PasswordChangeRequired { factor: Password, device: None }.into()),
        ("device", Auth::PasswordChangeRequired { factor: SecondFactor, device: device.clone() }.into()),
        ("", Auth::Confirmed { factor: Password, device: device.clone() }.into()),
        ("second_factor", Auth::Confirmed { factor: SecondFactor, device: device.clone() }.into()),
        ("", failed(Password, FailureReason::WrongPassword)),
        ("unknown_account", failed(Password, FailureReason::UnknownAccount)),
        ("locked", failed(Password, FailureReason::Locked)),
        ("too_many_concurrent", failed(Password, FailureReason::TooManyConcurrent)),
        ("suspended", failed(Password, FailureReason::Suspended)),
        ("wrong_code", failed(SecondFactor, FailureReason::WrongCode)),
        ("expired_challenge", failed(SecondFactor, FailureReason::ExpiredChallenge)),
        ("lockdown", failed(Password, FailureReason::Lockdown)),
        (
            "device",
            Auth::Failed { factor: Password, reason: FailureReason::WrongPassword, device: device.clone() }.into(),
        ),
        ("", lifted(Password, UnlockCause::Admin)),
        ("expired", lifted(SecondFactor, UnlockCause::Expired)),
        ("reset", lifted(SecondFactor, UnlockCause::Reset)),
        (
            "device",
            Auth::LockLifted { factor: Password, by: UnlockCause::Expired, device: device.clone(), scope: None }.into(),
        ),
        (
            "all_devices",
            Auth::LockLifted { factor: Password, by: UnlockCause::Expired, device: None, scope: all_devices }.into(),
        ),
        ("", locked_out(Password, 5, 2, None, None)),
        ("all_devices", locked_out(Password, 20, 1, None, all_devices)),
        ("second_factor", locked_out(SecondFactor, 5, 1, device, None)),
        ("", started()),
        ("", SessionEvent::Refreshed { generation: 2, grace_until: time(10), idle_expires_at: time(604_800) }.into()),
        ("", SessionEvent::RefreshReused { generation: 1 }.into()),
        ("", SessionEvent::Elevated { methods: pwd.clone(), until: time(600), restored: false }.into()),
        ("restored", SessionEvent::Elevated { methods: pwd, until: time(600), restored: true }.into()),
        ("", mismatched(FingerprintPolicy::RequireStepUp)),
        ("record", mismatched(FingerprintPolicy::Record)),
        ("revoke", mismatched(FingerprintPolicy::Revoke)),
        ("", revoked(RevocationCause::Owner)),
        ("admin", revoked(RevocationCause::Admin)),
        ("reuse", revoked(RevocationCause::Reuse)),
        ("password_change", revoked(RevocationCause::PasswordChange)),
        ("suspension", revoked(RevocationCause::Suspension)),
        ("second_factor_reset", revoked(RevocationCause::SecondFactorReset)),
        ("password_expired", revoked(RevocationCause::PasswordExpired)),
        ("fingerprint_mismatch", revoked(RevocationCause::FingerprintMismatch)),
        ("session_limit", revoked(RevocationCause::SessionLimit)),
        ("erasure", revoked(RevocationCause::Erasure)),
        ("", SessionEvent::Expired {}.into()),
        ("", defined(&first_permissions())),
        ("later", defined(&[Permission::MetricsRead, Permission::LockdownManage])),
        ("unsealing", defined(&[Permission::AuditUnseal])),
        ("erasing", defined(&[Permission::AccountsErase])),
        ("responding", defined(&[Permission::IncidentsManage])),
        ("alerting", defined(&[Permission::IncidentsAlert])),
        (
            "",
            RoleEvent::PermissionsChanged {
                role: role("support"),
                before: vec![Permission::AccountsRead],
                after: vec![],
            }
            .into(),
        ),
        ("", RoleEvent::Retired { role: role("support") }.into()),
        ("", PolicyEvent::Changed { before: Box::default(), after: Box::new(policy()) }.into()),
        ("erasure", PolicyEvent::Changed { before: Box::default(), after: Box::new(forgetful()) }.into()),
        ("sessions_and_keys", PolicyEvent::Changed { before: Box::default(), after: Box::new(lenient()) }.into()),
        (
            "",
            ApiKeyEvent::Created {
                name: ApiKeyName::parse("billing-2.eu").unwrap(),
                permissions: vec![Permission::TokensIntrospect],
                expires_at: time(86_400),
            }
            .into(),
        ),
        ("", ApiKeyEvent::Revoked {}.into()),
        ("", violated(RateLimitLayer::Address, None)),
        ("login", violated(RateLimitLayer::Address, Some(RouteGroup::Login))),
        ("register", violated(RateLimitLayer::Address, Some(RouteGroup::Register))),
        ("refresh", violated(RateLimitLayer::Address, Some(RouteGroup::Refresh))),
        ("second_factor", violated(RateLimitLayer::Address, Some(RouteGroup::SecondFactor))),
        ("recovery", violated(RateLimitLayer::Address, Some(RouteGroup::Recovery))),
        ("hashes", violated(RateLimitLayer::Address, Some(RouteGroup::Hashes))),
        ("account_hashes", violated(RateLimitLayer::Account, Some(RouteGroup::AccountHashes))),
        ("account_refresh", violated(RateLimitLayer::Account, Some(RouteGroup::AccountRefresh))),
        ("profile", violated(RateLimitLayer::Account, Some(RouteGroup::Profile))),
        ("password", violated(RateLimitLayer::Account, Some(RouteGroup::Password))),
        ("credentials", violated(RateLimitLayer::Account, Some(RouteGroup::Credentials))),
        ("sessions", violated(RateLimitLayer::Account, Some(RouteGroup::Sessions))),
        ("administration", violated(RateLimitLayer::Account, Some(RouteGroup::Administration))),
        ("account", violated(RateLimitLayer::Account, None)),
        ("", LockdownEvent::Started { scope: LockdownScope::All }.into()),
        ("logins", LockdownEvent::Started { scope: LockdownScope::Logins }.into()),
        ("", LockdownEvent::Lifted {}.into()),
        ("", unsealed(&[SealedField::Email])),
        ("every_field", unsealed(&first_sealed_fields())),
        ("of_an_incident", unsealed(&[SealedField::Lessons, SealedField::Note, SealedField::Summary])),
        ("", exported(CopyForm::Ndjson, Some(41), CopyFilter::default())),
        ("ocsf", exported(CopyForm::Ocsf, Some(41), copy_filter())),
        ("leaves", exported(CopyForm::Leaves, Some(41), CopyFilter::default())),
        ("entries", exported(CopyForm::Entries, None, CopyFilter::default())),
        ("stream", exported(CopyForm::Stream, None, copy_filter())),
        ("own_data", exported(CopyForm::OwnData, Some(41), CopyFilter::default())),
        ("", AuditTrailEvent::AddressSearched { kind: AddressKind::Ip }.into()),
        ("email", AuditTrailEvent::AddressSearched { kind: AddressKind::Email }.into()),
        ("", refusal_ended(CheckpointRefusal::Shorter)),
        ("different", refusal_ended(CheckpointRefusal::Different)),
        ("other_log", refusal_ended(CheckpointRefusal::OtherLog)),
        ("memory", refusal_ended(CheckpointRefusal::Memory)),
        ("", key_rotated(KeyPurpose::Encryption, "default", "2026-11-30")),
        ("signing", key_rotated(KeyPurpose::Signing, &fingerprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")),
        ("log", key_rotated(KeyPurpose::Log, "auth.example.com/log+1a2b3c4d", "auth.example.com/log+4d3c2b1a")),
        ("", key_destroyed(KeyPurpose::Encryption, "default")),
        ("signing", key_destroyed(KeyPurpose::Signing, &fingerprint())),
        ("log", key_destroyed(KeyPurpose::Log, "auth.example.com/log+1a2b3c4d")),
        ("", incident_opened(IncidentSeverity::High, None, IncidentLinks::default())),
        ("linked", incident_opened(IncidentSeverity::Critical, Some(AccountId(id(4))), incident_links())),
        ("", IncidentEvent::ContainmentStarted { measures: measures() }.into()),
        ("", IncidentEvent::Contained { measures: measures() }.into()),
        ("with_keys", IncidentEvent::Contained { measures: ContainmentMeasures { keys: 2, ..measures() } }.into()),
        ("by_other_means", IncidentEvent::Contained { measures: ContainmentMeasures::default() }.into()),
        ("", IncidentEvent::Eradicated {}.into()),
        ("", IncidentEvent::Recovered {}.into()),
        ("", IncidentEvent::Closed {}.into()),
        ("", IncidentEvent::Noted { links: IncidentLinks::default() }.into()),
        ("linked", IncidentEvent::Noted { links: incident_links() }.into()),
        ("", IncidentEvent::Triaged { owner: Some(AccountId(id(4))), severity: IncidentSeverity::Medium }.into()),
        ("no_owner", IncidentEvent::Triaged { owner: None, severity: IncidentSeverity::Low }.into()),
        ("", backup_taken(BackupPlace::Directory)),
        ("s3", backup_taken(BackupPlace::S3)),
        ("", backup_verified(RungVerdict::Passed, None)),
        ("drill", backup_verified(RungVerdict::NotClimbed, Some(drill_figures()))),
        ("failed", backup_verified(RungVerdict::Failed, None)),
        ("", backup_restored(Some(backup_content()), Some(3))),
        ("by_other_means", backup_restored(None, None)),
    ];
    samples.into_iter().inspect(|(_, event)| stands_among_the_samples(event)).collect()
}

/// Does not compile if there is a kind of event, or a value in one, that is missing here: it needs a sample above and,
/// written by the ignored test below, a file.
fn stands_among_the_samples(event: &Event) {
    match event {
        Event::Account(event) => match event {
            AccountEvent::Registered {}
            | AccountEvent::ProfileChanged {}
            | AccountEvent::PasswordChanged {
                how:
                    PasswordChangeCause::Owner
                    | PasswordChangeCause::Expired
                    | PasswordChangeCause::Rehash
                    | PasswordChangeCause::Reset
                    | PasswordChangeCause::Reported,
            }
            | AccountEvent::PasswordExpired {}
            | AccountEvent::SecondFactorEnrolmentStarted {}
            | AccountEvent::SecondFactorEnabled { session: _ }
            | AccountEvent::SecondFactorDisabled { by: Initiator::Owner | Initiator::Admin }
            | AccountEvent::RecoveryCodesIssued { count: _ }
            | AccountEvent::RecoveryCodeUsed { remaining: _ }
            | AccountEvent::RoleGranted { role: _ }
            | AccountEvent::RoleRevoked { role: _ }
            | AccountEvent::EmailVerified {}
            | AccountEvent::Suspended {}
            | AccountEvent::Reinstated {}
            | AccountEvent::SessionsRevoked { by: _, except_session: _ }
            | AccountEvent::ErasureStarted { due_at: _ }
            | AccountEvent::ErasureWithdrawn {}
            | AccountEvent::Erased { by: Initiator::Owner | Initiator::Admin }
            | AccountEvent::ErasureCompleted { destroyed: _, wrapping_key: _, log_switched: _, copies: _ } => {}
        },
        Event::Authentication(event) => match event {
            AuthenticationEvent::Succeeded { methods: _, session: _, device: _, trusted_device: _ }
            | AuthenticationEvent::DeviceForgotten { device: _ }
            | AuthenticationEvent::SecondFactorRequired { enrolled: _, device: _ }
            | AuthenticationEvent::PasswordChangeRequired {
                factor: Factor::Password | Factor::SecondFactor,
                device: _,
            }
            | AuthenticationEvent::Confirmed { factor: Factor::Password | Factor::SecondFactor, device: _ }
            | AuthenticationEvent::Failed {
                factor: Factor::Password | Factor::SecondFactor,
                reason:
                    FailureReason::WrongPassword
                    | FailureReason::WrongCode
                    | FailureReason::UnknownAccount
                    | FailureReason::Locked
                    | FailureReason::TooManyConcurrent
                    | FailureReason::Suspended
                    | FailureReason::ExpiredChallenge
                    | FailureReason::Lockdown,
                device: _,
            }
            | AuthenticationEvent::LockLifted {
                factor: Factor::Password | Factor::SecondFactor,
                by: UnlockCause::Admin | UnlockCause::Expired | UnlockCause::Reset,
                device: _,
                scope: None | Some(LockScope::Account),
            }
            | AuthenticationEvent::PasswordResetRequested {}
            | AuthenticationEvent::PasswordResetRefused { .. }
            | AuthenticationEvent::NewDeviceSeen { session: _ }
            | AuthenticationEvent::LockedOut {
                factor: Factor::Password | Factor::SecondFactor,
                failures: _,
                nth: _,
                until: _,
                device: _,
                scope: None | Some(LockScope::Account),
            } => {}
        },
        Event::Session(event) => match event {
            SessionEvent::Started { account: _, methods: _, fingerprint: _, idle_expires_at: _, expires_at: _ }
            | SessionEvent::Refreshed { generation: _, grace_until: _, idle_expires_at: _ }
            | SessionEvent::RefreshReused { generation: _ }
            | SessionEvent::FingerprintMismatched {
                action: FingerprintPolicy::Record | FingerprintPolicy::RequireStepUp | FingerprintPolicy::Revoke,
                fingerprint: _,
            }
            | SessionEvent::Revoked {
                by:
                    RevocationCause::Owner
                    | RevocationCause::Admin
                    | RevocationCause::Reuse
                    | RevocationCause::PasswordChange
                    | RevocationCause::Suspension
                    | RevocationCause::SecondFactorReset
                    | RevocationCause::PasswordExpired
                    | RevocationCause::FingerprintMismatch
                    | RevocationCause::SessionLimit
                    | RevocationCause::Erasure,
            }
            | SessionEvent::Elevated { methods: _, until: _, restored: _ }
            | SessionEvent::Expired {} => {}
        },
        Event::Role(event) => match event {
            RoleEvent::Defined { role: _, permissions: _ }
            | RoleEvent::PermissionsChanged { role: _, before: _, after: _ }
            | RoleEvent::Retired { role: _ } => {}
        },
        Event::Policy(PolicyEvent::Changed { before: _, after: _ }) => {}
        Event::ApiKey(event) => match event {
            ApiKeyEvent::Created { name: _, permissions: _, expires_at: _ } | ApiKeyEvent::Revoked {} => {}
        },
        Event::RateLimit(RateLimitEvent::Violated {
            layer: RateLimitLayer::Address | RateLimitLayer::Account,
            route:
                None
                | Some(
                    RouteGroup::Login
                    | RouteGroup::Register
                    | RouteGroup::Refresh
                    | RouteGroup::SecondFactor
                    | RouteGroup::Recovery
                    | RouteGroup::Profile
                    | RouteGroup::Password
                    | RouteGroup::Credentials
                    | RouteGroup::Sessions
                    | RouteGroup::AccountRefresh
                    | RouteGroup::Administration
                    | RouteGroup::Hashes
                    | RouteGroup::AccountHashes,
                ),
            started_at: _,
            ended_at: _,
            count: _,
        }) => {}
        Event::Checkpoint(CheckpointEvent::RefusalEnded {
            reason:
                CheckpointRefusal::Shorter
                | CheckpointRefusal::Different
                | CheckpointRefusal::OtherLog
                | CheckpointRefusal::Memory,
            started_at: _,
            ended_at: _,
        }) => {}
        Event::Audit(
            AuditTrailEvent::Unsealed { position: _, fields: _ }
            | AuditTrailEvent::Exported {
                form:
                    CopyForm::Ndjson
                    | CopyForm::Ocsf
                    | CopyForm::Leaves
                    | CopyForm::Entries
                    | CopyForm::Stream
                    | CopyForm::OwnData,
                first: _,
                last: _,
                filter: _,
            }
            | AuditTrailEvent::AddressSearched { kind: AddressKind::Ip | AddressKind::Email },
        ) => {}
        Event::Key(event) => match event {
            KeyEvent::Rotated {
                kind: KeyPurpose::Encryption | KeyPurpose::Signing | KeyPurpose::Log,
                from: _,
                to: _,
            }
            | KeyEvent::Destroyed { kind: KeyPurpose::Encryption | KeyPurpose::Signing | KeyPurpose::Log, id: _ } => {}
        },
        Event::Incident(event) => {
            use IncidentSeverity::{Critical, High, Low, Medium};
            match event {
                IncidentEvent::Opened {
                    links: IncidentLinks { accounts: _, events: _, findings: _, sessions: _ },
                    owner: _,
                    severity: Low | Medium | High | Critical,
                }
                | IncidentEvent::ContainmentStarted { measures: _ }
                | IncidentEvent::Contained {
                    measures: ContainmentMeasures { accounts: _, api_keys: _, keys: _, lockdown: _, sessions: _ },
                }
                | IncidentEvent::Eradicated {}
                | IncidentEvent::Recovered {}
                | IncidentEvent::Closed {}
                | IncidentEvent::Noted { links: _ }
                | IncidentEvent::Triaged { owner: _, severity: _ } => {}
            }
        }
        Event::Backup(event) => {
            use BackupRung::{Canary, Checksums, Format, Log, ReadModels, Restore, Signature};
            match event {
                BackupEvent::Taken {
                    backup:
                        BackupContent { began_at: _, bytes: _, epoch: _, manifest: _, name: _, position: _, root: _ },
                    parts: _,
                    place: BackupPlace::Directory | BackupPlace::S3,
                }
                | BackupEvent::Restored { backup: _, epoch: _, erasures: _, lost: _, position: _ } => {}
                BackupEvent::Verified { backup: _, drill: _, place: _, rungs } => {
                    for RungResult {
                        rung: Signature | Checksums | Format | Restore | Log | ReadModels | Canary,
                        verdict: RungVerdict::Passed | RungVerdict::Failed | RungVerdict::NotClimbed,
                    } in rungs
                    {}
                }
            }
        }
        Event::Lockdown(event) => match event {
            LockdownEvent::Started { scope: LockdownScope::Logins | LockdownScope::All } | LockdownEvent::Lifted {} => {
            }
        },
    }
}

fn policy() -> Policy {
    let mut policy = Policy { version: 2, ..Policy::default() };
    policy.lockout.enabled = false;
    policy.passwords.max_age_days = Some(90);
    policy.sessions.fingerprint = FingerprintPolicy::Revoke;
    policy.second_factor.required_for = [role("admin"), role("support")].into();
    policy
}

/// Returns the sealed fields that there were before incidents.
fn first_sealed_fields() -> Vec<SealedField> {
    let later = [SealedField::Lessons, SealedField::Note, SealedField::Summary];
    SealedField::ALL.into_iter().filter(|field| !later.contains(field)).collect()
}

/// Returns links of each kind.
fn incident_links() -> IncidentLinks {
    IncidentLinks {
        accounts: [AccountId(id(2))].into(),
        events: [3, 41].into(),
        findings: [FindingRule::parse("certificate.expires-soon").unwrap()].into(),
        sessions: [SessionId(id(3))].into(),
    }
}

fn measures() -> ContainmentMeasures {
    ContainmentMeasures { accounts: 2, api_keys: 1, keys: 0, lockdown: Some(LockdownScope::Logins), sessions: 7 }
}

/// Returns the permissions that there were when roles were first defined.
fn first_permissions() -> Vec<Permission> {
    let later = [Permission::AccountsErase, Permission::AuditUnseal];
    Permission::ALL.into_iter().filter(|permission| !later.contains(permission)).take(12).collect()
}

/// Returns a policy with the members that earlier policies lacked.
fn lenient() -> Policy {
    let mut policy = Policy { version: 2, ..Policy::default() };
    policy.sessions.max_per_account = 250;
    policy.api_keys.suspend_with_creator = false;
    policy
}

/// Returns a policy with the member that came after those.
fn forgetful() -> Policy {
    let mut policy = Policy { version: 2, ..Policy::default() };
    policy.erasure.withdrawal_days = 30;
    policy
}

fn erasure_completed(wrapping_key: Option<String>, copies: CopyHolders) -> Event {
    let destroyed = DestroyedData {
        sealed: 41,
        addresses: 1,
        verifiers: 3,
        recovery_codes: 10,
        refresh_roots: 2,
        devices: 2,
        attempts: 1,
        mails: 4,
        mail_tokens: 5,
        outcomes: 6,
    };
    AccountEvent::ErasureCompleted { destroyed, wrapping_key, log_switched: true, copies }.into()
}

/// Returns a device as the service names devices: sixteen bytes, base64url.
fn device() -> String {
    "q3x0Vd1Yc9kT6mJb2LzZ0A".to_owned()
}

fn fingerprint() -> String {
    "mX3d5Zl1yKkq0pQe7v8wB2nC4rT6uY9aFgHjJkLzXcV".to_owned()
}

fn started() -> Event {
    let (idle_expires_at, expires_at) = (time(604_800), time(2_592_000));
    let (account, methods, fingerprint) = (AccountId(id(2)), vec![AuthenticationMethod::Password], fingerprint());
    SessionEvent::Started { account, methods, fingerprint, idle_expires_at, expires_at }.into()
}

fn defined(permissions: &[Permission]) -> Event {
    RoleEvent::Defined { role: role("support"), permissions: permissions.to_vec() }.into()
}

fn unsealed(fields: &[SealedField]) -> Event {
    AuditTrailEvent::Unsealed { position: 41, fields: fields.to_vec() }.into()
}

fn exported(form: CopyForm, last: Option<u64>, filter: CopyFilter) -> Event {
    AuditTrailEvent::Exported { form, first: 0, last, filter }.into()
}

/// Returns a filter of a copy that has all there is.
fn copy_filter() -> CopyFilter {
    CopyFilter {
        actor: Some(id(1)),
        address: true,
        api_key: Some(id(2)),
        category: Some("account".to_owned()),
        correlation: Some(id(3)),
        id: Some(id(4)),
        session: Some(id(5)),
        subject: Some(id(6)),
        r#type: Some("account.registered".to_owned()),
    }
}

fn copy_holders() -> CopyHolders {
    let holder = |kind, id, copies| CopyHolder { kind, id, copies, last_at: time(0) };
    let latest = vec![holder(CopyHolderKind::Account, id(2), 3), holder(CopyHolderKind::ApiKey, id(3), 1)];
    CopyHolders { count: 102, latest }
}

fn refusal_ended(reason: CheckpointRefusal) -> Event {
    CheckpointEvent::RefusalEnded { reason, started_at: time(0), ended_at: time(3_600) }.into()
}

fn key_rotated(kind: KeyPurpose, from: &str, to: &str) -> Event {
    let label = |text| KeyLabel::parse(text).unwrap();
    KeyEvent::Rotated { kind, from: label(from), to: label(to) }.into()
}

fn key_destroyed(kind: KeyPurpose, id: &str) -> Event {
    KeyEvent::Destroyed { kind, id: KeyLabel::parse(id).unwrap() }.into()
}

fn incident_opened(severity: IncidentSeverity, owner: Option<AccountId>, links: IncidentLinks) -> Event {
    IncidentEvent::Opened { links, owner, severity }.into()
}

fn backup_content() -> BackupContent {
    BackupContent {
        began_at: time(0),
        bytes: 1_048_814,
        epoch: Epoch::from(id(9)),
        manifest: Sha256Hex::parse("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap(),
        name: BackupLabel::parse("20261026T073320Z-4711").unwrap(),
        position: 4_711,
        root: TreeRoot::parse("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").unwrap(),
    }
}

fn backup_taken(place: BackupPlace) -> Event {
    let part = |part, length, sha256| BackupPart { length, part, sha256: Sha256Hex::parse(sha256).unwrap() };
    let (database, keys) = (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    );
    let parts = vec![part(BackupPartKind::Database, 1_048_576, database), part(BackupPartKind::Keys, 238, keys)];
    BackupEvent::Taken { backup: backup_content(), parts, place }.into()
}

/// Returns a verification of all rungs, with this verdict on the last one.
fn backup_verified(last: RungVerdict, drill: Option<DrillFigures>) -> Event {
    let verdict = |rung| if rung == BackupRung::Canary { last } else { RungVerdict::Passed };
    let rungs = BackupRung::ALL.map(|rung| RungResult { rung, verdict: verdict(rung) }).to_vec();
    BackupEvent::Verified { backup: backup_content(), drill, place: BackupPlace::Directory, rungs }.into()
}

fn drill_figures() -> DrillFigures {
    DrillFigures {
        lost_events: 41,
        recovery_point_ms: 3_600_000,
        recovery_point_goal_ms: Some(86_400_000),
        recovery_time_ms: 42_042,
        recovery_time_goal_ms: None,
    }
}

fn backup_restored(backup: Option<BackupContent>, lost: Option<u64>) -> Event {
    BackupEvent::Restored { backup, epoch: Epoch::from(id(10)), erasures: 1, lost, position: 4_711 }.into()
}

fn violated(layer: RateLimitLayer, route: Option<RouteGroup>) -> Event {
    RateLimitEvent::Violated { layer, route, started_at: time(0), ended_at: time(60), count: 1_017 }.into()
}

fn role(name: &str) -> RoleName {
    RoleName::parse(name).unwrap()
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0193_5c2e_7000_7000_8000_0000_0000_0000 + number)
}

/// Returns the time this many seconds after all events here, plus a few microseconds.
fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_793_000_000_000_042 + seconds * 1_000_000).unwrap()
}

/// Returns everything around an event that a leaf can say, told apart by what the event is about.
fn prepared(event: &Event) -> LeafTemplate {
    // Every field that can be sealed is sealed; except for a session's end, since most come without a reason, and a
    // refresh, since earlier builds sealed nothing of it.
    let fields = match event {
        Event::Session(SessionEvent::Revoked { .. } | SessionEvent::Refreshed { .. }) => Vec::new(),
        event => event.sealed_fields().to_vec(),
    };
    let digest = SealedDigest {
        commitment: "qL8R4QIcQ_ZsRqOAbeRfcZhilN_MksRtDaErMA-rbP0".to_owned(),
        digest: "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg".to_owned(),
        fields,
    };
    let (subject, actor, causation) = match event {
        Event::Account(_) => (Some(id(2)), Actor::Account { id: id(4) }, Some(id(5))),
        Event::Authentication(AuthenticationEvent::Failed { reason: FailureReason::UnknownAccount, .. }) => {
            (None, Actor::Anonymous, None)
        }
        Event::Authentication(_) => (Some(id(2)), Actor::Anonymous, None),
        Event::Session(SessionEvent::Revoked { by: RevocationCause::Admin }) => (Some(id(2)), Actor::Operator, None),
        Event::Session(SessionEvent::Expired {}) => (Some(id(2)), Actor::System, None),
        Event::Session(_) => (Some(id(2)), Actor::Account { id: id(2) }, None),
        Event::ApiKey(ApiKeyEvent::Revoked {}) => (Some(id(2)), Actor::ApiKey { id: id(8) }, None),
        Event::RateLimit(RateLimitEvent::Violated { layer: RateLimitLayer::Account, .. }) => {
            (Some(id(4)), Actor::Account { id: id(4) }, None)
        }
        Event::RateLimit(_) => (None, Actor::Anonymous, None),
        Event::Checkpoint(_) => (None, Actor::System, None),
        Event::Key(_) | Event::Backup(_) => (None, Actor::Operator, None),
        Event::Incident(_) => (None, Actor::Account { id: id(4) }, None),
        Event::Audit(_) => (Some(id(2)), Actor::Account { id: id(4) }, None),
        Event::Role(_) | Event::Policy(_) | Event::ApiKey(_) | Event::Lockdown(_) => {
            (None, Actor::Account { id: id(4) }, None)
        }
    };
    let draft = EventDraft {
        id: id(1),
        stream: Stream { category: event.category(), id: id(6) },
        subject,
        actor,
        correlation: id(7),
        causation,
        policy_version: 1,
        event: event.clone(),
        sealed: if digest.fields.is_empty() { Vec::new() } else { vec![digest] },
    };
    draft.encode().unwrap()
}

/// Returns the file of a sample, and its content.
fn written(case: &str, event: &Event) -> (String, Vec<u8>) {
    let leaf = prepared(event).leaf(time(0), VERSION);
    let raw = leaf::read(POSITION, &leaf).unwrap();
    let case = if case.is_empty() { String::new() } else { format!(".{case}") };
    (format!("{}.v{}{case}.json", raw.r#type, raw.schema_version), leaf)
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden"].iter().collect()
}

/// Returns every golden file.
fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

/// Returns the hash of each file, in the form that `leaf-hashes.txt` has.
fn hashes(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut text = String::new();
    for (name, leaf) in files {
        let hash: String = leaf::hash(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{hash}  {name}").unwrap();
    }
    text
}

/// Encodes what was read, as if it were recorded now.
fn encoded_again(recorded: &RecordedEvent) -> Vec<u8> {
    let RecordedEvent { id, stream, subject, actor, correlation, causation, policy_version, event, sealed, .. } =
        recorded.clone();
    let draft = EventDraft { id, stream, subject, actor, correlation, causation, policy_version, event, sealed };
    draft.encode().unwrap().leaf(recorded.recorded_at, recorded.version)
}

/// Returns the names that a type may have in a leaf, from its decoder's error about an unknown name.
fn names<T>(unknown: Result<T, serde_json::Error>) -> BTreeSet<String> {
    let message = unknown.err().unwrap().to_string();
    let (_, expected) = message.split_once(", expected ").unwrap_or_else(|| panic!("no names in {message:?}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_golden_event_is_read_as_the_event_that_it_is() {
    let files = files();
    for (case, event) in samples() {
        let (name, _) = written(case, &event);
        let leaf = files.get(&name).unwrap_or_else(|| panic!("{name} is missing: run the ignored test"));
        let read = leaf::decode(POSITION, leaf).unwrap();
        assert_eq!(read, prepared(&event).recorded_event(POSITION, time(0), VERSION), "{name}");
    }
}

#[test]
fn every_golden_event_is_read_for_ever_and_written_again_as_it_stands() {
    for (name, leaf) in files() {
        let read = leaf::decode(POSITION, &leaf).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outline = LeafOutline::read(&leaf).unwrap_or_else(|| panic!("{name} has no outline"));
        let outlined = (outline.category, outline.stream, outline.version, outline.time, outline.sealed());
        let Stream { category, id } = read.stream;
        assert_eq!(outlined, (category, id, read.version, read.recorded_at, read.sealed.clone()), "{name}");
        // An older form is read as the newer one, and never written again.
        if name.split('.').any(|part| part == format!("v{}", read.event.schema_version())) {
            let again = encoded_again(&read);
            assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&leaf), "{name}");
            assert_eq!(leaf::hash(&again), leaf::hash(&leaf), "{name}");
        }
    }
}

#[test]
fn every_golden_event_has_the_hash_that_it_always_had() {
    let known = fs::read_to_string(folder().join("leaf-hashes.txt")).unwrap();
    assert_eq!(hashes(&files()), known, "a golden file was changed, or is new and not in leaf-hashes.txt");
}

#[test]
fn every_event_type_has_a_golden_file() {
    let types = Event::types();
    assert!(types.len() >= 40 && types.iter().collect::<BTreeSet<_>>().len() == types.len(), "{types:?}");
    let files = files();
    let has_one = |name: &str| files.keys().any(|file| file.starts_with(&format!("{name}.v")));
    let missing: Vec<_> = types.iter().filter(|name| !has_one(name)).collect();
    assert!(missing.is_empty(), "without a golden file: {missing:?}");
}

#[test]
fn every_value_that_a_leaf_can_name_stands_in_a_golden_file() {
    let all: String = files().into_values().map(|leaf| String::from_utf8(leaf).unwrap()).collect();
    let values = [
        names(serde_json::from_str::<PasswordChangeCause>(r#""?""#)),
        names(serde_json::from_str::<Factor>(r#""?""#)),
        names(serde_json::from_str::<FailureReason>(r#""?""#)),
        names(serde_json::from_str::<AuthenticationMethod>(r#""?""#)),
        names(serde_json::from_str::<RevocationCause>(r#""?""#)),
        names(serde_json::from_str::<Initiator>(r#""?""#)),
        names(serde_json::from_str::<UnlockCause>(r#""?""#)),
        names(serde_json::from_str::<FingerprintPolicy>(r#""?""#)),
        names(serde_json::from_str::<Permission>(r#""?""#)),
        names(serde_json::from_str::<Category>(r#""?""#)),
        names(serde_json::from_str::<SealedField>(r#""?""#)),
        names(serde_json::from_str::<Actor>(r#"{"kind": "?"}"#)),
    ];
    for value in values.into_iter().flatten() {
        assert!(all.contains(&format!("\"{value}\"")), "{value} stands in no golden file");
    }
}

#[test]
#[ignore = "writes the golden files that are missing, and never changes one that is there"]
fn write_what_is_missing() {
    fs::create_dir_all(folder()).unwrap();
    for (case, event) in samples() {
        let (name, leaf) = written(case, &event);
        if !folder().join(&name).exists() {
            fs::write(folder().join(&name), leaf).unwrap();
        }
    }
    let known = fs::read_to_string(folder().join("leaf-hashes.txt")).unwrap_or_default();
    let current = hashes(&files());
    let lost: Vec<_> = known.lines().filter(|line| !current.lines().any(|now| now == *line)).collect();
    assert!(lost.is_empty(), "these were changed or are gone: {lost:#?}");
    fs::write(folder().join("leaf-hashes.txt"), current).unwrap();
}
