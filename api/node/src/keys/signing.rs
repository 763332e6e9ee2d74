//! The rotation of the key that signs access tokens. Whoever verifies them learns of a key before it signs, and the one before
//! verifies until its last token has expired: no token is refused.
//!
//! ```text
//! draw a key into the file -> every node publishes it -> the caches of the key set have it -> it signs, on every node
//!                                  -> the last token of the one before expires -> removed from the file -> no node has it
//! ```
//!
//! A key that leaked is not rotated: see [`super::compromise`].

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::access_token::{LEEWAY, SigningKey};
use fulexo_commands::context::Context;
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use tokio::time::sleep;

use super::announcement::{holds_signing, signs_with};
use super::key_file;
use super::rotation::{Rotation, RotationError};
use crate::clock;
use crate::config::pem_blocks;

pub(super) const KIND: KeyPurpose = KeyPurpose::Signing;
/// The maximum age of the key set in caches. After this time every service knows a new key.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// The pause between two looks at the time.
const LOOK: Duration = Duration::from_secs(1);

/// The state in which a rotation ends, or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRotation {
    /// The key that signs.
    pub to: KeyLabel,
    /// The keys that were destroyed.
    pub destroyed: Vec<KeyLabel>,
    /// The keys that still verify, and the time until which one of their tokens may be valid.
    pub verifying: Vec<(KeyLabel, DateTime<Utc>)>,
}

/// Rotates the key that signs access tokens, or continues a rotation. A key whose tokens may be valid stays, unless
/// `is_patient`: then this waits for their end.
///
/// # Errors
/// [`RotationError`]. Run it again once the reason is gone.
pub async fn rotate(
    rotation: &mut Rotation<'_>,
    context: &Context,
    is_patient: bool,
) -> Result<SigningRotation, RotationError> {
    let (in_use, coming) = rotation.keys_to_exchange(KIND, is_here, new_key).await?;
    let to = match coming {
        Some(coming) => put_in_use(rotation, context, &in_use, coming, true).await?,
        None => in_use,
    };
    used_everywhere(rotation, &to).await?;

    let mut rotated = SigningRotation { to, destroyed: Vec::new(), verifying: Vec::new() };
    for old in rotation.lives(KIND).await?.into_iter().filter(KeyEpoch::is_leaving) {
        match tokens_until(rotation, &old.id).await? {
            Some(remaining) if !is_patient => {
                rotated.verifying.push((old.id, clock::now() + TimeDelta::seconds(remaining)));
                continue;
            }
            Some(remaining) => {
                rotation.note(format!("waiting for the end of the last token of {}, in {remaining} s", old.id));
                while tokens_until(rotation, &old.id).await?.is_some() {
                    sleep(LOOK).await;
                }
            }
            None => {}
        }
        destroy(rotation, context, &old.id).await?;
        rotated.destroyed.push(old.id);
    }
    Ok(rotated)
}

pub(super) fn is_here(rotation: &Rotation<'_>, id: &KeyLabel) -> bool {
    rotation.app.commands.keys().key_ids().iter().any(|known| known == id.as_str())
}

/// Returns the name of a key in the file that never signed, or of a new one.
pub(super) fn new_key(rotation: &mut Rotation<'_>, lives: &[KeyEpoch]) -> Result<KeyLabel, RotationError> {
    let Some(path) = rotation.keys.sources.signing_file() else {
        return Err(RotationError::NoNewKey(
            "keep the keys that sign in the file JWT_PRIVATE_KEY_FILE, to which this adds one",
        ));
    };
    let is_known = |id: &str| lives.iter().any(|life| life.id.as_str() == id);
    let last = rotation.keys.sources.signing_keys_in_file()?.pop();
    let ready = last.filter(|key| !is_known(key.id())).and_then(|key| KeyLabel::parse(key.id()).ok());
    if let Some(ready) = ready {
        rotation.note(format!("the new key is {ready}"));
        return Ok(ready);
    }
    let pem = SigningKey::generate()?;
    let key = SigningKey::rs256(&pem).map_err(|_| RotationError::NoNewKey("the library made none"))?;
    let label = KeyLabel::parse(key.id()).map_err(|_| RotationError::NoNewKey("the library made none"))?;
    key_file::add(&path, &pem)?;
    rotation.note(format!("added the key {label} to {}", path.display()));
    Ok(label)
}

