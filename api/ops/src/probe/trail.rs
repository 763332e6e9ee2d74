//! Probes of memory: what the service remembers of an idempotent call is given to its caller alone, and what the test does is
//! in the trail.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::Tester;
use crate::finding::{Finding, Rule, Severity};

/// The times that the trail is asked for an attempt, a second apart.
const LOOKS: u32 = 20;

const REPLAYED: Rule = Rule {
    id: "idempotency.replayed",
    title: "the answer to one caller is given to another",
    severity: Severity::Critical,
    remedy: "Bind an idempotency key to its caller and to the content, and let no cache keep answers to callers.",
    reference: "CWE-524; draft-ietf-httpapi-idempotency-key-header",
};
const UNRECORDED: Rule = Rule {
    id: "audit.unrecorded",
    title: "a failed login is not in the trail",
    severity: Severity::High,
    remedy: "Verify the log (fulexo audit verify), and look at the read model audit (fulexo projections).",
    reference: "OWASP ASVS 5.0, 16.3.1; CWE-778",
};

/// Repeats the calls of one account with the credentials of another, or without the right ones.
pub async fn idempotency(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let (one, other) = (tester.registered(0).await?, tester.registered(1).await?);
    let key = format!("penetration-test-{}", tester.run);
    let name = json!({"display_name": format!("penetration test {}", tester.run)});
    let change = |token: &str| {
        let request = TestRequest::new("PATCH", "/v1/me").json(name.to_string());
        request.bearer(token).header("idempotency-key", &key)
    };
    let first = tester.send(&change(&one.access_token)).await?;
    let second = tester.send(&change(&other.access_token)).await?;
    if second.is_success() && (second.text().contains(&one.id) || second.text().contains(&one.email)) {
        found.push(REPLAYED.finding("PATCH /v1/me", "the key of another account answers that account's profile"));
    }
    let login = one.login().header("idempotency-key", format!("{key}-login"));
    let first_login = tester.send(&login).await?;
    let wrong = one.login_with("a wrong password").header("idempotency-key", format!("{key}-login"));
    let answer = tester.send(&wrong).await?;
    if first_login.is_success() && answer.is_success() {
        found
            .push(REPLAYED.finding("POST /v1/auth/login", "the key of a login answers its tokens to a wrong password"));
    }
    let token = first_login.member("access_token");
    tester.send(&TestRequest::new("POST", "/v1/auth/logout").bearer(&token)).await?;
    Ok(format!("2 operations, the first call answered {} and {}", first.status, first_login.status))
}

/// Looks for a failed login of this test in the trail.
pub async fn recorded(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let Some(auditor) = tester.accounts.with("audit.read").cloned() else {
        return Err(Halt("no account with the permission audit.read was given in --accounts".to_owned()));
    };
    let account = tester.registered(1).await?;
    tester.send(&account.login_with("a wrong password")).await?;
    let path = format!("/v1/audit/events?type=authentication.failed&subject={}&limit=10", account.id);
    for look in 1..=LOOKS {
        let answer = tester.send(&TestRequest::get(&path).bearer(&auditor.access_token)).await?;
        if !answer.is_success() && answer.status != 503 {
            return Err(Halt(format!("the trail is answered {}", answer.status)));
        }
        let items = answer.json();
        if items.get("items").and_then(Value::as_array).is_some_and(|items| !items.is_empty()) {
            return Ok(format!("a failed login, found at look {look}"));
        }
        sleep(Duration::from_secs(1)).await;
    }
    found.push(UNRECORDED.finding("authentication.failed", format!("not found in {LOOKS} seconds")));
    Ok(String::new())
}
