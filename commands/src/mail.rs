//! What is mailed to the owner of an account: it follows from the events, and waits in the vault, written with them, until
//! one node has sent it. Every mail holds a one-time token: a way on, or a way to say that it was somebody else.
//!
//! How a mail looks and how it is sent is not here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::{AccountEvent, PasswordChange};
use fulexo_domain::authentication::AuthenticationEvent;
use fulexo_domain::event::Event;
use fulexo_domain::values::{AccountId, EmailAddress};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::Commands;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::Unit;
use crate::vault::SubjectKey;
use crate::vault::crypto::random_bytes;
use crate::vault::write::VaultWrite;

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

    /// What the owner of an account is told of an event.
    pub(crate) const fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Account(event) => match event {
                AccountEvent::Registered {} => Some(Self::EmailVerification),
                AccountEvent::PasswordChanged { how } => match how {
                    PasswordChange::Owner | PasswordChange::Expired | PasswordChange::Reset => {
                        Some(Self::PasswordChanged)
                    }
                    PasswordChange::Disputed => Some(Self::PasswordReset),
                    PasswordChange::Rehash => None,
                },
                AccountEvent::SecondFactorEnabled {} => Some(Self::SecondFactorEnabled),
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
                | AccountEvent::Reinstated {} => None,
            },
            Event::Authentication(event) => match event {
                AuthenticationEvent::PasswordResetRequested {} => Some(Self::PasswordReset),
                AuthenticationEvent::NewDeviceSeen { .. } => Some(Self::NewDevice),
                AuthenticationEvent::LockedOut { .. } => Some(Self::LockedOut),
                AuthenticationEvent::Succeeded { .. }
                | AuthenticationEvent::SecondFactorRequired { .. }
                | AuthenticationEvent::PasswordChangeRequired { .. }
                | AuthenticationEvent::Confirmed { .. }
                | AuthenticationEvent::Failed { .. }
                | AuthenticationEvent::LockLifted { .. } => None,
            },
            Event::Session(_) | Event::Role(_) | Event::Policy(_) | Event::ApiKey(_) | Event::RateLimit(_) => None,
        }
    }

    /// What its token is for.
    pub(crate) const fn purpose(self) -> LinkPurpose {
        match self {
            Self::PasswordReset => LinkPurpose::PasswordReset,
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

    const fn lifetime(self) -> TimeDelta {
        match self {
            Self::PasswordReset => TimeDelta::minutes(30),
            Self::EmailVerification => TimeDelta::hours(24),
            Self::NotMe => TimeDelta::days(7),
        }
    }
}

/// Tokens of one purpose that an account may have asked for and not used; whoever asks for more gets none.
const MOST_ASKED_FOR: i64 = 3;
/// How long sending is tried.
const GIVEN_UP_AFTER: TimeDelta = TimeDelta::days(1);
/// Longest text that is kept of what a client says about itself, in bytes.
const LONGEST_TEXT: usize = 512;

/// A mail that one node is sending: no other does, until it is said what became of it. No `Debug`.
pub struct Outgoing {
    transaction: Transaction<'static, Postgres>,
    account: AccountId,
    created_at: DateTime<Utc>,
    attempts: i32,
    /// The same at every try.
    pub id: Uuid,
    /// What it is about.
    pub kind: MailKind,
    /// To whom.
    pub to: EmailAddress,
    /// What its link holds.
    pub token: Zeroizing<String>,
    /// When what it is about happened.
    pub at: DateTime<Utc>,
    /// From which address.
    pub ip: Option<String>,
    /// What the client says it is.
    pub user_agent: Option<String>,
}

/// What is sealed of a mail.
#[derive(Serialize, Deserialize)]
struct Content {
    token: String,
    at: DateTime<Utc>,
    ip: Option<String>,
    user_agent: Option<String>,
}

struct Waiting {
    account_id: Uuid,
    kind: String,
    mail_id: Uuid,
    sealed: Vec<u8>,
    created_at: DateTime<Utc>,
    attempts: i32,
}

impl Commands {
    /// Whether owners of accounts get mail.
    #[must_use]
    pub const fn sends_mail(&self) -> bool {
        self.mails
    }

    /// Adds the mails that an append leads to.
    pub(crate) async fn enclose_mails(&self, unit: &mut Unit<'_>) -> Result<(), CommandError> {
        for (account, kind) in unit.take_mails() {
            if !self.mails {
                continue;
            }
            let key = match unit.key_of(account) {
                Some(key) => Some(key),
                None => self.vault.subject_key(account).await?,
            };
            // Nobody is left to be told.
            let Some(key) = key else { continue };
            for write in self.mail(unit.context(), &key, account, kind)? {
                unit.vault(write);
            }
        }
        Ok(())
    }

    /// A mail, and the token that it holds.
    pub(crate) fn mail(
        &self,
        context: &Context,
        key: &SubjectKey,
        account: AccountId,
        kind: MailKind,
    ) -> Result<[VaultWrite; 2], CommandError> {
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(random_bytes::<32>()?).as_slice()));
        let purpose = kind.purpose();
        let hash = self.link_hash(purpose, &token);
        let short = |text: &String| {
            let end = text.floor_char_boundary(LONGEST_TEXT);
            text.get(..end).unwrap_or_default().to_owned()
        };
        let content = Content {
            token: token.to_string(),
            at: context.now,
            ip: context.origin.ip.map(|ip| ip.to_string()),
            user_agent: context.origin.user_agent.as_ref().map(short),
        };
        let id = context.new_id();
        let text = Zeroizing::new(serde_json::to_vec(&content)?);
        let sealed = key.seal(&sealed_as(id), &text)?;
        let expires_at = context.now + purpose.lifetime();
        Ok([
            VaultWrite::MailToken { hash, account, purpose: purpose.as_str(), expires_at },
            VaultWrite::Mail { id, account, kind: kind.as_str(), sealed, at: context.now },
        ])
    }

    fn link_hash(&self, purpose: LinkPurpose, token: &str) -> [u8; 32] {
        self.vault.digest("mail-token", &[purpose.as_str().as_bytes(), token.as_bytes()])
    }

    /// Whose token this is, as long as it is good for this.
    pub(crate) async fn link_owner(
        &self,
        purpose: LinkPurpose,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<AccountId, CommandError> {
        let hash = self.link_hash(purpose, token);
        let owner = sqlx::query_scalar!(
            "select account_id from vault.mail_token where token_hash = $1 and purpose = $2 and expires_at > $3",
            hash.as_slice(),
            purpose.as_str(),
            now
        )
        .fetch_optional(&self.pool)
        .await?;
        owner.map(AccountId).ok_or(CommandError::InvalidCredentials)
    }

    /// Whether an account has asked for as many tokens as it may.
    pub(crate) async fn has_asked_enough(
        &self,
        account: AccountId,
        purpose: LinkPurpose,
        now: DateTime<Utc>,
    ) -> Result<bool, CommandError> {
        let asked = sqlx::query_scalar!(
            r#"select count(*) as "asked!" from vault.mail_token
               where account_id = $1 and purpose = $2 and expires_at > $3"#,
            account.0,
            purpose.as_str(),
            now
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(asked >= MOST_ASKED_FOR)
    }

    /// The next mail that is due, if there is one. While it is held, no other node gets it.
    ///
    /// # Errors
    /// The database.
    pub async fn next_mail(&self, now: DateTime<Utc>) -> Result<Option<Outgoing>, CommandError> {
        loop {
            let mut transaction = self.pool.begin().await?;
            let waiting = sqlx::query_as!(
                Waiting,
                "select account_id, kind, mail_id, sealed, created_at, attempts from vault.mail
                 where due_at <= $1 order by due_at limit 1 for update skip locked",
                now
            )
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(waiting) = waiting else { return Ok(None) };
            let account = AccountId(waiting.account_id);
            if let Some((kind, to, content)) = self.read_mail(&waiting).await? {
                let Content { token, at, ip, user_agent } = content;
                let token = Zeroizing::new(token);
                let Waiting { mail_id: id, created_at, attempts, .. } = waiting;
                let mail =
                    Outgoing { transaction, account, created_at, attempts, id, kind, to, token, at, ip, user_agent };
                return Ok(Some(mail));
            }
            // Its owner was forgotten.
            forget(&mut transaction, account, &waiting.kind).await?;
            transaction.commit().await?;
        }
    }

    async fn read_mail(&self, waiting: &Waiting) -> Result<Option<(MailKind, EmailAddress, Content)>, CommandError> {
        let account = AccountId(waiting.account_id);
        let kind = MailKind::ALL.into_iter().find(|kind| kind.as_str() == waiting.kind);
        let (Some(kind), Some(key)) = (kind, self.vault.subject_key(account).await?) else { return Ok(None) };
        let Some(profile) = self.profile(account).await? else { return Ok(None) };
        let text = key.open(&sealed_as(waiting.mail_id), &waiting.sealed)?;
        Ok(Some((kind, profile.email, serde_json::from_slice(&text)?)))
    }
}

impl Outgoing {
    /// It is on its way.
    ///
    /// # Errors
    /// The database; it will be sent once more.
    pub async fn sent(mut self) -> Result<(), sqlx::Error> {
        forget(&mut self.transaction, self.account, self.kind.as_str()).await?;
        self.transaction.commit().await
    }

    /// It is not; it is tried again later, each time after twice as long. Answers whether it was given up: for good
    /// reason, or after a day.
    ///
    /// # Errors
    /// The database; it will be tried again at once.
    pub async fn failed(mut self, for_good: bool, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
        let given_up = for_good || now - self.created_at > GIVEN_UP_AFTER;
        if given_up {
            forget(&mut self.transaction, self.account, self.kind.as_str()).await?;
        } else {
            let wait = TimeDelta::seconds(5_i64 << self.attempts.clamp(0, 9));
            sqlx::query!(
                "update vault.mail set attempts = attempts + 1, due_at = $3 where account_id = $1 and kind = $2",
                self.account.0,
                self.kind.as_str(),
                now + wait
            )
            .execute(&mut *self.transaction)
            .await?;
        }
        self.transaction.commit().await?;
        Ok(given_up)
    }
}

async fn forget(
    transaction: &mut Transaction<'static, Postgres>,
    account: AccountId,
    kind: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from vault.mail where account_id = $1 and kind = $2", account.0, kind)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

fn sealed_as(mail: Uuid) -> String {
    format!("mail/{mail}")
}
