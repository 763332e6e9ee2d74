//! Kinds of mail, the events that cause them, and the links in them.

use chrono::TimeDelta;
use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::authentication::AuthenticationEvent;
use fulexo_domain::event::Event;

/// The maximum number of mails on request per hour. Requests beyond it send nothing.
const MAX_REQUESTED: i64 = 3;

/// The kind of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailKind {
    /// A reset link, on request.
    PasswordReset,
    /// A notice that a suspended account cannot reset its password. Replaces the reset link when it is sent.
    ResetWhileSuspended,
    /// A reset link, after the owner reported an intrusion.
    IntrusionReported,
    /// A link that verifies the e-mail address.
    EmailVerification,
    /// A login from an unknown device.
    NewDevice,
    /// Too many wrong passwords or codes.
    LockedOut,
    /// The password was changed.
    PasswordChanged,
    /// A second factor was enabled.
    SecondFactorEnabled,
    /// The second factor was disabled.
    SecondFactorDisabled,
    /// The recovery codes were replaced.
    RecoveryCodesIssued,
    /// The account will be erased.
    ErasureStarted,
}

impl MailKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::PasswordReset,
        Self::ResetWhileSuspended,
        Self::IntrusionReported,
        Self::EmailVerification,
        Self::NewDevice,
        Self::LockedOut,
        Self::PasswordChanged,
        Self::SecondFactorEnabled,
        Self::SecondFactorDisabled,
        Self::RecoveryCodesIssued,
        Self::ErasureStarted,
    ];

    /// Returns the kind of mail that an event causes, if any.
    pub(crate) const fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Account(event) => match event {
                AccountEvent::Registered {} => Some(Self::EmailVerification),
                AccountEvent::PasswordChanged { how } => match how {
                    PasswordChangeCause::Owner | PasswordChangeCause::Expired | PasswordChangeCause::Reset => {
                        Some(Self::PasswordChanged)
                    }
                    PasswordChangeCause::Reported => Some(Self::IntrusionReported),
                    PasswordChangeCause::Rehash => None,
                },
                AccountEvent::SecondFactorEnabled { .. } => Some(Self::SecondFactorEnabled),
                AccountEvent::SecondFactorDisabled { .. } => Some(Self::SecondFactorDisabled),
                AccountEvent::RecoveryCodesIssued { .. } => Some(Self::RecoveryCodesIssued),
                AccountEvent::ErasureStarted { .. } => Some(Self::ErasureStarted),
                AccountEvent::ProfileChanged {}
                | AccountEvent::PasswordExpired {}
                | AccountEvent::SecondFactorEnrolmentStarted {}
                | AccountEvent::RecoveryCodeUsed { .. }
                | AccountEvent::RoleGranted { .. }
                | AccountEvent::RoleRevoked { .. }
                | AccountEvent::EmailVerified {}
                | AccountEvent::Suspended {}
                | AccountEvent::Reinstated {}
                | AccountEvent::SessionsRevoked { .. }
                | AccountEvent::ErasureWithdrawn {}
                | AccountEvent::Erased { .. }
                | AccountEvent::ErasureCompleted { .. } => None,
            },
            Event::Authentication(event) => match event {
                AuthenticationEvent::PasswordResetRequested {} => Some(Self::PasswordReset),
                AuthenticationEvent::NewDeviceSeen { .. } => Some(Self::NewDevice),
                AuthenticationEvent::LockedOut { .. } => Some(Self::LockedOut),
                AuthenticationEvent::Succeeded { .. }
                | AuthenticationEvent::DeviceForgotten { .. }
                | AuthenticationEvent::SecondFactorRequired { .. }
                | AuthenticationEvent::PasswordChangeRequired { .. }
                | AuthenticationEvent::Confirmed { .. }
                | AuthenticationEvent::Failed { .. }
                | AuthenticationEvent::PasswordResetRefused { .. }
                | AuthenticationEvent::LockLifted { .. } => None,
            },
            Event::Session(_)
            | Event::Role(_)
            | Event::Policy(_)
            | Event::ApiKey(_)
            | Event::RateLimit(_)
            | Event::Lockdown(_)
            | Event::Checkpoint(_)
            | Event::Audit(_)
            | Event::Key(_)
            | Event::Incident(_)
            | Event::Backup(_) => None,
        }
    }

    /// Returns the maximum number of mails of this kind per account and hour, so that others cannot flood a mailbox.
    /// The limit for new devices is higher: one of several logins may be a thief's.
    pub(crate) const fn hourly_limit(self) -> i64 {
        match self {
            Self::LockedOut => 1,
            Self::PasswordReset | Self::ResetWhileSuspended | Self::EmailVerification => MAX_REQUESTED,
            Self::NewDevice => 10,
            // Only the owner, or an intruder acting as the owner, causes these.
            Self::IntrusionReported
            | Self::PasswordChanged
            | Self::SecondFactorEnabled
            | Self::SecondFactorDisabled
            | Self::RecoveryCodesIssued
            | Self::ErasureStarted => 30,
        }
    }

    /// Returns the purpose of the mail's link.
    pub(crate) const fn purpose(self) -> LinkPurpose {
        match self {
            Self::PasswordReset | Self::ResetWhileSuspended | Self::IntrusionReported => LinkPurpose::PasswordReset,
            Self::EmailVerification => LinkPurpose::EmailVerification,
            Self::NewDevice
            | Self::LockedOut
            | Self::PasswordChanged
            | Self::SecondFactorEnabled
            | Self::SecondFactorDisabled
            | Self::RecoveryCodesIssued
            | Self::ErasureStarted => LinkPurpose::IntrusionReport,
        }
    }

    /// Returns the name in the outbox and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
            Self::ResetWhileSuspended => "reset_while_suspended",
            Self::IntrusionReported => "intrusion_reported",
            Self::EmailVerification => "email_verification",
            Self::NewDevice => "new_device",
            Self::LockedOut => "locked_out",
            Self::PasswordChanged => "password_changed",
            Self::SecondFactorEnabled => "second_factor_enabled",
            Self::SecondFactorDisabled => "second_factor_disabled",
            Self::RecoveryCodesIssued => "recovery_codes_issued",
            Self::ErasureStarted => "erasure_started",
        }
    }
}

/// The purpose of a mailed token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkPurpose {
    /// To set a new password.
    PasswordReset,
    /// To verify the e-mail address.
    EmailVerification,
    /// To report an intrusion.
    IntrusionReport,
}

impl LinkPurpose {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
            Self::EmailVerification => "email_verification",
            Self::IntrusionReport => "not_me",
        }
    }

    pub(crate) const fn lifetime(self) -> TimeDelta {
        match self {
            Self::PasswordReset => TimeDelta::minutes(30),
            Self::EmailVerification => TimeDelta::hours(24),
            Self::IntrusionReport => TimeDelta::days(7),
        }
    }
}

pub(crate) const RESET: &[&str] = &[LinkPurpose::PasswordReset.as_str()];
