//! The accounts of a test: those that the operator has given in a file, and those that the tester makes.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::bounds::Halt;
use super::request::TestRequest;

/// The time before its end from which on a token is not used.
const MARGIN: Duration = Duration::from_secs(30);
/// The most accounts that may be given, and the most bytes of their file.
const MOST_GIVEN: usize = 16;
const MOST_BYTES: u64 = 64 * 1024;

/// The accounts of a test.
#[derive(Default)]
pub struct TestAccounts {
    /// The accounts that the operator has given, logged in.
    pub given: Vec<TestAccount>,
    /// The accounts that the tester has made, those whose registration was not answered among them.
    pub made: Vec<TestAccount>,
    /// The reason for which the tester cannot make any.
    pub closed: Option<String>,
}

/// An account.
#[derive(Clone, Default)]
pub struct TestAccount {
    /// The role that it was given for, or `registered`.
    pub role: String,
    /// Its address.
    pub email: String,
    /// Its password.
    pub password: Zeroizing<String>,
    /// Its id, once it is known.
    pub id: String,
    /// Its session.
    pub session: String,
    /// The access token.
    pub access_token: Zeroizing<String>,
    /// The refresh token.
    pub refresh_token: Zeroizing<String>,
    /// Its permissions in this session.
    pub permissions: Vec<String>,
    /// The time at which the access token is about to expire.
    pub stale_at: Option<Instant>,
}

/// An entry of the file of accounts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountEntry {
    /// The role, as the report names it.
    pub role: String,
    /// The address.
    #[serde(default)]
    pub email: String,
    /// The password.
    #[serde(default)]
    pub password: String,
    /// The access token, instead of the other two.
    #[serde(default)]
    pub access_token: String,
}

/// Reads a file of accounts, which nobody but its owner may read.
///
/// # Errors
/// If it cannot be read, is open to others, or is not a list of accounts. No error repeats what is in it.
pub fn read(path: &Path) -> Result<Vec<AccountEntry>, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let mode = file.metadata().map_err(|error| format!("cannot read {shown}: {error}"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("{shown} holds passwords and others may read it: run chmod 600 {shown}"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let entries: Vec<AccountEntry> = serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            "{shown}, line {line}, column {column}: is not a list of accounts: \
             [{{\"role\": \"admin\", \"email\": …, \"password\": …}}], or access_token instead of the last two"
        )
    })?;
    if entries.len() > MOST_GIVEN {
        return Err(format!("{shown} has more than {MOST_GIVEN} accounts"));
    }
    let is_usable = |it: &AccountEntry| !it.access_token.is_empty() || !(it.email.is_empty() || it.password.is_empty());
    match entries.iter().find(|it| !is_usable(it)) {
        Some(entry) => Err(format!("{shown}: the account for {:?} has neither a password nor a token", entry.role)),
        None => Ok(entries),
    }
}

impl TestAccounts {
    /// Returns an account whose session has a permission.
    #[must_use]
    pub fn with(&self, permission: &str) -> Option<&TestAccount> {
        self.given.iter().find(|account| account.permissions.iter().any(|it| it == permission))
    }
}

impl TestAccount {
    /// Returns a login with this password.
    #[must_use]
    pub fn login_with(&self, password: &str) -> TestRequest {
        TestRequest::post("/v1/auth/login", &json!({"email": self.email, "password": password}))
    }

    /// Returns a login.
    #[must_use]
    pub fn login(&self) -> TestRequest {
        self.login_with(&self.password)
    }

    /// Takes over the tokens of a login; `false` if the answer has none.
    pub fn take(&mut self, answer: &Value) -> bool {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        self.access_token = text("access_token").into();
        self.refresh_token = text("refresh_token").into();
        self.session = text("session_id");
        let lifetime = answer.get("expires_in").and_then(Value::as_u64).map(Duration::from_secs);
        self.stale_at = lifetime.and_then(|it| Instant::now().checked_add(it.saturating_sub(MARGIN)));
        !self.access_token.is_empty()
    }

    /// Takes over what the instance says of the session.
    pub fn learn(&mut self, session: &Value) {
        let text = |name: &str| session.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        (self.id, self.session) = (text("account_id"), text("session_id"));
        let permissions = session.get("permissions").and_then(Value::as_array).into_iter().flatten();
        self.permissions = permissions.filter_map(|it| it.as_str().map(str::to_owned)).collect();
    }
}

/// Returns 64 random bits as hex.
///
/// # Errors
/// If the machine has no randomness.
pub fn random_hex() -> Result<String, Halt> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Halt("the machine has no randomness".to_owned()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
