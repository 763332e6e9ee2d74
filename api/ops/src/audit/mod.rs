//! The security audit: weaknesses of a service that is set up and running, found in its database, its environment, its files and
//! backups, and at its public URL. Changes nothing, and works when the service is down.
//!
//! A rule is named after its check: the check `accounts` finds `accounts.dormant`. `CHECKS` lists all of both, and
//! docs/security-audit.md explains them.

pub mod acceptance;
pub mod accounts;
pub mod api_keys;
pub mod append_only;
pub mod audit_check;
pub mod backups;
pub mod configuration;
pub mod database;
pub mod database_access;
pub mod database_grants;
pub mod database_roles;
pub mod database_settings;
pub mod files;
pub mod keys;
pub mod log;
pub mod nats;
pub mod policy;
pub mod public_url;
pub mod read_models;
pub mod reports;
pub mod roles;
pub mod secrets;

use self::audit_check::AuditCheck;

/// All checks, in the order of the report.
pub const CHECKS: [AuditCheck; 21] = [
    configuration::CHECK,
    secrets::CHECK,
    files::CHECK,
    public_url::TLS,
    public_url::HEADERS,
    nats::CHECK,
    database_settings::CHECK,
    database_access::CHECK,
    database_roles::CHECK,
    database_grants::CHECK,
    append_only::CHECK,
    policy::CHECK,
    accounts::CHECK,
    roles::CHECK,
    api_keys::CHECK,
    keys::CHECK,
    log::CHECK,
    read_models::CHECK,
    backups::CHECK,
    reports::CHECK,
    acceptance::CHECK,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_is_named_after_its_check_and_no_name_occurs_twice() {
        let mut names = BTreeSet::new();
        for check in CHECKS {
            assert!(names.insert(check.id), "{}", check.id);
            for rule in check.rules {
                assert!(names.insert(rule.id), "{}", rule.id);
                assert_eq!(rule.id.split_once('.').map(|(area, _)| area), Some(check.id), "{}", rule.id);
                // The rules of check-ssl and check-headers have lines of nginx for remedies.
                let is_sentence = rule.remedy.ends_with('.') || !rule.reference.starts_with("docs/");
                assert!(!rule.title.ends_with('.') && is_sentence, "{}", rule.id);
            }
        }
    }
}
