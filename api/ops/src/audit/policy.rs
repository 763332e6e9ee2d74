//! The security policy in force: rules that somebody turned off.

use fulexo_domain::policy::Policy;
use sqlx::PgConnection;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/configuration.md#set-the-policy";

const NO_LOCKOUT: Rule = Rule {
    id: "policy.no_lockout",
    title: "passwords may be guessed without end",
    severity: Severity::High,
    remedy: "Set lockout.enabled to true with `PUT /v1/policy`.",
    reference: REFERENCE,
};
const OPTIONAL_FACTOR: Rule = Rule {
    id: "policy.optional_second_factor",
    title: "administrators need no second factor",
    severity: Severity::High,
    remedy: "Add admin to second_factor.required_for with `PUT /v1/policy`.",
    reference: REFERENCE,
};
const UNREADABLE: Rule = Rule {
    id: "policy.unreadable",
    title: "the policy in the database is none",
    severity: Severity::Critical,
    remedy: "Find out who changed the row of access.policy, and set the policy again with `PUT /v1/policy`.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "policy",
    title: "the policy limits guesses and requires second factors",
    rules: &[NO_LOCKOUT, OPTIONAL_FACTOR, UNREADABLE],
};

/// Makes the check, as the application's role.
pub async fn check(connection: &mut PgConnection, is_production: bool) -> Check {
    CHECK.asked(policy(connection, is_production).await)
}

async fn policy(connection: &mut PgConnection, is_production: bool) -> Result<(AuditFindings, String), sqlx::Error> {
    let text = sqlx::query_scalar!("select policy from access.policy").fetch_optional(connection).await?;
    let mut findings = AuditFindings::default();
    // The initial policy has its defaults by the environment, and those of production are sound.
    let Some(text) = text else { return Ok((findings, "the initial one".to_owned())) };
    let Ok(policy) = serde_json::from_str::<Policy>(&text) else {
        findings.push(&UNREADABLE, "policy", "the row of access.policy cannot be read");
        return Ok((findings, String::new()));
    };
    if !policy.lockout.enabled {
        findings.push(&NO_LOCKOUT, "policy", format!("lockout.enabled is false since version {}", policy.version));
    }
    if is_production && !policy.second_factor.required_for.iter().any(|role| role.as_str() == "admin") {
        let evidence = format!("second_factor.required_for lacks admin in version {}", policy.version);
        findings.push(&OPTIONAL_FACTOR, "policy", evidence);
    }
    Ok((findings, format!("version {}", policy.version)))
}
