//! Probes of authorisation: every operation of the document without credentials and with those of each role, objects of
//! others, and tricks with paths, methods and headers.

use super::bounds::Halt;
use super::document::{ApiOperation, NOBODY};
use super::request::TestRequest;
use super::tester::{Tester, cut};
use super::wire::TestAnswer;
use crate::finding::{Finding, Rule, Severity};

const ANONYMOUS: Rule = Rule {
    id: "authorization.anonymous",
    title: "an operation is open without credentials",
    severity: Severity::Critical,
    remedy: "Refuse the call with 401. Fulexo does: look for a proxy that adds credentials.",
    reference: "OWASP API Security 2023, API5; CWE-306",
};

const ROLE: Rule = Rule {
    id: "authorization.role",
    title: "an operation is open without its permission",
    severity: Severity::Critical,
    remedy: "Refuse the call with 403, and review what was done with the permission.",
    reference: "OWASP API Security 2023, API5; CWE-862",
};

const OBJECT: Rule = Rule {
    id: "authorization.object",
    title: "an operation reaches what belongs to another account, or tells that it exists",
    severity: Severity::High,
    remedy: "Answer for an id of another account as for one that does not exist.",
    reference: "OWASP API Security 2023, API1; CWE-639",
};

const PATH: Rule = Rule {
    id: "authorization.path",
    title: "another spelling of a path gets past authorisation",
    severity: Severity::Critical,
    remedy: "Let proxy and service agree on the path: forward it as it was sent, and decide on that.",
    reference: "CWE-41; OWASP WSTG-ATHZ-02",
};

const HEADER: Rule = Rule {
    id: "authorization.header",
    title: "a header that anybody can send gets past authorisation",
    severity: Severity::Critical,
    remedy: "Believe headers about the caller from trusted proxies alone, and have the proxy remove them.",
    reference: "CWE-290; OWASP WSTG-ATHZ-02",
};

const OVERRIDE: Rule = Rule {
    id: "authorization.method_override",
    title: "a header replaces the method of a request",
    severity: Severity::Medium,
    remedy: "Ignore X-HTTP-Method-Override and its kin: they get past rules that go by the method.",
    reference: "CWE-436; OWASP WSTG-CONF-06",
};

/// Calls every operation that needs credentials without any.
pub async fn anonymous(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let operations: Vec<ApiOperation> = tester.document.secured().cloned().collect();
    if operations.is_empty() {
        return Err(Halt("the instance serves no /openapi.json with operations that need credentials".to_owned()));
    }
    for operation in &operations {
        let answer = tester.send(&operation.harmless(NOBODY)).await?;
        // A failure lets nobody in, and is a finding of its own.
        if !matches!(answer.status, 401 | 403 | 500..) {
            found.push(ANONYMOUS.finding(operation.name(), format!("the answer is {}", answer.status)));
        }
    }
    Ok(format!("{} operations", operations.len()))
}

/// Calls, with each account, every operation whose permission the account lacks.
pub async fn roles(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let own = match tester.registered(0).await {
        Ok(account) => Some(account),
        Err(_) if !tester.accounts.given.is_empty() => None,
        Err(halt) => return Err(halt),
    };
    let accounts: Vec<_> = own.into_iter().chain(tester.accounts.given.iter().cloned()).collect();
    let operations: Vec<ApiOperation> =
        tester.document.secured().filter(|operation| !operation.is_own()).cloned().collect();
    let (mut calls, mut roles) = (0, Vec::new());
    for account in accounts {
        let lacks =
            |operation: &&ApiOperation| !operation.permissions.iter().any(|name| account.permissions.contains(name));
        for operation in operations.iter().filter(lacks) {
            let answer = tester.send(&operation.harmless(NOBODY).bearer(&account.access_token)).await?;
            calls += 1;
            if answer.status == 401 {
                return Err(Halt(format!("the session of {} has ended", account.role)));
            }
            if !matches!(answer.status, 403 | 500..) {
                let (subject, needed) = (operation.name(), operation.permissions.join(", "));
                let evidence = format!("{} lacks {needed}, and the answer is {}", account.role, answer.status);
                found.push(ROLE.finding(subject, evidence));
            }
        }
        roles.push(account.role);
    }
    Ok(format!("{calls} calls as {}", roles.join(", ")))
}

