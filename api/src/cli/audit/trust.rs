//! The keys that a verifier trusts, which never come from whoever keeps the log.

use std::path::{Path, PathBuf};

use clap::Args;
use fulexo_projections::trail::{FaultKind, TrailFault, unknown_signature};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::key::{SignatureError, VerifierKey, verify};
use fulexo_tlog::note::Note;
use fulexo_tlog::policy::TrustPolicy;

use super::source::LogSource;
use crate::cli::failure::Failure;
use crate::cli::output::note;

#[derive(Args)]
pub struct TrustArgs {
    /// Trust this public key of the log: a vkey, or a file with one. Repeat the option while a log changes its key.
    /// Without it the key that the log names itself is believed.
    #[arg(long = "key", value_name = "VKEY")]
    keys: Vec<String>,
    /// Trust the keys and the quorum of witnesses of this file (C2SP tlog-policy).
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    policy: Option<PathBuf>,
}

/// The keys that are trusted.
pub struct Trust {
    logs: Vec<VerifierKey>,
    policy: Option<TrustPolicy>,
    /// The text of the policy.
    pub policy_text: Option<Vec<u8>>,
    /// `true` if the key comes from whoever keeps the log.
    pub is_from_log: bool,
}

/// A checkpoint that is trusted.
pub struct TrustedCheckpoint {
    pub note: Note,
    pub checkpoint: Checkpoint,
    /// The names of the witnesses that have cosigned it.
    pub witnesses: Vec<String>,
}

impl TrustArgs {
    /// `true` if any keys are given.
    pub const fn is_given(&self) -> bool {
        self.policy.is_some() || !self.keys.is_empty()
    }

    /// Reads the keys, if any are given.
    pub fn given(&self) -> Result<Option<Trust>, Failure> {
        if !self.is_given() {
            return Ok(None);
        }
        if let Some(path) = &self.policy {
            let text = file(path)?;
            let policy = TrustPolicy::parse(&text)
                .map_err(|error| Failure::Misused(format!("--policy: {}: {error}", path.display())))?;
            let logs = policy.logs.clone();
            return Ok(Some(Trust { logs, policy: Some(policy), policy_text: Some(text), is_from_log: false }));
        }
        let read = |key: &String| {
            if let Ok(key) = VerifierKey::parse(key) {
                return Ok(key);
            }
            let text = std::fs::read_to_string(key).ok();
            let read = text.and_then(|text| VerifierKey::parse(text.trim_end()).ok());
            read.ok_or_else(|| Failure::Misused(format!("--key: {key} is neither a vkey nor a file with one")))
        };
        let logs = self.keys.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Some(Trust { logs, policy: None, policy_text: None, is_from_log: false }))
    }
}

impl Trust {
    /// The keys that are given, else the one that the log names itself.
    pub async fn of(given: Option<Self>, source: &LogSource) -> Result<Self, Failure> {
        if let Some(given) = given {
            return Ok(given);
        }
        let none = || Failure::Misused("--key is missing: the log does not name its key".to_owned());
        let text = source.key().await?.ok_or_else(none)?;
        let key = std::str::from_utf8(&text).ok().and_then(|text| VerifierKey::parse(text.trim_end()).ok());
        let key = key.ok_or_else(|| Failure::Failed("the log names a key that is none: give --key".to_owned()))?;
        note(format_args!("the key is the one that the log names itself; give --key to verify who signed: {key}"));
        Ok(Self { logs: vec![key], policy: None, policy_text: None, is_from_log: true })
    }

    /// The keys of the log.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// `true` if witnesses have to cosign.
    pub const fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// The first key of the log.
    pub fn log_key(&self) -> Option<&VerifierKey> {
        self.logs.first()
    }

    /// Verifies a checkpoint: one of the log's keys has signed it, and as many witnesses as the policy asks for.
    pub fn verify(&self, bytes: &[u8]) -> Result<TrustedCheckpoint, TrailFault> {
        let fault = |kind, text: String| TrailFault::of(kind, text);
        let signed_note = Note::parse(bytes).map_err(|error| fault(FaultKind::Checkpoint, error.to_string()))?;
        let checkpoint =
            Checkpoint::parse(signed_note.text()).map_err(|error| fault(FaultKind::Checkpoint, error.to_string()))?;
        let signed = |keys: &[VerifierKey]| match verify(&signed_note, keys) {
            Ok(signed) => Ok(signed.iter().map(|signature| signature.key).collect()),
            Err(SignatureError::Unknown) => Ok(Vec::new()),
            Err(error) => Err(fault(FaultKind::Signature, error.to_string())),
        };
        let logs = signed(&self.logs)?;
        // Whoever reads a checkpoint ignores this line, and so would not see that it was altered.
        if !unknown_signature(checkpoint.root).is_some_and(|line| signed_note.signatures().contains(&line)) {
            let text = "the checkpoint lacks the signature line that belongs to its root".to_owned();
            return Err(fault(FaultKind::Checkpoint, text));
        }
        let is_signed =
            logs.iter().filter_map(|place| self.logs.get(*place)).any(|key| *key.name() == checkpoint.origin);
        if !is_signed {
            return Err(fault(FaultKind::Signature, "no trusted key of the log has signed the checkpoint".to_owned()));
        }
        let mut witnesses = Vec::new();
        if let Some(policy) = &self.policy {
            let keys: Vec<VerifierKey> = policy.witnesses.iter().map(|witness| witness.key.clone()).collect();
            let cosigned = signed(&keys)?;
            if !policy.is_satisfied(|place| cosigned.contains(&place)) {
                let text = "fewer witnesses have cosigned the checkpoint than the policy asks for".to_owned();
                return Err(fault(FaultKind::Signature, text));
            }
            let names = cosigned.iter().filter_map(|place| policy.witnesses.get(*place));
            witnesses = names.map(|witness| witness.name.clone()).collect();
        }
        Ok(TrustedCheckpoint { note: signed_note, checkpoint, witnesses })
    }
}

/// Reads a file that an argument names.
pub fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))
}
