//! The recipient type X25519: a file key wrapped under an ephemeral Diffie-Hellman agreement.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::error::AgeError;
use super::file_key::{BODY_BYTES, FileKey, ONLY_NONCE, Secret, derive};

/// The length of a point and of a scalar.
pub const POINT_BYTES: usize = 32;

const INFO: &[u8] = b"age-encryption.org/v1/X25519";

/// A file key, wrapped for an X25519 recipient.
pub struct X25519Wrapped {
    /// The public half of the sender's ephemeral key.
    pub share: [u8; POINT_BYTES],
    /// The encrypted file key.
    pub body: [u8; BODY_BYTES],
}

/// A secret scalar with its point.
pub struct X25519Identity {
    pub scalar: Secret,
    pub point: [u8; POINT_BYTES],
}

impl X25519Identity {
    /// Draws a new one.
    pub fn generate() -> Result<Self, AgeError> {
        let mut scalar = Zeroizing::new([0; POINT_BYTES]);
        rand::fill(scalar.as_mut_slice())?;
        Self::from_scalar(scalar)
    }

    /// Computes the point of a scalar.
    pub fn from_scalar(scalar: Secret) -> Result<Self, AgeError> {
        let public = private_key(&scalar)?.compute_public_key()?;
        let point = public.as_ref().try_into().map_err(|_| AgeError::Provider)?;
        Ok(Self { scalar, point })
    }

    /// Returns the file key, or `None` if it was wrapped for another recipient.
    pub fn unwrap(&self, wrapped: &X25519Wrapped) -> Result<Option<FileKey>, AgeError> {
        let Some(shared) = agree(&self.scalar, &wrapped.share)? else {
            return Err(AgeError::InvalidHeader("a share is a point of low order"));
        };
        FileKey::open(&wrapping_key(&shared, &wrapped.share, &self.point)?, ONLY_NONCE, &wrapped.body)
    }
}

/// Wraps a file key for the owner of a point.
pub fn wrap(point: &[u8; POINT_BYTES], file_key: &FileKey) -> Result<X25519Wrapped, AgeError> {
    let ephemeral = X25519Identity::generate()?;
    let shared = agree(&ephemeral.scalar, point)?.ok_or(AgeError::InvalidRecipient)?;
    let body = file_key.seal(&wrapping_key(&shared, &ephemeral.point, point)?, ONLY_NONCE)?;
    Ok(X25519Wrapped { share: ephemeral.point, body })
}

/// Agrees on a secret; `None` if the point has a low order, so that the secret would be zero and known to everybody.
pub fn agree(scalar: &Secret, point: &[u8; POINT_BYTES]) -> Result<Option<Secret>, AgeError> {
    let own = private_key(scalar)?;
    let peer = UnparsedPublicKey::new(&agreement::X25519, point);
    // The provider fails on the secret of 32 zero bytes, and on nothing else: every string of 32 bytes is a point.
    Ok(agreement::agree(&own, peer, (), |shared| shared.try_into().map(Zeroizing::new).map_err(|_| ())).ok())
}

fn private_key(scalar: &Secret) -> Result<PrivateKey, AgeError> {
    // The reason says nothing: any 32 bytes are a scalar.
    PrivateKey::from_private_key(&agreement::X25519, scalar.as_slice()).map_err(|_| AgeError::Provider)
}

fn wrapping_key(shared: &Secret, share: &[u8; 32], point: &[u8; 32]) -> Result<Secret, AgeError> {
    derive(shared.as_slice(), &[share.as_slice(), point.as_slice()].concat(), &[INFO])
}
