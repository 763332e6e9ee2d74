//! The files of keys that the verbs of backups take from an option or from a variable.

use std::env::VarError;
use std::path::{Path, PathBuf};

use fulexo_database::chain;
use fulexo_ops::age::{Identity, Recipient, parse_identities, parse_recipients};
use fulexo_tlog::key::{SignerKey, VerifierKey};
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::text_file::read_text;

/// The length of the longest file of keys that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads those who can decrypt backups.
pub fn recipients(given: Option<PathBuf>) -> Result<Vec<Recipient>, Failure> {
    let variable = std::env::var("FULEXO_BACKUP_RECIPIENTS_FILE");
    recipients_in(&place(given, variable, "--recipients", "FULEXO_BACKUP_RECIPIENTS_FILE")?)
}

/// Reads those who can decrypt wrapped keys, if they are others.
pub fn key_recipients(given: Option<PathBuf>) -> Result<Option<Vec<Recipient>>, Failure> {
    let variable = std::env::var("FULEXO_BACKUP_KEY_RECIPIENTS_FILE").ok().filter(|value| !value.is_empty());
    given.or_else(|| variable.map(PathBuf::from)).map(|path| recipients_in(&path)).transpose()
}

fn recipients_in(path: &Path) -> Result<Vec<Recipient>, Failure> {
    let misused = |reason: String| Failure::Misused(format!("{}: {reason}", path.display()));
    let recipients = parse_recipients(&text(path)?).map_err(|error| misused(chain(&error).to_string()))?;
    if recipients.is_empty() { Err(misused("it has no recipient".to_owned())) } else { Ok(recipients) }
}

/// Reads the identities of files.
pub fn identities(paths: &[PathBuf]) -> Result<Vec<Identity>, Failure> {
    let mut identities = Vec::new();
    for path in paths {
        let read = parse_identities(&text(path)?);
        identities.extend(read.map_err(|error| Failure::Misused(format!("{}: {}", path.display(), chain(&error))))?);
    }
    Ok(identities)
}

/// Reads the key that signs manifests.
pub fn signing_key(given: Option<PathBuf>) -> Result<SignerKey, Failure> {
    let variable = std::env::var("FULEXO_BACKUP_SIGNING_KEY_FILE");
    let path = place(given, variable, "--signing-key", "FULEXO_BACKUP_SIGNING_KEY_FILE")?;
    SignerKey::parse(text(&path)?.trim_end()).map_err(|error| Failure::Misused(format!("{}: {error}", path.display())))
}

/// Reads the public keys of those who may sign manifests; without any, that of the key that signs here.
pub fn trusted_keys(given: &[String]) -> Result<Vec<VerifierKey>, Failure> {
    if given.is_empty() {
        let key = signing_key(None).map_err(|_| {
            Failure::Misused(
                "--signed-by is missing: name the public key that `fulexo backup keygen --signing` printed".to_owned(),
            )
        })?;
        return Ok(vec![key.verifier().clone()]);
    }
    let read = |key: &String| {
        let wrong = || Failure::Misused(format!("--signed-by: {key} is neither a vkey nor a file with one"));
        if let Ok(key) = VerifierKey::parse(key) {
            return Ok(key);
        }
        let text = text(Path::new(key)).map_err(|_| wrong())?;
        VerifierKey::parse(text.trim_end()).map_err(|_| wrong())
    };
    given.iter().map(read).collect()
}

/// Returns what an option names, or else a variable.
pub fn place(
    given: Option<PathBuf>,
    variable: Result<String, VarError>,
    option: &str,
    name: &str,
) -> Result<PathBuf, Failure> {
    let variable = variable.ok().filter(|value| !value.is_empty());
    let missing = || Failure::Misused(format!("{option} is missing, and so is the variable {name}"));
    given.or_else(|| variable.map(PathBuf::from)).ok_or_else(missing)
}

/// Reads a small file of text.
pub fn text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_text(path, MAX_FILE)
}
