//! Challenges: the tokens for the next step of a login that a password alone does not complete. They are valid for five
//! minutes (second factor) or ten. Nothing is stored: a token is authentic if its MAC is, and the MAC covers the
//! account's verifiers, so that a change of a factor invalidates every challenge.

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

/// The step that a challenge token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChallengePurpose {
    /// Presenting a code, which starts a session.
    SecondFactor,
    /// Enrolling a second factor.
    Enrolment,
    /// Changing the password.
    PasswordChange,
}

/// The content of a challenge token.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Challenge {
    pub purpose: ChallengePurpose,
    pub account: AccountId,
    pub device: Uuid,
    /// `true` if the device was known at the login.
    pub known_device: bool,
    /// Seconds since 1970.
    pub expires_at: i64,
}

/// A challenge for the client. No `Debug`; wiped when dropped.
pub struct IssuedChallenge {
    /// The step that it allows.
    pub purpose: ChallengePurpose,
    /// The token to present with the next step.
    pub token: Zeroizing<String>,
    /// The remaining lifetime in seconds.
    pub expires_in: i64,
}

/// A pending login that allows only the step of its challenge.
#[derive(Clone, Copy)]
pub struct PendingLogin(pub(crate) Challenge);

impl PendingLogin {
    /// Returns the account of the login.
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

/// A parsed challenge token: its content, and a MAC that is not verified yet.
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

pub(crate) fn issue(vault: &Vault, challenge: Challenge, factors: &[u8; 32], now: DateTime<Utc>) -> IssuedChallenge {
    let token = [challenge.bytes().as_slice(), &challenge.mac(vault, factors)].concat();
    IssuedChallenge {
        purpose: challenge.purpose,
        token: Zeroizing::new(URL_SAFE_NO_PAD.encode(token)),
        expires_in: challenge.expires_at - now.timestamp(),
    }
}

/// Returns the challenge and the stored credentials behind an authentic token for this step. The token may have
/// expired.
pub(crate) async fn verify(
    side: &WriteSide,
    token: &str,
    purpose: ChallengePurpose,
) -> Result<(Challenge, StoredCredentials), CommandError> {
    let presented = ChallengeToken::parse(token).ok_or(CommandError::InvalidCredentials)?;
    let challenge = presented.challenge;
    let stored = credentials::find(side, challenge.account).await?.ok_or(CommandError::InvalidCredentials)?;
    if challenge.purpose == purpose
        && equal(&presented.mac, &challenge.mac(&side.vault, &credentials::factors_digest_of(&side.vault, &stored)))
    {
        Ok((challenge, stored))
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
    let (challenge, _) = verify(side, token, purpose).await?;
    let (state, _) = side.account_state(challenge.account).await?;
    if challenge.has_expired(now) || state.suspended {
        return Err(CommandError::InvalidCredentials);
    }
    Ok(PendingLogin(challenge))
}
