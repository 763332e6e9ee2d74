//! The key of one file, how it is wrapped for a recipient, and what is derived from it.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac, rand};
use zeroize::Zeroizing;

use super::error::AgeError;

const FILE_KEY_BYTES: usize = 16;

/// The length of a wrapped file key: the key and its authentication tag.
pub const BODY_BYTES: usize = FILE_KEY_BYTES + 16;

/// The nonce of keys that encrypt one message only.
pub const ONLY_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// A secret of 32 bytes.
pub type Secret = Zeroizing<[u8; 32]>;

/// The secret from which all keys of one file are derived.
pub struct FileKey(Zeroizing<[u8; FILE_KEY_BYTES]>);

impl FileKey {
    /// Draws a new one.
    pub fn generate() -> Result<Self, AgeError> {
        let mut key = Zeroizing::new([0; FILE_KEY_BYTES]);
        rand::fill(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// Encrypts it with a key that is used only for this.
    pub fn seal(&self, key: &Secret, nonce: [u8; NONCE_LEN]) -> Result<[u8; BODY_BYTES], AgeError> {
        let mut body = [0; BODY_BYTES];
        let (text, tag) = body.split_at_mut(FILE_KEY_BYTES);
        text.copy_from_slice(self.0.as_slice());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = aead_key(key)?.seal_in_place_separate_tag(nonce, Aad::empty(), text)?;
        tag.copy_from_slice(made.as_ref());
        Ok(body)
    }

    /// Decrypts it; `None` if it was encrypted with another key.
    pub fn open(key: &Secret, nonce: [u8; NONCE_LEN], body: &[u8; BODY_BYTES]) -> Result<Option<Self>, AgeError> {
        let mut body = Zeroizing::new(*body);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let Ok(opened) = aead_key(key)?.open_in_place(nonce, Aad::empty(), body.as_mut_slice()) else {
            return Ok(None);
        };
        let mut file_key = Zeroizing::new([0; FILE_KEY_BYTES]);
        file_key.copy_from_slice(opened);
        Ok(Some(Self(file_key)))
    }

    /// Returns the key that authenticates the header.
    pub fn header_key(&self) -> Result<hmac::Key, AgeError> {
        let key = derive(self.0.as_slice(), &[], &[b"header"])?;
        Ok(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }

    /// Returns the key that encrypts the payload that begins with this nonce.
    pub fn payload_key(&self, nonce: &[u8]) -> Result<LessSafeKey, AgeError> {
        aead_key(&derive(self.0.as_slice(), nonce, &[b"payload"])?)
    }
}

/// Derives 32 bytes by HKDF-SHA256.
pub fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Result<Secret, AgeError> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(info, hkdf::HKDF_SHA256)?
        .fill(key.as_mut_slice())?;
    Ok(key)
}

fn aead_key(key: &Secret) -> Result<LessSafeKey, AgeError> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_slice())?))
}
