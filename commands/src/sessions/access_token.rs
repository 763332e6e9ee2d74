//! Access tokens: JWTs in the profile of RFC 9068, signed with RS256 or, in development, HS256.
//!
//! The key id in a token's header selects a key of the ring, and the key alone determines the algorithm. `none` and
//! algorithm confusion are therefore impossible. Refresh tokens are in `refresh_token`.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::values::{AccountId, Epoch, RoleName, SessionId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::vault::{KeyReload, RandomnessError};

/// The `typ` of an access token (RFC 9068, section 2.1).
const TYP: &str = "at+jwt";
/// The `client_id` of every token.
pub const CLIENT: &str = "first-party";
/// The tolerated difference between the clocks of machines.
pub const LEEWAY: TimeDelta = TimeDelta::seconds(60);
/// The digits on a line of a key's text (RFC 7468).
const PEM_WIDTH: usize = 64;
/// The maximum length of a token, in bytes.
const MAX_LENGTH: usize = 8_192;

/// The claims of an access token (RFC 9068, section 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// The audience.
    pub aud: String,
    /// The account.
    pub sub: AccountId,
    /// The session.
    pub sid: SessionId,
    /// The client (RFC 9068, section 2.2). Clients are not registered; all have the same name.
    #[serde(default)]
    pub client_id: String,
    /// The token's id.
    pub jti: Uuid,
    /// The time of issue, in seconds since 1970.
    pub iat: i64,
    /// The expiry, in seconds since 1970.
    pub exp: i64,
    /// The time of the owner's last login, in seconds since 1970.
    pub auth_time: i64,
    /// The authentication methods (RFC 8176).
    pub amr: Vec<AuthenticationMethod>,
    /// The authentication context class.
    pub acr: String,
    /// The roles held at issue. Later changes take precedence.
    pub roles: Vec<RoleName>,
    /// The log's position at issue.
    pub pos: u64,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// `true` if the session requires a step-up before anything else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub step_up_required: bool,
    /// The id of the key that signed the token, from its header.
    #[serde(skip)]
    pub kid: Arc<str>,
}

/// The content of a new token.
pub struct TokenGrant {
    /// The account.
    pub account: AccountId,
    /// The session.
    pub session: SessionId,
    /// The time of the owner's last login.
    pub authenticated_at: DateTime<Utc>,
    /// The authentication methods.
    pub methods: Vec<AuthenticationMethod>,
    /// `true` if the session requires a step-up before anything else.
    pub step_up_required: bool,
    /// The roles held now.
    pub roles: Vec<RoleName>,
    /// The log's position.
    pub position: u64,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The expiry.
    pub expires_at: DateTime<Utc>,
}

/// An invalid token. Callers are not told the reason, and it is not logged: it may contain the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the access token is not valid")]
pub struct InvalidToken;

/// The reason for which a key is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not a private RSA key in PEM. The cause is dropped: it says no more, and comes from reading a secret.
    #[error("is not a private RSA key in PEM (PKCS#8 or PKCS#1)")]
    NotRsa,
    /// The key is too short for RS256 (RFC 7518, section 3.3).
    #[error("has {0} bits; RS256 needs at least 2048")]
    TooShort(usize),
    /// The secret is too short for HS256.
    #[error("has {0} characters; HS256 needs at least 64")]
    SecretTooShort(usize),
    /// The ring is empty.
    #[error("no signing key is configured")]
    Empty,
}

/// A key that signs, or that signed earlier and still verifies.
pub struct SigningKey {
    id: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// The modulus and exponent, base64url; `None` for HS256.
    public: Option<(String, String)>,
}

/// The keys of the service. One signs; all verify. They may change while tokens are in use.
pub struct KeyRing {
    keys: RwLock<Arc<RingKeys>>,
    settings: TokenSettings,
}

struct RingKeys {
    keys: Vec<Arc<SigningKey>>,
    /// The one that signs.
    signs: Arc<SigningKey>,
}

