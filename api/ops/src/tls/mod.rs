//! `check-ssl`: a TLS server, whoever runs it, as a client meets it.
//!
//! A handshake that trusts everybody shows the chain, which is judged afterwards: an expired certificate is a finding with
//! its date, and not a connection that failed. Sends no request.

mod certificate;
mod client_hello;
pub mod handshake;
mod rules;
mod suites;
pub mod target;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, Error, RootCertStore, SupportedProtocolVersion};
use serde_json::json;

use self::certificate::CertificateFacts;
use self::client_hello::{HelloAnswer, offer};
use self::handshake::{Handshake, NoHandshake, provider, shake_hands};
use self::suites::{OLD, SUITES, SuiteFault};
use self::target::{TlsTarget, Unreachable};
use crate::finding::{Finding, Severity};
use crate::report::{Check, Report};

static ONLY_1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
static ONLY_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];

/// The measure of a server.
pub struct TlsPolicy {
    /// The authorities that are trusted.
    pub roots: RootCertStore,
    /// The time before a certificate's end from which on it ends soon.
    pub horizon: TimeDelta,
    /// The time for a connection, and for each answer.
    pub patience: Duration,
}

/// Returns the authorities that this machine trusts. Those that cannot be read are left out, so that there may be none.
#[must_use]
pub fn machine_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Reads authorities; `None` if there are none, or one cannot be trusted.
#[must_use]
pub fn roots_from_pem(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}

/// Checks a server.
pub async fn check(target: &TlsTarget, policy: &TlsPolicy, now: DateTime<Utc>) -> Report {
    let mut report = Report::begin("check-ssl", target.to_string(), now);
    let prober = Prober { target, patience: policy.patience };
    // One connection at a time: the smallest server takes no more.
    match prober.handshake(rustls::ALL_VERSIONS).await {
        Ok(handshake) => {
            report.facts.insert("version".to_owned(), json!(handshake.version));
            report.facts.insert("cipher_suite".to_owned(), json!(handshake.suite));
            report.facts.insert("key_exchange".to_owned(), json!(handshake.group));
            let post_quantum = handshake.group.as_deref().is_some_and(|group| group.contains("MLKEM"));
            report.facts.insert("post_quantum_key_exchange".to_owned(), json!(post_quantum));
            report.facts.insert("ocsp_stapled".to_owned(), json!(handshake.is_stapled));
            report.checks.extend(certificates(&mut report.facts, target, policy, &handshake, now));
        }
        Err(error) => {
            let reason = format!("{error}");
            report.checks.push(Check::not_checked("tls.certificate", "certificate", reason));
            // Whatever is silent now would be silent at each of the other offers.
            if !matches!(error, NoHandshake::Refused(_)) {
                return report;
            }
        }
    }
    let (tls_1_2, tls_1_3) = (prober.handshake(&ONLY_1_2).await, prober.handshake(&ONLY_1_3).await);
    let old = prober.old_versions().await;
    report.checks.push(versions(target, tls_1_2.is_ok(), tls_1_3.is_ok(), &old));
    report.checks.push(prober.weak_suites().await);
    report
}

