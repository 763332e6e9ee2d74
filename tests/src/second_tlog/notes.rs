//! Signed notes, checkpoints and cosignatures (C2SP signed-note, tlog-checkpoint, tlog-cosignature).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ML_DSA_44, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tree::{Hash, decimal, hash, hex, sha256};

/// The signature type of a plain Ed25519 signature.
pub const PLAIN_ED25519: u8 = 0x01;

/// The signature type of a cosignature by Ed25519.
pub const COSIGNED_ED25519: u8 = 0x04;

/// The signature type of a cosignature by ML-DSA-44.
pub const COSIGNED_ML_DSA_44: u8 = 0x06;

/// The text of a checkpoint, and its first three lines.
pub struct Checkpoint<'a> {
    pub text: &'a str,
    pub origin: &'a str,
    pub size: u64,
    pub root: Hash,
}

impl<'a> Checkpoint<'a> {
    pub fn read(text: &'a str) -> Option<Self> {
        let lines: Vec<&str> = text.strip_suffix('\n')?.split('\n').collect();
        match lines.as_slice() {
            [origin, size, root, ..] if lines.iter().all(|line| !line.is_empty()) => {
                Some(Self { text, origin, size: decimal(size)?, root: hash(root)? })
            }
            _ => None,
        }
    }
}

/// A signature line, without its newline.
pub struct Line<'a> {
    pub whole: &'a str,
    pub name: &'a str,
    pub id: [u8; 4],
    pub signature: Vec<u8>,
}

impl<'a> Line<'a> {
    pub fn read(whole: &'a str) -> Option<Self> {
        let (name, signature) = whole.strip_prefix("— ")?.split_once(' ')?;
        let bytes = STANDARD.decode(signature).ok()?;
        let (id, signature) = bytes.split_first_chunk()?;
        (is_name(name) && !signature.is_empty()).then(|| Self { whole, name, id: *id, signature: signature.to_vec() })
    }
}

/// A verifier key of any of the three types.
pub struct Verifier {
    pub name: String,
    pub id: [u8; 4],
    pub kind: u8,
    pub key: Vec<u8>,
}

impl Verifier {
    pub fn read(vkey: &str) -> Option<Self> {
        let mut parts = vkey.splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, STANDARD.decode(parts.next()?).ok()?);
        let (&kind, key) = key.split_first()?;
        let length = match kind {
            PLAIN_ED25519 | COSIGNED_ED25519 => 32,
            COSIGNED_ML_DSA_44 => 1312,
            _ => return None,
        };
        let key = Self { name: name.to_owned(), id: key_id(name, kind, key), kind, key: key.to_vec() };
        (is_name(name) && hex(&key.id) == id && key.key.len() == length).then_some(key)
    }

    pub fn is_named_by(&self, line: &Line) -> bool {
        self.name == line.name && self.id == line.id
    }

    /// Verifies a signature, and returns its timestamp; 0 if its type has none.
    pub fn verify(&self, checkpoint: &Checkpoint, signature: &[u8]) -> Option<u64> {
        if self.kind == PLAIN_ED25519 {
            let key = UnparsedPublicKey::new(&ED25519, &self.key);
            return key.verify(checkpoint.text.as_bytes(), signature).ok().map(|()| 0);
        }
        let (time, signature) = signature.split_first_chunk()?;
        let timestamp = u64::from_be_bytes(*time);
        let verified = if self.kind == COSIGNED_ED25519 {
            let message = format!("cosignature/v1\ntime {timestamp}\n{}", checkpoint.text);
            UnparsedPublicKey::new(&ED25519, &self.key).verify(message.as_bytes(), signature)
        } else {
            let mut message = b"subtree/v1\n\0".to_vec();
            message.push(u8::try_from(self.name.len()).ok()?);
            message.extend(self.name.as_bytes());
            message.extend(time);
            message.push(u8::try_from(checkpoint.origin.len()).ok()?);
            message.extend(checkpoint.origin.as_bytes());
            message.extend(0_u64.to_be_bytes());
            message.extend(checkpoint.size.to_be_bytes());
            message.extend(checkpoint.root);
            UnparsedPublicKey::new(&ML_DSA_44, &self.key).verify(&message, signature)
        };
        verified.ok().map(|()| timestamp)
    }
}

/// A named Ed25519 key.
pub struct Signer {
    pub name: String,
    pub kind: u8,
    pub pair: Ed25519KeyPair,
}

impl Signer {
    pub fn new(name: &str, kind: u8, seed: [u8; 32]) -> Self {
        Self { name: name.to_owned(), kind, pair: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap() }
    }

    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, self.kind, self.pair.public_key().as_ref())
    }

    pub fn vkey(&self) -> String {
        let key = [&[self.kind], self.pair.public_key().as_ref()].concat();
        format!("{}+{}+{}", self.name, hex(&self.id()), STANDARD.encode(key))
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    pub fn line(&self, signature: &[u8]) -> String {
        format!("— {} {}\n", self.name, STANDARD.encode([&self.id(), signature].concat()))
    }
}

pub fn key_id(name: &str, kind: u8, key: &[u8]) -> [u8; 4] {
    *sha256(&[name.as_bytes(), b"\n", &[kind], key]).first_chunk().unwrap()
}

pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

/// Verifies a cosignature, with or without its newline, of a checkpoint (the note or its text alone), and returns its
/// timestamp in seconds. `None` also if the timestamp is zero, which no witness may answer with, or above 2^63 - 1.
#[must_use]
pub fn verify_cosignature(note_text: &str, line: &str, witness_vkey: &str) -> Option<u64> {
    let text = note_text.rsplit_once("\n\n").map_or_else(|| note_text.to_owned(), |(text, _)| format!("{text}\n"));
    let key = Verifier::read(witness_vkey).filter(|key| key.kind != PLAIN_ED25519)?;
    let line = Line::read(line.strip_suffix('\n').unwrap_or(line)).filter(|line| key.is_named_by(line))?;
    key.verify(&Checkpoint::read(&text)?, &line.signature).filter(|timestamp| (1..1 << 63).contains(timestamp))
}
