//! `check-headers`: the security headers of one answer, each judged by the specification's value and by the stricter one
//! that Fulexo sends. Both pass.

mod fetch;
mod rules;

use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::HeaderMap;
use serde_json::json;
use url::{Host, Url};

use self::fetch::{AnswerHead, fetch};
pub use self::rules::RULES;
use crate::finding::{Finding, Rule, Severity};
use crate::report::{Check, Report};

/// The least time that browsers are to remember HTTPS: a year.
const YEAR: u64 = 31_536_000;
/// Values of headers are shown as far as this.
const SHOWN: usize = 200;

/// Parses the URL that an operator gives.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("not a URL of http or https, such as https://example.com/".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL end up in logs: leave them out".to_owned());
    }
    Ok(url)
}

/// Fetches a URL, and judges the headers of the answer.
pub async fn check(url: &Url, patience: Duration, now: DateTime<Utc>) -> Report {
    let mut report = Report::begin("check-headers", url.as_str(), now);
    match fetch(url, patience).await {
        Ok(answer) => judge(url, &answer, &mut report),
        Err(reason) => report.checks.push(Check::not_checked("headers.answer", "answer", reason)),
    }
    report
}

fn judge(url: &Url, answer: &AnswerHead, report: &mut Report) {
    let is_secure = url.scheme() == "https";
    let judge = Judge { url, headers: &answer.headers, is_secure };
    report.facts.insert("status".to_owned(), json!(answer.status.as_u16()));
    if answer.status.is_redirection() {
        report.facts.insert("redirects_to".to_owned(), json!(judge.value("location")));
    }
    report.checks.push(judge.transport(answer));
    report.checks.extend([
        judge.hsts(),
        judge.frames(),
        judge.sniffing(),
        judge.xss_filter(),
        judge.content_security_policy(),
        judge.referrer(),
        judge.permissions(),
        judge.isolation(),
        judge.caching(),
        judge.disclosure(),
        judge.cookies(),
        judge.duplicates(),
    ]);
    let points = points(report);
    report.facts.insert("points".to_owned(), json!(points));
    report.facts.insert("grade".to_owned(), json!(grade(points)));
}

/// Counts from 100 down: 30 for each high finding, 15 for a medium one, 5 for a low one.
fn points(report: &Report) -> u32 {
    let weight = |finding: &Finding| match finding.severity {
        Severity::Critical => 50,
        Severity::High => 30,
        Severity::Medium => 15,
        Severity::Low => 5,
    };
    report.findings().map(weight).fold(100, u32::saturating_sub)
}

const fn grade(points: u32) -> &'static str {
    match points {
        90.. => "A",
        75.. => "B",
        60.. => "C",
        40.. => "D",
        _ => "F",
    }
}

struct Judge<'a> {
    url: &'a Url,
    headers: &'a HeaderMap,
    is_secure: bool,
}

