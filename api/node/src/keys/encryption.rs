//! The rotation of the key that wraps the keys of the vault, under load, one step after another. Each can be repeated, and the
//! database knows which are done: a run that was killed is run again.
//!
//! ```text
//! draw a key into the file -> every node has it -> it wraps, on every node -> everything is wrapped again
//!                                -> the one before is retired (the database refuses it) -> removed from the file -> no node has it
//! ```

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fulexo_commands::context::Context;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use tokio::time::sleep;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::announcement::{holds_encryption, wraps_with};
use super::key_file;
use super::rotation::{Rotation, RotationError, RotationStep};
use crate::clock;

const KIND: KeyPurpose = KeyPurpose::Encryption;
/// The rounds over the rows that others held in the round before.
const ROUNDS: usize = 100;
/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// The end of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionRotation {
    /// The key in use.
    pub to: KeyLabel,
    /// The keys that were destroyed.
    pub destroyed: Vec<KeyLabel>,
    /// The number of keys that were wrapped again.
    pub rewrapped: u64,
}

/// Rotates the key that wraps, or continues a rotation that was interrupted.
///
/// # Errors
/// [`RotationError`]. Run it again once the reason is gone.
pub async fn rotate(rotation: &mut Rotation<'_>, context: &Context) -> Result<EncryptionRotation, RotationError> {
    let (in_use, coming) = rotation.keys_to_exchange(KIND, is_here, new_key).await?;
    let to = match coming {
        Some(coming) => put_in_use(rotation, context, &in_use, coming).await?,
        None => in_use,
    };
    used_everywhere(rotation, &to).await?;

    let mut rotated = EncryptionRotation { to, destroyed: Vec::new(), rewrapped: 0 };
    for old in rotation.lives(KIND).await?.into_iter().filter(KeyEpoch::is_leaving) {
        rotated.rewrapped += rewrap(rotation, &old.id).await?;
        destroy(rotation, context, &old.id).await?;
        rotated.destroyed.push(old.id);
    }
    Ok(rotated)
}

fn is_here(rotation: &Rotation<'_>, id: &KeyLabel) -> bool {
    rotation.app.commands.vault().key_checks().iter().any(|(known, _)| known == id.as_str())
}

/// Returns the name of a key that this node has and that was never used: one from the file or the variables, or a new one.
fn new_key(rotation: &mut Rotation<'_>, lives: &[KeyEpoch]) -> Result<KeyLabel, RotationError> {
    let is_known = |id: &str| lives.iter().any(|life| life.id.as_str() == id);
    let ready = match rotation.keys.sources.encryption_keys_in_file()? {
        // Drawn by a run that was killed at once, or written by the operator.
        Some(keys) => keys.into_iter().next_back(),
        None => rotation.keys.sources.encryption()?.into_iter().next(),
    };
    if let Some(ready) = ready.filter(|kek| !is_known(&kek.id))
        && let Ok(label) = KeyLabel::parse(&ready.id)
    {
        rotation.note(format!("the new key is {label}"));
        return Ok(label);
    }
    let Some(path) = rotation.keys.sources.encryption_file() else {
        return Err(RotationError::NoNewKey(
            "add one in front of the others in ENCRYPTION_KEYS of every node, restart them, and run this again; or keep keys in \
             the file ENCRYPTION_KEYS_FILE, to which this adds one",
        ));
    };
    let date = clock::now().date_naive();
    let names = std::iter::once(date.to_string()).chain((2..).map(|number| format!("{date}-{number}")));
    let mut free = names.filter(|name| !is_known(name)).filter_map(|name| KeyLabel::parse(&name).ok());
    let label = free.next().ok_or(RotationError::NoNewKey("every name is taken"))?;
    let secret = Zeroizing::new(random_bytes::<32>()?);
    let line = Zeroizing::new(format!("{label}:{}", Zeroizing::new(STANDARD.encode(secret.as_slice())).as_str()));
    key_file::add(&path, &line)?;
    rotation.note(format!("added the key {label} to {}", path.display()));
    Ok(label)
}

