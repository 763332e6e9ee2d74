//! The hybrid recipient type: a file key sealed by HPKE (RFC 9180, base mode) with the KEM MLKEM768-X25519.
//!
//! The KEM is that of draft-ietf-hpke-pq, which is X-Wing: an attacker has to break both halves. An identity is a seed of
//! 32 bytes, and the provider makes no ML-KEM keys from seeds, so `ml-kem` decapsulates. Everything else is the
//! provider's, encapsulation included.

use aws_lc_rs::aead::NONCE_LEN;
use aws_lc_rs::kem::{Ciphertext, EncapsulationKey, ML_KEM_768};
use aws_lc_rs::{digest, hkdf, hmac, rand};
use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768};
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use zeroize::Zeroizing;

use super::error::AgeError;
use super::file_key::{BODY_BYTES, FileKey, Secret};
use super::x25519::{POINT_BYTES, X25519Identity, agree};

const LATTICE_KEY_BYTES: usize = 1184;
const LATTICE_CIPHERTEXT_BYTES: usize = 1088;

/// The length of a public key: one of ML-KEM-768, then one of X25519.
pub const PUBLIC_KEY_BYTES: usize = LATTICE_KEY_BYTES + POINT_BYTES;

/// The length of an encapsulated key: a ciphertext of ML-KEM-768, then an ephemeral point.
pub const ENCAPSULATED_BYTES: usize = LATTICE_CIPHERTEXT_BYTES + POINT_BYTES;

const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
const COMBINER_LABEL: &[u8] = br"\.//^\";
/// KEM MLKEM768-X25519, KDF HKDF-SHA256, AEAD ChaCha20Poly1305.
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\x00\x03";
const VERSION: &[u8] = b"HPKE-v1";
const BASE_MODE: u8 = 0;

/// A file key, wrapped for a hybrid recipient.
pub struct HybridWrapped {
    /// The encapsulated key.
    pub encapsulated: Box<[u8; ENCAPSULATED_BYTES]>,
    /// The encrypted file key.
    pub body: [u8; BODY_BYTES],
}

/// The public half of a hybrid identity: the key of ML-KEM, then the point.
#[derive(Clone, Eq, PartialEq)]
pub struct HybridPublicKey(Box<[u8; PUBLIC_KEY_BYTES]>);

/// A seed with both private keys that follow from it.
pub struct HybridIdentity {
    pub seed: Secret,
    pub public: HybridPublicKey,
    lattice: Box<DecapsulationKey768>,
    curve: X25519Identity,
}

impl HybridIdentity {
    /// Draws a new one.
    pub fn generate() -> Result<Self, AgeError> {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut_slice())?;
        Self::from_seed(seed)
    }

    /// Computes the keys of a seed.
    pub fn from_seed(seed: Secret) -> Result<Self, AgeError> {
        let mut expanded = Shake256::default();
        expanded.update(seed.as_slice());
        let mut expanded = expanded.finalize_xof();
        let mut lattice_seed = Zeroizing::new([0; 64]);
        expanded.read(lattice_seed.as_mut_slice());
        let mut scalar = Zeroizing::new([0; POINT_BYTES]);
        expanded.read(scalar.as_mut_slice());

        let lattice = Box::new(DecapsulationKey768::from_seed((*lattice_seed).into()));
        let curve = X25519Identity::from_scalar(scalar)?;
        let mut public = Box::new([0; PUBLIC_KEY_BYTES]);
        let (lattice_key, point) = public.split_at_mut(LATTICE_KEY_BYTES);
        lattice_key.copy_from_slice(&lattice.encapsulation_key().to_bytes());
        point.copy_from_slice(&curve.point);
        Ok(Self { seed, public: HybridPublicKey(public), lattice, curve })
    }

    /// Returns the file key, or `None` if it was wrapped for another recipient.
    pub fn unwrap(&self, wrapped: &HybridWrapped) -> Result<Option<FileKey>, AgeError> {
        let malformed = AgeError::InvalidHeader("an encapsulated key has another length");
        let Some((ciphertext, share)) = split(wrapped.encapsulated.as_slice()) else {
            return Err(malformed);
        };
        let Ok(ciphertext) = <&[u8; LATTICE_CIPHERTEXT_BYTES]>::try_from(ciphertext) else {
            return Err(malformed);
        };
        // ML-KEM never says that a ciphertext is for another key: the secret is another one then.
        let lattice = Zeroizing::new(<[u8; 32]>::from(self.lattice.decapsulate(ciphertext.into())));
        let Some(curve) = agree(&self.curve.scalar, share)? else {
            return Err(AgeError::InvalidHeader("a share is a point of low order"));
        };
        let context = context(&combine(lattice.as_slice(), &curve, share, &self.curve.point))?;
        FileKey::open(&context.key, context.nonce, &wrapped.body)
    }
}