impl Judge<'_> {
    /// Returns the value of a header, the first one if there are several.
    fn value(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
    }

    /// Judges one header: `Ok` is what passes, `Err` the evidence against it.
    fn header(
        &self,
        rule: &Rule,
        name: &str,
        title: &str,
        judged: impl FnOnce(&str) -> Result<&'static str, String>,
    ) -> Check {
        let evidence = match self.value(name) {
            None => "it is missing".to_owned(),
            Some(value) => match judged(&value) {
                Ok(detail) => return Check::passed(rule.id, title, detail),
                Err(evidence) => format!("{evidence}: {}", cut(&value)),
            },
        };
        Check::of(rule.id, title, "", vec![rule.finding(title, evidence)])
    }

    fn transport(&self, answer: &AnswerHead) -> Check {
        let (id, title) = (rules::PLAIN.id, "HTTPS");
        let is_loopback = match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let leads_to_https = self.value("location").is_some_and(|it| it.to_ascii_lowercase().starts_with("https://"));
        if self.is_secure {
            Check::passed(id, title, "the answer came over TLS; check-ssl judges the certificate")
        } else if answer.status.is_redirection() && leads_to_https {
            Check::passed(id, title, "plain HTTP leads to HTTPS")
        } else if is_loopback {
            Check::passed(id, title, "plain HTTP on this machine only")
        } else {
            Check::of(
                id,
                title,
                "",
                vec![rules::PLAIN.finding(self.url.as_str(), format!("status {}", answer.status.as_u16()))],
            )
        }
    }

    fn hsts(&self) -> Check {
        let title = "Strict-Transport-Security";
        if !self.is_secure && self.value(title).is_none() {
            return Check::passed(rules::HSTS.id, title, "browsers ignore it over plain HTTP");
        }
        self.header(&rules::HSTS, title, title, |value| {
            let directives: Vec<_> = value.split(';').map(|it| it.trim().to_ascii_lowercase()).collect();
            let age = directives.iter().find_map(|it| it.strip_prefix("max-age="));
            let age = age.and_then(|age| age.trim_matches('"').parse::<u64>().ok());
            match age {
                None => Err("it has no max-age".to_owned()),
                Some(age) if age < YEAR => Err("max-age is less than a year".to_owned()),
                Some(_) if !directives.iter().any(|it| it == "includesubdomains") => {
                    Err("subdomains are not included".to_owned())
                }
                Some(_) => Ok("a year or more, with subdomains"),
            }
        })
    }

    fn frames(&self) -> Check {
        let title = "X-Frame-Options";
        let by_policy = self.directives().into_iter().find(|(name, _)| name == "frame-ancestors");
        let is_closed = by_policy.is_some_and(|(_, sources)| sources == ["'none'"] || sources == ["'self'"]);
        if is_closed && self.value(title).is_none() {
            return Check::passed(rules::FRAMES.id, title, "frame-ancestors of the policy says it");
        }
        self.header(&rules::FRAMES, title, title, |value| match value.to_ascii_uppercase().as_str() {
            "DENY" => Ok("stricter than the specification: no frames at all"),
            "SAMEORIGIN" => Ok("as the specification says"),
            _ => Err("neither DENY nor SAMEORIGIN, so that browsers ignore it".to_owned()),
        })
    }

    fn sniffing(&self) -> Check {
        let title = "X-Content-Type-Options";
        self.header(&rules::SNIFFING, title, title, |value| {
            if value.eq_ignore_ascii_case("nosniff") {
                Ok("nosniff")
            } else {
                Err("only nosniff has a meaning".to_owned())
            }
        })
    }

    fn xss_filter(&self) -> Check {
        let (rule, title) = (&rules::XSS_FILTER, "X-XSS-Protection");
        match self.value(title) {
            None => Check::passed(rule.id, title, "not sent: current browsers have no such filter"),
            Some(_) => self.header(rule, title, title, |value| {
                let compact = value.replace(' ', "").to_ascii_lowercase();
                match compact.as_str() {
                    "0" => Ok("switched off, as OWASP advises"),
                    "1;mode=block" => Ok("as the specification says"),
                    _ => Err("neither 0 nor 1; mode=block".to_owned()),
                }
            }),
        }
    }

    /// Returns the directives of the policy in lower case, each with its sources.
    fn directives(&self) -> Vec<(String, Vec<String>)> {
        let policy = self.value("content-security-policy").unwrap_or_default().to_ascii_lowercase();
        let directives = policy.split(';').map(|directive| {
            let mut words = directive.split_whitespace().map(str::to_owned);
            (words.next().unwrap_or_default(), words.collect())
        });
        directives.filter(|(name, _): &(String, Vec<String>)| !name.is_empty()).take(100).collect()
    }

    fn content_security_policy(&self) -> Check {
        let title = "Content-Security-Policy";
        let Some(policy) = self.value(title) else {
            return Check::of(rules::NO_CSP.id, title, "", vec![rules::NO_CSP.finding(title, "it is missing")]);
        };
        let directives = self.directives();
        let of = |name: &str| directives.iter().find(|(it, _)| it == name).map(|(_, sources)| sources);
        let Some(scripts) = of("script-src").or_else(|| of("default-src")) else {
            let evidence = format!("neither default-src nor script-src: {}", cut(&policy));
            return Check::of(rules::NO_CSP.id, title, "", vec![rules::WEAK_CSP.finding(title, evidence)]);
        };
        let is_wide = |source: &String| {
            matches!(
                source.as_str(),
                "*" | "data:" | "http:" | "https:" | "blob:" | "'unsafe-eval'" | "'unsafe-hashes'"
            )
        };
        let wide: Vec<_> = scripts.iter().filter(|source| is_wide(source)).map(String::as_str).collect();
        let is_inline = scripts.iter().any(|source| source == "'unsafe-inline'")
            && !scripts.iter().any(|source| source.starts_with("'nonce-") || source.starts_with("'sha"));
        let detail = if is_inline {
            "as the specification says; without 'unsafe-inline' injected scripts would not run either"
        } else {
            "stricter than the specification: no inline scripts"
        };
        let found =
            (!wide.is_empty()).then(|| rules::WEAK_CSP.finding(title, format!("scripts from {}", wide.join(" "))));
        Check::of(rules::NO_CSP.id, title, detail, found.into_iter().collect())
    }

    fn referrer(&self) -> Check {
        let title = "Referrer-Policy";
        self.header(&rules::REFERRER, title, title, |value| {
            // Browsers take the last one that they know.
            let last = value.rsplit(',').next().unwrap_or_default().trim().to_ascii_lowercase();
            match last.as_str() {
                "no-referrer" => Ok("no-referrer"),
                "same-origin" | "strict-origin" | "strict-origin-when-cross-origin" => Ok("no path leaves the site"),
                _ => Err("paths of pages leave the site".to_owned()),
            }
        })
    }

    fn permissions(&self) -> Check {
        let title = "Permissions-Policy";
        self.header(&rules::PERMISSIONS, title, title, |value| {
            if value.contains("=*") { Err("a feature is open to every page".to_owned()) } else { Ok("set") }
        })
    }

    fn isolation(&self) -> Check {
        let wanted = [
            ("Cross-Origin-Opener-Policy", &["same-origin", "same-origin-allow-popups"][..]),
            ("Cross-Origin-Resource-Policy", &["same-origin", "same-site"][..]),
            ("Cross-Origin-Embedder-Policy", &["require-corp", "credentialless"][..]),
        ];
        let found = wanted.into_iter().filter_map(|(name, good)| match self.value(name) {
            None => Some(rules::ISOLATION.finding(name, "it is missing")),
            Some(value) if good.contains(&value.to_ascii_lowercase().as_str()) => None,
            Some(value) => Some(rules::ISOLATION.finding(name, format!("it isolates nothing: {}", cut(&value)))),
        });
        Check::of(rules::ISOLATION.id, "Cross-Origin-*", "isolated from other origins", found.collect())
    }

    fn caching(&self) -> Check {
        let (rule, title) = (&rules::CACHED, "Cache-Control");
        let is_data = self.value("content-type").is_some_and(|kind| kind.contains("json"));
        let control = self.value(title).unwrap_or_default().to_ascii_lowercase();
        let is_decided = ["no-store", "public", "immutable", "no-cache"].iter().any(|it| control.contains(it));
        let found = (is_data && !is_decided).then(|| rule.finding(title, format!("JSON with \"{}\"", cut(&control))));
        Check::of(
            rule.id,
            title,
            if is_data { "decided" } else { "no data in this answer" },
            found.into_iter().collect(),
        )
    }

    fn disclosure(&self) -> Check {
        let names = ["Server", "X-Powered-By", "X-AspNet-Version", "X-Generator"];
        let found = names.into_iter().filter_map(|name| {
            let value = self.value(name)?;
            let says = name != "Server" || value.bytes().any(|byte| byte.is_ascii_digit());
            says.then(|| rules::DISCLOSURE.finding(name, cut(&value)))
        });
        Check::of(rules::DISCLOSURE.id, "Server", "no version is named", found.collect())
    }

    fn cookies(&self) -> Check {
        let cookies: Vec<_> = self.headers.get_all("set-cookie").iter().take(50).collect();
        let found = cookies.iter().filter_map(|cookie| {
            let text = String::from_utf8_lossy(cookie.as_bytes()).into_owned();
            let mut parts = text.split(';').map(str::trim);
            // The name alone: the value may be a credential.
            let name = parts.next()?.split('=').next()?.to_owned();
            let has: Vec<_> = parts.map(str::to_ascii_lowercase).collect();
            let mut lacks = Vec::new();
            if self.is_secure && !has.iter().any(|it| it == "secure") {
                lacks.push("Secure");
            }
            if !has.iter().any(|it| it == "httponly") {
                lacks.push("HttpOnly");
            }
            if !has.iter().any(|it| matches!(it.as_str(), "samesite=lax" | "samesite=strict")) {
                lacks.push("SameSite");
            }
            (!lacks.is_empty()).then(|| {
                rules::COOKIE.finding(format!("cookie {}", cut(&name)), format!("without {}", lacks.join(", ")))
            })
        });
        let found = found.collect();
        Check::of(rules::COOKIE.id, "cookies", if cookies.is_empty() { "none are set" } else { "protected" }, found)
    }

    fn duplicates(&self) -> Check {
        let single = [
            "Strict-Transport-Security",
            "X-Frame-Options",
            "X-Content-Type-Options",
            "X-XSS-Protection",
            "Access-Control-Allow-Origin",
            "Cross-Origin-Opener-Policy",
            "Cross-Origin-Resource-Policy",
            "Cross-Origin-Embedder-Policy",
        ];
        let found = single.into_iter().filter_map(|name| {
            let count = self.headers.get_all(name).iter().count();
            (count > 1).then(|| rules::DUPLICATE.finding(name, format!("it is sent {count} times")))
        });
        Check::of(rules::DUPLICATE.id, "duplicates", "each header is sent once", found.collect())
    }
}

