//! Keys that sign checkpoints: a log's, and those of the witnesses that cosign (C2SP signed-note, tlog-cosignature).

use std::fmt::{self, Display, Formatter};

use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::checkpoint::Checkpoint;
use crate::note::{KeyName, Note, SignatureLine};

/// The length of the longest text of a verifier key that is read, in bytes.
const MAX_VKEY: usize = 4_096;
/// The beginning of the text of a private key.
const SKEY: &str = "PRIVATE+KEY+";
/// The length of the longest text of a private key that is read, in bytes.
const MAX_SKEY: usize = 1_024;
/// The length of the seed of a private key, in bytes.
pub const SEED_LENGTH: usize = 32;
/// The latest time that a cosignature may have, in seconds since 1970.
const MAX_TIME: u64 = i64::MAX as u64;

/// The kind of a key: its algorithm, and the message that it signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Ed25519 over the note's text.
    Ed25519,
    /// Ed25519 over a time and the note's text.
    Ed25519Cosignature,
    /// ML-DSA-44 over the cosigner's name, a time and the tree.
    MlDsa44Cosignature,
}

impl KeyKind {
    /// The byte that stands for it.
    const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Ed25519Cosignature => 0x04,
            Self::MlDsa44Cosignature => 0x06,
        }
    }

    /// The kind of this byte and with a public key of this length, if it is one of these.
    const fn of(byte: u8, length: usize) -> Option<Self> {
        match (byte, length) {
            (0x01, 32) => Some(Self::Ed25519),
            (0x04, 32) => Some(Self::Ed25519Cosignature),
            (0x06, 1_312) => Some(Self::MlDsa44Cosignature),
            _ => None,
        }
    }

    /// `true` if the signature says when it was made.
    #[must_use]
    pub const fn is_timed(self) -> bool {
        match self {
            Self::Ed25519 => false,
            Self::Ed25519Cosignature | Self::MlDsa44Cosignature => true,
        }
    }
}

/// A public key with its name, as configuration names it: a *vkey*.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifierKey {
    name: KeyName,
    id: u32,
    kind: KeyKind,
    public_key: Vec<u8>,
}

/// A text is not a verifier key of a kind that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier key (NAME+ID+KEY) of Ed25519 or ML-DSA-44")]
pub struct VerifierKeyError;

impl VerifierKey {
    /// Reads a vkey. The id has to be the one that the specification recommends, or requires.
    ///
    /// # Errors
    /// [`VerifierKeyError`].
    pub fn parse(vkey: &str) -> Result<Self, VerifierKeyError> {
        let read = || {
            let mut parts = (vkey.len() <= MAX_VKEY).then(|| vkey.splitn(3, '+'))?;
            let (name, id, key) = (KeyName::parse(parts.next()?)?, parts.next()?, STANDARD.decode(parts.next()?).ok()?);
            let (byte, public_key) = key.split_first()?;
            let read = Self::new(name, KeyKind::of(*byte, public_key.len())?, public_key.to_vec());
            (format!("{:08x}", read.id) == id).then_some(read)
        };
        read().ok_or(VerifierKeyError)
    }

    fn new(name: KeyName, kind: KeyKind, public_key: Vec<u8>) -> Self {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(name.as_str())
            .chain_update([b'\n', kind.byte()])
            .chain_update(&public_key)
            .finalize()
            .into();
        let [a, b, c, d, ..] = digest;
        Self { name, id: u32::from_be_bytes([a, b, c, d]), kind, public_key }
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// `true` if both wrap the same public key, under whatever names.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.public_key == other.public_key
    }

    /// `true` if the line says that it is of this key.
    #[must_use]
    pub fn is_of(&self, line: &SignatureLine) -> bool {
        line.key_id == self.id && line.name == self.name
    }

    /// Verifies a signature of this key under the text of a note. Returns its time, in seconds since 1970; 0 if the kind has none.
    fn verify(&self, text: &str, signature: &[u8]) -> Option<u64> {
        let ed25519 = UnparsedPublicKey::new(&ED25519, &self.public_key);
        match self.kind {
            KeyKind::Ed25519 => ed25519.verify(text.as_bytes(), signature).ok().map(|()| 0),
            KeyKind::Ed25519Cosignature => {
                let (time, signature) = timed(signature)?;
                ed25519.verify(cosigned_text(time, text).as_bytes(), signature).ok().map(|()| time)
            }
            KeyKind::MlDsa44Cosignature => {
                let (time, signature) = timed(signature)?;
                let message = cosigned_tree(&self.name, time, &Checkpoint::parse(text).ok()?)?;
                let ml_dsa_44 = UnparsedPublicKey::new(&ML_DSA_44, &self.public_key);
                ml_dsa_44.verify(&message, signature).ok().map(|()| time)
            }
        }
    }
}

