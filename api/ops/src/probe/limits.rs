//! Probes of limits: guesses that lock an account, and a burst that is refused. They come last: what they exhaust, others would
//! wait for.

use serde_json::json;

use super::accounts::random_hex;
use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::Tester;
use crate::finding::{Finding, Rule, Severity};

/// The wrong passwords after which an account has to be locked.
const GUESSES: usize = 6;
/// The most requests of a burst.
const MOST_BURST: usize = 250;
/// The burst for an instance that declares no quota.
const BURST: usize = 120;
/// Pairs of requests that compare one address with others.
const PAIRS: usize = 6;

const LOCKOUT: Rule = Rule {
    id: "lockout.missing",
    title: "wrong passwords lock no account",
    severity: Severity::High,
    remedy: "Look at lockout in the policy (GET /v1/policy): five failures lock by default.",
    reference: "OWASP ASVS 5.0, 6.3.1; CWE-307",
};
const NO_LIMIT: Rule = Rule {
    id: "rate_limit.missing",
    title: "a burst of logins is not refused",
    severity: Severity::High,
    remedy: "Leave FULEXO_RATE_LIMITS at its defaults, and let TRUSTED_PROXIES name the proxy alone.",
    reference: "OWASP API Security 2023, API4; CWE-770",
};
const NO_RETRY_AFTER: Rule = Rule {
    id: "rate_limit.retry_after",
    title: "a refusal for the rate does not say how long to wait",
    severity: Severity::Low,
    remedy: "Send Retry-After with 429.",
    reference: "RFC 6585, section 4",
};
const FORWARDED: Rule = Rule {
    id: "rate_limit.forwarded",
    title: "a header names another address, and the limit is gone",
    severity: Severity::High,
    remedy: "Let TRUSTED_PROXIES name the proxy alone, and the proxy append to X-Forwarded-For. A test from an address that \
             TRUSTED_PROXIES names finds this, too: test from another one.",
    reference: "CWE-348; OWASP WSTG-ATHN-03",
};

/// Guesses the password of an account that the tester has made.
pub async fn lockout(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.register(true).await?;
    for _ in 0..GUESSES {
        let answer = tester.send(&account.login_with("a wrong password")).await?;
        if answer.is_success() {
            return Err(Halt("a wrong password is accepted".to_owned()));
        }
    }
    let answer = tester.send(&account.login()).await?;
    if answer.is_success() {
        let evidence = format!("after {GUESSES} wrong passwords the right one is answered {}", answer.status);
        found.push(LOCKOUT.finding("POST /v1/auth/login", evidence));
    }
    Ok(format!("{GUESSES} wrong passwords, then the right one"))
}

/// Sends logins until one is refused for its rate, and then others that name other addresses.
pub async fn rate(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    const SUBJECT: &str = "POST /v1/auth/login";
    let email = format!("test-{}@penetration-test.invalid", random_hex()?);
    let body = json!({"email": email, "password": "a wrong password"});
    let login = || TestRequest::post("/v1/auth/login", &body).refusable();
    let first = tester.send(&login()).await?;
    let declared = first.headers("ratelimit-policy").find_map(quota);
    if let Some(quota) = declared.filter(|quota| *quota > MOST_BURST) {
        return Err(Halt(format!("the instance declares {quota} logins, more than a burst of {MOST_BURST}")));
    }
    let burst = declared.map_or(BURST, |quota| quota + quota / 4 + 10);
    let (mut sent, mut refused) = (1, (first.status == 429).then_some(first));
    while sent < burst && refused.is_none() {
        let answer = tester.send(&login()).await?;
        sent += 1;
        refused = (answer.status == 429).then_some(answer);
    }
    let Some(refused) = refused else {
        found.push(NO_LIMIT.finding(SUBJECT, format!("{sent} logins in a row, and none is answered 429")));
        return Ok(String::new());
    };
    if refused.header("retry-after").is_none() {
        found.push(NO_RETRY_AFTER.finding(SUBJECT, "the answer 429 has no Retry-After"));
    }
    for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip"] {
        let (mut plain, mut other) = (0, 0);
        for pair in 0..PAIRS {
            plain += usize::from(tester.send(&login()).await?.status != 429);
            let address = format!("203.0.113.{}", pair + 1);
            let value = if name == "forwarded" { format!("for={address}") } else { address };
            other += usize::from(tester.send(&login().header(name, value)).await?.status != 429);
        }
        // The quota refills meanwhile, for all alike.
        if other == PAIRS && plain <= PAIRS / 2 {
            let evidence = format!("of {PAIRS} logins each {other} are admitted with the header, and {plain} without");
            found.push(FORWARDED.finding(name, evidence));
        }
    }
    Ok(format!("{sent} logins until 429, then 5 headers that name other addresses"))
}

/// Reads the quota of logins out of a policy such as `"login";q=30;w=60`.
fn quota(policy: &str) -> Option<usize> {
    let login = policy.split(',').map(str::trim).find(|it| it.starts_with("\"login\""))?;
    login.split(';').find_map(|part| part.trim().strip_prefix("q=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_of_logins_is_read() {
        assert_eq!(quota(r#""login";q=30;w=60"#), Some(30));
        assert_eq!(quota(r#""address";q=1200;w=60, "login";w=60; q=5"#), Some(5));
        assert_eq!(quota(r#""address";q=1200;w=60"#), None);
    }
}
