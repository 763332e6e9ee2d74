//! The outbox of mail to the owners of accounts. A mail follows from an event, is written into the vault with it, and
//! stays there until one node has sent it. Every mail holds a one-time token: for the next step, or to report an
//! intrusion.
//!
//! This module does not format or send mail.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_database::{begin, chain};
use fulexo_domain::values::{AccountId, EmailAddress};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use crate::accounts::profile;
use crate::context::Context;
use crate::error::CommandError;
use crate::mail::kind::{LinkPurpose, MailKind};
use crate::unit_of_work::UnitOfWork;
use crate::vault::crypto::random_bytes;
use crate::vault::write::{MAIL_LIMIT_PERIOD, VaultWrite};
use crate::vault::{DataKey, Vault};
use crate::write_side::WriteSide;

/// The number of comparisons with earlier passwords that one link allows.
const MAX_COMPARISONS: i16 = 5;
/// The time after which an unsent mail is dropped.
const DROPPED_AFTER: TimeDelta = TimeDelta::days(1);
/// The maximum length of text that the client says about itself, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// A mail that this node is sending. No other node sends it until [`sent`](Self::sent) or [`failed`](Self::failed) is
/// called. No `Debug`.
pub struct OutgoingMail {
    transaction: Transaction<'static, Postgres>,
    created_at: DateTime<Utc>,
    attempts: i32,
    /// The id, the same for every attempt.
    pub id: Uuid,
    /// The kind.
    pub kind: MailKind,
    /// The recipient.
    pub to: EmailAddress,
    /// The token in its link.
    pub token: Zeroizing<String>,
    /// The time of the event.
    pub at: DateTime<Utc>,
    /// The client's address at the event.
    pub ip: Option<String>,
    /// The client's `User-Agent` at the event.
    pub user_agent: Option<String>,
}

/// The sealed part of a mail.
#[derive(Serialize, Deserialize)]
struct MailContent {
    token: String,
    at: DateTime<Utc>,
    ip: Option<String>,
    user_agent: Option<String>,
}

struct MailRow {
    account_id: Uuid,
    kind: String,
    mail_id: Uuid,
    sealed: Vec<u8>,
    created_at: DateTime<Utc>,
    attempts: i32,
    worth_sending: bool,
}

impl OutgoingMail {
    /// Records that the mail was sent.
    ///
    /// # Errors
    /// The database's; the mail will be sent again.
    pub async fn sent(mut self) -> Result<(), sqlx::Error> {
        delete_content(&mut self.transaction, self.id).await?;
        self.transaction.commit().await
    }

    /// Records that sending failed. The next attempt follows later, after a delay that doubles each time. Returns
    /// `true` if the mail was dropped: because the failure is permanent, or after a day.
    ///
    /// # Errors
    /// The database's; the mail will be tried again at once.
    pub async fn failed(mut self, for_good: bool, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
        let dropped = if for_good {
            delete_content(&mut self.transaction, self.id).await?;
            true
        } else {
            postpone(&mut self.transaction, self.id, self.attempts, self.created_at, now).await?
        };
        self.transaction.commit().await?;
        Ok(dropped)
    }
}

/// Deletes the content of a mail that will not be sent again. Its row still counts towards the limit.
async fn delete_content(transaction: &mut Transaction<'static, Postgres>, mail: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("update vault.mail set sealed = null where mail_id = $1", mail).execute(&mut **transaction).await?;
    Ok(())
}

/// Schedules the next attempt. Returns `true` if the mail was dropped instead.
async fn postpone(
    transaction: &mut Transaction<'static, Postgres>,
    mail: Uuid,
    attempts: i32,
    created_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    if now - created_at > DROPPED_AFTER {
        delete_content(transaction, mail).await?;
        return Ok(true);
    }
    let wait = TimeDelta::seconds(5_i64 << attempts.clamp(0, 9));
    sqlx::query!("update vault.mail set attempts = attempts + 1, due_at = $2 where mail_id = $1", mail, now + wait)
        .execute(&mut **transaction)
        .await?;
    Ok(false)
}

fn seal_context(mail: Uuid) -> String {
    format!("mail/{mail}")
}

/// Adds the mails that a unit of work causes.
pub(crate) async fn add_mails(side: &WriteSide, unit: &mut UnitOfWork<'_>) -> Result<(), CommandError> {
    for (account, kind) in unit.take_mails() {
        if !side.sends_mail {
            continue;
        }
        let key = match unit.key_of(account) {
            Some(key) => Some(key),
            None => side.vault.subject_key(account).await?,
        };
        // The account was forgotten: nobody is left to notify.
        let Some(key) = key else { continue };
        let mail = mail_write(&side.vault, unit.context(), &key, account, kind)?;
        unit.vault(mail);
    }
    Ok(())
}

/// Returns the vault write for a mail with a new token.
pub(crate) fn mail_write(
    vault: &Vault,
    context: &Context,
    key: &DataKey,
    account: AccountId,
    kind: MailKind,
) -> Result<VaultWrite, CommandError> {
    let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(random_bytes::<32>()?).as_slice()));
    let purpose = kind.purpose();
    let hash = link_hash(vault, purpose, &token);
    let short = |text: &String| {
        let end = text.floor_char_boundary(MAX_TEXT_BYTES);
        text.get(..end).unwrap_or_default().to_owned()
    };
    let mut content = MailContent {
        token: token.to_string(),
        at: context.now,
        ip: context.origin.ip.map(|ip| ip.to_string()),
        user_agent: context.origin.user_agent.as_ref().map(short),
    };
    let id = context.new_id();
    let text = Zeroizing::new(serde_json::to_vec(&content)?);
    content.token.zeroize();
    let sealed = key.seal(&seal_context(id), &text)?;
    let expires_at = context.now + purpose.lifetime();
    Ok(VaultWrite::Mail {
        id,
        account,
        kind: kind.as_str(),
        hourly_limit: kind.hourly_limit(),
        token: hash,
        purpose: purpose.as_str(),
        expires_at,
        sealed,
        at: context.now,
    })
}

