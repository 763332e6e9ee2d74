//! The files of keys: nobody but their owner may read them.

use std::fs::{Metadata, metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#the-configuration";

const OPEN: Rule = Rule {
    id: "files.open",
    title: "every user of the machine can read or change a file of keys",
    severity: Severity::High,
    remedy: "Run `chmod 600 FILE`, and replace the keys in it: somebody may have read them.",
    reference: REFERENCE,
};
const GROUP: Rule = Rule {
    id: "files.group",
    title: "a group of users can read or change a file of keys",
    severity: Severity::Low,
    remedy: "Run `chmod 600 FILE`.",
    reference: REFERENCE,
};
const FOREIGN: Rule = Rule {
    id: "files.foreign",
    title: "a file of keys belongs to another user",
    severity: Severity::Medium,
    remedy: "Run `chown USER FILE` with the user of the service: its owner can change it.",
    reference: REFERENCE,
};
const DIRECTORY: Rule = Rule {
    id: "files.directory",
    title: "every user of the machine can replace a file of keys",
    severity: Severity::High,
    remedy: "Run `chmod o-w DIRECTORY`.",
    reference: REFERENCE,
};
const UNREADABLE: Rule = Rule {
    id: "files.unreadable",
    title: "a file of keys cannot be examined",
    severity: Severity::Medium,
    remedy: "Run the audit as the user of the service, with its environment.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "files",
    title: "files of keys are their owner's alone",
    rules: &[OPEN, GROUP, FOREIGN, DIRECTORY, UNREADABLE],
};

/// A file that a variable names.
pub struct AuditedFile {
    /// The variable.
    pub variable: &'static str,
    /// The path.
    pub path: PathBuf,
}

/// Makes the check.
#[must_use]
pub fn check(files: &[AuditedFile]) -> Check {
    let mut findings = AuditFindings::default();
    // The directory of this process belongs to the user that it runs as.
    let user = metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    for AuditedFile { variable, path } in files {
        let subject = format!("{variable} ({})", path.display());
        match metadata(path).and_then(|file| Ok((file, directory(path)?))) {
            Ok((file, directory)) => judge(&subject, &file, &directory, user, &mut findings),
            Err(error) => findings.push(&UNREADABLE, subject, error.kind().to_string()),
        }
    }
    CHECK.with(findings, format!("files examined: {}", files.len()))
}

/// The directory that really has the file, past symbolic links.
fn directory(path: &Path) -> io::Result<Metadata> {
    let path = path.canonicalize()?;
    metadata(path.parent().unwrap_or(Path::new("/")))
}

fn judge(subject: &str, file: &Metadata, directory: &Metadata, user: u32, findings: &mut AuditFindings) {
    let mode = file.mode() & 0o7777;
    let evidence = format!("mode {mode:04o}, owner {}", file.uid());
    if mode & 0o007 != 0 {
        findings.push(&OPEN, subject, evidence.as_str());
    } else if mode & 0o070 != 0 {
        findings.push(&GROUP, subject, evidence.as_str());
    }
    if ![0, user].contains(&file.uid()) {
        findings.push(&FOREIGN, subject, evidence);
    }
    // In a sticky directory only the owner of a file replaces it.
    if directory.mode() & 0o1002 == 0o0002 {
        findings.push(&DIRECTORY, subject, format!("its directory has mode {:04o}", directory.mode() & 0o7777));
    }
}
