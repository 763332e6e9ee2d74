//! Probes of the surface: headers, files that nobody should serve, methods, TLS, bodies.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::{Tester, cut};
use crate::finding::{Finding, Rule, Severity};

const MISSING_HEADER: Rule = Rule {
    id: "headers.missing",
    title: "a security header is missing or weak",
    severity: Severity::Medium,
    remedy: "Send the header with every answer. Fulexo does: look for a proxy that removes it.",
    reference: "OWASP Secure Headers; OWASP ASVS 5.0, 3.4",
};

const VERBOSE: Rule = Rule {
    id: "headers.verbose",
    title: "an answer names the software behind it",
    severity: Severity::Low,
    remedy: "Remove the header, in nginx with server_tokens off.",
    reference: "CWE-200",
};

const EXPOSED: Rule = Rule {
    id: "exposure.file",
    title: "a file is served that is not for the public",
    severity: Severity::High,
    remedy: "Serve nothing but the service at this host. Replace every secret that the file holds.",
    reference: "CWE-538",
};

const METRICS: Rule = Rule {
    id: "exposure.metrics",
    title: "metrics are open to everybody",
    severity: Severity::Low,
    remedy: "Let only the monitoring reach /metrics: deny it at the proxy.",
    reference: "docs/monitoring.md",
};

const TRACE: Rule = Rule {
    id: "methods.trace",
    title: "TRACE returns the request",
    severity: Severity::Medium,
    remedy: "Refuse TRACE with 405.",
    reference: "RFC 9110, section 9.3.8; CWE-693",
};

const UNKNOWN_METHOD: Rule = Rule {
    id: "methods.unknown",
    title: "a method that does not exist is granted",
    severity: Severity::Medium,
    remedy: "Refuse unknown methods with 501, and others than the documented ones with 405.",
    reference: "RFC 9110, section 9.1",
};

const NO_TLS: Rule = Rule {
    id: "tls.none",
    title: "the instance is reached without TLS",
    severity: Severity::High,
    remedy: "Configure TLS_CERT and TLS_KEY, ACME_DOMAINS, or a proxy that speaks TLS.",
    reference: "docs/production.md; CWE-319",
};

const PLAIN: Rule = Rule {
    id: "tls.plain_http",
    title: "the port of HTTPS answers plain HTTP",
    severity: Severity::High,
    remedy: "Refuse plain HTTP on this port.",
    reference: "RFC 9110, section 4.2.2; CWE-319",
};

const UNBOUNDED: Rule = Rule {
    id: "bodies.unbounded",
    title: "a body of a mebibyte is read",
    severity: Severity::Medium,
    remedy: "Refuse bodies above 64 KiB with 413.",
    reference: "CWE-770",
};

const DEEP: Rule = Rule {
    id: "bodies.deep",
    title: "deeply nested JSON makes the service fail",
    severity: Severity::High,
    remedy: "Bound the depth of JSON before it is parsed.",
    reference: "CWE-674",
};

const COMPRESSED: Rule = Rule {
    id: "bodies.compressed",
    title: "compressed bodies are unpacked",
    severity: Severity::Medium,
    remedy: "Refuse Content-Encoding with 415: a small body unpacks to a large one.",
    reference: "CWE-409",
};

/// Tests the headers of answers of each kind.
pub async fn headers(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let login = TestRequest::post("/v1/auth/login", &json!({}));
    for request in [TestRequest::get("/health/live"), TestRequest::get("/v1/me"), login, TestRequest::get("/docs")] {
        let answer = tester.send(&request).await?;
        let is = |name: &str, judge: fn(&str) -> bool| answer.header(name).is_some_and(judge);
        let policy = |value: &str| value.contains("default-src") && !value.contains("unsafe-inline");
        let judged = [
            ("content-security-policy", is("content-security-policy", policy)),
            ("x-content-type-options", is("x-content-type-options", |value| value.eq_ignore_ascii_case("nosniff"))),
            (
                "x-frame-options",
                is("x-frame-options", |value| matches!(value, "DENY" | "SAMEORIGIN"))
                    || is("content-security-policy", |value| value.contains("frame-ancestors")),
            ),
            ("referrer-policy", is("referrer-policy", |value| value != "unsafe-url")),
            (
                "strict-transport-security",
                !tester.target.is_tls || is("strict-transport-security", |value| value.contains("max-age=")),
            ),
        ];
        let name = format!("{} {}", request.method, request.path());
        for (header, _) in judged.iter().filter(|(_, is_fine)| !is_fine) {
            if !found.iter().any(|it| it.subject == *header) {
                let value = answer.header(header).map_or("missing".to_owned(), |value| cut(value, 80));
                found.push(MISSING_HEADER.finding(*header, format!("on {name}: {value}")));
            }
        }
        for header in ["server", "x-powered-by", "x-aspnet-version", "x-runtime"] {
            if let Some(value) = answer.header(header)
                && !found.iter().any(|it| it.subject == header)
            {
                found.push(VERBOSE.finding(header, format!("on {name}: {}", cut(value, 80))));
            }
        }
    }
    Ok("4 answers, 5 headers each".to_owned())
}

