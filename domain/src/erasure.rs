//! The parts of the receipt of an erasure: what was destroyed, and who may have copies of the rest.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The numbers of rows that the erasure of an account destroyed, apart from the one data key of the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyedData {
    /// The sealed personal data of events.
    pub sealed: u64,
    /// The claims to e-mail addresses, which others may use from now on.
    pub addresses: u64,
    /// The verifiers of passwords, present and earlier ones, and the seeds of second factors.
    pub verifiers: u64,
    /// The recovery codes.
    pub recovery_codes: u64,
    /// The roots of sessions' refresh tokens.
    pub refresh_roots: u64,
    /// The known devices.
    pub devices: u64,
    /// The counters of attempts.
    pub attempts: u64,
    /// The mails, waiting or sent.
    pub mails: u64,
    /// The tokens in mailed links.
    pub mail_tokens: u64,
    /// The remembered outcomes of the account's commands.
    pub outcomes: u64,
}

/// The kind of a holder of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyHolderKind {
    /// An account.
    Account,
    /// An API key.
    ApiKey,
}

impl CopyHolderKind {
    /// The name in leaves and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::ApiKey => "api_key",
        }
    }
}

/// Somebody who took copies of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyHolder {
    /// The kind of the holder.
    pub kind: CopyHolderKind,
    /// The id of the account or API key.
    pub id: Uuid,
    /// The number of copies.
    pub copies: u64,
    /// The time at which the last one began.
    #[serde(with = "crate::leaf::micros")]
    pub last_at: DateTime<Utc>,
}

/// Those who took copies that may have the events of a person.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyHolders {
    /// The number of all.
    pub count: u64,
    /// Those who took one last, newest first: at most [`CopyHolders::MOST`].
    pub latest: Vec<CopyHolder>,
}

impl CopyHolders {
    /// The most of them that are listed.
    pub const MOST: u16 = 100;

    /// `true` if nobody took a copy.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}
