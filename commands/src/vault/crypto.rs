//! The three primitives of the vault: random bytes, keyed digests, seals. Each is one call into an external crate. Keys
//! are types that cannot be printed and are wiped when dropped.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aws_lc_rs::{constant_time, hmac, rand};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A 256-bit key. No `Debug`, no `Display`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SymmetricKey([u8; 32]);

/// A sealed value that does not open: it was altered, moved, or sealed under another key. The error has no cause: the failed
/// step would help only an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open under its key")]
pub struct UnsealError;

/// The operating system returned no random bytes. It does not say why.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system returned no random bytes")]
pub struct RandomnessError;

/// A sealed value: a nonce, and a ciphertext with its tag.
#[derive(Clone)]
pub struct SealedValue {
    /// The nonce: 96 random bits. One key seals far fewer than 2^32 values (NIST SP 800-38D, section 8.3).
    pub nonce: [u8; 12],
    /// The ciphertext and its 128-bit tag.
    pub ciphertext: Vec<u8>,
}

impl SymmetricKey {
    /// Takes an external key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Draws a random key.
    ///
    /// # Errors
    /// [`RandomnessError`].
    pub fn random() -> Result<Self, RandomnessError> {
        random_bytes().map(Self)
    }

    /// Computes HMAC-SHA-256 (RFC 2104) over the parts. Each is preceded by its length, so that different lists of
    /// parts never collide.
    #[must_use]
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        for part in [purpose.as_bytes()].iter().chain(parts) {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    /// Derives a key for one purpose. It reveals neither this key nor the key of another purpose.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self(self.digest(purpose, &[]))
    }

    /// Seals with AES-256-GCM (NIST SP 800-38D) under a fresh nonce. `context` is authenticated but not stored: opening
    /// requires the same context.
    ///
    /// # Errors
    /// [`RandomnessError`].
    pub fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<SealedValue, RandomnessError> {
        let nonce = random_bytes()?;
        let payload = Payload { msg: plaintext, aad: context };
        // Fails only beyond 64 GiB.
        let ciphertext = self.cipher().encrypt(&Nonce::from(nonce), payload).map_err(|_| RandomnessError)?;
        Ok(SealedValue { nonce, ciphertext })
    }

    /// Opens a sealed value under the context that it was sealed with.
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn open(&self, context: &[u8], sealed: &SealedValue) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let payload = Payload { msg: &sealed.ciphertext, aad: context };
        let plaintext = self.cipher().decrypt(&Nonce::from(sealed.nonce), payload).map_err(|_| UnsealError)?;
        Ok(Zeroizing::new(plaintext))
    }

    /// Seals another key.
    ///
    /// # Errors
    /// [`RandomnessError`].
    pub fn wrap(&self, context: &[u8], key: &Self) -> Result<Vec<u8>, RandomnessError> {
        Ok(self.seal(context, &key.0)?.to_bytes())
    }

    /// Reverses [`SymmetricKey::wrap`].
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn unwrap_key(&self, context: &[u8], wrapped: &[u8]) -> Result<Self, UnsealError> {
        let bytes = self.open(context, &SealedValue::from_bytes(wrapped).ok_or(UnsealError)?)?;
        bytes.as_slice().try_into().map(Self).map_err(|_| UnsealError)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&self.0.into())
    }
}

impl SealedValue {
    /// Returns the nonce followed by the ciphertext, for a single column.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.nonce.as_slice(), &self.ciphertext].concat()
    }

    /// Reverses [`SealedValue::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (nonce, ciphertext) = bytes.split_first_chunk()?;
        Some(Self { nonce: *nonce, ciphertext: ciphertext.to_vec() })
    }
}

/// Returns random bytes from the operating system.
///
/// # Errors
/// [`RandomnessError`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomnessError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| RandomnessError)?;
    Ok(bytes)
}

/// Compares in constant time.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SymmetricKey {
        SymmetricKey::from_bytes([byte; 32])
    }

    #[test]
    fn a_seal_opens_under_its_key_and_context_alone() {
        let sealed = key(1).seal(b"here", b"secret").unwrap();
        assert_eq!(key(1).open(b"here", &sealed).unwrap().as_slice(), b"secret");
        assert!(key(2).open(b"here", &sealed).is_err());
        assert!(key(1).open(b"there", &sealed).is_err());
    }

    #[test]
    fn every_altered_bit_is_noticed() {
        let bytes = key(1).seal(b"", b"secret").unwrap().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(key(1).open(b"", &SealedValue::from_bytes(&altered).unwrap()).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            let opened = SealedValue::from_bytes(&bytes[..length]).map(|sealed| key(1).open(b"", &sealed).is_ok());
            assert_ne!(opened, Some(true), "length {length}");
        }
    }

    #[test]
    fn aes_256_gcm_gives_the_published_vector() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 14.
        let sealed = SealedValue {
            nonce: [0; 12],
            ciphertext: [
                0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18, //
                0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19,
            ]
            .to_vec(),
        };
        assert_eq!(key(0).open(b"", &sealed).unwrap().as_slice(), [0; 16]);
    }

    #[test]
    fn parts_of_a_digest_do_not_run_into_each_other() {
        assert_ne!(key(1).digest("p", &[b"ab", b"c"]), key(1).digest("p", &[b"a", b"bc"]));
        assert_ne!(key(1).digest("p", &[]), key(1).digest("q", &[]));
        assert_ne!(key(1).digest("p", &[]), key(2).digest("p", &[]));
    }
}
