//! The secrets of the environment: their strength and their place. No text here repeats one.

use zxcvbn::zxcvbn;

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#the-configuration";

const WEAK: Rule = Rule {
    id: "secrets.weak",
    title: "a secret can be guessed",
    severity: Severity::High,
    remedy: "Replace it by one that was drawn at random: `openssl rand -hex 32`.",
    reference: REFERENCE,
};
const SHARED: Rule = Rule {
    id: "secrets.shared",
    title: "two variables have the same secret",
    severity: Severity::High,
    remedy: "Give each its own: whoever learns one has both.",
    reference: REFERENCE,
};
const IN_ENVIRONMENT: Rule = Rule {
    id: "secrets.in_environment",
    title: "a secret is in the environment, where every child process and crash report has it",
    severity: Severity::Low,
    remedy: "Put it into a file of mode 0600, and name that.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "secrets",
    title: "secrets are strong, each used once, and in files",
    rules: &[WEAK, SHARED, IN_ENVIRONMENT],
};

/// The least length of a secret, in characters.
const LEAST_LENGTH: usize = 16;
/// The least number of guesses that a secret withstands, as a power of ten.
const LEAST_GUESSES: f64 = 14.0;
/// The characters that are judged: the estimate is slow on long texts, and these suffice.
const JUDGED: usize = 64;

/// A secret of the environment. It has no `Debug`.
pub struct AuditedSecret<'a> {
    /// The variable.
    pub variable: &'a str,
    /// The secret itself, or its characters.
    pub text: &'a str,
    /// The variable that names a file instead, if there is one.
    pub file_variable: Option<&'a str>,
}

/// Makes the check.
#[must_use]
pub fn check(secrets: &[AuditedSecret<'_>]) -> Check {
    let mut findings = AuditFindings::default();
    for (place, secret) in secrets.iter().enumerate() {
        let length = secret.text.chars().count();
        let judged: String = secret.text.chars().take(JUDGED).collect();
        let guesses = zxcvbn(&judged, &[]).guesses_log10();
        if length < LEAST_LENGTH || guesses < LEAST_GUESSES {
            // Neither the length nor the estimate is told more exactly than a guesser would try.
            let length = if length < LEAST_LENGTH { "fewer than 16 characters" } else { "16 characters or more" };
            let strength = if guesses < LEAST_GUESSES { "guessable" } else { "random" };
            findings.push(&WEAK, secret.variable, format!("{length}, {strength}"));
        }
        let before = secrets.iter().take(place).find(|other| other.text == secret.text);
        if let Some(other) = before.filter(|other| other.variable != secret.variable) {
            findings.push(&SHARED, secret.variable, format!("the same as in {}", other.variable));
        }
        if let Some(file) = secret.file_variable {
            findings.push(&IN_ENVIRONMENT, secret.variable, format!("{file} can name a file instead"));
        }
    }
    CHECK.with(findings, format!("{} in the environment", secrets.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret<'a>(variable: &'a str, text: &'a str) -> AuditedSecret<'a> {
        AuditedSecret { variable, text, file_variable: None }
    }

    fn found(secrets: &[AuditedSecret<'_>]) -> Vec<(String, String)> {
        let check = check(secrets);
        for finding in check.findings() {
            assert!(secrets.iter().all(|it| it.text.is_empty() || !finding.evidence.contains(it.text)), "{finding:?}");
        }
        check.findings().iter().map(|it| (it.rule.to_string(), it.subject.clone())).collect()
    }

    #[test]
    fn a_short_a_common_and_a_repeated_secret_are_weak_and_a_drawn_one_is_not() {
        let weak = ["", "hunter2", "postgres", "correcthorsebattery", "aaaaaaaaaaaaaaaaaaaaaaaa", "x9#Lq2!vTz"];
        for text in weak {
            assert_eq!(found(&[secret("A", text)]), [(WEAK.id.to_owned(), "A".to_owned())], "{text}");
        }
        for text in [
            "9f1c66d2b04e7a83c5d1e0f29b7a4c68",
            "Zm9vYmFyQmF6UXV4MTIzNDU2Nzg5MHh5eg",
            "žďárský-kůň-7-úpěl-ďábelské-ódy",
        ] {
            assert_eq!(found(&[secret("A", text)]), [], "{text}");
        }
    }

    #[test]
    fn a_secret_that_two_variables_have_is_found_and_a_long_one_takes_no_time() {
        let text = "9f1c66d2b04e7a83c5d1e0f29b7a4c68";
        assert_eq!(found(&[secret("A", text), secret("B", text)]), [(SHARED.id.to_owned(), "B".to_owned())]);
        let long = "ab".repeat(1 << 20);
        assert_eq!(found(&[secret("A", &long)]).len(), 1);
    }
}
