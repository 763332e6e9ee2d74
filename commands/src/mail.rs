//! What is mailed to the owner of an account, and when.

/// What a mail is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailKind {
    /// A way to a new password, which somebody asked for.
    PasswordReset,
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
    pub const ALL: [Self; 8] = [
        Self::PasswordReset,
        Self::EmailVerification,
        Self::NewDevice,
        Self::LockedOut,
        Self::PasswordChanged,
        Self::SecondFactorEnabled,
        Self::SecondFactorDisabled,
        Self::RecoveryCodesIssued,
    ];

    /// The name in the outbox and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
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