/// Waits until every node has the key, and puts it in use.
async fn put_in_use(
    rotation: &mut Rotation<'_>,
    context: &Context,
    from: &KeyLabel,
    to: KeyLabel,
) -> Result<KeyLabel, RotationError> {
    rotation.keys.refresh().await?;
    let checks = rotation.app.commands.vault().key_checks();
    let Some((_, check)) = checks.into_iter().find(|(id, _)| id == to.as_str()) else {
        return Err(lacking(rotation, to, "this machine".to_owned()));
    };
    let announcement = holds_encryption(to.as_str(), &check);
    match rotation.announced(|keys| keys.contains(&announcement)).await? {
        Ok(down) => rotation.mention_down(&down),
        Err(nodes) => return Err(lacking(rotation, to, nodes)),
    }
    key_epochs::hold(&rotation.keys.pool, KIND, &to).await?;
    rotation.app.commands.record_key_rotation(context, KIND, from, &to).await?;
    rotation.note(format!("the key {to} is in use, in place of {from}"));
    Ok(to)
}

/// Waits until every node wraps with the key.
async fn used_everywhere(rotation: &mut Rotation<'_>, to: &KeyLabel) -> Result<(), RotationError> {
    rotation.keys.refresh().await?;
    if rotation.app.commands.vault().wraps_with() != to.as_str() {
        return Err(lacking(rotation, to.clone(), "this machine".to_owned()));
    }
    let announcement = wraps_with(to.as_str());
    match rotation.announced(|keys| keys.contains(&announcement)).await? {
        Ok(_) => Ok(()),
        Err(nodes) => Err(RotationError::NotUsed { key: to.clone(), nodes }),
    }
}

/// Wraps everything again that a key wraps, and retires the key.
async fn rewrap(rotation: &mut Rotation<'_>, from: &KeyLabel) -> Result<u64, RotationError> {
    let vault = rotation.app.commands.vault();
    let all = key_epochs::wrapped(&rotation.keys.pool).await?.get(from.as_str()).copied().unwrap_or_default();
    let mut done = 0;
    for _ in 0..ROUNDS {
        let mut after = Uuid::nil();
        loop {
            let batch = vault.rewrap_subjects(from, after).await?;
            done += batch.rows;
            (rotation.tell)(RotationStep::Rewrapped { done, all: all.max(done) });
            match batch.last {
                Some(last) => after = last,
                None => break,
            }
        }
        done += vault.rewrap_others(from).await?;
        if key_epochs::retire(&rotation.keys.pool, KIND, from).await? {
            (rotation.tell)(RotationStep::Rewrapped { done, all: done });
            return Ok(done);
        }
        sleep(PAUSE).await;
    }
    Err(RotationError::StillNeeded(from.clone()))
}

/// Removes a retired key from this machine, and records its end once no node has it.
async fn destroy(rotation: &mut Rotation<'_>, context: &Context, id: &KeyLabel) -> Result<(), RotationError> {
    if let Some(path) = rotation.keys.sources.encryption_file() {
        key_file::remove(&path, |text| key_file::line_of(text, id.as_str()))?;
    }
    rotation.keys.refresh().await?;
    let kept = |nodes: String| RotationError::Kept { key: id.clone(), nodes, source_name: source_name(rotation) };
    if is_here(rotation, id) {
        return Err(kept("the nodes of this configuration".to_owned()));
    }
    let beginning = holds_encryption(id.as_str(), "");
    let is_gone = |keys: &[String]| !keys.iter().any(|key| key.starts_with(&beginning));
    match rotation.announced(is_gone).await? {
        Ok(down) => rotation.mention_down(&down),
        Err(nodes) => return Err(kept(nodes)),
    }
    rotation.app.commands.record_key_destruction(context, KIND, id).await?;
    rotation.note(format!("the key {id} is destroyed"));
    Ok(())
}

fn lacking(rotation: &Rotation<'_>, key: KeyLabel, nodes: String) -> RotationError {
    RotationError::Lacking { key, nodes, source_name: source_name(rotation) }
}

/// Returns the name of what holds the keys.
fn source_name(rotation: &Rotation<'_>) -> String {
    match rotation.keys.sources.encryption_file() {
        Some(path) => format!("{} (and ENCRYPTION_KEY and ENCRYPTION_KEYS, if they are set)", path.display()),
        None => "ENCRYPTION_KEY and ENCRYPTION_KEYS".to_owned(),
    }
}
