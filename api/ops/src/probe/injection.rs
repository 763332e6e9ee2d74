//! Probes of injection: every parameter of the document that takes text, with texts that another language reads otherwise. An
//! error of that language, or a wait that the text asks for, is the sign.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::bounds::Halt;
use super::disclosure::disclosed;
use super::document::{ApiOperation, NOBODY};
use super::request::TestRequest;
use super::tester::Tester;
use crate::finding::{Finding, Rule, Severity};

/// Texts in SQL, LDAP, NoSQL, templates and shells.
const TEXTS: [&str; 3] = ["'\"`;)--(*|{{7*'7'}}<x>", "x' or '1'='1", "*)(uid=*))(|(uid=*"];
/// Texts that ask for a wait.
const WAITS: [&str; 2] = ["x'||pg_sleep(3)--", "x';select pg_sleep(3)--"];
/// The shortest wait that may come of them.
const WAIT: Duration = Duration::from_millis(2_500);
/// The times that a wait has to be confirmed, each time beside a text that asks for none.
const CONFIRMATIONS: u32 = 2;
/// The most parameters that are tested.
const MOST: usize = 120;

const ERROR: Rule = Rule {
    id: "injection.error",
    title: "a text makes another language fail",
    severity: Severity::Critical,
    remedy: "Bind every value as a parameter, and find the statement in the service's log by the request id.",
    reference: "CWE-89; OWASP ASVS 5.0, 1.2.4",
};
const TIME: Rule = Rule {
    id: "injection.time",
    title: "a text is executed: it makes the service wait",
    severity: Severity::Critical,
    remedy: "Bind every value as a parameter.",
    reference: "CWE-89; OWASP WSTG-INPV-05",
};

/// A parameter that takes text.
struct InjectionPoint {
    operation: ApiOperation,
    /// The name of the parameter, and its place.
    name: String,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Path,
    Query,
    Body,
    Header,
}

impl InjectionPoint {
    fn subject(&self) -> String {
        format!("{} {}", self.operation.name(), self.name)
    }

    /// Returns a call with a text at this place. Other members of a body are such that nothing comes of them.
    fn call(&self, text: &str, token: Option<&str>) -> TestRequest {
        let operation = &self.operation;
        let path = operation.path_for(NOBODY);
        let request = match self.place {
            Place::Path => operation.harmless(&escaped(text)),
            Place::Query => TestRequest::new(&operation.method, format!("{path}?{}={}", self.name, escaped(text))),
            Place::Header => operation.harmless(NOBODY).header(&self.name, text),
            Place::Body => {
                let value = |name: &String| match name.as_str() {
                    it if it == self.name => json!(text),
                    "email" => json!("nobody@penetration-test.invalid"),
                    _ => json!("x"),
                };
                let members: Map<_, _> = operation.members.iter().map(|name| (name.clone(), value(name))).collect();
                TestRequest::new(&operation.method, path).json(Value::Object(members).to_string())
            }
        };
        let request = request.judged();
        match token.filter(|_| operation.is_secured) {
            Some(token) => request.bearer(token),
            None => request,
        }
    }
}

/// Sends the texts to every parameter that a stranger or a registered account reaches.
pub async fn injections(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.registered(1).await.ok();
    let token = account.map(|account| account.access_token);
    let token = token.as_deref().map(String::as_str);
    let reader = tester.accounts.with("accounts.read").map(|account| account.access_token.clone());
    let reader = reader.as_deref().map(String::as_str);
    let points = points(&tester.document.operations, token.is_some(), reader.is_some());
    for point in &points {
        let token = if point.operation.is_own() { token } else { reader };
        for text in TEXTS.iter().chain(&WAITS) {
            let answer = tester.send(&point.call(text, token)).await?;
            let sign = disclosed(&answer.text());
            if sign.is_some() || matches!(answer.status, 500 | 502) {
                let evidence = format!("the answer is {}, with {:?}", answer.status, sign.unwrap_or("nothing else"));
                found.push(ERROR.finding(point.subject(), evidence));
                break;
            }
            if answer.time >= WAIT && WAITS.contains(text) && is_confirmed(tester, point, text, token).await? {
                found.push(TIME.finding(point.subject(), format!("the answer takes {} ms", answer.time.as_millis())));
                break;
            }
        }
    }
    Ok(format!("{} parameters, {} texts each", points.len(), TEXTS.len() + WAITS.len()))
}

/// `true` if the wait comes again each time, and never without the text.
async fn is_confirmed(
    tester: &mut Tester,
    point: &InjectionPoint,
    text: &str,
    token: Option<&str>,
) -> Result<bool, Halt> {
    for _ in 0..CONFIRMATIONS {
        let without = tester.send(&point.call("x", token)).await?.time;
        let with = tester.send(&point.call(text, token)).await?.time;
        if with < WAIT || without >= WAIT / 2 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn points(operations: &[ApiOperation], has_account: bool, has_reader: bool) -> Vec<InjectionPoint> {
    let mut points = Vec::new();
    for operation in operations {
        let is_reached = match (operation.is_secured, operation.is_own()) {
            (false, _) => true,
            (true, true) => has_account && operation.method == "GET",
            (true, false) => has_reader && operation.method == "GET" && operation.permissions == ["accounts.read"],
        };
        if !is_reached {
            continue;
        }
        let mut add = |name: &str, place| {
            points.push(InjectionPoint { operation: operation.clone(), name: name.to_owned(), place });
        };
        if operation.path.contains("_id}") || operation.path.contains("{index}") {
            add("path", Place::Path);
        }
        operation.query.iter().for_each(|name| add(name, Place::Query));
        operation.members.iter().for_each(|name| add(name, Place::Body));
        if operation.path == "/v1/auth/login" {
            ["idempotency-key", "user-agent", "x-forwarded-for"].into_iter().for_each(|name| add(name, Place::Header));
        }
    }
    points.truncate(MOST);
    points
}

/// Escapes a text for a URL.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_escaped_for_its_place() {
        assert_eq!(escaped("a' b/ü"), "a%27%20b%2F%C3%BC");
        let operation = ApiOperation {
            method: "POST".to_owned(),
            path: "/v1/auth/login".to_owned(),
            is_secured: false,
            permissions: vec![],
            query: vec![],
            media_type: Some("application/json".to_owned()),
            members: vec!["email".to_owned(), "password".to_owned()],
        };
        let points = points(&[operation], false, false);
        assert_eq!(points.len(), 5);
        let call = points[1].call("it's", None);
        assert_eq!(call.body, Some(br#"{"email":"nobody@penetration-test.invalid","password":"it's"}"#.to_vec()));
    }
}