/// Waits until every node has published the key, for as long as a cache keeps the key set if `is_patient`, and has it sign.
pub(super) async fn put_in_use(
    rotation: &mut Rotation<'_>,
    context: &Context,
    from: &KeyLabel,
    to: KeyLabel,
    is_patient: bool,
) -> Result<KeyLabel, RotationError> {
    rotation.keys.refresh().await?;
    let ring = rotation.app.commands.keys();
    if !is_here(rotation, &to) {
        return Err(lacking(rotation, to, "this machine".to_owned()));
    }
    let announcement = holds_signing(to.as_str());
    match rotation.announced(|keys| keys.contains(&announcement)).await? {
        Ok(down) => rotation.mention_down(&down),
        Err(nodes) => return Err(lacking(rotation, to, nodes)),
    }
    let caches = ring.lifetime().to_std().unwrap_or_default().min(JWKS_MAX_AGE).as_secs();
    let caches = i64::try_from(caches).unwrap_or(i64::MAX);
    let mut is_said = false;
    loop {
        let published = key_epochs::hold(&rotation.keys.pool, KIND, &to).await?;
        if !is_patient || published >= caches {
            break;
        }
        if !is_said {
            is_said = true;
            rotation.note(format!(
                "every node publishes {to}; it signs once no cache lacks it, in {} s",
                caches - published
            ));
        }
        sleep(LOOK).await;
    }
    // A node may have begun meanwhile.
    match rotation.announced(|keys| keys.contains(&announcement)).await? {
        Ok(_) => {}
        Err(nodes) => return Err(lacking(rotation, to, nodes)),
    }
    rotation.app.commands.record_key_rotation(context, KIND, from, &to).await?;
    rotation.note(format!("the key {to} signs, in place of {from}"));
    Ok(to)
}

/// Waits until every node signs with the key.
pub(super) async fn used_everywhere(rotation: &mut Rotation<'_>, to: &KeyLabel) -> Result<(), RotationError> {
    rotation.keys.refresh().await?;
    let announcement = signs_with(to.as_str());
    match rotation.announced(|keys| keys.contains(&announcement)).await? {
        Ok(_) => Ok(()),
        Err(nodes) => Err(RotationError::NotUsed { key: to.clone(), nodes }),
    }
}

/// Returns the seconds until the last token of a replaced key has expired, on every clock; `None` if it has.
async fn tokens_until(rotation: &Rotation<'_>, id: &KeyLabel) -> Result<Option<i64>, RotationError> {
    let replaced = key_epochs::seconds_since_replaced(&rotation.keys.pool, KIND, id).await?.unwrap_or_default();
    // A node learned of it within a few seconds, and signed meanwhile; clocks differ by the leeway at most.
    let longest = (rotation.app.commands.keys().lifetime() + LEEWAY * 2).num_seconds();
    Ok(Some(longest - replaced).filter(|remaining| *remaining > 0))
}

/// Removes a key that verifies nothing any more, and records its end once no node has it.
pub(super) async fn destroy(
    rotation: &mut Rotation<'_>,
    context: &Context,
    id: &KeyLabel,
) -> Result<(), RotationError> {
    key_epochs::retire(&rotation.keys.pool, KIND, id).await?;
    if let Some(path) = rotation.keys.sources.signing_file() {
        key_file::remove(&path, |text| block_of(text, id))?;
    }
    rotation.keys.refresh().await?;
    let announcement = holds_signing(id.as_str());
    let kept = |nodes: String| RotationError::Kept { key: id.clone(), nodes, source_name: source_name(rotation) };
    if is_here(rotation, id) {
        return Err(kept("the nodes of this configuration".to_owned()));
    }
    match rotation.announced(|keys| !keys.contains(&announcement)).await? {
        Ok(down) => rotation.mention_down(&down),
        Err(nodes) => return Err(kept(nodes)),
    }
    rotation.app.commands.record_key_destruction(context, KIND, id).await?;
    rotation.note(format!("the key {id} is destroyed"));
    Ok(())
}

/// Returns the text of a key in a PEM file, with the end of its last line.
pub(super) fn block_of(text: &str, id: &KeyLabel) -> Option<String> {
    let is_its = |block: &String| SigningKey::rs256(block).is_ok_and(|key| key.id() == id.as_str());
    let block = pem_blocks(text).into_iter().find(is_its)?;
    let with_end = format!("{block}\n");
    Some(if text.contains(&with_end) { with_end } else { block })
}

fn lacking(rotation: &Rotation<'_>, key: KeyLabel, nodes: String) -> RotationError {
    RotationError::Lacking { key, nodes, source_name: source_name(rotation) }
}

/// Returns the name of what holds the keys.
fn source_name(rotation: &Rotation<'_>) -> String {
    match rotation.keys.sources.signing_file() {
        Some(path) => format!("{} (and JWT_PRIVATE_KEY, if it is set)", path.display()),
        None => "JWT_PRIVATE_KEY and JWT_SECRET".to_owned(),
    }
}
