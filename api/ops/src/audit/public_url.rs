//! The public URL as strangers find it: certificate, TLS and headers, by the rules of `check-ssl` and `check-headers`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use url::Url;

use super::audit_check::AuditCheck;
use crate::headers;
use crate::report::{Check, CheckResult, Report};
use crate::tls::target::TlsTarget;
use crate::tls::{self, TlsPolicy, machine_roots};

/// The check of the certificate and the TLS.
pub const TLS: AuditCheck =
    AuditCheck { id: "tls", title: "clients trust the certificate and the TLS of the public URL", rules: &tls::RULES };
/// The check of the headers.
pub const HEADERS: AuditCheck =
    AuditCheck { id: "headers", title: "answers of the public URL protect browsers", rules: &headers::RULES };

/// The time for a connection, and for each answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time before its end from which on a certificate ends soon.
const HORIZON: TimeDelta = TimeDelta::days(21);
/// The length of the longest file of certificates, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Checks the TLS of a URL. If nobody answers there, the certificate in a file is judged, if there is one.
pub async fn check_tls(url: &Url, file: Option<&Path>, now: DateTime<Utc>) -> Check {
    if url.scheme() != "https" {
        return TLS.unchecked(format!("the public URL is {}://: there is no TLS to check", url.scheme()));
    }
    let place = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let target = match TlsTarget::parse(&place) {
        Ok(target) => target,
        Err(reason) => return TLS.unchecked(format!("the public URL: {reason}")),
    };
    let policy = TlsPolicy { roots: machine_roots(), horizon: HORIZON, patience: PATIENCE };
    let served = tls::check(&target, &policy, now).await;
    let is_served = served.checks.iter().any(|check| !matches!(check.result, CheckResult::NotChecked { .. }));
    let Some(path) = file.filter(|_| !is_served) else { return merged(&TLS, &served, &format!("served at {target}")) };
    let mut pem = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut pem)) {
        Ok(_) => {
            let mut report = Report::begin(TLS.id, target.to_string(), now);
            report.checks = tls::check_chain(&target, &policy, &pem, now);
            merged(&TLS, &report, &format!("the file of TLS_CERT; nobody answers at {target}"))
        }
        Err(error) => TLS.unchecked(format!("nobody answers at {target}, and TLS_CERT cannot be read: {error}")),
    }
}

/// Checks the headers of the answer to one request.
pub async fn check_headers(url: &Url, now: DateTime<Utc>) -> Check {
    merged(&HEADERS, &headers::check(url, PATIENCE, now).await, &format!("as GET {} is answered", url.path()))
}

/// Makes one check of those of a report. What was found weighs more than what could not be checked.
fn merged(check: &AuditCheck, report: &Report, detail: &str) -> Check {
    let findings: Vec<_> = report.findings().cloned().collect();
    let reasons = report.checks.iter().filter_map(|made| match &made.result {
        CheckResult::NotChecked { reason } => Some(format!("{}: {reason}", made.title)),
        CheckResult::Passed { .. } | CheckResult::Found { .. } => None,
    });
    let reasons: Vec<_> = reasons.collect();
    if findings.is_empty() && !reasons.is_empty() {
        return check.unchecked(reasons.join("; "));
    }
    Check::of(check.id, check.title, detail, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_that_was_not_checked_leaves_the_whole_unchecked_unless_something_was_found() {
        let mut report = Report::begin("x", "x", DateTime::UNIX_EPOCH);
        report.checks = vec![Check::passed("a", "a", ""), Check::not_checked("b", "versions", "it is silent")];
        let unchecked = merged(&TLS, &report, "served");
        assert!(matches!(unchecked.result, CheckResult::NotChecked { reason } if reason == "versions: it is silent"));
        report.checks.push(Check::of("c", "c", "", vec![tls::RULES[0].finding("s", "e")]));
        assert_eq!(merged(&TLS, &report, "served").findings().len(), 1);
    }
}