impl Display for VerifierKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind.byte()][..], &self.public_key].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

/// A signature that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedSignature {
    /// The place of the key among those that were given.
    pub key: usize,
    /// The time of a cosignature, in seconds since 1970; 0 where the kind has none.
    pub time: u64,
}

/// Nobody known vouches for a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A signature of a known key is wrong: the whole note is refused.
    #[error("a signature of a known key is wrong")]
    Wrong,
    /// No signature is of a known key.
    #[error("no signature is of a known key")]
    Unknown,
}

/// Verifies every signature of a known key; others are ignored. Returns one for each key that has signed.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(note: &Note, keys: &[VerifierKey]) -> Result<Vec<VerifiedSignature>, SignatureError> {
    let mut verified: Vec<VerifiedSignature> = Vec::new();
    for line in note.signatures() {
        let Some((place, key)) = keys.iter().enumerate().find(|(_, key)| key.is_of(line)) else { continue };
        let time = key.verify(note.text(), &line.signature).ok_or(SignatureError::Wrong)?;
        match verified.iter_mut().find(|signature| signature.key == place) {
            Some(known) => known.time = known.time.max(time),
            None => verified.push(VerifiedSignature { key: place, time }),
        }
    }
    if verified.is_empty() { Err(SignatureError::Unknown) } else { Ok(verified) }
}

/// A private key with its public half and its name. It cannot be printed.
pub struct SignerKey {
    verifier: VerifierKey,
    secret: Secret,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    MlDsa44(Box<PqdsaKeyPair>),
}

/// A text is not a private key of a kind that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a private key (PRIVATE+KEY+NAME+ID+KEY) of Ed25519 or ML-DSA-44")]
pub struct SignerKeyTextError;

/// The cryptographic library refused a seed or a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot sign")]
pub struct SignerKeyError;

