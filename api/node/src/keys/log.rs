//! The rotation of the key that signs the log's checkpoints. Both keys sign for the time of an overlap, so that those who verify
//! have time to learn the new one; then the new one signs alone. It runs where the signer's file of keys is: the signer reads the
//! file again by itself.

use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::context::Context;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey, VerifierKey};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::key_file;
use super::rotation::{LOOK, Rotation, RotationError};
use crate::clock;
use crate::signer::Signer;

const KIND: KeyPurpose = KeyPurpose::Log;

/// The state in which a rotation ends, or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRotation {
    /// The public half of the key that takes over, or has.
    pub to: String,
    /// The time until which both keys sign; `None` if the overlap is over.
    pub overlap_until: Option<DateTime<Utc>>,
    /// The keys that were destroyed.
    pub destroyed: Vec<KeyLabel>,
}

/// Begins the rotation of the log's key, or ends it if both keys have signed for the time of the overlap.
///
/// # Errors
/// [`RotationError`]. Run it again once the reason is gone.
pub async fn rotate(
    rotation: &mut Rotation<'_>,
    context: &Context,
    file: &Path,
    overlap: TimeDelta,
) -> Result<LogRotation, RotationError> {
    const NO_SIGNER: &str = "this configuration has no signer: set FULEXO_SIGNER_SOCKET";
    let signer = rotation.app.signer.clone().ok_or(RotationError::NoNewKey(NO_SIGNER))?;
    let pool = rotation.keys.pool.clone();
    let keys = keys_in(file)?;
    let (_, first) = keys.first().ok_or(RotationError::NothingInUse("log"))?;
    key_epochs::begin(&pool, KIND, &label(first)?).await?;

    let lives = rotation.lives(KIND).await?;
    let in_use = lives.iter().find(|life| life.is_in_use()).ok_or(RotationError::NothingInUse("log"))?;
    let mut coming = lives.iter().find(|life| life.is_coming());
    if let Some(lost) = coming {
        let is_its = |key: &VerifierKey| label(key).is_ok_and(|label| label == lost.id);
        if !keys.iter().any(|(_, key)| is_its(key)) && !signer.log().await?.keys.iter().any(is_its) {
            rotation.forget(KIND, &lost.id).await?;
            coming = None;
        }
    }
    let mut rotated = LogRotation { to: String::new(), overlap_until: None, destroyed: Vec::new() };
    if let Some(coming) = coming {
        rotated.to = vkey_of(file, &coming.id)?;
        rotated.overlap_until = take_over(rotation, context, &signer, &in_use.id, &coming.id, overlap).await?;
    } else if lives.iter().any(KeyEpoch::is_leaving) {
        rotated.to = vkey_of(file, &in_use.id)?;
    } else {
        let new = new_key(rotation, file, &lives, &in_use.id)?;
        key_epochs::add(&pool, KIND, &new).await?;
        rotated.to = vkey_of(file, &new)?;
        rotated.overlap_until = take_over(rotation, context, &signer, &in_use.id, &new, overlap).await?;
    }
    for old in rotation.lives(KIND).await?.into_iter().filter(KeyEpoch::is_leaving) {
        key_epochs::retire(&pool, KIND, &old.id).await?;
        key_file::remove(file, |text| line_of(text, &old.id))?;
        let is_gone = |keys: &[VerifierKey]| keys.iter().all(|key| label(key).is_ok_and(|label| label != old.id));
        if !signs_so(rotation, &signer, is_gone).await? {
            let (key, nodes) = (old.id, "the signer".to_owned());
            return Err(RotationError::Kept { key, nodes, source_name: file.display().to_string() });
        }
        rotation.app.commands.record_key_destruction(context, KIND, &old.id).await?;
        rotation.note(format!("the key {} is destroyed", old.id));
        rotated.destroyed.push(old.id);
    }
    Ok(rotated)
}