/// Judges the chain. The first certificate is the server's.
fn certificates(
    facts: &mut std::collections::BTreeMap<String, serde_json::Value>,
    target: &TlsTarget,
    policy: &TlsPolicy,
    handshake: &Handshake,
    now: DateTime<Utc>,
) -> Vec<Check> {
    let read: Vec<_> = handshake.chain.iter().map(CertificateFacts::read).collect();
    let chain: Vec<_> = read.iter().flatten().collect();
    facts.insert("certificates".to_owned(), chain.iter().map(|it| shown(it)).collect());
    let Some(own) = read.first().and_then(Option::as_ref) else {
        let finding = rules::UNREADABLE.finding(target.to_string(), "the server's own certificate");
        return vec![Check::of("tls.certificate", "certificate", "", vec![finding])];
    };
    let subject = target.to_string();
    let unreadable = read.iter().enumerate().filter(|(_, it)| it.is_none());
    let unreadable =
        unreadable.map(|(n, _)| rules::UNREADABLE.finding(format!("{subject}, certificate {n}"), "not DER"));

    let mut trust: Vec<Finding> = unreadable.collect();
    trust.extend(untrusted(target, policy, &handshake.chain, own, now));
    trust.extend(chain.windows(2).filter_map(|pair| match pair {
        [this, next] if !this.is_issued_by(next) => {
            let evidence =
                format!("after \"{}\", issued by \"{}\", comes \"{}\"", this.subject, this.issuer, next.subject);
            Some(rules::CHAIN_ORDER.finding(&subject, evidence))
        }
        _ => None,
    }));
    let names = match handshake.chain.first().map(ParsedCertificate::try_from) {
        Some(Ok(parsed)) => match verify_server_name(&parsed, &target.name) {
            Ok(()) => Vec::new(),
            Err(error) => vec![rules::WRONG_NAME.finding(&subject, wrong_name(&error, own))],
        },
        Some(Err(_)) | None => vec![rules::UNREADABLE.finding(&subject, "its extensions cannot be read")],
    };
    let times = chain.iter().filter_map(|it| outdated(&subject, it, policy.horizon, now)).collect();
    let keys = chain.iter().flat_map(|it| weak(&subject, it)).collect();
    let staple = (own.must_staple && !handshake.is_stapled).then(|| rules::NO_STAPLE.finding(&subject, "no response"));
    let first_end = chain.iter().map(|it| it.not_after).min().unwrap_or(own.not_after);
    let days = (first_end - now).num_days();
    vec![
        Check::of(
            "tls.trust",
            "trust",
            format!("{}, issued by {}", plural(chain.len(), "certificate"), own.issuer),
            trust,
        ),
        Check::of("tls.name", "name", target.name.to_str(), names),
        Check::of("tls.times", "times", format!("{days} days left, until {}", first_end.format("%Y-%m-%d")), times),
        Check::of("tls.keys", "keys and signatures", own.key.to_string(), keys),
        Check::of(
            "tls.stapling",
            "stapling",
            if handshake.is_stapled { "an OCSP response is stapled" } else { "none, and none is demanded" },
            staple.into_iter().collect(),
        ),
    ]
}

