//! The read models compared with the log. The comparison is for the command line, which has the read models.

use super::audit_check::AuditCheck;
use crate::finding::{Rule, Severity};

/// A read model, or a snapshot, is not what the log says.
pub const DIFFERS: Rule = Rule {
    id: "read_models.differs",
    title: "a table derived from the log is not what the log says",
    severity: Severity::High,
    remedy: "Run `fulexo replay`, which names the differences, then `fulexo rebuild`. Find out who writes to the table.",
    reference: "docs/read-models.md",
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "read_models", title: "what is derived from the log is what the log says", rules: &[DIFFERS] };
