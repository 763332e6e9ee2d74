//! The content of a certificate: names, times, key, signature. Reads, and judges nothing.

use std::fmt::{self, Display, Formatter};

use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
/// Curves, and kinds of keys without parameters: name, and length in bits of a curve of the same strength.
const NAMED: [(ObjectIdentifier, &str, usize); 10] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.1"), "P-192", 192),
    (ObjectIdentifier::new_unwrap("1.3.132.0.33"), "P-224", 224),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), "P-256", 256),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), "P-384", 384),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), "P-521", 521),
    (ObjectIdentifier::new_unwrap("1.3.101.112"), "Ed25519", 256),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448", 448),
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.17"), "ML-DSA-44", 256),
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.18"), "ML-DSA-65", 384),
    (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.19"), "ML-DSA-87", 512),
];
/// Signatures with MD5 and SHA-1, of RSA, DSA and ECDSA.
const WEAK_SIGNATURES: [ObjectIdentifier; 5] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.4"),
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5"),
    ObjectIdentifier::new_unwrap("1.2.840.10040.4.3"),
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.1"),
    ObjectIdentifier::new_unwrap("1.3.14.3.2.29"),
];
/// The extension that lists features of TLS (RFC 7633), and the feature `status_request`.
const TLS_FEATURE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.24");
const STATUS_REQUEST: u16 = 5;

/// A public key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateKey {
    /// RSA, with the bits of its modulus.
    Rsa(usize),
    /// Another kind with a name, and its strength in the bits of a curve.
    Named(&'static str, usize),
    /// A kind that is not known here.
    Unknown,
}

/// A certificate as far as it is judged.
pub struct CertificateFacts {
    /// The subject, as text (RFC 4514).
    pub subject: String,
    /// The issuer, as text.
    pub issuer: String,
    /// The time at which it begins.
    pub not_before: DateTime<Utc>,
    /// The time at which it ends.
    pub not_after: DateTime<Utc>,
    /// The key.
    pub key: CertificateKey,
    /// `true` if it is signed with MD5 or SHA-1.
    pub is_weakly_signed: bool,
    /// `true` if it says that a server must staple an OCSP response.
    pub must_staple: bool,
    /// `true` if it may issue others.
    pub is_authority: bool,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Subject and issuer as bytes, which are compared.
    names: (Vec<u8>, Vec<u8>),
}

impl CertificateKey {
    fn read(key: &SubjectPublicKeyInfoOwned) -> Self {
        let algorithm = key.algorithm.oid;
        let kind = match algorithm {
            RSA | RSA_PSS => return modulus_bits(key.subject_public_key.raw_bytes()).map_or(Self::Unknown, Self::Rsa),
            EC => key.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as().ok()).unwrap_or(algorithm),
            _ => algorithm,
        };
        NAMED.iter().find(|(id, ..)| *id == kind).map_or(Self::Unknown, |(_, name, bits)| Self::Named(name, *bits))
    }

    /// `true` if it is shorter than is still to be trusted (RFC 9325, section 4.5).
    #[must_use]
    pub const fn is_weak(self) -> bool {
        match self {
            Self::Rsa(bits) => bits < 2048,
            Self::Named(_, bits) => bits < 224,
            Self::Unknown => false,
        }
    }
}

impl Display for CertificateKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA with {bits} bits"),
            Self::Named(name, _) => f.write_str(name),
            Self::Unknown => f.write_str("a key of a kind that is not known here"),
        }
    }
}

impl CertificateFacts {
    /// Reads a certificate; `None` if it is not one.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
        let tbs = parsed.tbs_certificate;
        let extensions = tbs.extensions.unwrap_or_default();
        let extension = |id| extensions.iter().find(|it| it.extn_id == id).map(|it| it.extn_value.as_bytes());
        let key = CertificateKey::read(&tbs.subject_public_key_info);
        let digest = Sha256::digest(certificate);
        let features = extension(TLS_FEATURE).and_then(|bytes| Vec::<u16>::from_der(bytes).ok());
        Some(Self {
            subject: tbs.subject.to_string(),
            issuer: tbs.issuer.to_string(),
            not_before: DateTime::UNIX_EPOCH + tbs.validity.not_before.to_unix_duration(),
            not_after: DateTime::UNIX_EPOCH + tbs.validity.not_after.to_unix_duration(),
            key,
            is_weakly_signed: WEAK_SIGNATURES.contains(&parsed.signature_algorithm.oid),
            must_staple: features.is_some_and(|features| features.contains(&STATUS_REQUEST)),
            is_authority: extension(BASIC_CONSTRAINTS)
                .is_some_and(|bytes| BasicConstraints::from_der(bytes).is_ok_and(|it| it.ca)),
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            names: (tbs.subject.to_der().ok()?, tbs.issuer.to_der().ok()?),
        })
    }

    /// `true` if it names itself as its issuer.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.names.0 == self.names.1
    }

    /// `true` if it names `issuer` as its issuer.
    #[must_use]
    pub fn is_issued_by(&self, issuer: &Self) -> bool {
        self.names.1 == issuer.names.0
    }
}

/// Returns the bits of the modulus of an RSA key (RFC 8017, appendix A.1.1).
fn modulus_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let modulus = reader.sequence(|body| {
        let modulus = UintRef::decode(body)?.as_bytes().to_vec();
        UintRef::decode(body)?;
        Ok(modulus)
    });
    let modulus = modulus.ok()?;
    Some(modulus.len() * 8 - usize::try_from(modulus.first()?.leading_zeros()).ok()?)
}