/// Judges whether somebody trusted has issued the certificate, apart from its name and, as far as it can be, from its times.
fn untrusted(
    target: &TlsTarget,
    policy: &TlsPolicy,
    chain: &[CertificateDer<'static>],
    own: &CertificateFacts,
    now: DateTime<Utc>,
) -> Option<Finding> {
    let (first, intermediates) = chain.split_first()?;
    let parsed = ParsedCertificate::try_from(first).ok()?;
    // A time at which the certificate is valid: that it no longer is, is a finding of its own.
    let at = now.clamp(own.not_before, own.not_after.max(own.not_before));
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or_default()));
    let algorithms = provider().signature_verification_algorithms.all;
    let error =
        verify_server_cert_signed_by_trust_anchor(&parsed, &policy.roots, intermediates, at, algorithms).err()?;
    let evidence = match &error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if own.is_self_issued() => {
            return Some(
                rules::SELF_SIGNED.finding(target.to_string(), format!("subject and issuer are \"{}\"", own.subject)),
            );
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            let last = chain.last().and_then(CertificateFacts::read);
            let is_whole = last.as_ref().is_some_and(CertificateFacts::is_self_issued);
            let issuer = last.map_or_else(|| own.issuer.clone(), |last| last.issuer);
            let rule = if is_whole { rules::UNTRUSTED } else { rules::INCOMPLETE_CHAIN };
            let sent = plural(chain.len(), "certificate");
            return Some(
                rule.finding(target.to_string(), format!("it sends {sent}, and \"{issuer}\" above is not trusted")),
            );
        }
        // The times of each certificate are judged by themselves.
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => return None,
        error => error.to_string(),
    };
    Some(rules::UNTRUSTED.finding(target.to_string(), evidence))
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
    let (start, end) = (it.not_before.to_rfc3339(), it.not_after.to_rfc3339());
    if now >= it.not_after {
        Some(rules::EXPIRED.finding(of, format!("it ended at {end}")))
    } else if now < it.not_before {
        Some(rules::NOT_YET_VALID.finding(of, format!("it begins at {start}")))
    } else if it.not_after - now < horizon {
        let days = (it.not_after - now).num_days();
        let severity = if days < 7 { Severity::High } else { Severity::Medium };
        let evidence = format!("it ends at {end}, in {}", plural(usize::try_from(days).unwrap_or_default(), "day"));
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

fn shown(it: &CertificateFacts) -> serde_json::Value {
    json!({
        "subject": it.subject, "issuer": it.issuer, "not_before": it.not_before, "not_after": it.not_after,
        "key": it.key.to_string(), "sha256": it.sha256,
    })
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Judges the versions. Where nothing answered in time, the check was not made.
fn versions(
    target: &TlsTarget,
    tls_1_2: bool,
    tls_1_3: bool,
    old: &[(&str, Result<HelloAnswer, Unreachable>)],
) -> Check {
    let (id, title) = ("tls.versions", "versions");
    let mut findings = Vec::new();
    for (name, answer) in old {
        match answer {
            Ok(HelloAnswer::Taken { .. }) => {
                findings.push(rules::OLD_VERSION.finding(format!("{target}, {name}"), "the server takes it"));
            }
            Ok(HelloAnswer::Refused | HelloAnswer::Garbage) => {}
            Ok(HelloAnswer::Silent) => {
                return Check::not_checked(
                    id,
                    title,
                    format!("the offer of {name} got no answer in time: give a longer --timeout"),
                );
            }
            Err(error) => return Check::not_checked(id, title, format!("the offer of {name} was not made: {error}")),
        }
    }
    if !tls_1_2 && !tls_1_3 && findings.is_empty() {
        return Check::not_checked(id, title, "the server takes no version of TLS: is it a TLS server?");
    }
    if !tls_1_2 && !tls_1_3 {
        findings.push(rules::NO_CURRENT_VERSION.finding(target.to_string(), "the server refuses TLS 1.2 and 1.3"));
    } else if !tls_1_3 {
        findings.push(rules::NO_TLS_1_3.finding(target.to_string(), "the server refuses it"));
    }
    let taken: Vec<_> = [(tls_1_2, "TLS 1.2"), (tls_1_3, "TLS 1.3")].iter().filter(|it| it.0).map(|it| it.1).collect();
    Check::of(id, title, format!("{}, and none that is older", taken.join(" and ")), findings)
}

/// Makes offers to one server.
struct Prober<'a> {
    target: &'a TlsTarget,
    patience: Duration,
}

impl Prober<'_> {
    async fn handshake(&self, versions: &[&'static SupportedProtocolVersion]) -> Result<Handshake, NoHandshake> {
        let stream = self.target.connect(self.patience).await.map_err(NoHandshake::Unreachable)?;
        shake_hands(stream, &self.target.name, versions, self.patience).await
    }

    async fn offer(&self, version: u16, suites: &[u16]) -> Result<HelloAnswer, Unreachable> {
        let stream = self.target.connect(self.patience).await?;
        let answer = offer(stream, &self.target.name, version, suites, self.patience).await;
        Ok(match answer {
            // A server that answers with another version than the one that was offered has not taken it, nor has one that
            // chooses a suite that was not offered.
            HelloAnswer::Taken { version: taken, suite } if taken != version || !suites.contains(&suite) => {
                HelloAnswer::Refused
            }
            answer => answer,
        })
    }

    async fn old_versions(&self) -> Vec<(&'static str, Result<HelloAnswer, Unreachable>)> {
        let offers = [("SSL 3.0", 0x0300), ("TLS 1.0", 0x0301), ("TLS 1.1", 0x0302)];
        let mut answers = Vec::new();
        for (name, version) in offers {
            answers.push((name, self.offer(version, &OLD).await));
        }
        answers
    }

    /// Offers weak suites in TLS 1.2, again without those that were taken, until none is.
    async fn weak_suites(&self) -> Check {
        let (id, title) = ("tls.suites", "cipher suites");
        let mut left: Vec<u16> = SUITES.iter().map(|(suite, ..)| *suite).collect();
        let mut findings = Vec::new();
        while !left.is_empty() {
            match self.offer(0x0303, &left).await {
                Ok(HelloAnswer::Taken { suite, .. }) => {
                    left.retain(|it| *it != suite);
                    findings.extend(SUITES.iter().find(|(it, ..)| *it == suite).map(|(_, name, fault)| {
                        let rule = match fault {
                            SuiteFault::Broken => rules::BROKEN_SUITE,
                            SuiteFault::SmallBlocks => rules::SMALL_BLOCKS,
                            SuiteFault::NoForwardSecrecy => rules::NO_FORWARD_SECRECY,
                        };
                        rule.finding(self.target.to_string(), format!("it takes {name}"))
                    }));
                }
                Ok(HelloAnswer::Refused | HelloAnswer::Garbage) => break,
                Ok(HelloAnswer::Silent) => {
                    return Check::not_checked(id, title, "an offer got no answer in time: give a longer --timeout");
                }
                Err(error) => return Check::not_checked(id, title, format!("an offer was not made: {error}")),
            }
        }
        Check::of(id, title, "no weak one is taken", findings)
    }
}
