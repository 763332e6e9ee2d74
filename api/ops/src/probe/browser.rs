//! Probes of what browsers rely on: flags of cookies, tokens against forgery, origins, sessions that nobody else chose.

use serde_json::json;

use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::{Tester, cut};
use super::wire::TestAnswer;
use crate::finding::{Finding, Rule, Severity};

/// An origin that no instance lists.
const FOREIGN: &str = "https://penetration-test.invalid";

const FLAGS: Rule = Rule {
    id: "cookies.flags",
    title: "a cookie of the session lacks a flag",
    severity: Severity::High,
    remedy: "Set Secure, HttpOnly and SameSite. Fulexo does: look for a proxy that rewrites Set-Cookie.",
    reference: "RFC 6265bis, section 4.1.2; OWASP ASVS 5.0, 3.3",
};
const TOKEN_MISSING: Rule = Rule {
    id: "csrf.token",
    title: "a change by cookie needs no token against forgery",
    severity: Severity::High,
    remedy: "Require X-CSRF-Token, bound to the session, for every change by cookie.",
    reference: "OWASP ASVS 5.0, 3.5.1; CWE-352",
};
const ORIGIN: Rule = Rule {
    id: "csrf.origin",
    title: "a page of a foreign origin may send changes",
    severity: Severity::High,
    remedy: "Refuse changes by cookie whose Origin or Sec-Fetch-Site names another page, and let the proxy pass both on.",
    reference: "OWASP ASVS 5.0, 3.5.3; CWE-346",
};
const FIXATION: Rule = Rule {
    id: "session.fixation",
    title: "a login continues a session that somebody else has begun",
    severity: Severity::High,
    remedy: "Begin a new session with each login.",
    reference: "OWASP ASVS 5.0, 7.2.4; CWE-384",
};
const REFLECTED: Rule = Rule {
    id: "cors.foreign_origin",
    title: "pages of any origin may read answers",
    severity: Severity::High,
    remedy: "Name the origins that may read in FULEXO_CORS_ORIGINS, and let the proxy add no header of CORS.",
    reference: "OWASP ASVS 5.0, 3.4.2; CWE-942",
};
const CACHED: Rule = Rule {
    id: "cache.authenticated",
    title: "caches may keep what is for one account alone",
    severity: Severity::Medium,
    remedy: "Send Cache-Control: no-store with every answer to a caller. Fulexo does: look at the proxy.",
    reference: "RFC 9111, section 5.2.2; CWE-525",
};

/// A session by cookie.
struct CookieSession {
    /// The cookies, as a browser sends them.
    cookies: String,
    csrf_token: String,
    session: String,
}

impl CookieSession {
    /// Reads the answer to a login by cookie.
    fn of(answer: &TestAnswer) -> Option<Self> {
        let pairs: Vec<_> = answer.headers("set-cookie").filter_map(|line| line.split(';').next()).collect();
        let session = answer.member("session_id");
        let is_whole = answer.is_success() && !pairs.is_empty() && !session.is_empty();
        is_whole.then(|| Self { cookies: pairs.join("; "), csrf_token: answer.member("csrf_token"), session })
    }

    fn send(&self, request: TestRequest) -> TestRequest {
        request.header("cookie", &self.cookies)
    }
}

