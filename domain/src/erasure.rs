//! The numbers that say what an erasure destroyed.

use serde::{Deserialize, Serialize};

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