fn cut(value: &str) -> String {
    if value.chars().count() <= SHOWN { value.to_owned() } else { value.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scheme: &str, headers: &[(&'static str, &'static str)]) -> Report {
        let url = parse_url(&format!("{scheme}://example.com/")).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut report = Report::begin("check-headers", url.as_str(), DateTime::UNIX_EPOCH);
        judge(&url, &AnswerHead { status: hyper::StatusCode::OK, headers: map }, &mut report);
        report
    }

    fn found(report: &Report) -> Vec<String> {
        report.findings().map(|finding| finding.rule.to_string()).collect()
    }

    const OURS: [(&str, &str); 9] = [
        ("strict-transport-security", "max-age=31536000; includeSubDomains"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("permissions-policy", "camera=()"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ];

    #[test]
    fn each_header_that_is_missing_is_its_own_finding() {
        assert_eq!(found(&report("https", &OURS)), [""; 0]);
        for (missing, _) in OURS {
            let rest: Vec<_> = OURS.into_iter().filter(|(name, _)| *name != missing).collect();
            let found = found(&report("https", &rest));
            // A closed frame-ancestors stands in for the older header.
            assert_eq!(found.len(), usize::from(missing != "x-frame-options"), "{missing}: {found:?}");
        }
    }

    #[test]
    fn the_values_of_the_specification_pass() {
        let specification = [
            ("x-frame-options", "SAMEORIGIN"),
            ("x-content-type-options", "nosniff"),
            ("x-xss-protection", "1; mode=block"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            (
                "content-security-policy",
                "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';",
            ),
        ];
        let report = report("https", &specification);
        // Of what the specification does not name, five are missing.
        assert_eq!(found(&report).len(), 5, "{:?}", found(&report));
        assert!(report.findings().all(|finding| finding.severity == Severity::Low));
    }

    #[test]
    fn values_that_browsers_ignore_or_that_protect_nothing_are_findings() {
        for (name, value, rule) in [
            ("strict-transport-security", "max-age=3600; includeSubDomains", "headers.hsts"),
            ("strict-transport-security", "max-age=31536000", "headers.hsts"),
            ("strict-transport-security", "includeSubDomains", "headers.hsts"),
            ("x-frame-options", "ALLOW-FROM https://example.org", "headers.frames"),
            ("x-content-type-options", "sniff", "headers.sniffing"),
            ("x-xss-protection", "1", "headers.xss_filter"),
            ("content-security-policy", "default-src *", "headers.weak_csp"),
            ("content-security-policy", "script-src 'self' data:; frame-ancestors 'none'", "headers.weak_csp"),
            ("content-security-policy", "img-src 'self'", "headers.weak_csp"),
            ("referrer-policy", "unsafe-url", "headers.referrer"),
            ("permissions-policy", "camera=*", "headers.permissions"),
            ("cross-origin-opener-policy", "unsafe-none", "headers.isolation"),
            ("server", "nginx/1.22.1", "headers.disclosure"),
            ("set-cookie", "session=secret; HttpOnly; SameSite=Lax", "headers.cookie"),
            ("content-type", "application/json", "headers.cached"),
        ] {
            let mut headers: Vec<_> = OURS.into_iter().filter(|(it, _)| *it != name).collect();
            headers.push((name, value));
            let report = report("https", &headers);
            assert_eq!(found(&report), [rule], "{name}: {value}");
            assert!(!report.to_json().to_string().contains("secret"), "a cookie's value is not shown");
        }
    }

    #[test]
    fn a_header_that_is_sent_twice_is_a_finding() {
        let twice = [&OURS[..], &[("x-frame-options", "SAMEORIGIN")]].concat();
        assert_eq!(found(&report("https", &twice)), ["headers.duplicate"]);
    }

    #[test]
    fn plain_http_that_leads_nowhere_is_a_finding_but_on_this_machine() {
        assert_eq!(found(&report("http", &OURS)), ["headers.plain_http"]);
        assert!(parse_url("ftp://example.com").is_err());
        assert!(parse_url("https://user:password@example.com").is_err());
    }

    #[test]
    fn the_grade_falls_with_the_findings() {
        assert_eq!(report("https", &OURS).facts["grade"], "A");
        assert_eq!(report("https", &[]).facts["grade"], "F");
    }
}
