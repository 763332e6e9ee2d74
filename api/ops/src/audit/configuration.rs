//! The configuration of a node, as the environment of the audit has it: what is off, what is plain, what is missing.

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/configuration.md";

const INVALID: Rule = Rule {
    id: "configuration.invalid",
    title: "a node would not start with this configuration",
    severity: Severity::High,
    remedy: "Correct the variable, or run the audit with the environment of a node.",
    reference: REFERENCE,
};
const DEVELOPMENT: Rule = Rule {
    id: "configuration.development",
    title: "the rules of production do not apply",
    severity: Severity::High,
    remedy: "Set APP_ENV to production, and correct what the node then reports.",
    reference: REFERENCE,
};
const PLAIN: Rule = Rule {
    id: "configuration.plain",
    title: "the node serves plain HTTP to a network",
    severity: Severity::High,
    remedy: "Set TLS_CERT or ACME_DOMAINS, or have the node listen on loopback behind a proxy of the same machine.",
    reference: "docs/production.md#serve-https",
};
const NO_RATE_LIMITS: Rule = Rule {
    id: "configuration.no_rate_limits",
    title: "requests are not limited",
    severity: Severity::High,
    remedy: "Remove FULEXO_RATE_LIMITS=off; larger quotas serve load tests, too.",
    reference: "docs/configuration.md#limit-the-rate-of-requests",
};
const CHEAP_HASHES: Rule = Rule {
    id: "configuration.cheap_hashes",
    title: "verifiers of passwords cost less than the security document says",
    severity: Severity::Medium,
    remedy: "Set FULEXO_BCRYPT_COST to 10 or more; verifiers are replaced at the next logins.",
    reference: REFERENCE,
};
const LONG_TOKENS: Rule = Rule {
    id: "configuration.long_tokens",
    title: "access tokens are valid for longer than the security document says",
    severity: Severity::Low,
    remedy: "Set JWT_EXPIRES_IN to 1h or less.",
    reference: REFERENCE,
};
const NO_SIGNER: Rule = Rule {
    id: "configuration.no_signer",
    title: "this node has no signer of the log",
    severity: Severity::Medium,
    remedy: "Run `fulexo signer` as another user, and set FULEXO_SIGNER_SOCKET.",
    reference: "docs/production.md#sign-the-log",
};
const NO_WITNESSES: Rule = Rule {
    id: "configuration.no_witnesses",
    title: "nobody else cosigns the log",
    severity: Severity::Low,
    remedy: "Ask witnesses, and set FULEXO_TRUST_POLICY_FILE.",
    reference: "docs/production.md#ask-witnesses",
};
const NO_COPY: Rule = Rule {
    id: "configuration.no_copy",
    title: "NATS keeps no copy of the log",
    severity: Severity::Low,
    remedy: "Set FULEXO_NATS_REPLICAS to 1, 3 or 5: after a loss of the database the copy names the lost events.",
    reference: "docs/consumers.md",
};
const VERBOSE: Rule = Rule {
    id: "configuration.verbose_log",
    title: "the service logs more than operation needs",
    severity: Severity::Low,
    remedy: "Set FULEXO_LOG to info.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "configuration",
    title: "the configuration of a node is that of production, with nothing turned off",
    rules: &[
        INVALID,
        DEVELOPMENT,
        PLAIN,
        NO_RATE_LIMITS,
        CHEAP_HASHES,
        LONG_TOKENS,
        NO_SIGNER,
        NO_WITNESSES,
        NO_COPY,
        VERBOSE,
    ],
};

/// The environment of the audit, as far as it configures a node.
pub enum AuditedConfiguration {
    /// It has nothing of a node but the database.
    Absent,
    /// A node would refuse it, for these reasons, which repeat no secret.
    Invalid(Vec<String>),
    /// A node would start with it.
    Valid(NodeFacts),
}

/// The configuration of a node, without its secrets.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts {
    /// `true` for production.
    pub is_production: bool,
    /// `true` if the node serves HTTPS.
    pub serves_tls: bool,
    /// `true` if it listens on loopback alone.
    pub is_loopback: bool,
    /// `true` if requests are limited.
    pub has_rate_limits: bool,
    /// The cost of bcrypt.
    pub bcrypt_cost: u32,
    /// The lifetime of access tokens, in minutes.
    pub access_minutes: i64,
    /// `true` if it has a signer.
    pub has_signer: bool,
    /// `true` if witnesses cosign.
    pub has_witnesses: bool,
    /// `true` if NATS is used without a copy of the log.
    pub lacks_copy: bool,
    /// `true` if the log has more than `info`.
    pub is_verbose: bool,
}

