//! Probes of authentication: passwords that come with a product, logins without one, values of other types, members that
//! nobody asked for.

use serde_json::{Value, json};

use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::Tester;
use crate::finding::{Finding, Rule, Severity};

/// The path of logins.
const LOGIN: &str = "/v1/auth/login";
/// Addresses that installations come with. Each is tried twice: fewer attempts than lock it.
const USUAL: [&str; 4] =
    ["admin@example.com", "administrator@example.com", "root@localhost.localdomain", "test@example.com"];
/// Passwords that installations come with.
const PASSWORDS: [&str; 2] = ["admin", "password"];

const DEFAULT_PASSWORD: Rule = Rule {
    id: "authentication.default_password",
    title: "a usual account has a usual password",
    severity: Severity::Critical,
    remedy: "Change the password now, and read in the trail who has used the account.",
    reference: "OWASP ASVS 5.0, 6.3.2; CWE-1392",
};
const TYPE_CONFUSION: Rule = Rule {
    id: "authentication.type_confusion",
    title: "a login without the password is granted",
    severity: Severity::Critical,
    remedy: "Take a password that is text alone, and refuse every other type with 400.",
    reference: "CWE-1287; CWE-943",
};
const DUPLICATE_MEMBER: Rule = Rule {
    id: "authentication.duplicate_member",
    title: "JSON with a repeated member is accepted",
    severity: Severity::Low,
    remedy: "Refuse a repeated member with 400: a proxy may read the first, and the service the last.",
    reference: "RFC 8259, section 4; CWE-436",
};
const MASS_ASSIGNMENT: Rule = Rule {
    id: "authentication.mass_assignment",
    title: "a member that nobody asked for grants rights",
    severity: Severity::Critical,
    remedy: "Refuse unknown members with 400, and revoke the roles that were granted.",
    reference: "OWASP API Security 2023, API3; CWE-915",
};

/// Tries the passwords that installations come with.
pub async fn defaults(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    for email in USUAL {
        for password in PASSWORDS {
            let answer = tester.send(&TestRequest::post(LOGIN, &json!({"email": email, "password": password}))).await?;
            if answer.is_success() {
                found.push(DEFAULT_PASSWORD.finding(email, format!("a login is answered {}", answer.status)));
                break;
            }
        }
    }
    Ok(format!("{} addresses, {} passwords each", USUAL.len(), PASSWORDS.len()))
}

/// Logs in with everything but a password.
pub async fn confusions(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let account = tester.registered(0).await?;
    let values = [
        Value::Null,
        json!(true),
        json!(0),
        json!([]),
        json!({}),
        json!({"$ne": null}),
        json!({"$regex": ".*"}),
        json!([&*account.password]),
        json!({"password": &*account.password}),
    ];
    for password in &values {
        let request = TestRequest::post(LOGIN, &json!({"email": account.email, "password": password}));
        let answer = tester.send(&request).await?;
        // The right password within another type is a fault of the parser, and no way in.
        if answer.is_success() && !password.to_string().contains(&*account.password) {
            let kind = match password {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::String(_) => "text",
                Value::Array(_) => "a list",
                Value::Object(_) => "an object",
            };
            found.push(TYPE_CONFUSION.finding(format!("POST {LOGIN}"), format!("{kind} as the password is granted")));
            break;
        }
    }
    for body in [json!({"email": account.email}), json!({}), json!([]), json!("x")] {
        let answer = tester.send(&TestRequest::post(LOGIN, &body)).await?;
        if answer.is_success() && found.is_empty() {
            found.push(TYPE_CONFUSION.finding(format!("POST {LOGIN}"), "a body without a password is granted"));
        }
    }
    let (email, password) = (json!(account.email), json!(&*account.password));
    let repeated = format!(r#"{{"email":{email},"password":"wrong","password":{password}}}"#);
    let answer = tester.send(&TestRequest::new("POST", LOGIN).json(repeated)).await?;
    if answer.is_success() {
        found.push(DUPLICATE_MEMBER.finding(format!("POST {LOGIN}"), "the last of two passwords is taken"));
    }
    Ok(format!("{} values, 4 bodies, a repeated member", values.len()))
}

/// Sends members that grant rights, where they are accepted.
pub async fn assignments(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let extra = json!({"roles": ["admin"], "role": "admin", "is_admin": true, "admin": true, "permissions": ["accounts.manage"]});
    let with = |mut body: Value| {
        if let (Some(body), Some(extra)) = (body.as_object_mut(), extra.as_object()) {
            body.extend(extra.clone());
        }
        body
    };
    let before = tester.registered(1).await?;
    let rights = async |tester: &mut Tester, token: &str| {
        let answer = tester.send(&TestRequest::get("/v1/auth/session").bearer(token)).await?;
        let count = answer.json().get("permissions").and_then(Value::as_array).map_or(0, Vec::len);
        Ok::<usize, Halt>(count)
    };
    let name = format!("penetration test {}", tester.run);
    let change = TestRequest::new("PATCH", "/v1/me").json(with(json!({"display_name": name})).to_string());
    tester.send(&change.bearer(&before.access_token)).await?;
    if rights(tester, &before.access_token).await? > before.permissions.len() {
        found.push(MASS_ASSIGNMENT.finding("PATCH /v1/me", "the account has more permissions than before"));
    }

    let mut account = tester.draft()?;
    let body = with(json!({"email": account.email, "password": &*account.password, "display_name": name}));
    let answer = tester.send(&TestRequest::post("/v1/auth/register", &body)).await?;
    if answer.is_success() {
        let login = tester.send(&account.login()).await?;
        if account.take(&login.json()) && rights(tester, &account.access_token).await? > before.permissions.len() {
            let evidence = "an account that was registered with roles has more permissions than one without";
            found.push(MASS_ASSIGNMENT.finding("POST /v1/auth/register", evidence));
        }
    }
    Ok("5 members at 2 operations".to_owned())
}
