//! The judgement of a chain of certificates: trust, name, times, keys, stapling.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};
use serde_json::{Value, json};

use super::certificate::CertificateFacts;
use super::handshake::provider;
use super::policy::TlsPolicy;
use super::rules;
use super::target::TlsTarget;
use crate::finding::{Finding, Severity};
use crate::report::Check;

/// A certificate that ends within this time is a severe finding.
const LAST_DAYS: TimeDelta = TimeDelta::days(7);

/// Errors are shown as far as this.
const SHOWN: usize = 300;

/// Returns the certificates as facts of a report.
pub fn facts(chain: &[CertificateDer<'static>]) -> Value {
    let shown = |it: CertificateFacts| {
        json!({
            "subject": it.subject, "issuer": it.issuer, "not_before": it.not_before, "not_after": it.not_after,
            "key": it.key.to_string(), "sha256": it.sha256,
        })
    };
    chain.iter().filter_map(CertificateFacts::read).map(shown).collect()
}

/// Judges a chain, of which the first certificate is the server's own. `bad_proof` says why the server has not proved that it
/// has the key.
pub fn judge(
    target: &TlsTarget,
    policy: &TlsPolicy,
    sent: &[CertificateDer<'static>],
    bad_proof: Option<&str>,
    now: DateTime<Utc>,
) -> Vec<Check> {
    let read: Vec<_> = sent.iter().map(CertificateFacts::read).collect();
    let subject = target.to_string();
    let unreadable = |n: usize| rules::UNREADABLE.finding(format!("{subject}, certificate {}", n + 1), "not DER");
    let (Some(Some(own)), Some(der)) = (read.first(), sent.first()) else {
        return vec![Check::of("tls.trust", "trust", "", vec![unreadable(0)])];
    };
    let chain: Vec<_> = read.iter().flatten().collect();

    let mut trust: Vec<Finding> =
        read.iter().enumerate().filter(|(_, it)| it.is_none()).map(|(n, _)| unreadable(n)).collect();
    trust.extend(untrusted(&subject, policy, sent, &chain, own, now));
    trust.extend(chain.windows(2).filter_map(|pair| match pair {
        [this, next] if !this.is_issued_by(next) => {
            let evidence =
                format!("after \"{}\", issued by \"{}\", comes \"{}\"", this.subject, this.issuer, next.subject);
            Some(rules::CHAIN_ORDER.finding(&subject, evidence))
        }
        _ => None,
    }));
    let names = match ParsedCertificate::try_from(der) {
        Ok(parsed) => verify_server_name(&parsed, &target.name)
            .err()
            .map(|error| rules::WRONG_NAME.finding(&subject, wrong_name(&error, own))),
        Err(_) => Some(rules::UNREADABLE.finding(&subject, "its extensions cannot be read")),
    };
    let times = chain.iter().filter_map(|it| outdated(&subject, it, policy.horizon, now)).collect();
    let mut keys: Vec<_> = chain.iter().flat_map(|it| weak(&subject, it)).collect();
    // No proof is verified with a key that is too short, which is a finding by itself.
    if let Some(reason) = bad_proof.filter(|_| !own.key.is_weak()) {
        keys.push(rules::BAD_PROOF.finding(&subject, reason));
    }
    let first_end = chain.iter().map(|it| it.not_after).min().unwrap_or(own.not_after);
    let left = plural((first_end - now).num_days(), "day");
    let length = i64::try_from(chain.len()).unwrap_or_default();
    vec![
        Check::of("tls.trust", "trust", format!("{}, issued by {}", plural(length, "certificate"), own.issuer), trust),
        Check::of("tls.name", "name", target.name.to_str(), names.into_iter().collect()),
        Check::of("tls.times", "times", format!("{left} left, until {}", first_end.format("%Y-%m-%d")), times),
        Check::of("tls.keys", "keys and signatures", own.key.to_string(), keys),
    ]
}

/// Judges whether an OCSP response is stapled where the certificate demands it.
pub fn judge_stapling(target: &TlsTarget, sent: &[CertificateDer<'static>], is_stapled: bool) -> Check {
    let demands = sent.first().and_then(CertificateFacts::read).is_some_and(|own| own.must_staple);
    let missing = (demands && !is_stapled).then(|| rules::NO_STAPLE.finding(target.to_string(), "no response"));
    let stapled = if is_stapled { "an OCSP response is stapled" } else { "none, and none is demanded" };
    Check::of("tls.stapling", "stapling", stapled, missing.into_iter().collect())
}

/// Judges whether a trusted authority has issued the certificate, apart from its name and, as far as it can be, from its times.
fn untrusted(
    subject: &str,
    policy: &TlsPolicy,
    sent: &[CertificateDer<'static>],
    chain: &[&CertificateFacts],
    own: &CertificateFacts,
    now: DateTime<Utc>,
) -> Option<Finding> {
    let (first, intermediates) = sent.split_first()?;
    let parsed = ParsedCertificate::try_from(first).ok()?;
    // A time at which the certificate is valid: that it no longer is, is a finding of its own.
    let at = now.clamp(own.not_before, own.not_after.max(own.not_before));
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or_default()));
    let algorithms = provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &policy.roots, intermediates, at, algorithms).err()? {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            let last = chain.last().copied().unwrap_or(own);
            Some(if own.is_self_issued() {
                rules::SELF_SIGNED.finding(subject, format!("subject and issuer are \"{}\"", own.subject))
            } else if last.is_self_issued() {
                rules::UNTRUSTED
                    .finding(subject, format!("the chain ends at \"{}\", which is not trusted", last.subject))
            } else {
                let length = i64::try_from(sent.len()).unwrap_or_default();
                let evidence =
                    format!("the server sends {}, and not \"{}\"", plural(length, "certificate"), last.issuer);
                rules::INCOMPLETE_CHAIN.finding(subject, evidence)
            })
        }
        // The times of each certificate are judged by themselves.
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => None,
        Error::InvalidCertificate(CertificateError::UnsupportedSignatureAlgorithmContext { .. }) => {
            let is_own = own.is_self_issued();
            let rule = if is_own { rules::SELF_SIGNED } else { rules::UNTRUSTED };
            Some(rule.finding(subject, "a certificate is signed in a way that is no longer accepted"))
        }
        error => Some(rules::UNTRUSTED.finding(subject, error.to_string().chars().take(SHOWN).collect::<String>())),
    }
}