impl AuditedConfiguration {
    /// `true` if it is known to be one of production.
    #[must_use]
    pub const fn is_production(&self) -> bool {
        matches!(self, Self::Valid(NodeFacts { is_production: true, .. }))
    }

    /// Makes the check.
    #[must_use]
    pub fn check(&self) -> Check {
        match self {
            Self::Absent => CHECK.unchecked(
                "the environment configures no node. Run the audit with the environment of one: set -a; . ./fulexo.env",
            ),
            Self::Invalid(problems) => {
                let mut findings = AuditFindings::default();
                for problem in problems {
                    // A problem begins with its variable.
                    let variable = problem.split([' ', ':']).next().unwrap_or_default();
                    findings.push(&INVALID, variable, problem.as_str());
                }
                CHECK.with(findings, "")
            }
            Self::Valid(facts) => CHECK.with(judge(facts), ""),
        }
    }
}

fn judge(facts: &NodeFacts) -> AuditFindings {
    let mut findings = AuditFindings::default();
    let mut expect = |is_wrong: bool, rule: &Rule, subject: &str, evidence: String| {
        if is_wrong {
            findings.push(rule, subject, evidence);
        }
    };
    expect(!facts.is_production, &DEVELOPMENT, "APP_ENV", "APP_ENV is development".to_owned());
    let is_plain = !facts.serves_tls && !facts.is_loopback;
    expect(is_plain, &PLAIN, "FULEXO_BIND", "neither TLS_CERT nor ACME_DOMAINS is set".to_owned());
    expect(!facts.has_rate_limits, &NO_RATE_LIMITS, "FULEXO_RATE_LIMITS", "FULEXO_RATE_LIMITS is off".to_owned());
    let cost = format!("FULEXO_BCRYPT_COST is {}", facts.bcrypt_cost);
    expect(facts.bcrypt_cost < 10, &CHEAP_HASHES, "FULEXO_BCRYPT_COST", cost);
    let lifetime = format!("{} minutes", facts.access_minutes);
    expect(facts.access_minutes > 60, &LONG_TOKENS, "JWT_EXPIRES_IN", lifetime);
    let unset = |name: &str| format!("{name} is not set");
    let signer = "FULEXO_SIGNER_SOCKET";
    expect(!facts.has_signer, &NO_SIGNER, signer, unset(signer));
    let witnesses = "FULEXO_TRUST_POLICY_FILE";
    expect(facts.has_signer && !facts.has_witnesses, &NO_WITNESSES, witnesses, unset(witnesses));
    expect(facts.lacks_copy, &NO_COPY, "FULEXO_NATS_REPLICAS", "FULEXO_NATS_REPLICAS is 0".to_owned());
    expect(facts.is_verbose, &VERBOSE, "FULEXO_LOG", "FULEXO_LOG has debug or trace".to_owned());
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: NodeFacts = NodeFacts {
        is_production: true,
        serves_tls: true,
        is_loopback: false,
        has_rate_limits: true,
        bcrypt_cost: 10,
        access_minutes: 60,
        has_signer: true,
        has_witnesses: true,
        lacks_copy: false,
        is_verbose: false,
    };

    #[test]
    fn each_thing_that_is_off_is_one_finding_and_a_sound_node_has_none() {
        let found = |facts: NodeFacts| -> Vec<String> {
            AuditedConfiguration::Valid(facts).check().findings().iter().map(|it| it.rule.to_string()).collect()
        };
        assert_eq!(found(SOUND), [""; 0]);
        for (facts, rule) in [
            (NodeFacts { is_production: false, ..SOUND }, DEVELOPMENT),
            (NodeFacts { serves_tls: false, ..SOUND }, PLAIN),
            (NodeFacts { has_rate_limits: false, ..SOUND }, NO_RATE_LIMITS),
            (NodeFacts { bcrypt_cost: 9, ..SOUND }, CHEAP_HASHES),
            (NodeFacts { access_minutes: 61, ..SOUND }, LONG_TOKENS),
            (NodeFacts { has_signer: false, ..SOUND }, NO_SIGNER),
            (NodeFacts { has_witnesses: false, ..SOUND }, NO_WITNESSES),
            (NodeFacts { lacks_copy: true, ..SOUND }, NO_COPY),
            (NodeFacts { is_verbose: true, ..SOUND }, VERBOSE),
        ] {
            assert_eq!(found(facts), [rule.id], "{facts:?}");
        }
        assert_eq!(found(NodeFacts { serves_tls: false, is_loopback: true, ..SOUND }), [""; 0], "a proxy is in front");
    }
}
