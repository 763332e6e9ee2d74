//! The ages of keys, from the database's account of their lives. Reads no key.

use chrono::TimeDelta;
use fulexo_domain::key::KeyPurpose;
use sqlx::PgConnection;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/production.md#rotate-keys";

const OLD_ENCRYPTION: Rule = Rule {
    id: "keys.old_encryption_key",
    title: "the key that wraps the vault is in use for longer than an epoch",
    severity: Severity::Medium,
    remedy: "Run `fulexo keys rotate encryption`. Until then old backups open what was erased since.",
    reference: REFERENCE,
};
const OLD_SIGNING: Rule = Rule {
    id: "keys.old_signing_key",
    title: "the key that signs access tokens is in use for longer than an epoch",
    severity: Severity::Medium,
    remedy: "Run `fulexo keys rotate signing`.",
    reference: REFERENCE,
};
const OLD_LOG: Rule = Rule {
    id: "keys.old_log_key",
    title: "the key that signs the log is in use for longer than twelve epochs",
    severity: Severity::Low,
    remedy: "Run `fulexo keys rotate log` where the signer's file is, and give the new public key to those who verify.",
    reference: REFERENCE,
};
const UNFINISHED: Rule = Rule {
    id: "keys.unfinished_rotation",
    title: "a rotation of keys was not finished",
    severity: Severity::Medium,
    remedy: "Run `fulexo keys list`, and then the rotation again: it continues where it was.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "keys",
    title: "keys are replaced in time",
    rules: &[OLD_ENCRYPTION, OLD_SIGNING, OLD_LOG, UNFINISHED],
};

/// The epochs for which a key of the log may be in use: everybody who verifies has to learn of the next one.
const LOG_EPOCHS: i32 = 12;
/// The days in which a replaced key is destroyed.
const OVERLAP_DAYS: i64 = 7;

/// Makes the check, as the application's role.
pub async fn check(connection: &mut PgConnection, epoch: TimeDelta) -> Check {
    CHECK.asked(keys(connection, epoch).await)
}

async fn keys(connection: &mut PgConnection, epoch: TimeDelta) -> Result<(AuditFindings, String), sqlx::Error> {
    // Ages are by the database's clock, which wrote the times.
    let rows = sqlx::query!(
        r#"select kind, key_id,
                  extract(epoch from clock_timestamp() - first_used_at)::bigint as in_use,
                  extract(epoch from clock_timestamp() - replaced_at)::bigint as replaced
           from vault.key_epoch where destroyed_at is null order by kind, key_id limit 1000"#
    )
    .fetch_all(connection)
    .await?;
    let (mut findings, count) = (AuditFindings::default(), rows.len());
    for row in rows {
        let Ok(kind) = KeyPurpose::parse(&row.kind) else { continue };
        let subject = format!("{} key {}", kind.as_str(), row.key_id);
        let days = |seconds: i64| seconds / 86_400;
        if let Some(replaced) = row.replaced {
            // Both keys of a log sign for as long as its verifiers need.
            if kind != KeyPurpose::Log && days(replaced) > OVERLAP_DAYS {
                findings.push(&UNFINISHED, subject, format!("replaced {} days ago, and not destroyed", days(replaced)));
            }
            continue;
        }
        let (rule, most) = match kind {
            KeyPurpose::Encryption => (&OLD_ENCRYPTION, epoch),
            KeyPurpose::Signing => (&OLD_SIGNING, epoch),
            KeyPurpose::Log => (&OLD_LOG, epoch * LOG_EPOCHS),
        };
        if let Some(in_use) = row.in_use.filter(|in_use| *in_use > most.num_seconds()) {
            findings.push(rule, subject, format!("in use for {} days, of at most {}", days(in_use), most.num_days()));
        }
    }
    Ok((findings, format!("{count} keys")))
}
