//! Kinds of mail, which event is mailed as which, and the links in them.

use chrono::TimeDelta;
use fulexo_domain::account::{AccountEvent, PasswordChange};
use fulexo_domain::authentication::AuthenticationEvent;
use fulexo_domain::event::Event;

/// Mails that somebody may ask for, in an hour; whoever asks for more gets none.
const MOST_ASKED_FOR: i64 = 3;

/// What a mail is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailKind {
    /// A way to a new password, which somebody asked for.
    PasswordReset,
    /// That there is no way to a new password while the account is suspended. Takes the place of a way to one when it is
    /// sent.
    ResetWhileSuspended,
    /// A way to a new password, after the owner said that somebody else got in.
    IntrusionReported,
    /// Whether the address is the owner's.
    EmailVerification,
    /// A login from a device that was not known.
    NewDevice,
    /// Too many wrong passwords or codes.
    LockedOut,
    /// Another password.
    PasswordChanged,
    /// A login asks for a second factor from now on.
    SecondFactorEnabled,
    /// It does not any more.
    SecondFactorDisabled,
    /// Recovery codes in place of the earlier ones.
    RecoveryCodesIssued,
}

impl MailKind {
    /// Every one.
    pub const ALL: [Self; 10] = [
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
    ];

    /// What the owner of an account is told of an event.
    pub(crate) const fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Account(event) => match event {
                AccountEvent::Registered {} => Some(Self::EmailVerification),
                AccountEvent::PasswordChanged { how } => match how {
                    PasswordChange::Owner | PasswordChange::Expired | PasswordChange::Reset => {
                        Some(Self::PasswordChanged)
                    }
                    PasswordChange::Disputed => Some(Self::IntrusionReported),
                    PasswordChange::Rehash => None,
                },
                AccountEvent::SecondFactorEnabled { .. } => Some(Self::SecondFactorEnabled),
                AccountEvent::SecondFactorDisabled { .. } => Some(Self::SecondFactorDisabled),
                AccountEvent::RecoveryCodesIssued { .. } => Some(Self::RecoveryCodesIssued),
                AccountEvent::ProfileChanged {}
                | AccountEvent::PasswordExpired {}
                | AccountEvent::SecondFactorEnrolmentStarted {}
                | AccountEvent::RecoveryCodeUsed { .. }
                | AccountEvent::RoleGranted { .. }
                | AccountEvent::RoleRevoked { .. }
                | AccountEvent::EmailVerified {}
                | AccountEvent::Suspended {}
                | AccountEvent::Reinstated {}
                | AccountEvent::SessionsRevoked { .. } => None,
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
            | Event::Lockdown(_) => None,
        }
    }

    /// Most of them that an account gets in an hour: nobody's mailbox is flooded by what others do. A login from a new
    /// device is told even where there were some before, since one of them may be the thief's.
    pub(crate) const fn most(self) -> i64 {
        match self {
            Self::LockedOut => 1,
            Self::PasswordReset | Self::ResetWhileSuspended | Self::EmailVerification => MOST_ASKED_FOR,
            Self::NewDevice => 10,
            // Only the owner, or who acts as they, makes these happen.
            Self::IntrusionReported
            | Self::PasswordChanged
            | Self::SecondFactorEnabled
            | Self::SecondFactorDisabled
            | Self::RecoveryCodesIssued => 30,
        }
    }

    /// What its token is for.
    pub(crate) const fn purpose(self) -> LinkPurpose {
        match self {
            Self::PasswordReset | Self::ResetWhileSuspended | Self::IntrusionReported => LinkPurpose::PasswordReset,
            Self::EmailVerification => LinkPurpose::EmailVerification,
            Self::NewDevice
            | Self::LockedOut
            | Self::PasswordChanged
            | Self::SecondFactorEnabled
            | Self::SecondFactorDisabled
            | Self::RecoveryCodesIssued => LinkPurpose::NotMe,
        }
    }

    /// The name in the outbox and in the log.
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
        }
    }
}

/// What a mailed token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkPurpose {
    /// A new password.
    PasswordReset,
    /// To show that mail arrives.
    EmailVerification,
    /// To say that it was somebody else.
    NotMe,
}

impl LinkPurpose {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
            Self::EmailVerification => "email_verification",
            Self::NotMe => "not_me",
        }
    }

    pub(crate) const fn lifetime(self) -> TimeDelta {
        match self {
            Self::PasswordReset => TimeDelta::minutes(30),
            Self::EmailVerification => TimeDelta::hours(24),
            Self::NotMe => TimeDelta::days(7),
        }
    }
}

pub(crate) const RESET: &[&str] = &[LinkPurpose::PasswordReset.as_str()];
