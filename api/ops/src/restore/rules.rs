//! The faults that a restore finds.

use crate::finding::{Rule, Severity};

/// The page that explains all of them.
const PAGE: &str = "docs/restore.md";

/// Events that only the replaced database has.
pub const NEWER: Rule = Rule {
    id: "restore.newer",
    title: "the database that would be replaced has events that the backup lacks",
    severity: Severity::High,
    remedy: "Restore a newer backup, or give --lose-newer-events to lose them: they are listed, and the database is kept aside.",
    reference: PAGE,
};
/// A database in the place of the new one.
pub const OCCUPIED: Rule = Rule {
    id: "restore.occupied",
    title: "there is a database of this name",
    severity: Severity::High,
    remedy: "Give --clean to replace it, or restore under another name.",
    reference: PAGE,
};
/// A database of somebody else in the place of the new one.
pub const FOREIGN: Rule = Rule {
    id: "restore.foreign",
    title: "the database that would be replaced is not one of Fulexo",
    severity: Severity::Critical,
    remedy: "Check DATABASE_URL.",
    reference: PAGE,
};
/// Lost events.
pub const LOST: Rule = Rule {
    id: "restore.lost",
    title: "events that were recorded after the backup are lost",
    severity: Severity::Medium,
    remedy: "Read the list (--lost FILE). Tell those concerned, and repeat what has to hold.",
    reference: PAGE,
};
/// A lost event that took something away.
pub const REVOCATIONS: Rule = Rule {
    id: "restore.revocations",
    title: "something that was taken away after the backup is there again",
    severity: Severity::High,
    remedy: "Take it away again: the list (--lost FILE) names each account, session, API key and role.",
    reference: PAGE,
};
/// Lost events of which only the number is known.
pub const UNKNOWN: Rule = Rule {
    id: "restore.unknown",
    title: "events are lost that no copy has",
    severity: Severity::High,
    remedy: "Look for a copy of the log: an export, a SIEM, the disk of the old server. Then read it with --copy.",
    reference: PAGE,
};
/// A place that tells of another log.
pub const HISTORY: Rule = Rule {
    id: "restore.history",
    title: "the restored log is not the one of which another place tells",
    severity: Severity::Critical,
    remedy: "One of the two was changed. Keep both as evidence, and verify the log: `fulexo audit verify`.",
    reference: PAGE,
};
/// An unknown list of erasures.
pub const NO_LIST: Rule = Rule {
    id: "restore.erasures",
    title: "it is not known who was erased after the backup",
    severity: Severity::Critical,
    remedy: "Give the list with --erasures FILE, a copy of the log with --copy, or --no-erasures if you know that nobody was.",
    reference: PAGE,
};
/// An erasure that failed.
pub const NOT_ERASED: Rule = Rule {
    id: "restore.not_erased",
    title: "a person who was erased after the backup is there again",
    severity: Severity::Critical,
    remedy: "Erase the account: docs/erasure.md.",
    reference: PAGE,
};
/// A signed log that cannot go on.
pub const ENDED_LOG: Rule = Rule {
    id: "restore.ended_log",
    title: "events that were signed are lost, so the signer cannot sign this log any further",
    severity: Severity::High,
    remedy: "Begin a new log: a key with a new name (`fulexo signer new-key`), and an empty memory. Keep the old key's checkpoints.",
    reference: "docs/restore.md#begin-a-new-log",
};