impl SignerKey {
    /// Derives a key from its seed.
    ///
    /// # Errors
    /// [`SignerKeyError`] if the library fails.
    pub fn from_seed(name: KeyName, kind: KeyKind, seed: &[u8; SEED_LENGTH]) -> Result<Self, SignerKeyError> {
        let (secret, public_key) = match kind {
            KeyKind::Ed25519 | KeyKind::Ed25519Cosignature => {
                let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignerKeyError)?;
                let public_key = pair.public_key().as_ref().to_vec();
                (Secret::Ed25519(pair), public_key)
            }
            KeyKind::MlDsa44Cosignature => {
                let pair = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed).map_err(|_| SignerKeyError)?;
                let public_key = pair.public_key().as_ref().to_vec();
                (Secret::MlDsa44(Box::new(pair)), public_key)
            }
        };
        Ok(Self { verifier: VerifierKey::new(name, kind, public_key), secret })
    }

    /// Reads a private key as Go's `sumdb/note` writes it: the kind and the seed, with the name and the id of the public key. The
    /// id has to be the right one.
    ///
    /// # Errors
    /// [`SignerKeyTextError`].
    pub fn parse(skey: &str) -> Result<Self, SignerKeyTextError> {
        let read = || {
            let mut parts = skey.strip_prefix(SKEY).filter(|_| skey.len() <= MAX_SKEY)?.splitn(3, '+');
            let (name, id) = (KeyName::parse(parts.next()?)?, parts.next()?);
            let key = Zeroizing::new(STANDARD.decode(parts.next()?).ok()?);
            let (byte, seed) = key.split_first()?;
            let kinds = [KeyKind::Ed25519, KeyKind::Ed25519Cosignature, KeyKind::MlDsa44Cosignature];
            let kind = kinds.into_iter().find(|kind| kind.byte() == *byte)?;
            let read = Self::from_seed(name, kind, seed.try_into().ok()?).ok()?;
            (format!("{:08x}", read.verifier.id) == id).then_some(read)
        };
        read().ok_or(SignerKeyTextError)
    }

    /// Writes a private key as text, from the seed that it is derived from.
    ///
    /// # Errors
    /// [`SignerKeyError`] if the library fails.
    pub fn text(name: KeyName, kind: KeyKind, seed: &[u8; SEED_LENGTH]) -> Result<Zeroizing<String>, SignerKeyError> {
        let VerifierKey { name, id, .. } = Self::from_seed(name, kind, seed)?.verifier;
        let key = Zeroizing::new([&[kind.byte()][..], seed].concat());
        let key = Zeroizing::new(STANDARD.encode(&*key));
        Ok(Zeroizing::new(format!("{SKEY}{name}+{id:08x}+{}", *key)))
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs a checkpoint at this time, in seconds since 1970; a kind without times ignores it.
    ///
    /// # Errors
    /// [`SignerKeyError`] if the library fails, or no cosignature may have the time.
    pub fn sign(&self, checkpoint: &Checkpoint, time: u64) -> Result<SignatureLine, SignerKeyError> {
        let VerifierKey { name, id, kind, .. } = &self.verifier;
        if kind.is_timed() && !(1..=MAX_TIME).contains(&time) {
            return Err(SignerKeyError);
        }
        let message = match kind {
            KeyKind::Ed25519 => checkpoint.to_string().into_bytes(),
            KeyKind::Ed25519Cosignature => cosigned_text(time, &checkpoint.to_string()).into_bytes(),
            KeyKind::MlDsa44Cosignature => cosigned_tree(name, time, checkpoint).ok_or(SignerKeyError)?,
        };
        let mut signature = if kind.is_timed() { time.to_be_bytes().to_vec() } else { Vec::new() };
        match &self.secret {
            Secret::Ed25519(pair) => signature.extend_from_slice(pair.sign(&message).as_ref()),
            Secret::MlDsa44(pair) => {
                let start = signature.len();
                signature.resize(start + ML_DSA_44_SIGNING.signature_len(), 0);
                let room = signature.get_mut(start..).ok_or(SignerKeyError)?;
                pair.sign(&message, room).map_err(|_| SignerKeyError)?;
            }
        }
        Ok(SignatureLine { name: name.clone(), key_id: *id, signature })
    }

    /// Signs a text that is no checkpoint and ends with a line feed, so that the signature is worth nothing for a log.
    ///
    /// # Errors
    /// [`SignerKeyError`] if the key is not of the kind [`KeyKind::Ed25519`], or the text is a checkpoint.
    pub fn sign_text(&self, text: &str) -> Result<SignatureLine, SignerKeyError> {
        let VerifierKey { name, id, kind, .. } = &self.verifier;
        let is_checkpoint = Checkpoint::parse(text).is_ok() || text.starts_with("cosignature/");
        match (&self.secret, kind) {
            (Secret::Ed25519(pair), KeyKind::Ed25519) if !is_checkpoint && text.ends_with('\n') => {
                let signature = pair.sign(text.as_bytes()).as_ref().to_vec();
                Ok(SignatureLine { name: name.clone(), key_id: *id, signature })
            }
            _ => Err(SignerKeyError),
        }
    }
}

/// Divides a cosignature into its time and the signature itself.
fn timed(cosignature: &[u8]) -> Option<(u64, &[u8])> {
    let (time, signature) = cosignature.split_first_chunk()?;
    let time = u64::from_be_bytes(*time);
    // Without a time a cosignature says nothing about the largest tree.
    (1..=MAX_TIME).contains(&time).then_some((time, signature))
}

/// The message of an Ed25519 cosignature.
fn cosigned_text(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// The message of an ML-DSA-44 cosignature: the structure `cosigned_message`, over the whole tree.
fn cosigned_tree(name: &KeyName, time: u64, checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    let mut message = b"subtree/v1\n\0".to_vec();
    let push = |message: &mut Vec<u8>, name: &KeyName| {
        message.push(u8::try_from(name.as_str().len()).ok()?);
        message.extend_from_slice(name.as_str().as_bytes());
        Some(())
    };
    push(&mut message, name)?;
    message.extend_from_slice(&time.to_be_bytes());
    push(&mut message, &checkpoint.origin)?;
    message.extend_from_slice(&0_u64.to_be_bytes());
    message.extend_from_slice(&checkpoint.size.to_be_bytes());
    message.extend_from_slice(&checkpoint.root.0);
    Some(message)
}
