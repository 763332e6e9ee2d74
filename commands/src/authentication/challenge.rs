//! What a login leads to when the password alone does not begin a session: a token for one next step, good for five
//! minutes (for a second factor) or ten. Nothing is stored; it is authentic when its MAC is, and the MAC covers what the
//! account's factors are verified with, so that a change of either makes all of them worthless.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::values::AccountId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::authentication::credentials::{self, StoredCredentials};
use crate::error::CommandError;
use crate::vault::Vault;
use crate::vault::crypto::equal;
use crate::write_side::WriteSide;

/// What a challenge token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChallengePurpose {
    /// Presenting a code, and then a session begins.
    SecondFactor,
    /// Setting up a second factor.
    Enrolment,
    /// Changing the password.
    PasswordChange,
}

/// A login half way: what its token says.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Challenge {
    pub purpose: ChallengePurpose,
    pub account: AccountId,
    pub device: Uuid,
    /// Whether the device has logged in before.
    pub known_device: bool,
    /// Seconds since 1970.
    pub expires_at: i64,
}

/// A challenge for whoever logs in. No `Debug`; wiped when dropped.
pub struct IssuedChallenge {
    /// What it is good for.
    pub purpose: ChallengePurpose,
    /// To be presented with the next step.
    pub token: Zeroizing<String>,
    /// Seconds.
    pub expires_in: i64,
}

/// Somebody whose login leads to this one step.
#[derive(Clone, Copy)]
pub struct PendingLogin(pub(crate) Challenge);

impl PendingLogin {
    /// Whose login it is.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        self.0.account
    }
}

impl ChallengePurpose {
    const fn lifetime(self) -> TimeDelta {
        match self {
            Self::SecondFactor => TimeDelta::minutes(5),
            Self::Enrolment | Self::PasswordChange => TimeDelta::minutes(10),
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::SecondFactor => 1,
            Self::Enrolment => 2,
            Self::PasswordChange => 3,
        }
    }
}

/// A token as presented: what it says, and the MAC that says whether to believe it.
pub(crate) struct ChallengeToken {
    pub challenge: Challenge,
    mac: [u8; 32],
}

impl Challenge {
    pub fn new(
        purpose: ChallengePurpose,
        account: AccountId,
        device: Uuid,
        known_device: bool,
        now: DateTime<Utc>,
    ) -> Self {
        Self { purpose, account, device, known_device, expires_at: (now + purpose.lifetime()).timestamp() }
    }

    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        now.timestamp() >= self.expires_at
    }

    fn bytes(&self) -> [u8; 42] {
        let mut bytes = [0; 42];
        let parts: [&[u8]; 5] = [
            &[self.purpose.byte()],
            &[u8::from(self.known_device)],
            self.account.0.as_bytes(),
            self.device.as_bytes(),
            &self.expires_at.to_be_bytes(),
        ];
        bytes.iter_mut().zip(parts.into_iter().flatten()).for_each(|(byte, from)| *byte = *from);
        bytes
    }

    fn mac(&self, vault: &Vault, factors: &[u8; 32]) -> [u8; 32] {
        vault.digest("challenge", &[&self.bytes(), factors])
    }
}

impl ChallengeToken {
    pub fn parse(token: &str) -> Option<Self> {
        // 42 + 32 bytes are 99 characters of base64url.
        let bytes = if token.len() == 99 { URL_SAFE_NO_PAD.decode(token).ok()? } else { return None };
        let (&[purpose, known_device], rest) = bytes.split_first_chunk::<2>()?;
        let (account, rest) = rest.split_first_chunk::<16>()?;
        let (device, rest) = rest.split_first_chunk::<16>()?;
        let (expires_at, mac) = rest.split_first_chunk::<8>()?;
        let challenge = Challenge {
            purpose: [ChallengePurpose::SecondFactor, ChallengePurpose::Enrolment, ChallengePurpose::PasswordChange]
                .into_iter()
                .find(|known| known.byte() == purpose)?,
            known_device: match known_device {
                0 => false,
                1 => true,
                _ => return None,
            },
            account: AccountId(Uuid::from_bytes(*account)),
            device: Uuid::from_bytes(*device),
            expires_at: i64::from_be_bytes(*expires_at),
        };
        Some(Self { challenge, mac: mac.try_into().ok()? })
    }
}

pub(crate) fn challenge(
    vault: &Vault,
    challenge: Challenge,
    factors: &[u8; 32],
    now: DateTime<Utc>,
) -> IssuedChallenge {
    let token = [challenge.bytes().as_slice(), &challenge.mac(vault, factors)].concat();
    IssuedChallenge {
        purpose: challenge.purpose,
        token: Zeroizing::new(URL_SAFE_NO_PAD.encode(token)),
        expires_in: challenge.expires_at - now.timestamp(),
    }
}

/// The account behind an authentic token of this purpose, expired or not.
pub(crate) async fn challenged(
    side: &WriteSide,
    token: &str,
    purpose: ChallengePurpose,
) -> Result<(Challenge, StoredCredentials), CommandError> {
    let presented = ChallengeToken::parse(token).ok_or(CommandError::InvalidCredentials)?;
    let challenge = presented.challenge;
    let found = credentials::find(side, challenge.account).await?.ok_or(CommandError::InvalidCredentials)?;
    if challenge.purpose == purpose
        && equal(&presented.mac, &challenge.mac(&side.vault, &credentials::factors_of(&side.vault, &found)))
    {
        Ok((challenge, found))
    } else {
        Err(CommandError::InvalidCredentials)
    }
}

pub(crate) async fn pending_login(
    side: &WriteSide,
    token: &str,
    purpose: ChallengePurpose,
    now: DateTime<Utc>,
) -> Result<PendingLogin, CommandError> {
    let (challenge, _) = challenged(side, token, purpose).await?;
    let (state, _) = side.account_state(challenge.account).await?;
    if challenge.has_expired(now) || state.suspended {
        return Err(CommandError::InvalidCredentials);
    }
    Ok(PendingLogin(challenge))
}
