//! Offers to one server, one connection after another: the versions and the cipher suites that it takes.
//!
//! rustls offers neither old versions nor weak suites, so that these offers are made by hand; of TLS 1.3 it offers everything.

use std::time::{Duration, Instant};

use rustls::SupportedProtocolVersion;
use rustls::version::TLS13;

use super::client_hello::{HelloAnswer, offer};
use super::handshake::{Handshake, NoHandshake, shake_hands};
use super::rules;
use super::suites::{self, SuiteFault};
use super::target::{TlsTarget, Unreachable};
use crate::report::Check;

static ONLY_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
/// Versions that are no longer to be used (RFC 7568, RFC 8996), as on the wire.
const OLD: [(&str, u16); 3] = [("SSL 3.0", 0x0300), ("TLS 1.0", 0x0301), ("TLS 1.1", 0x0302)];
const TLS_1_2: u16 = 0x0303;
/// All offers together have so many times the patience for one, so that a server that is slow each time ends the check.
const TOTAL: u32 = 6;

/// Makes the offers.
pub struct Prober<'a> {
    target: &'a TlsTarget,
    patience: Duration,
    deadline: Instant,
}

impl<'a> Prober<'a> {
    /// Begins now.
    pub fn new(target: &'a TlsTarget, patience: Duration) -> Self {
        Self { target, patience, deadline: Instant::now() + patience * TOTAL }
    }

    fn patience(&self) -> Duration {
        self.patience.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// Shakes hands in one of these versions.
    pub async fn handshake(&self, versions: &[&'static SupportedProtocolVersion]) -> Result<Handshake, NoHandshake> {
        let stream = self.target.connect(self.patience()).await?;
        shake_hands(stream, &self.target.name, versions, self.patience()).await
    }

    async fn offer(&self, version: u16, suites: &[u16]) -> Result<HelloAnswer, Unreachable> {
        let stream = self.target.connect(self.patience()).await?;
        let answer = offer(stream, &self.target.name, version, suites, self.patience()).await;
        Ok(match answer {
            // A server that answers with another version than the one that was offered has not taken it, nor has one that
            // chooses a suite that was not offered.
            HelloAnswer::Taken { version: taken, suite } if taken != version || !suites.contains(&suite) => {
                HelloAnswer::Refused
            }
            answer => answer,
        })
    }

    /// Judges the versions. Returns the newest up to TLS 1.2 that the server takes, too.
    pub async fn versions(&self) -> (Check, Option<u16>) {
        let (id, title) = ("tls.versions", "versions");
        let tls_1_3 = self.handshake(&ONLY_1_3).await.is_ok();
        let (mut findings, mut unknown, mut newest) = (Vec::new(), None, None);
        for (name, version) in OLD.into_iter().chain([("TLS 1.2", TLS_1_2)]) {
            match self.offer(version, &suites::all()).await {
                Ok(HelloAnswer::Taken { suite, .. }) => {
                    newest = Some(version);
                    if version != TLS_1_2 {
                        let suite = suites::name(suite).unwrap_or("an unknown suite");
                        let evidence = format!("the server takes it, with {suite}");
                        findings.push(rules::OLD_VERSION.finding(format!("{}, {name}", self.target), evidence));
                    }
                }
                Ok(HelloAnswer::Refused | HelloAnswer::Garbage) => {}
                Ok(HelloAnswer::Silent) => {
                    unknown
                        .get_or_insert(format!("the offer of {name} got no answer in time: give a longer --timeout"));
                }
                Err(error) => {
                    unknown.get_or_insert(format!("the offer of {name} was not made: {error}"));
                }
            }
        }
        let subject = self.target.to_string();
        let tls_1_2 = newest == Some(TLS_1_2);
        let check = match (tls_1_2, tls_1_3, unknown) {
            (_, _, Some(reason)) if findings.is_empty() => Check::not_checked(id, title, reason),
            (false, false, _) if findings.is_empty() => {
                Check::not_checked(id, title, "the server takes no version of TLS: is it a TLS server?")
            }
            (false, false, _) => {
                findings.push(rules::NO_CURRENT_VERSION.finding(subject, "the server refuses both"));
                Check::of(id, title, "", findings)
            }
            (true, false, _) => {
                findings.push(rules::NO_TLS_1_3.finding(subject, "the server refuses it"));
                Check::of(id, title, "", findings)
            }
            (_, true, _) => {
                let current = if tls_1_2 { "TLS 1.2 and TLS 1.3" } else { "TLS 1.3" };
                Check::of(id, title, format!("{current}, and none that is older"), findings)
            }
        };
        (check, newest)
    }

    /// Offers all suites in a version, again without those that were taken, until none is.
    pub async fn suites(&self, version: u16) -> TakenSuites {
        let mut left = suites::all();
        let (mut taken, mut because) = (Vec::new(), None);
        while !left.is_empty() {
            match self.offer(version, &left).await {
                Ok(HelloAnswer::Taken { suite, .. }) => {
                    left.retain(|it| *it != suite);
                    taken.extend(suites::name(suite));
                }
                Ok(HelloAnswer::Refused | HelloAnswer::Garbage) => break,
                Ok(HelloAnswer::Silent) => {
                    because = Some("an offer got no answer in time: give a longer --timeout".to_owned());
                    break;
                }
                Err(error) => {
                    because = Some(format!("an offer was not made: {error}"));
                    break;
                }
            }
        }
        TakenSuites { names: taken, because }
    }
}

/// The suites that a server takes.
pub struct TakenSuites {
    /// Their names, the worst first unless the server prefers others.
    pub names: Vec<&'static str>,
    /// The reason for which there may be more.
    pub because: Option<String>,
}

impl TakenSuites {
    /// Judges them: one finding per fault. If nothing was found among some of them, they were not checked.
    pub fn check(&self, target: &TlsTarget) -> Check {
        let faults = [
            (SuiteFault::Broken, rules::BROKEN_SUITE),
            (SuiteFault::SmallBlocks, rules::SMALL_BLOCKS),
            (SuiteFault::NoForwardSecrecy, rules::NO_FORWARD_SECRECY),
            (SuiteFault::WeakIntegrity, rules::WEAK_INTEGRITY),
        ];
        let findings = faults.into_iter().filter_map(|(fault, rule)| {
            let of_it: Vec<_> = self.names.iter().copied().filter(|name| suites::fault(name) == Some(fault)).collect();
            (!of_it.is_empty()).then(|| rule.finding(target.to_string(), of_it.join(", ")))
        });
        let findings: Vec<_> = findings.collect();
        let (id, title) = ("tls.suites", "cipher suites");
        match &self.because {
            Some(reason) if findings.is_empty() => Check::not_checked(id, title, reason.as_str()),
            _ => Check::of(id, title, format!("{}, none of them weak", self.names.len()), findings),
        }
    }
}
