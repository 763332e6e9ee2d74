//! Probes of tokens: forgeries, tokens that have ended, refresh tokens that return, tokens in places where they leak.

use serde_json::json;

use super::accounts::TestAccount;
use super::bounds::Halt;
use super::forgery::{TokenFault, TokenForger};
use super::request::TestRequest;
use super::tester::Tester;
use crate::finding::{Finding, Rule, Severity};

/// The path that accepts every valid token, and needs no permission.
const SESSION: &str = "/v1/auth/session";
/// The longest lifetime of an access token, in seconds.
const LONGEST: i64 = 24 * 60 * 60;

const fn forged(id: &'static str, title: &'static str, remedy: &'static str, reference: &'static str) -> Rule {
    Rule { id, title, severity: Severity::Critical, remedy, reference }
}

const NO_ALGORITHM: Rule = forged(
    "tokens.no_algorithm",
    "a token without an algorithm is accepted",
    "Let the key decide on the algorithm, and refuse every other one.",
    "RFC 8725, section 3.1",
);
const UNVERIFIED: Rule = forged(
    "tokens.unverified",
    "the signature of a token is not verified",
    "Verify the signature before anything of a token is believed.",
    "RFC 8725, section 3.3",
);
const KEY_CONFUSION: Rule = forged(
    "tokens.key_confusion",
    "a token is accepted whose HMAC is under the public key",
    "Let the key decide on the algorithm: a key of RS256 verifies RS256 alone.",
    "RFC 8725, section 2.1",
);
const WEAK_SECRET: Rule = forged(
    "tokens.weak_secret",
    "tokens are signed with a well-known secret",
    "Sign with RS256 and a generated key (JWT_PRIVATE_KEY_FILE).",
    "RFC 8725, section 3.5",
);
const KEY_NAME: Rule = forged(
    "tokens.key_name",
    "the name of the key in a token leads to another key",
    "Compare the key id with those of the ring, and use it for nothing else.",
    "RFC 8725, section 3.10",
);
const OWN_KEY: Rule = forged(
    "tokens.own_key",
    "a token is accepted that brings its own key",
    "Ignore jwk, jku, x5u and x5c in the headers of tokens.",
    "RFC 8725, section 3.10",
);
const IN_QUERY: Rule = Rule {
    id: "tokens.in_query",
    title: "a token in the query is accepted",
    severity: Severity::Medium,
    remedy: "Accept tokens in Authorization alone: logs and referrers keep URLs.",
    reference: "RFC 6750, section 5.3",
};
const LIFETIME: Rule = Rule {
    id: "tokens.lifetime",
    title: "access tokens live for more than a day",
    severity: Severity::Medium,
    remedy: "Set JWT_EXPIRES_IN to an hour or less.",
    reference: "RFC 9700, section 2.2",
};
const AFTER_LOGOUT: Rule = Rule {
    id: "tokens.after_logout",
    title: "a token is accepted after its session has ended",
    severity: Severity::High,
    remedy: "Judge each request by the session's present state, and keep no answers in caches.",
    reference: "OWASP ASVS 5.0, 7.4.1",
};
const REFRESH_REUSE: Rule = Rule {
    id: "tokens.refresh_reuse",
    title: "a spent refresh token is accepted again",
    severity: Severity::High,
    remedy: "Accept a refresh token once, and end the session when it returns.",
    reference: "RFC 9700, section 4.14.2",
};

/// Presents forged tokens.
pub async fn forgeries(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.registered(0).await?;
    let accepts = TestRequest::get(SESSION).bearer(&account.access_token);
    if !tester.send(&accepts).await?.is_success() {
        return Err(Halt(format!("GET {SESSION} refuses a valid token")));
    }
    let Some(forger) = TokenForger::of(&account.access_token) else {
        return Ok("access tokens are not JWTs".to_owned());
    };
    let keys = tester.send(&TestRequest::get("/.well-known/jwks.json")).await?.json();
    let forgeries = forger.forgeries(&keys);
    for forgery in &forgeries {
        let answer = tester.send(&TestRequest::get(SESSION).bearer(&forgery.text)).await?;
        let rule = match forgery.fault {
            TokenFault::NoAlgorithm => &NO_ALGORITHM,
            TokenFault::Unverified => &UNVERIFIED,
            TokenFault::KeyConfusion => &KEY_CONFUSION,
            TokenFault::WeakSecret => &WEAK_SECRET,
            TokenFault::KeyName => &KEY_NAME,
            TokenFault::OwnKey => &OWN_KEY,
        };
        if answer.is_success() && !found.iter().any(|it| it.rule == rule.id) {
            found.push(rule.finding("access token", format!("{}: the answer is {}", forgery.name, answer.status)));
        }
    }
    if let Some(lifetime) = forger.lifetime().filter(|lifetime| *lifetime > LONGEST) {
        found.push(LIFETIME.finding("access token", format!("exp is {lifetime} seconds after iat")));
    }
    for name in ["access_token", "token", "jwt"] {
        let answer = tester.send(&TestRequest::get(format!("{SESSION}?{name}={}", *account.access_token))).await?;
        if answer.is_success() {
            found.push(IN_QUERY.finding(name, format!("GET {SESSION}?{name}=… is answered {}", answer.status)));
        }
    }
    Ok(format!("{} forgeries, 3 places in a query", forgeries.len()))
}

/// Uses tokens after their end.
pub async fn ends(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let mut account = log_in_again(tester).await?;
    let first = account.refresh_token.clone();
    for _ in 0..2 {
        // Two steps: the last spent token may return within the time of grace.
        let answer = tester.send(&refresh(&account.refresh_token)).await?;
        if !account.take(&answer.json()) {
            return Err(Halt(format!("a refresh token is refused at its first use: {}", answer.status)));
        }
    }
    let answer = tester.send(&refresh(&first)).await?;
    if answer.is_success() {
        found
            .push(REFRESH_REUSE.finding("refresh token", format!("after two others, the answer is {}", answer.status)));
    }

    let account = log_in_again(tester).await?;
    let session = TestRequest::get(SESSION).bearer(&account.access_token);
    tester.send(&session).await?;
    let logout = TestRequest::new("POST", "/v1/auth/logout").bearer(&account.access_token);
    let ended = tester.send(&logout).await?;
    if !ended.is_success() {
        return Err(Halt(format!("the logout is answered {}", ended.status)));
    }
    for (what, request) in [("access token", session), ("refresh token", refresh(&account.refresh_token))] {
        let answer = tester.send(&request).await?;
        if answer.is_success() {
            found.push(AFTER_LOGOUT.finding(what, format!("after the logout, the answer is {}", answer.status)));
        }
    }
    Ok("a refresh token that returns; both tokens after a logout".to_owned())
}

/// Begins another session of the first account.
async fn log_in_again(tester: &mut Tester) -> Result<TestAccount, Halt> {
    let mut account = tester.registered(0).await?;
    let answer = tester.send(&account.login()).await?;
    if account.take(&answer.json()) {
        Ok(account)
    } else {
        Err(Halt(format!("a login with the right password is answered {}", answer.status)))
    }
}

fn refresh(token: &str) -> TestRequest {
    TestRequest::post("/v1/auth/refresh", &json!({"refresh_token": token}))
}
