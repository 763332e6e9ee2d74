//! Probes of enumeration: answers for an account that exists and for one that does not, by their content and by their time.

use std::time::Duration;

use serde_json::{Value, json};

use super::accounts::{TestAccount, random_hex};
use super::bounds::Halt;
use super::request::TestRequest;
use super::statistics::Difference;
use super::tester::Tester;
use super::wire::TestAnswer;
use crate::finding::{Finding, Rule, Severity};

/// Wrong passwords per account: fewer than lock it.
const ATTEMPTS: usize = 4;
/// Accounts per round.
const ACCOUNTS: usize = 3;

const CONTENT: Rule = Rule {
    id: "enumeration.content",
    title: "an answer tells whether an account exists",
    severity: Severity::Medium,
    remedy: "Answer alike, with the same status, headers and body, whether the account exists or not.",
    reference: "OWASP ASVS 5.0, 6.3.8; CWE-204",
};
const TIME: Rule = Rule {
    id: "enumeration.time",
    title: "the time of an answer tells whether an account exists",
    severity: Severity::Medium,
    remedy: "Compute a hash in any case. After a change of FULEXO_BCRYPT_COST old accounts differ until their next login.",
    reference: "OWASP ASVS 5.0, 6.3.8; CWE-208",
};

/// Compares the answers to a wrong password, and to a request for a reset, for an account that exists and one that does not.
pub async fn content(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let known = tester.registered(0).await?;
    let unknown = nobody()?;
    let login = |account: &TestAccount| account.login_with("a wrong password");
    let reset = |account: &TestAccount| TestRequest::post("/v1/auth/password-reset", &json!({"email": account.email}));
    for request in [&login as &(dyn Fn(&TestAccount) -> TestRequest + Sync), &reset] {
        let (of_known, of_unknown) = (request(&known), request(&unknown));
        let (one, other) = (tester.send(&of_known).await?, tester.send(&of_unknown).await?);
        let (one, other) = (visible(&one, &known), visible(&other, &unknown));
        let differences: Vec<&str> =
            one.iter().zip(&other).filter(|(one, other)| one != other).map(|((name, _), _)| *name).collect();
        if !differences.is_empty() {
            let evidence = format!("the answers differ in {}", differences.join(", "));
            found.push(CONTENT.finding(format!("POST {}", of_known.path()), evidence));
        }
    }
    Ok("a login and a reset, for an account that exists and one that does not".to_owned())
}

/// Compares the times of the same logins. A difference counts if other accounts confirm it.
pub async fn time(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let first = round(tester).await?;
    let shown = |it: &Difference| format!("{} and {} ms", it.first.as_millis(), it.second.as_millis());
    if first.is_distinct() {
        let second = round(tester).await?;
        if first.confirms(&second) {
            let evidence = format!(
                "medians of {} wrong passwords each, for accounts that exist and for others: {}, and again {}",
                ATTEMPTS * ACCOUNTS,
                shown(&first),
                shown(&second)
            );
            found.push(TIME.finding("POST /v1/auth/login", evidence));
        }
    }
    Ok(format!("{} logins each; medians of {}", ATTEMPTS * ACCOUNTS, shown(&first)))
}

/// Measures wrong passwords, in turn for accounts that exist and for others.
async fn round(tester: &mut Tester) -> Result<Difference, Halt> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..ACCOUNTS {
        known.push(tester.register(false).await?);
        unknown.push(nobody()?);
    }
    // The first of a kind may be slower.
    time_of(tester, &nobody()?).await?;
    let (mut of_known, mut of_unknown) = (Vec::new(), Vec::new());
    for attempt in 0..ATTEMPTS {
        for (index, (one, other)) in known.iter().zip(&unknown).enumerate() {
            // Each comes first as often as the other.
            if (attempt + index) % 2 == 0 {
                of_known.push(time_of(tester, one).await?);
                of_unknown.push(time_of(tester, other).await?);
            } else {
                of_unknown.push(time_of(tester, other).await?);
                of_known.push(time_of(tester, one).await?);
            }
        }
    }
    Ok(Difference::between(&of_known, &of_unknown))
}

async fn time_of(tester: &mut Tester, account: &TestAccount) -> Result<Duration, Halt> {
    Ok(tester.send(&account.login_with("a wrong password")).await?.time)
}

/// Returns an account that does not exist, of the same form as those that do.
fn nobody() -> Result<TestAccount, Halt> {
    let email = format!("test-{}@penetration-test.invalid", random_hex()?);
    Ok(TestAccount { email, ..TestAccount::default() })
}

/// Returns the parts of an answer that a stranger may compare, without what differs with every request.
fn visible(answer: &TestAnswer, account: &TestAccount) -> [(&'static str, String); 3] {
    const CHANGING: [&str; 5] = ["date", "request-id", "ratelimit", "content-length", "set-cookie"];
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !CHANGING.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    headers.sort_unstable();
    let mut body = answer.json();
    if let Some(members) = body.as_object_mut() {
        members.remove("instance");
    }
    let body = if body == Value::Null { answer.text() } else { body.to_string() };
    let body = body.replace(&account.email, "…");
    [("status", answer.status.to_string()), ("headers", headers.join("\n")), ("body", body)]
}
