//! Access tokens verified before: their signature, issuer and audience do not change, so only time, key and standing are
//! judged again. Keyed by a digest, so that memory holds no token; bounded by two generations.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use fulexo_commands::access_token::{Claims, InvalidToken, KeyRing};
use sha2::{Digest, Sha256};

/// Tokens in one generation; two of them take about 10 MB.
const GENERATION: usize = 8_192;

/// Verified tokens.
#[derive(Default)]
pub struct TokenCache(RwLock<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 32], Arc<Claims>>,
    old: HashMap<[u8; 32], Arc<Claims>>,
}

impl TokenCache {
    /// Returns the claims of the token, if it is valid now.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn verify(&self, keys: &KeyRing, token: &str, now: DateTime<Utc>) -> Result<Arc<Claims>, InvalidToken> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = {
            let generations = self.0.read().unwrap_or_else(PoisonError::into_inner);
            generations.young.get(&digest).or_else(|| generations.old.get(&digest)).map(Arc::clone)
        };
        if let Some(claims) = known {
            return if keys.is_still_valid(&claims, now) { Ok(claims) } else { Err(InvalidToken) };
        }
        let claims = Arc::new(keys.verify(token, now)?);
        let mut generations = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= GENERATION {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(digest, Arc::clone(&claims));
        Ok(claims)
    }
}