fn link_hash(vault: &Vault, purpose: LinkPurpose, token: &str) -> [u8; 32] {
    vault.digest("mail-token", &[purpose.as_str().as_bytes(), token.as_bytes()])
}

/// Returns the account of a token that is valid for this purpose.
pub(crate) async fn link_owner(
    side: &WriteSide,
    purpose: LinkPurpose,
    token: &str,
    now: DateTime<Utc>,
) -> Result<AccountId, CommandError> {
    let hash = link_hash(&side.vault, purpose, token);
    let owner = sqlx::query_scalar!(
        "select account_id from vault.mail_token where token_hash = $1 and purpose = $2 and expires_at > $3",
        hash.as_slice(),
        purpose.as_str(),
        now
    )
    .fetch_optional(&side.pool)
    .await?;
    owner.map(AccountId).ok_or(CommandError::InvalidCredentials)
}

/// Counts a comparison of a new password with earlier ones, before it is made. Returns its number under this link, from
/// 1.
///
/// # Errors
/// [`CommandError::InvalidCredentials`] if the link's comparisons are used up.
pub(crate) async fn count_comparison(side: &WriteSide, token: &str) -> Result<u32, CommandError> {
    let hash = link_hash(&side.vault, LinkPurpose::PasswordReset, token);
    let number = sqlx::query_scalar!(
        "update vault.mail_token set comparisons = comparisons + 1
         where token_hash = $1 and comparisons < $2 returning comparisons",
        hash.as_slice(),
        MAX_COMPARISONS
    )
    .fetch_optional(&side.pool)
    .await?;
    number.map(|number| u32::from(number.unsigned_abs())).ok_or(CommandError::InvalidCredentials)
}

/// Returns `true` if an account has reached the hourly limit of this kind.
pub(crate) async fn has_reached_mail_limit(
    pool: &PgPool,
    account: AccountId,
    kind: MailKind,
    now: DateTime<Utc>,
) -> Result<bool, CommandError> {
    let known = sqlx::query_scalar!(
        r#"select count(*) as "known!" from vault.mail
           where account_id = $1 and kind = $2 and created_at > $3"#,
        account.0,
        kind.as_str(),
        now - MAIL_LIMIT_PERIOD
    )
    .fetch_one(pool)
    .await?;
    Ok(known >= kind.hourly_limit())
}

pub(crate) async fn next_mail(side: &WriteSide, now: DateTime<Utc>) -> Result<Option<OutgoingMail>, CommandError> {
    loop {
        let mut transaction = begin(&side.pool).await?;
        let waiting = sqlx::query_as!(
            MailRow,
            r#"select m.account_id, m.kind, m.mail_id, m.sealed as "sealed!", m.created_at, m.attempts,
                      exists (select from vault.mail_token t
                              where t.token_hash = m.token_hash and t.expires_at > $1) as "worth_sending!"
               from vault.mail m where m.due_at <= $1 and m.sealed is not null
               order by m.due_at limit 1 for update of m skip locked"#,
            now
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(waiting) = waiting else { return Ok(None) };
        let MailRow { mail_id: id, created_at, attempts, worth_sending, .. } = waiting;
        if !worth_sending {
            // Its token was used, revoked, or has expired.
            delete_content(&mut transaction, id).await?;
            transaction.commit().await?;
            continue;
        }
        match read_mail(side, &waiting).await {
            Ok(Some((kind, to, MailContent { token, at, ip, user_agent }))) => {
                let token = Zeroizing::new(token);
                let mail = OutgoingMail { transaction, created_at, attempts, id, kind, to, token, at, ip, user_agent };
                return Ok(Some(mail));
            }
            Ok(None) => {
                // The account was forgotten.
                delete_content(&mut transaction, id).await?;
                transaction.commit().await?;
            }
            // The key is not configured, or only a newer node knows the kind. It must not delay other mails.
            Err(error) => {
                tracing::error!(mail_id = %id, error = %chain(&error), "a queued mail cannot be opened");
                postpone(&mut transaction, id, attempts, created_at, now).await?;
                transaction.commit().await?;
            }
        }
    }
}

async fn read_mail(
    side: &WriteSide,
    waiting: &MailRow,
) -> Result<Option<(MailKind, EmailAddress, MailContent)>, CommandError> {
    let account = AccountId(waiting.account_id);
    let Some(key) = side.vault.subject_key(account).await? else { return Ok(None) };
    let Some(profile) = profile::profile(side, account).await? else { return Ok(None) };
    let kind = MailKind::ALL.into_iter().find(|kind| kind.as_str() == waiting.kind);
    let kind = kind.ok_or_else(|| CommandError::internal("this build does not know the kind of the mail"))?;
    let kind = match kind.purpose() {
        // Checked when sending: a link that would be refused is not sent.
        LinkPurpose::PasswordReset if side.account_state(account).await?.0.suspended => MailKind::ResetWhileSuspended,
        LinkPurpose::PasswordReset | LinkPurpose::EmailVerification | LinkPurpose::IntrusionReport => kind,
    };
    let text = key.open(&seal_context(waiting.mail_id), &waiting.sealed)?;
    Ok(Some((kind, profile.email, serde_json::from_slice(&text)?)))
}
