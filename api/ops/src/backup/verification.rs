//! The verification of a backup: a ladder of checks, of which each presumes those below it. This climbs what needs no server.

use std::process::Command;

use chrono::SecondsFormat;
use fulexo_domain::jetstream::hex;
use fulexo_tlog::key::VerifierKey;
use fulexo_tlog::note::MAX_NOTE;
use sha2::{Digest, Sha256};

use super::client_url::bare_command;
use super::error::BackupError;
use super::manifest::{BackupManifest, MANIFEST, MAX_MANIFEST, NOTE, PartKind};
use super::name::BackupName;
use super::opened::OpenedBackup;
use super::part::{UnreadPart, check_part, feed_part, is_damage};
use super::programs::find_program;
use super::state::DatabaseState;
use super::target::BackupTarget;
use crate::age::Identity;
use crate::finding::{Rule, Severity};
use crate::report::Check;

/// The rungs, from the lowest: the name of the check, and its title.
pub const RUNGS: [(&str, &str); 7] = [
    ("signature", "a trusted key has signed the manifest"),
    ("checksums", "the parts are those that were signed"),
    ("format", "the parts can be decrypted and read to their end"),
    ("restore", "a new server accepts the backup, and has what the manifest says"),
    ("log", "the whole log agrees with a checkpoint that was kept outside"),
    ("read-models", "the read models agree with a replay of the log"),
    ("canary", "sealed data opens, and an account logs in"),
];

const UNSIGNED: Rule = Rule {
    id: "backup.signature",
    title: "the manifest is not signed by a trusted key",
    severity: Severity::Critical,
    remedy: "Do not restore this backup. Find out who wrote it, and use another one.",
    reference: "docs/backups.md",
};
const DAMAGED: Rule = Rule {
    id: "backup.damaged",
    title: "a part is not the one that was signed",
    severity: Severity::Critical,
    remedy: "Use another backup, and check the disk or the transfer that damaged this one.",
    reference: "docs/backups.md",
};
const UNREADABLE: Rule = Rule {
    id: "backup.unreadable",
    title: "a part cannot be read",
    severity: Severity::Critical,
    remedy: "Use another backup, and make a new one.",
    reference: "docs/backups.md",
};

/// The first rung.
#[must_use]
pub fn verify_signature(
    target: &BackupTarget,
    name: BackupName,
    trusted: &[VerifierKey],
) -> (Check, Option<OpenedBackup>) {
    let (id, title) = RUNGS[0];
    match open(target, name, trusted) {
        Ok(Ok(opened)) => {
            let manifest = &opened.manifest;
            let detail = format!(
                "{} events, {}",
                manifest.database.log.position,
                manifest.ended_at.to_rfc3339_opts(SecondsFormat::Secs, true)
            );
            (Check::passed(id, title, detail), Some(opened))
        }
        Ok(Err(reason)) => (Check::of(id, title, "", vec![UNSIGNED.finding(name.to_string(), reason)]), None),
        Err(error) => (Check::not_checked(id, title, error.to_string()), None),
    }
}