/// Asks for files and pages that nobody should serve.
pub async fn exposure(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    const PATHS: [(&str, &[&str]); 14] = [
        ("/.git/config", &["[core]"]),
        ("/.git/HEAD", &["ref: "]),
        ("/.env", &["="]),
        ("/.svn/entries", &["dir"]),
        ("/.htpasswd", &[":"]),
        ("/config.json", &["{"]),
        ("/backup.sql", &["create ", "CREATE ", "PGDMP"]),
        ("/dump.sql", &["create ", "CREATE ", "PGDMP"]),
        ("/id_rsa", &["PRIVATE KEY"]),
        ("/server-status", &["Apache"]),
        ("/debug/pprof/", &["profile"]),
        ("/actuator/env", &["{"]),
        ("/static/../../../../etc/passwd", &["root:"]),
        ("/docs/%2e%2e/%2e%2e/%2e%2e/etc/passwd", &["root:"]),
    ];
    for (path, signs) in PATHS {
        let answer = tester.send(&TestRequest::get(path)).await?;
        if answer.is_success() && signs.iter().any(|sign| answer.text().contains(sign)) {
            found.push(
                EXPOSED.finding(path, format!("the answer is {}, with {} bytes", answer.status, answer.body.len())),
            );
        }
    }
    for path in ["/docs/", "/account/", "/problems/"] {
        let answer = tester.send(&TestRequest::get(path)).await?;
        if answer.is_success() && answer.text().contains("Index of /") {
            found.push(EXPOSED.finding(path, "the answer lists a directory"));
        }
    }
    let metrics = tester.send(&TestRequest::get("/metrics")).await?.is_success();
    if metrics && !tester.target.is_loopback() {
        found.push(METRICS.finding("/metrics", "the answer is 200 without credentials"));
    }
    Ok(format!("{} paths", PATHS.len() + 4))
}

/// Tests methods that no path has.
pub async fn methods(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let mark = format!("trace-{}", tester.run);
    for path in ["/", "/health/live"] {
        let answer = tester.send(&TestRequest::new("TRACE", path).header("x-mark", &mark)).await?;
        if answer.is_success() && answer.text().contains(&mark) {
            found.push(TRACE.finding(path, "the answer repeats a header of the request"));
        }
        for method in ["PENETRATE", "PROPFIND", "DEBUG", "get"] {
            let answer = tester.send(&TestRequest::new(method, path)).await?;
            if answer.is_success() {
                found.push(
                    UNKNOWN_METHOD.finding(format!("{method} {path}"), format!("the answer is {}", answer.status)),
                );
            }
        }
    }
    Ok("5 methods at 2 paths".to_owned())
}

/// Tests that nothing goes in clear.
pub async fn tls(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    if !tester.target.is_tls {
        if tester.target.is_loopback() {
            return Ok("plain HTTP, on loopback".to_owned());
        }
        found.push(NO_TLS.finding(tester.target.authority.clone(), "the URL is http://"));
        return Ok(String::new());
    }
    let bytes = TestRequest::get("/v1/me").bytes(&tester.target.authority, &tester.agent());
    let answered = tester.exchange_plainly("/v1/me without TLS", &bytes).await?;
    let statuses = super::wire::statuses(&answered);
    if statuses.iter().any(|status| matches!(status, 200..=299 | 401)) {
        found.push(PLAIN.finding(tester.target.authority.clone(), format!("the service answers {statuses:?}")));
    }
    Ok("HTTPS, and nothing in clear on its port".to_owned())
}

/// Sends bodies that are too long, too deep, or compressed.
pub async fn bodies(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    const MEBIBYTE: usize = 1024 * 1024;
    const LOGIN: &str = "/v1/auth/login";
    let filler = "a".repeat(MEBIBYTE);
    let long = json!({"email": "nobody@penetration-test.invalid", "password": filler}).to_string();
    let request = TestRequest::new("POST", LOGIN).json(long);
    let answer = tester.send(&request).await?;
    if !matches!(answer.status, 413 | 431 | 503) {
        found.push(UNBOUNDED.finding(LOGIN, format!("the answer is {}", answer.status)));
    }
    for deep in ["[".repeat(10_000), r#"{"a":"#.repeat(10_000), format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000))]
    {
        let request = TestRequest::new("POST", LOGIN).json(deep).judged();
        match tester.send(&request).await {
            Ok(answer) if answer.status < 500 => {}
            Ok(answer) => found.push(DEEP.finding(LOGIN, format!("the answer is {}", answer.status))),
            Err(Halt(reason)) => {
                // The bounds are no fault of the instance: if they are reached, this fails, too.
                tester.send(&TestRequest::get("/health/live")).await?;
                found.push(DEEP.finding(LOGIN, reason));
            }
        }
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let short = json!({"email": "nobody@penetration-test.invalid", "password": "a wrong password"}).to_string();
    let packed = encoder.write_all(short.as_bytes()).and_then(|()| encoder.finish());
    let packed = packed.map_err(|error| Halt(error.to_string()))?;
    for coding in ["gzip", "x-gzip", "identity, gzip"] {
        let request = TestRequest::new("POST", LOGIN).json(packed.clone()).header("content-encoding", coding);
        let answer = tester.send(&request).await?;
        if !matches!(answer.status, 400 | 411 | 413 | 415 | 501) && !found.iter().any(|it| it.rule == COMPRESSED.id) {
            found.push(COMPRESSED.finding(LOGIN, format!("{coding}: the answer is {}", answer.status)));
        }
    }
    Ok("a mebibyte, a depth of 10,000, gzip".to_owned())
}
