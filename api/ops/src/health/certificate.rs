//! The certificate: the one that is served, and the one in the node's file. Judged as `check-ssl` judges it.

use chrono::{DateTime, TimeDelta, Utc};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::area::HealthArea;
use super::observations::HealthObservations;
use super::probes::service::{CertificateName, ServiceAddress};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Finding, Rule, Severity};
use crate::report::Check;
use crate::tls::certificate::CertificateFacts;
use crate::tls::target::TlsTarget;
use crate::tls::{TlsPolicy, chain};

const NOT_SERVED: Rule = Rule {
    id: "certificate.not_served",
    title: "the node serves another certificate than the one in its file",
    severity: Severity::High,
    remedy: "Read the node's log: it refuses a certificate that is broken, expired, or does not fit its key.",
    reference: "docs/runbooks/certificate-ending.md",
};

/// The check. Its other findings have the rules of `check-ssl`.
pub const CHECK: AuditCheck =
    AuditCheck { id: "certificate", title: "the certificate is trusted, and does not end soon", rules: &[NOT_SERVED] };

/// The runbook of what ends or has ended.
const RUNBOOK: &str = "docs/runbooks/certificate-ending.md";
/// Certificates that were judged.
struct JudgedChain {
    /// The place where they were seen.
    place: String,
    ends: Option<DateTime<Utc>>,
    subject: Option<String>,
}

pub(super) fn check(
    observations: &HealthObservations,
    addresses: &[ServiceAddress],
    policy: &TlsPolicy,
    now: DateTime<Utc>,
) -> HealthArea {
    let (mut findings, mut judged): (Vec<Finding>, Vec<JudgedChain>) = (Vec::new(), Vec::new());
    let mut judge = |place: &str, target: &TlsTarget, sent: &[CertificateDer<'static>], is_stapled, has_name| {
        let mut checks = chain::judge(target, policy, sent, None, now);
        checks.push(chain::judge_stapling(target, sent, is_stapled));
        let checks = checks.iter().filter(|check| has_name || check.id != "tls.name");
        findings.extend(checks.flat_map(Check::findings).cloned().map(with_runbook));
        let facts: Vec<_> = sent.iter().filter_map(CertificateFacts::read).collect();
        let ends = facts.iter().map(|it| it.not_after).min();
        judged.push(JudgedChain { place: place.to_owned(), ends, subject: facts.first().map(|it| it.subject.clone()) });
    };
    let (mut is_plain, mut not_served) = (false, AuditFindings::default());
    let file = observations.certificate.as_ref().map(|file| file.chain.as_ref());
    let mut is_file_judged = false;
    for (service, address) in observations.services.iter().zip(addresses) {
        is_plain |= address.url.scheme() != "https";
        let (Some(shown), Ok(target)) = (&service.shown, &service.target) else { continue };
        judge(&service.label, target, &shown.chain, shown.is_stapled, address.name != CertificateName::Unknown);
        if let Some(Ok(file)) = &file
            && address.name != CertificateName::OfUrl
        {
            if file.first() == shown.chain.first() {
                is_file_judged = true;
            } else {
                not_served.push(&NOT_SERVED, service.label.as_str(), "the first certificates of both are different");
            }
        }
    }
    if let Some(Ok(chain)) = &file
        && !is_file_judged
        && let Some((target, has_name)) = file_target(addresses)
    {
        // A file has no stapled response, and whoever serves it may staple one.
        judge("TLS_CERT", &target, chain, true, has_name);
    }
    findings.extend(CHECK.with(not_served, "").findings().iter().cloned());
    let summary = summary(&judged, now);
    let facts: Vec<_> =
        judged.iter().map(|it| json!({"place": it.place, "subject": it.subject, "ends_at": it.ends})).collect();
    let reason = match (&file, judged.is_empty(), is_plain) {
        (Some(Err(reason)), ..) => Some(format!("TLS_CERT: {reason}")),
        (_, false, _) => None,
        (_, true, true) => {
            Some("the service speaks plain HTTP here: give --url with the https URL of the proxy".to_owned())
        }
        (_, true, false) => Some("no certificate was seen: no handshake, and no TLS_CERT".to_owned()),
    };
    match reason {
        Some(reason) if findings.is_empty() => HealthArea::unchecked(&CHECK, reason),
        _ => HealthArea::with(Check::of(CHECK.id, CHECK.title, summary.as_str(), findings), &summary)
            .fact("certificates", facts),
    }
}

fn with_runbook(finding: Finding) -> Finding {
    match &*finding.rule {
        "tls.expired" | "tls.ends_soon" => Finding { reference: RUNBOOK.into(), ..finding },
        _ => finding,
    }
}

/// Returns the target that a file is for: that of this machine's node, whose name may not be known.
fn file_target(addresses: &[ServiceAddress]) -> Option<(TlsTarget, bool)> {
    let given = addresses.iter().find_map(|address| match &address.name {
        CertificateName::Given(name) => Some(TlsTarget { name: name.clone(), port: 443 }),
        CertificateName::OfUrl | CertificateName::Unknown => None,
    });
    match given {
        Some(target) => Some((target, true)),
        None => Some((TlsTarget::parse("localhost").ok()?, false)),
    }
}

fn summary(judged: &[JudgedChain], now: DateTime<Utc>) -> String {
    let Some(first) = judged.iter().min_by_key(|it| it.ends) else { return String::new() };
    let Some(ends) = first.ends else { return "it cannot be read".to_owned() };
    let left = ends - now;
    let subject = first.subject.as_deref().unwrap_or("a certificate");
    if left < TimeDelta::zero() {
        return format!("{subject}, ended on {}", ends.format("%F"));
    }
    format!("{subject}, {} days left, until {}", left.num_days(), ends.format("%F"))
}
