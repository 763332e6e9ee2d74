//! Refresh tokens and device tokens: opaque to clients, and derived with keys that the database does not hold.
//!
//! A refresh token names its session and its generation. Its secret is a keyed digest of both and of the session's
//! random root. Neither a copy of the database nor the service key alone suffices to derive it, and no form of it is
//! stored, not even a hash. The session itself determines the current generation (`domain`).

use crate::vault::Vault;
use crate::vault::crypto::equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_domain::values::{AccountId, SessionId};
use uuid::Uuid;
use zeroize::Zeroizing;

/// A parsed refresh token. Its secret is not verified yet.
pub struct RefreshToken {
    /// The session that it names.
    pub session: SessionId,
    /// The generation that it names.
    pub generation: u32,
    secret: Zeroizing<[u8; 32]>,
}

impl RefreshToken {
    /// Parses the format of [`refresh_token`].
    #[must_use]
    pub fn parse(token: &str) -> Option<Self> {
        // 16 + 4 + 32 bytes are 70 characters of base64url.
        let bytes = Zeroizing::new(if token.len() == 70 { URL_SAFE_NO_PAD.decode(token).ok()? } else { return None });
        let (session, rest) = bytes.split_first_chunk::<16>()?;
        let (generation, secret) = rest.split_first_chunk::<4>()?;
        Some(Self {
            session: SessionId(Uuid::from_bytes(*session)),
            generation: u32::from_be_bytes(*generation),
            secret: Zeroizing::new(secret.try_into().ok()?),
        })
    }

    /// Returns `true` if this service issued the token.
    #[must_use]
    pub fn is_authentic(&self, vault: &Vault, root: &[u8]) -> bool {
        equal(&*self.secret, &secret(vault, root, self.session, self.generation))
    }
}

/// Returns the token of one generation of a session: the same for every call.
#[must_use]
pub fn refresh_token(vault: &Vault, root: &[u8], session: SessionId, generation: u32) -> String {
    let secret = Zeroizing::new(secret(vault, root, session, generation));
    let token = Zeroizing::new([session.0.as_bytes().as_slice(), &generation.to_be_bytes(), &*secret].concat());
    URL_SAFE_NO_PAD.encode(&*token)
}

fn secret(vault: &Vault, root: &[u8], session: SessionId, generation: u32) -> [u8; 32] {
    vault.digest("refresh-token", &[root, session.0.as_bytes(), &generation.to_be_bytes()])
}

/// Returns the CSRF token of a session in cookie mode, which its page sends with every unsafe request. It is the same
/// for the whole session, and grants nothing by itself.
#[must_use]
pub fn csrf_token(vault: &Vault, session: SessionId) -> String {
    URL_SAFE_NO_PAD.encode(vault.digest("csrf-token", &[session.0.as_bytes()]))
}

/// Returns the token that identifies a device at later logins, as long as the account knows it (`devices`). It grants
/// nothing by itself.
#[must_use]
pub fn device_token(vault: &Vault, account: AccountId, device: Uuid) -> String {
    URL_SAFE_NO_PAD.encode([device.as_bytes().as_slice(), &device_mark(vault, account, device)].concat())
}

/// Returns the device of a token that was issued to this account. The account may have forgotten the device.
#[must_use]
pub fn device_of_token(vault: &Vault, account: AccountId, token: &str) -> Option<Uuid> {
    let bytes = if token.len() == 43 { URL_SAFE_NO_PAD.decode(token).ok()? } else { return None };
    let (device, mark) = bytes.split_first_chunk::<16>()?;
    let device = Uuid::from_bytes(*device);
    equal(mark, &device_mark(vault, account, device)).then_some(device)
}

fn device_mark(vault: &Vault, account: AccountId, device: Uuid) -> [u8; 16] {
    let digest = vault.digest("device-token", &[account.0.as_bytes(), device.as_bytes()]);
    let mut mark = [0; 16];
    mark.copy_from_slice(digest.split_at(16).0);
    mark
}