/// The claims that all tokens of a service share, and their lifetime.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// The `iss` claim: the service that issues them.
    pub issuer: String,
    /// The `aud` claim: the services that they are for.
    pub audience: String,
    /// The time from issue to expiry.
    pub lifetime: TimeDelta,
}

/// A public key in the format for clients (RFC 7517, section 4; RFC 7518, section 6.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicJwk {
    /// `RSA`.
    pub kty: &'static str,
    /// `sig`.
    pub r#use: &'static str,
    /// `RS256`.
    pub alg: &'static str,
    /// The key's id: its thumbprint (RFC 7638).
    pub kid: String,
    /// The modulus, base64url.
    pub n: String,
    /// The exponent, base64url.
    pub e: String,
}

impl SigningKey {
    /// Returns its id, the `kid` of its tokens.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Draws an RS256 key of 2048 bits. Returns its text, PKCS#8 in PEM.
    ///
    /// # Errors
    /// [`RandomnessError`].
    pub fn generate() -> Result<Zeroizing<String>, RandomnessError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| RandomnessError)?;
        let der = pair.as_der().map_err(|_| RandomnessError)?;
        let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
        let mut pem = Zeroizing::new("-----BEGIN PRIVATE KEY-----\n".to_owned());
        for (index, digit) in body.chars().enumerate() {
            if index > 0 && index % PEM_WIDTH == 0 {
                pem.push('\n');
            }
            pem.push(digit);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// Reads an RS256 key. Its id is its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`KeyError::NotRsa`], [`KeyError::TooShort`].
    pub fn rs256(pem: &str) -> Result<Self, KeyError> {
        let der = private_der(pem).ok_or(KeyError::NotRsa)?;
        let pair = KeyPair::from_pkcs8(&der).or_else(|_| KeyPair::from_der(&der)).map_err(|_| KeyError::NotRsa)?;
        let bits = pair.public_modulus_len() * 8;
        if bits < 2048 {
            return Err(KeyError::TooShort(bits));
        }
        let public: PublicKeyComponents<Vec<u8>> = PublicKeyComponents::from(pair.public_key());
        let (n, e) = (URL_SAFE_NO_PAD.encode(&public.n), URL_SAFE_NO_PAD.encode(&public.e));
        let thumbprint = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
        let id = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, thumbprint.as_bytes());
        // jsonwebtoken signs from PKCS#1; aws-lc-rs reads PKCS#8 in the same place.
        let pkcs8 = pair.as_der().map_err(|_| KeyError::NotRsa)?;
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(id.as_ref()),
            algorithm: Algorithm::RS256,
            encoding: rsa_encoding_key(pkcs8.as_ref())?,
            decoding: DecodingKey::from_rsa_raw_components(&public.n, &public.e),
            public: Some((n, e)),
        })
    }

    /// Returns an HS256 key, for development.
    ///
    /// # Errors
    /// [`KeyError::SecretTooShort`].
    pub fn hs256(secret: &str) -> Result<Self, KeyError> {
        let length = secret.chars().count();
        if length < 64 {
            return Err(KeyError::SecretTooShort(length));
        }
        let id = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("fulexo/kid/{secret}").as_bytes());
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(id.as_ref().get(..16).unwrap_or_default()),
            algorithm: Algorithm::HS256,
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            public: None,
        })
    }
}

/// Returns the authentication context class that these methods reach.
#[must_use]
pub const fn acr(methods: &[AuthenticationMethod]) -> &'static str {
    if methods.len() > 1 { "aal2" } else { "aal1" }
}

impl KeyRing {
    /// Returns a ring whose first key signs.
    ///
    /// # Errors
    /// [`KeyError::Empty`].
    pub fn new(keys: Vec<SigningKey>, settings: TokenSettings) -> Result<Self, KeyError> {
        let keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        let signs = Arc::clone(keys.first().ok_or(KeyError::Empty)?);
        Ok(Self { keys: RwLock::new(Arc::new(RingKeys { keys, signs })), settings })
    }