/// Logs in as a browser does, and tests what protects its session.
pub async fn sessions(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.registered(1).await?;
    let login = || {
        let body = json!({"email": account.email, "password": *account.password, "cookies": true});
        TestRequest::post("/v1/auth/login", &body)
    };
    let answer = tester.send(&login()).await?;
    for line in answer.headers("set-cookie") {
        let (name, rest) = line.split_once('=').unwrap_or((line, ""));
        let attributes: Vec<String> = rest.split(';').skip(1).map(|it| it.trim().to_ascii_lowercase()).collect();
        let has = |names: &[&str]| attributes.iter().any(|it| names.contains(&it.as_str()));
        let flags: [(&str, &[&str]); 3] =
            [("Secure", &["secure"]), ("HttpOnly", &["httponly"]), ("SameSite", &["samesite=strict", "samesite=lax"])];
        let missing: Vec<_> = flags.into_iter().filter(|(_, names)| !has(names)).map(|(flag, _)| flag).collect();
        if !missing.is_empty() {
            found.push(FLAGS.finding(cut(name, 80), format!("lacks {}", missing.join(", "))));
        }
    }
    let Some(session) = CookieSession::of(&answer) else {
        return Err(Halt(format!("a login by cookie is answered {}", answer.status)));
    };

    // A change that changes nothing, so that it may be let in.
    let name = json!({"display_name": format!("penetration test {}", tester.run)});
    let change = || session.send(TestRequest::new("PATCH", "/v1/me").json(name.to_string()));
    let attempts = [
        ("without a token", &TOKEN_MISSING, change()),
        ("with an empty token", &TOKEN_MISSING, change().header("x-csrf-token", "")),
        ("with another token", &TOKEN_MISSING, change().header("x-csrf-token", &tester.run)),
        ("by form", &TOKEN_MISSING, {
            let form =
                TestRequest { body: Some(b"display_name=x".to_vec()), ..TestRequest::new("POST", "/v1/auth/logout") };
            session.send(form.header("content-type", "application/x-www-form-urlencoded"))
        }),
        (
            "from a foreign page",
            &ORIGIN,
            change().header("x-csrf-token", &session.csrf_token).header("origin", FOREIGN),
        ),
        ("from a page without origin", &ORIGIN, {
            change().header("x-csrf-token", &session.csrf_token).header("origin", "null")
        }),
        ("from another site", &ORIGIN, {
            change().header("x-csrf-token", &session.csrf_token).header("sec-fetch-site", "cross-site")
        }),
        ("login from a foreign page", &ORIGIN, login().header("origin", FOREIGN)),
    ];
    let tried = attempts.len();
    for (what, rule, request) in attempts {
        let answer = tester.send(&request).await?;
        if answer.is_success() && !found.iter().any(|it| it.rule == rule.id) {
            let subject = format!("{} {}", request.method, request.path());
            found.push(rule.finding(subject, format!("{what}: the answer is {}", answer.status)));
        }
    }

    let chosen = session.send(login());
    let again = tester.send(&chosen).await?;
    if CookieSession::of(&again).is_some_and(|begun| begun.session == session.session) {
        found
            .push(FIXATION.finding("POST /v1/auth/login", "the login answers the session of the cookie that was sent"));
    }
    for session in [Some(session), CookieSession::of(&again)].into_iter().flatten() {
        let token = session.csrf_token.clone();
        tester.send(&session.send(TestRequest::new("POST", "/v1/auth/logout")).header("x-csrf-token", token)).await?;
    }
    Ok(format!("flags of cookies, {tried} forged changes, a chosen session"))
}

/// Tests that no page of a foreign origin may read.
pub async fn origins(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.registered(0).await?;
    let lookalike = format!("https://{}.penetration-test.invalid", tester.target.host.replace(':', "-"));
    let mut tried = 0;
    for origin in [FOREIGN, "null", lookalike.as_str()] {
        let preflight = TestRequest::new("OPTIONS", "/v1/me").header("access-control-request-method", "GET");
        for request in [preflight, TestRequest::get("/v1/me").bearer(&account.access_token)] {
            let answer = tester.send(&request.header("origin", origin)).await?;
            tried += 1;
            let allowed = answer.header("access-control-allow-origin");
            if allowed.is_some_and(|it| it == origin || it == "*") && !found.iter().any(|it| it.subject == origin) {
                let credentials = answer.header("access-control-allow-credentials").unwrap_or("none");
                let evidence =
                    format!("access-control-allow-origin names it, with credentials: {}", cut(credentials, 20));
                found.push(REFLECTED.finding(origin, evidence));
            }
        }
    }
    Ok(format!("{tried} requests of 3 origins"))
}

/// Tests that no cache keeps an answer for one account.
pub async fn caching(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.registered(0).await?;
    for path in ["/v1/me", "/v1/me/sessions", "/v1/auth/session"] {
        let answer = tester.send(&TestRequest::get(path).bearer(&account.access_token)).await?;
        let control = answer.header("cache-control").unwrap_or_default();
        if answer.is_success() && !control.contains("no-store") {
            let shown = if control.is_empty() { "missing" } else { control };
            found.push(CACHED.finding(format!("GET {path}"), format!("cache-control is {}", cut(shown, 80))));
        }
    }
    Ok("3 answers".to_owned())
}
