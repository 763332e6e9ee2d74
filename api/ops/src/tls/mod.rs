//! `check-ssl`: a TLS server, whoever runs it, as a client meets it.
//!
//! A handshake that trusts everybody shows the chain, which is judged afterwards: an expired certificate is a finding with
//! its date, and not a connection that failed. Sends no request.

pub(crate) mod certificate;
pub(crate) mod chain;
mod client_hello;
pub mod handshake;
mod policy;
mod prober;
mod rules;
mod suite_table;
mod suites;
pub mod target;

use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use self::handshake::NoHandshake;
pub use self::policy::{TlsPolicy, machine_roots, roots_from_pem};
use self::prober::Prober;
pub use self::rules::RULES;
use self::target::TlsTarget;
use crate::report::{Check, Report};

/// Checks certificates in PEM, the server's own first, as if a target had sent them.
#[must_use]
pub fn check_chain(target: &TlsTarget, policy: &TlsPolicy, pem: &[u8], now: DateTime<Utc>) -> Vec<Check> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(handshake::MOST_CERTIFICATES).collect();
    match chain {
        Ok(chain) => chain::judge(target, policy, &chain, None, now),
        Err(error) => vec![Check::not_checked("tls.certificate", "certificate", error.to_string())],
    }
}

/// Checks a server.
pub async fn check(target: &TlsTarget, policy: &TlsPolicy, now: DateTime<Utc>) -> Report {
    let mut report = Report::begin("check-ssl", target.to_string(), now);
    let prober = Prober::new(target, policy.patience);
    // One connection at a time: the smallest server takes no more.
    match prober.handshake(rustls::ALL_VERSIONS).await {
        Ok(handshake) => {
            let post_quantum = handshake.group.as_deref().is_some_and(|group| group.contains("MLKEM"));
            for (name, fact) in [
                ("version", json!(handshake.version)),
                ("cipher_suite", json!(handshake.suite)),
                ("key_exchange", json!(handshake.group)),
                ("post_quantum_key_exchange", json!(post_quantum)),
                ("ocsp_stapled", json!(handshake.is_stapled)),
                ("certificates", chain::facts(&handshake.chain)),
            ] {
                report.facts.insert(name.to_owned(), fact);
            }
            report.checks = chain::judge(target, policy, &handshake.chain, handshake.bad_proof.as_deref(), now);
            report.checks.push(chain::judge_stapling(target, &handshake.chain, handshake.is_stapled));
        }
        Err(error) => {
            report.checks.push(Check::not_checked("tls.certificate", "certificate", error.to_string()));
            // A server that is silent now would be silent at each of the other offers.
            if !matches!(error, NoHandshake::Refused(_)) {
                return report;
            }
        }
    }
    let (versions, newest) = prober.versions().await;
    report.checks.push(versions);
    let Some(newest) = newest else {
        report.checks.push(Check::passed("tls.suites", "cipher suites", "those of TLS 1.3 only"));
        return report;
    };
    let taken = prober.suites(newest).await;
    report.checks.push(taken.check(target));
    report.facts.insert("older_cipher_suites".to_owned(), json!(taken.names));
    if let Some(because) = taken.because {
        report.facts.insert("older_cipher_suites_unfinished".to_owned(), because.into());
    }
    report
}
