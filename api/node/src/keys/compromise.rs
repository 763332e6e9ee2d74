//! The replacement of a signing key that leaked. Nobody waits for caches or for the last token: what the leaked key signed is
//! refused from the moment at which the new key signs, and clients go on with their refresh tokens.
//!
//! ```text
//! every key so far is distrusted -> draw a key into the file -> every node has it -> it signs, and nodes refuse the others
//!                                                                    -> removed from the file -> no node has one of them
//! ```
//! Every key that the file had may have been read with the one in use. All of them are distrusted, and the database remembers
//! it: an interrupted run continues with the key that it drew, and a node that starts later with an old file refuses them, too.

use fulexo_commands::context::Context;
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_domain::key::KeyLabel;

use super::announcement::holds_signing;
use super::key_file;
use super::rotation::{Rotation, RotationError};
use super::signing::{KIND, SigningRotation, block_of, destroy, is_here, new_key, put_in_use, used_everywhere};

/// Replaces every key that signed access tokens or was to sign them, or continues to.
///
/// # Errors
/// [`RotationError`]. Run it again once the reason is gone.
pub async fn replace(rotation: &mut Rotation<'_>, context: &Context) -> Result<SigningRotation, RotationError> {
    rotation.keys.refresh().await?;
    let lives = rotation.lives(KIND).await?;
    let is_begun = lives.iter().any(|life| life.distrusted_at.is_some() && (life.is_in_use() || life.is_leaving()));
    if !is_begun {
        // Keys that no rotation knows yet were in the file, too.
        for key in rotation.keys.sources.signing_keys_in_file()? {
            if let Ok(label) = KeyLabel::parse(key.id()) {
                key_epochs::add(&rotation.keys.pool, KIND, &label).await?;
            }
        }
        key_epochs::distrust(&rotation.keys.pool, KIND).await?;
    }
    let lives = rotation.lives(KIND).await?;
    let in_use = lives.iter().find(|life| life.is_in_use()).ok_or(RotationError::NothingInUse(KIND.as_str()))?;
    let to = if in_use.distrusted_at.is_some() {
        let new = drawn(rotation, &lives).await?;
        put_in_use(rotation, context, &in_use.id, new, false).await?
    } else {
        rotation.note(format!("continuing: the key {} is in use", in_use.id));
        in_use.id.clone()
    };
    let mut rotated = SigningRotation { to, destroyed: Vec::new(), verifying: Vec::new() };
    let refused: Vec<KeyEpoch> = rotation.lives(KIND).await?.into_iter().filter(KeyEpoch::is_refused).collect();
    // All of them leave the file before any node is waited for.
    if let Some(path) = rotation.keys.sources.signing_file() {
        for old in &refused {
            key_file::remove(&path, |text| block_of(text, &old.id))?;
        }
    }
    for old in refused {
        if old.is_leaving() {
            destroy(rotation, context, &old.id).await?;
            rotated.destroyed.push(old.id);
        } else if old.destroyed_at.is_none() {
            refused_everywhere(rotation, &old.id).await?;
        }
    }
    used_everywhere(rotation, &rotated.to).await?;
    Ok(rotated)
}

/// Returns the key that an interrupted run drew, or draws one. One that is neither on this machine nor at any node is forgotten.
async fn drawn(rotation: &mut Rotation<'_>, lives: &[KeyEpoch]) -> Result<KeyLabel, RotationError> {
    for coming in lives.iter().filter(|life| life.is_coming()) {
        if is_here(rotation, &coming.id) || rotation.is_anywhere(KIND, &coming.id).await? {
            rotation.note(format!("continuing with the key {}", coming.id));
            return Ok(coming.id.clone());
        }
        rotation.forget(KIND, &coming.id).await?;
    }
    let new = new_key(rotation, lives)?;
    key_epochs::add(&rotation.keys.pool, KIND, &new).await?;
    Ok(new)
}

/// Waits until no node has a key that never signed. It has no end in the log, because it had no beginning there.
async fn refused_everywhere(rotation: &mut Rotation<'_>, id: &KeyLabel) -> Result<(), RotationError> {
    let announcement = holds_signing(id.as_str());
    match rotation.announced(|keys| !keys.contains(&announcement)).await? {
        Ok(down) => rotation.mention_down(&down),
        Err(nodes) => return Err(RotationError::NotUsed { key: id.clone(), nodes }),
    }
    rotation.note(format!("the key {id}, which never signed, is refused"));
    Ok(())
}