fn wrong_name(error: &Error, own: &CertificateFacts) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            let names: Vec<_> = presented.iter().take(20).map(String::as_str).collect();
            if names.is_empty() {
                format!("\"{}\" has no names", own.subject)
            } else {
                format!("it is for {}", names.join(", "))
            }
        }
        error => error.to_string(),
    }
}

fn outdated(subject: &str, it: &CertificateFacts, horizon: TimeDelta, now: DateTime<Utc>) -> Option<Finding> {
    let of = format!("{subject}, \"{}\"", it.subject);
    let shown = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let left = it.not_after - now;
    if now >= it.not_after {
        Some(rules::EXPIRED.finding(of, format!("it ended at {}", shown(it.not_after))))
    } else if now < it.not_before {
        Some(rules::NOT_YET_VALID.finding(of, format!("it begins at {}", shown(it.not_before))))
    } else if left < horizon {
        let severity = if left < LAST_DAYS { Severity::High } else { Severity::Medium };
        let evidence = format!("it ends at {}, in {}", shown(it.not_after), plural(left.num_days(), "day"));
        Some(rules::ENDS_SOON.finding(of, evidence).with_severity(severity))
    } else {
        None
    }
}

fn weak(subject: &str, it: &CertificateFacts) -> Vec<Finding> {
    let of = format!("{subject}, \"{}\"", it.subject);
    let key = it.key.is_weak().then(|| rules::WEAK_KEY.finding(&of, it.key.to_string()));
    // Nobody verifies the signature of a root.
    let signature = it.is_weakly_signed && !(it.is_self_issued() && it.is_authority);
    let signature = signature.then(|| rules::WEAK_SIGNATURE.finding(&of, "by its issuer"));
    key.into_iter().chain(signature).collect()
}

fn plural(count: i64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