    /// Takes these keys in place of those before; `None` leaves them. The key `in_use` signs if the ring has it, else the one
    /// that signed, else the first. Keys that are `needed` stay; those that are `distrusted` do not, and verify nothing.
    pub fn reload(
        &self,
        keys: Option<Vec<SigningKey>>,
        in_use: Option<&str>,
        needed: &[&str],
        distrusted: &[&str],
    ) -> KeyReload {
        let known = self.ring();
        let mut keys = match keys {
            Some(keys) => keys.into_iter().map(Arc::new).collect(),
            None => known.keys.clone(),
        };
        keys.retain(|key| !distrusted.contains(&key.id.as_str()));
        let mut reload = KeyReload::default();
        for id in needed {
            if keys.iter().any(|key| key.id == *id) {
                continue;
            }
            match known.keys.iter().find(|key| key.id == *id) {
                Some(key) => {
                    keys.push(Arc::clone(key));
                    reload.kept.push((*id).to_owned());
                }
                None => reload.missing.push((*id).to_owned()),
            }
        }
        let named = keys.iter().find(|key| Some(key.id.as_str()) == in_use);
        let signed = || keys.iter().find(|key| key.id == known.signs.id);
        // Without any key, what the last one signs is refused everywhere.
        let signs = named.or_else(signed).or_else(|| keys.first()).map_or_else(|| Arc::clone(&known.signs), Arc::clone);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(RingKeys { keys, signs });
        reload
    }

    /// Returns the ids of all keys.
    #[must_use]
    pub fn key_ids(&self) -> Vec<String> {
        self.ring().keys.iter().map(|key| key.id.clone()).collect()
    }

    /// Returns the id of the key that signs.
    #[must_use]
    pub fn signs_with(&self) -> String {
        self.ring().signs.id.clone()
    }

    fn ring(&self) -> Arc<RingKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the issuer of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    /// Returns the lifetime of a token.
    #[must_use]
    pub const fn lifetime(&self) -> TimeDelta {
        self.settings.lifetime
    }