/// Returns the name of a key in the file that was never used, or of a new one, behind the one in use: that one's successor has to
/// be the first.
fn new_key(
    rotation: &mut Rotation<'_>,
    file: &Path,
    lives: &[KeyEpoch],
    in_use: &KeyLabel,
) -> Result<KeyLabel, RotationError> {
    let keys = keys_in(file)?;
    for (_, key) in keys.iter().filter(|(_, key)| key.kind() == KeyKind::Ed25519) {
        let ready = label(key)?;
        if lives.iter().all(|life| life.id != ready) {
            rotation.note(format!("the new key is {ready}"));
            return Ok(ready);
        }
    }
    let (line, name) = keys
        .iter()
        .find(|(_, key)| label(key).is_ok_and(|label| label == *in_use))
        .map(|(line, key)| (line, key.name().clone()))
        .ok_or(RotationError::NoNewKey("the file does not have the key in use"))?;
    let seed: Zeroizing<[u8; SEED_LENGTH]> = Zeroizing::new(random_bytes()?);
    let text = SignerKey::text(name.clone(), KeyKind::Ed25519, &seed)?;
    let new = label(SignerKey::from_seed(name, KeyKind::Ed25519, &seed)?.verifier())?;
    key_file::add_behind(file, line, &text)?;
    rotation.note(format!("added the key {new} to {}", file.display()));
    Ok(new)
}

/// Waits until the signer signs with both keys, and has the new one take over if they have for the time of the overlap. Else
/// returns the end of that time.
async fn take_over(
    rotation: &mut Rotation<'_>,
    context: &Context,
    signer: &Signer,
    from: &KeyLabel,
    to: &KeyLabel,
    overlap: TimeDelta,
) -> Result<Option<DateTime<Utc>>, RotationError> {
    let has_it = |keys: &[VerifierKey]| keys.iter().any(|key| label(key).is_ok_and(|label| label == *to));
    if !signs_so(rotation, signer, has_it).await? {
        let (key, nodes) = (to.clone(), "the signer".to_owned());
        return Err(RotationError::Lacking { key, nodes, source_name: "the file of keys".to_owned() });
    }
    let held = key_epochs::hold(&rotation.keys.pool, KIND, to).await?;
    let remaining = overlap.num_seconds() - held;
    if remaining > 0 {
        return Ok(Some(clock::now() + TimeDelta::seconds(remaining)));
    }
    rotation.app.commands.record_key_rotation(context, KIND, from, to).await?;
    rotation.note(format!("the key {to} signs the log, in place of {from}"));
    Ok(None)
}

/// Waits until the signer's keys are as asked; returns `false` if they are not in time.
async fn signs_so(
    rotation: &Rotation<'_>,
    signer: &Signer,
    asked: impl Fn(&[VerifierKey]) -> bool,
) -> Result<bool, RotationError> {
    let began = Instant::now();
    while !asked(&signer.log().await?.keys) {
        if began.elapsed() > rotation.patience {
            return Ok(false);
        }
        sleep(LOOK).await;
    }
    Ok(true)
}

/// Returns each line with a key, with its end, and the key's public half.
fn keys_in(file: &Path) -> Result<Vec<(Zeroizing<String>, VerifierKey)>, RotationError> {
    let text = key_file::read(file)?;
    let lines = text.split_inclusive('\n').filter(|line| !line.trim().is_empty());
    let read = |line: &str| -> Result<_, RotationError> {
        Ok((Zeroizing::new(line.to_owned()), SignerKey::parse(line.trim())?.verifier().clone()))
    };
    lines.map(read).collect()
}

fn line_of(text: &str, id: &KeyLabel) -> Option<String> {
    let is_its = |line: &&str| {
        let key = SignerKey::parse(line.trim()).ok();
        key.and_then(|key| label(key.verifier()).ok()).is_some_and(|label| label == *id)
    };
    text.split_inclusive('\n').find(is_its).map(str::to_owned)
}

/// Returns the public half of a key in the file.
fn vkey_of(file: &Path, id: &KeyLabel) -> Result<String, RotationError> {
    let keys = keys_in(file)?;
    let key = keys.iter().find(|(_, key)| label(key).is_ok_and(|label| label == *id));
    let missing = || RotationError::Lacking {
        key: id.clone(),
        nodes: "this machine".to_owned(),
        source_name: file.display().to_string(),
    };
    Ok(key.ok_or_else(missing)?.1.to_string())
}

/// Returns the name of a key: that of the log, and the key's number.
fn label(key: &VerifierKey) -> Result<KeyLabel, RotationError> {
    let text = key.to_string();
    // The name has no plus sign; the key in base64 may have some.
    let end = text.match_indices('+').nth(1).map_or(text.len(), |(at, _)| at);
    let name = text.get(..end).unwrap_or_default();
    KeyLabel::parse(name).map_err(|_| RotationError::NoNewKey("the log's name has a comma or a colon"))
}