/// Asks, as one account, for what belongs to another, and compares the answer with that for an id that does not exist.
pub async fn objects(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let (owner, other) = (tester.registered(0).await?, tester.registered(1).await?);
    let devices = tester.send(&TestRequest::get("/v1/me/devices").bearer(&owner.access_token)).await?.json();
    let device = devices.pointer("/items/0/device_id").or_else(|| devices.pointer("/items/0/id"));
    let device = device.and_then(|id| id.as_str()).unwrap_or(NOBODY).to_owned();
    let ids = [("{account_id}", &owner.id), ("{session_id}", &owner.session), ("{device_id}", &device)];
    let mut calls = 0;
    let operations: Vec<ApiOperation> = tester.document.secured().cloned().collect();
    for operation in &operations {
        let Some((_, id)) = ids.iter().find(|(name, _)| operation.path.contains(name)) else { continue };
        let nothing = tester.send(&operation.harmless(NOBODY).bearer(&other.access_token)).await?;
        let theirs = tester.send(&operation.harmless(id).bearer(&other.access_token)).await?;
        calls += 2;
        if nothing.status == 401 {
            return Err(Halt("the session of a registered account has ended".to_owned()));
        }
        let outcome = |answer: &TestAnswer| (answer.status, cut(&answer.member("code"), 40));
        if theirs.is_success() || outcome(&theirs) != outcome(&nothing) {
            let evidence = format!("for another account's id {:?}, for none {:?}", outcome(&theirs), outcome(&nothing));
            found.push(OBJECT.finding(operation.name(), evidence));
        }
    }
    Ok(format!("{calls} calls"))
}

/// Spells paths in other ways, and sends headers that some proxies believe.
pub async fn tricks(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    const HEADERS: [(&str, &str); 9] = [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-user", "admin"),
        ("x-remote-user", "admin"),
        ("remote-user", "admin"),
        ("x-authenticated-user", "admin"),
        ("x-original-url", "/health/live"),
        ("x-rewrite-url", "/health/live"),
        ("x-custom-ip-authorization", "127.0.0.1"),
    ];
    const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
    let is_list = |it: &&ApiOperation| it.method == "GET" && !it.path.contains('{') && !it.is_own();
    let lists: Vec<String> = tester.document.secured().filter(is_list).map(|it| it.path.clone()).take(4).collect();
    let mut tried = 0;
    for path in &lists {
        if tester.send(&TestRequest::get(path)).await?.is_success() {
            // Nothing to get past: that is another finding.
            continue;
        }
        let rest = path.strip_prefix('/').unwrap_or(path);
        let (first, last) = rest.split_once('/').unwrap_or((rest, ""));
        let encoded = last.chars().next().map_or_else(String::new, |c| format!("%{:02x}", u32::from(c)));
        let tail: String = last.chars().skip(1).collect();
        let spellings = [
            format!("//{rest}"),
            format!("/{first}//{last}"),
            format!("/./{rest}"),
            format!("/{first}/./{last}"),
            format!("/health/../{rest}"),
            format!("/{first}/x/../{last}"),
            format!("/%2e/{rest}"),
            format!("/{first}/%2e%2e/{rest}"),
            format!("/{first}/{encoded}{tail}"),
            format!("/{first}%2f{last}"),
            format!("{path}/"),
            format!("{path}/."),
            format!("{path};x=y"),
            format!("{path}%00"),
            format!("{path}%20"),
            format!("{path}.json"),
            path.to_uppercase(),
        ];
        for spelling in &spellings {
            let answer = tester.send(&TestRequest::get(spelling)).await?;
            tried += 1;
            if answer.is_success() {
                found.push(PATH.finding(path.clone(), format!("{spelling} is answered {}", answer.status)));
                break;
            }
        }
        for (name, value) in HEADERS {
            let answer = tester.send(&TestRequest::get(path).header(name, value)).await?;
            tried += 1;
            if answer.is_success() {
                found.push(HEADER.finding(name, format!("GET {path} is answered {}", answer.status)));
            }
        }
    }
    // A GET of a path that has only POST is refused whatever a header says.
    const POST_ONLY: &str = "/v1/auth/refresh";
    let plain = tester.send(&TestRequest::get(POST_ONLY)).await?.status;
    for name in OVERRIDES {
        let answer = tester.send(&TestRequest::get(POST_ONLY).json("{}").header(name, "POST")).await?;
        tried += 1;
        if answer.status != plain {
            let evidence = format!("GET {POST_ONLY} is answered {plain}, and {} with the header", answer.status);
            found.push(OVERRIDE.finding(name, evidence));
        }
    }
    Ok(format!("{tried} requests at {} paths", lists.len() + 1))
}