/// Opens a backup, or says why it is not one that a trusted key has signed.
fn open(
    target: &BackupTarget,
    name: BackupName,
    trusted: &[VerifierKey],
) -> Result<Result<OpenedBackup, String>, BackupError> {
    let read = |file: &str, most: u64| -> Result<Result<Vec<u8>, String>, BackupError> {
        Ok(match target.read(name, file, most) {
            Ok(Some(bytes)) if bytes.len() as u64 <= most => Ok(bytes),
            Ok(Some(_)) => Err(format!("{file} is too long")),
            Ok(None) => Err(format!("{file} is missing")),
            Err(BackupError::File { source, .. }) if is_damage(&source) => Err(format!("{file}: {source}")),
            Err(error) => return Err(error),
        })
    };
    let (bytes, note) = match (read(MANIFEST, MAX_MANIFEST)?, read(NOTE, MAX_NOTE as u64)?) {
        (Ok(bytes), Ok(note)) => (bytes, note),
        (Err(reason), _) | (_, Err(reason)) => return Ok(Err(reason)),
    };
    let manifest = match BackupManifest::open(name, &bytes, &note, trusted) {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut parts = Vec::new();
    for part in PartKind::ALL {
        if target.has_part(name, part)? {
            parts.push(part);
        }
    }
    let manifest_sha256 = hex(&Sha256::digest(&bytes));
    Ok(Ok(OpenedBackup { name, manifest, target: target.clone(), manifest_sha256, parts }))
}

/// The second rung. The wrapped keys may have been removed: their retention is shorter.
#[must_use]
pub fn verify_checksums(backup: &OpenedBackup, mut read: impl FnMut(u64)) -> Check {
    let (id, title) = RUNGS[1];
    let (mut bytes, mut findings) = (0, Vec::new());
    for record in &backup.manifest.parts {
        if record.part == PartKind::Keys && backup.is_removed(record.part) {
            continue;
        }
        match check_part(backup, record, |so_far| read(bytes + so_far)) {
            Ok(()) => bytes += record.length,
            Err(UnreadPart::Damaged(reason) | UnreadPart::NotOurs(reason)) => {
                findings.push(DAMAGED.finding(subject(backup, record.part), reason));
            }
            Err(UnreadPart::Failed(error)) => return Check::not_checked(id, title, error.to_string()),
        }
    }
    Check::of(id, title, format!("{bytes} bytes{}", without_keys(backup)), findings)
}

/// The third rung. `read` is told the bytes so far.
#[must_use]
pub fn verify_format(backup: &OpenedBackup, identities: &[Identity], mut read: impl FnMut(u64)) -> Check {
    let (id, title) = RUNGS[2];
    let program = match find_program("pg_restore", backup.dump_major()) {
        Ok(program) => program,
        Err(error) => return Check::not_checked(id, title, error.to_string()),
    };
    let (mut bytes, mut findings, mut unread) = (0, Vec::new(), Vec::new());
    for record in &backup.manifest.parts {
        if record.part == PartKind::Keys && backup.is_removed(record.part) {
            continue;
        }
        // As a script that nobody runs: `--list` would read no data.
        let mut command: Command = bare_command(&program.path);
        command.arg("--file=/dev/null");
        match feed_part(backup, record, identities, "pg_restore", &mut command, |so_far| read(bytes + so_far)) {
            Ok(()) => bytes += record.length,
            Err(UnreadPart::NotOurs(reason)) => unread.push(format!("{}: {reason}", record.part.file())),
            Err(UnreadPart::Damaged(reason)) => findings.push(DAMAGED.finding(subject(backup, record.part), reason)),
            Err(UnreadPart::Failed(error)) => {
                findings.push(UNREADABLE.finding(subject(backup, record.part), error.to_string()));
            }
        }
    }
    if findings.is_empty() && !unread.is_empty() {
        return Check::not_checked(id, title, format!("no identity opens {}", unread.join(", ")));
    }
    Check::of(id, title, format!("pg_restore {}{}", program.version, without_keys(backup)), findings)
}

/// Compares a restored database with the manifest. Returns the differences by name. Without the wrapped keys those are left out.
#[must_use]
pub fn compare_states(expected: &DatabaseState, found: &DatabaseState, has_keys: bool) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |name: &str, is_equal: bool| {
        if !is_equal {
            differences.push(name.to_owned());
        }
    };
    compare("schema", expected.schema == found.schema);
    compare("log", expected.log == found.log);
    compare("projections", expected.projections == found.projections);
    compare("erasures", expected.erasures == found.erasures);
    compare("keys", !has_keys || expected.keys == found.keys);
    for name in expected.read_models.keys().chain(found.read_models.keys()).collect::<std::collections::BTreeSet<_>>() {
        compare(&format!("read.{name}"), expected.read_models.get(name) == found.read_models.get(name));
    }
    differences
}

fn subject(backup: &OpenedBackup, part: PartKind) -> String {
    format!("{}/{}", backup.name, part.file())
}

fn without_keys(backup: &OpenedBackup) -> &'static str {
    if backup.is_removed(PartKind::Keys) {
        "; the wrapped keys were removed: nothing personal can be opened"
    } else {
        ""
    }
}