    /// Signs an access token.
    ///
    /// # Errors
    /// Only if the provider cannot sign.
    pub fn sign(
        &self,
        grant: TokenGrant,
        jti: Uuid,
        now: DateTime<Utc>,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let key = Arc::clone(&self.ring().signs);
        let mut header = Header::new(key.algorithm);
        header.typ = Some(TYP.to_owned());
        header.kid = Some(key.id.clone());
        let claims = Claims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: grant.account,
            sid: grant.session,
            client_id: CLIENT.to_owned(),
            jti,
            iat: now.timestamp(),
            exp: grant.expires_at.timestamp(),
            auth_time: grant.authenticated_at.timestamp(),
            acr: acr(&grant.methods).to_owned(),
            amr: grant.methods,
            roles: grant.roles,
            pos: grant.position,
            epoch: grant.epoch,
            step_up_required: grant.step_up_required,
            kid: Arc::from(key.id.as_str()),
        };
        jsonwebtoken::encode(&header, &claims, &key.encoding)
    }

    /// Verifies a token: key, algorithm, type, signature, issuer, audience, time. Returns its claims.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, InvalidToken> {
        if token.len() > MAX_LENGTH {
            return Err(InvalidToken);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| InvalidToken)?;
        // Critical extensions are not supported (RFC 7515, section 4.1.11).
        if header.crit.is_some() || !header.typ.as_deref().is_some_and(is_access_token) {
            return Err(InvalidToken);
        }
        let id = header.kid.as_deref().ok_or(InvalidToken)?;
        let ring = self.ring();
        let key = ring.keys.iter().find(|key| key.id == id).ok_or(InvalidToken)?;
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Time is an argument here, and jsonwebtoken reads the clock.
        validation.validate_exp = false;
        let TimedClaims { claims, nbf } =
            jsonwebtoken::decode::<TimedClaims>(token, &key.decoding, &validation).map_err(|_| InvalidToken)?.claims;
        let claims = Claims { kid: Arc::from(id), ..claims };
        let has_begun = nbf.is_none_or(|nbf| nbf <= (now + LEEWAY).timestamp());
        if has_begun && self.is_still_valid(&claims, now) { Ok(claims) } else { Err(InvalidToken) }
    }

    /// Returns `true` if a token that was verified before is valid at this time: the ring still has its key, too.
    #[must_use]
    pub fn is_still_valid(&self, claims: &Claims, now: DateTime<Utc>) -> bool {
        claims.exp > (now - LEEWAY).timestamp()
            && claims.iat <= (now + LEEWAY).timestamp()
            && self.ring().keys.iter().any(|key| key.id == *claims.kid)
    }

    /// Returns the public keys for `/.well-known/jwks.json`. HS256 has none.
    #[must_use]
    pub fn jwks(&self) -> Vec<PublicJwk> {
        let public = |key: &Arc<SigningKey>| {
            let (n, e) = key.public.clone()?;
            Some(PublicJwk { kty: "RSA", r#use: "sig", alg: "RS256", kid: key.id.clone(), n, e })
        };
        self.ring().keys.iter().filter_map(public).collect()
    }
}

#[derive(Deserialize)]
struct TimedClaims {
    #[serde(flatten)]
    claims: Claims,
    nbf: Option<i64>,
}

/// Returns `true` for `at+jwt`, also as the full media type (RFC 7515, section 4.1.9), ignoring case.
fn is_access_token(typ: &str) -> bool {
    typ.eq_ignore_ascii_case(TYP) || typ.eq_ignore_ascii_case("application/at+jwt")
}

fn private_der(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let body = ["PRIVATE KEY", "RSA PRIVATE KEY"].iter().find_map(|label| {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
        rest.split_once(&format!("-----END {label}-----")).map(|(body, _)| body)
    })?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}

fn rsa_encoding_key(pkcs8: &[u8]) -> Result<EncodingKey, KeyError> {
    let body = Zeroizing::new(STANDARD.encode(pkcs8));
    let pem = Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *body));
    EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| KeyError::NotRsa)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const SECRET: &str = "a secret of sixty-four characters, as the security document says!";

    static PEM: LazyLock<String> = LazyLock::new(|| SigningKey::generate().unwrap().to_string());

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_793_000_000, 0).unwrap()
    }

    fn ring(key: SigningKey) -> KeyRing {
        KeyRing::new(vec![key], settings()).unwrap()
    }

    fn settings() -> TokenSettings {
        TokenSettings { issuer: "https://issuer".into(), audience: "fulexo".into(), lifetime: TimeDelta::hours(1) }
    }

    fn grant() -> TokenGrant {
        TokenGrant {
            account: AccountId(Uuid::from_u128(1)),
            session: SessionId(Uuid::from_u128(2)),
            authenticated_at: now(),
            methods: vec![AuthenticationMethod::Password],
            step_up_required: false,
            roles: vec![RoleName::parse("customer").unwrap()],
            position: 7,
            epoch: Epoch::from(Uuid::from_u128(4)),
            expires_at: now() + TimeDelta::hours(1),
        }
    }

    fn signed(ring: &KeyRing) -> String {
        ring.sign(grant(), Uuid::from_u128(3), now()).unwrap()
    }

    /// A token of our own making: header and claims as given, signed with this key.
    fn forged(
        header: &serde_json::Value,
        claims: &serde_json::Value,
        key: &EncodingKey,
        algorithm: Algorithm,
    ) -> String {
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    fn parts(token: &str) -> (serde_json::Value, serde_json::Value) {
        let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default());
        let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
        (next(), next())
    }

    #[test]
    fn both_algorithms_verify_what_they_signed() {
        for ring in [ring(SigningKey::rs256(&PEM).unwrap()), ring(SigningKey::hs256(SECRET).unwrap())] {
            let claims = ring.verify(&signed(&ring), now()).unwrap();
            assert_eq!((claims.sub, claims.sid, claims.pos), (grant().account, grant().session, 7));
        }
    }

    #[test]
    fn a_rotated_key_still_verifies_and_no_longer_signs() {
        let old = ring(SigningKey::rs256(&PEM).unwrap());
        let token = signed(&old);
        let keys = vec![SigningKey::hs256(SECRET).unwrap(), SigningKey::rs256(&PEM).unwrap()];
        let ring = KeyRing::new(keys, settings()).unwrap();
        assert!(ring.verify(&token, now()).is_ok());
        assert_eq!(parts(&signed(&ring)).0["alg"], "HS256");
        assert_eq!(ring.jwks().len(), 1);
    }

    #[test]
    fn a_token_ends_an_hour_after_it_was_issued_with_a_minute_of_leeway() {
        let ring = ring(SigningKey::hs256(SECRET).unwrap());
        let token = signed(&ring);
        let at = |seconds| ring.verify(&token, now() + TimeDelta::seconds(seconds)).is_ok();
        assert!(at(0) && at(3_600) && at(3_659));
        assert!(!at(3_660));
        assert!(at(-60) && !at(-61), "issued in the future");
    }

    #[test]
    fn nothing_but_the_right_key_algorithm_type_issuer_and_audience_is_accepted() {
        let key = SigningKey::rs256(&PEM).unwrap();
        let public_pem = URL_SAFE_NO_PAD.decode(&key.public.as_ref().unwrap().0).unwrap();
        let ring = ring(SigningKey::rs256(&PEM).unwrap());
        let (header, claims) = parts(&signed(&ring));
        let with = |key: &str, value: serde_json::Value, of: &serde_json::Value| {
            let mut of = of.clone();
            of[key] = value;
            of
        };
        let rs256 = |header: &serde_json::Value, claims: &serde_json::Value| {
            ring.verify(&forged(header, claims, &key.encoding, Algorithm::RS256), now())
        };
        assert!(rs256(&header, &claims).is_ok(), "the forger can forge what is right");

        let confused = forged(
            &with("alg", "HS256".into(), &header),
            &claims,
            &EncodingKey::from_secret(&public_pem),
            Algorithm::HS256,
        );
        assert!(ring.verify(&confused, now()).is_err(), "the public key as an HS256 secret");

        let none = with("alg", "none".into(), &header);
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        assert!(ring.verify(&format!("{}.{}.", encode(&none), encode(&claims)), now()).is_err(), "alg none");

        for (claim, value) in [
            ("iss", "https://other".into()),
            ("aud", "other".into()),
            ("nbf", (now().timestamp() + 61).into()),
            ("sub", "not an id".into()),
        ] {
            assert!(rs256(&header, &with(claim, value, &claims)).is_err(), "{claim}");
        }
        for (field, value) in [
            ("kid", "unknown".into()),
            ("kid", serde_json::Value::Null),
            ("typ", "JWT".into()),
            ("crit", serde_json::json!(["exp"])),
        ] {
            assert!(rs256(&with(field, value, &header), &claims).is_err(), "{field}");
        }
        let token = signed(&ring);
        let altered: Vec<_> = token.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()).step_by(17).collect();
        for (at, c) in altered {
            let other = if c == 'A' { "B" } else { "A" };
            let mut altered = token.clone();
            altered.replace_range(at..=at, other);
            // The last character of base64url may carry bits that mean nothing.
            if parts_bytes(&altered) != parts_bytes(&token) {
                assert!(ring.verify(&altered, now()).is_err(), "character {at}");
            }
        }
    }

    fn parts_bytes(token: &str) -> Vec<Option<Vec<u8>>> {
        token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).ok()).collect()
    }

    #[test]
    fn weak_keys_are_refused_with_their_measure() {
        assert_eq!(SigningKey::hs256(&"x".repeat(63)).err(), Some(KeyError::SecretTooShort(63)));
        assert_eq!(
            SigningKey::rs256("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").err(),
            Some(KeyError::NotRsa)
        );
        assert_eq!(SigningKey::rs256("").err(), Some(KeyError::NotRsa));
    }
}