impl HybridPublicKey {
    /// Parses a key; `None` if one of its halves cannot be one.
    pub fn parse(bytes: Box<[u8; PUBLIC_KEY_BYTES]>) -> Result<Option<Self>, AgeError> {
        let Some((lattice, point)) = split(bytes.as_slice()) else {
            return Ok(None);
        };
        // The coefficients must be below the modulus; the provider would notice when it encapsulates.
        let sound = <&[u8; LATTICE_KEY_BYTES]>::try_from(lattice)
            .is_ok_and(|lattice| EncapsulationKey768::new(lattice.into()).is_ok());
        if !sound || agree(&X25519Identity::generate()?.scalar, point)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Self(bytes)))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Wraps a file key for the owner of this key.
    pub fn wrap(&self, file_key: &FileKey) -> Result<HybridWrapped, AgeError> {
        let (lattice_key, point) = split(self.as_bytes()).ok_or(AgeError::InvalidRecipient)?;
        // The reason says nothing: the key was judged when it was parsed.
        let lattice_key = EncapsulationKey::new(&ML_KEM_768, lattice_key).map_err(|_| AgeError::InvalidRecipient)?;
        let (ciphertext, lattice): (Ciphertext<'_>, _) = lattice_key.encapsulate()?;
        let ephemeral = X25519Identity::generate()?;
        let curve = agree(&ephemeral.scalar, point)?.ok_or(AgeError::InvalidRecipient)?;
        let context = context(&combine(lattice.as_ref(), &curve, &ephemeral.point, point))?;
        let encapsulated: Box<[u8]> = [ciphertext.as_ref(), &ephemeral.point].concat().into();
        Ok(HybridWrapped {
            encapsulated: encapsulated.try_into().map_err(|_| AgeError::Provider)?,
            body: file_key.seal(&context.key, context.nonce)?,
        })
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8; POINT_BYTES])> {
    bytes.split_last_chunk()
}

/// Combines the secrets of both halves as X-Wing does.
fn combine(lattice: &[u8], curve: &Secret, share: &[u8; 32], point: &[u8; 32]) -> Secret {
    let mut hash = digest::Context::new(&digest::SHA3_256);
    for part in [lattice, curve.as_slice(), share, point, COMBINER_LABEL] {
        hash.update(part);
    }
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(hash.finish().as_ref());
    secret
}

/// The key of the only message of an HPKE context, and its nonce.
struct HpkeContext {
    key: Secret,
    nonce: [u8; NONCE_LEN],
}

/// Runs the key schedule of RFC 9180, section 5.1, in base mode.
fn context(shared: &Secret) -> Result<HpkeContext, AgeError> {
    let mut schedule = vec![BASE_MODE];
    schedule.extend_from_slice(hmac::sign(&unsalted(), &labeled(b"psk_id_hash", &[])).as_ref());
    schedule.extend_from_slice(hmac::sign(&unsalted(), &labeled(b"info_hash", INFO)).as_ref());
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, shared.as_slice()).extract(&labeled(b"secret", &[]));

    let mut context = HpkeContext { key: Zeroizing::new([0; 32]), nonce: [0; NONCE_LEN] };
    expand(&secret, b"key", &schedule, context.key.as_mut_slice())?;
    expand(&secret, b"base_nonce", &schedule, &mut context.nonce)?;
    Ok(context)
}

/// The key of HMAC where HKDF has no salt.
fn unsalted() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &[0; 32])
}

fn labeled(label: &[u8], material: &[u8]) -> Vec<u8> {
    [VERSION, SUITE, label, material].concat()
}

/// `LabeledExpand` of RFC 9180, section 4.
fn expand(secret: &hkdf::Prk, label: &[u8], context: &[u8], output: &mut [u8]) -> Result<(), AgeError> {
    let length = u16::try_from(output.len()).map_err(|_| AgeError::Provider)?.to_be_bytes();
    let info = [&length, VERSION, SUITE, label, context];
    Ok(secret.expand(&info, OutputLength(output.len()))?.fill(output)?)
}

/// A length that is asked of HKDF.
struct OutputLength(usize);

impl hkdf::KeyType for OutputLength {
    fn len(&self) -> usize {
        self.0
    }
}
