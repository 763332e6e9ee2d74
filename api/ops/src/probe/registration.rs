//! The making of accounts, and their end. What was made is taken away again: erased by an administrator whose credential was
//! given, else by the account itself.

use std::time::Instant;

use serde_json::{Value, json};

use super::accounts::{AccountEntry, TestAccount, random_hex};
use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::{Tester, cut};

/// The most accounts that the tester makes.
const MOST_MADE: usize = 14;

impl Tester {
    /// Logs the given accounts in, and learns their permissions. Returns the roles whose login was refused.
    ///
    /// # Errors
    /// [`Halt`].
    pub async fn log_in_given(&mut self, entries: Vec<AccountEntry>) -> Result<Vec<String>, Halt> {
        let mut refused = Vec::new();
        for AccountEntry { role, email, password, access_token } in entries {
            let (password, access_token) = (password.into(), access_token.into());
            let mut account = TestAccount { role, email, password, access_token, ..TestAccount::default() };
            if account.access_token.is_empty() {
                let answer = self.send(&account.login()).await?;
                account.take(&answer.json());
            }
            let answer = self.send(&TestRequest::get("/v1/auth/session").bearer(&account.access_token)).await?;
            if !answer.is_success() {
                refused.push(account.role);
                continue;
            }
            account.learn(&answer.json());
            self.accounts.given.push(account);
        }
        Ok(refused)
    }

    /// Draws the address and the password of an account that may be made. It is kept before it is sent: an answer that is lost
    /// does not hide what was made.
    ///
    /// # Errors
    /// [`Halt`] if too many were made, or the bounds are reached.
    pub fn draft(&mut self) -> Result<TestAccount, Halt> {
        self.within_bounds()?;
        if self.accounts.made.len() >= MOST_MADE {
            return Err(Halt(format!("the bound of {MOST_MADE} test accounts is reached")));
        }
        let account = TestAccount {
            role: "registered".to_owned(),
            email: format!("test-{}@penetration-test.invalid", random_hex()?),
            password: format!("Quartz7-{}!wren", random_hex()?).into(),
            ..TestAccount::default()
        };
        self.accounts.made.push(account.clone());
        Ok(account)
    }

    /// Registers an account, and logs it in if `logged_in`.
    ///
    /// # Errors
    /// [`Halt`] if registration is closed, or does not answer as it should.
    pub async fn register(&mut self, logged_in: bool) -> Result<TestAccount, Halt> {
        if let Some(reason) = &self.accounts.closed {
            return Err(Halt(reason.clone()));
        }
        let mut account = self.draft()?;
        let (index, name) = (self.accounts.made.len() - 1, format!("penetration test {}", self.run));
        let body = json!({"email": account.email, "password": *account.password, "display_name": name});
        let answer = self.send(&TestRequest::post("/v1/auth/register", &body)).await?;
        if !answer.is_success() {
            self.accounts.made.pop();
            let code = cut(&answer.member("code"), 40);
            let reason = format!("the tester cannot register accounts: {} {code}", answer.status);
            self.accounts.closed = Some(reason.clone());
            return Err(Halt(reason));
        }
        account.id = answer.member("account_id");
        self.keep(index, &account);
        if logged_in {
            let answer = self.send(&account.login()).await?;
            if !account.take(&answer.json()) {
                return Err(Halt(format!("a registered account cannot log in: {}", answer.status)));
            }
            let answer = self.send(&TestRequest::get("/v1/auth/session").bearer(&account.access_token)).await?;
            account.learn(&answer.json());
            self.keep(index, &account);
        }
        Ok(account)
    }

    /// Returns an account that was made and is logged in: the first or the second.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn registered(&mut self, number: usize) -> Result<TestAccount, Halt> {
        loop {
            let logged_in = self.accounts.made.iter().filter(|it| !it.access_token.is_empty());
            let Some(account) = logged_in.clone().nth(number).cloned() else {
                self.register(true).await?;
                continue;
            };
            if account.stale_at.is_none_or(|stale_at| Instant::now() < stale_at) {
                return Ok(account);
            }
            return self.log_in_again(account).await;
        }
    }

    /// Begins another session of an account that was made, whose token is about to expire.
    async fn log_in_again(&mut self, mut account: TestAccount) -> Result<TestAccount, Halt> {
        let answer = self.send(&account.login()).await?;
        if !account.take(&answer.json()) {
            return Err(Halt(format!("a registered account cannot log in again: {}", answer.status)));
        }
        if let Some(kept) = self.accounts.made.iter_mut().find(|kept| kept.email == account.email) {
            kept.clone_from(&account);
        }
        Ok(account)
    }

    fn keep(&mut self, index: usize, account: &TestAccount) {
        if let Some(kept) = self.accounts.made.get_mut(index) {
            kept.clone_from(account);
        }
    }

    /// Takes away what was made. Returns a line per account, and `true` if nothing is left to do.
    pub async fn clean(&mut self) -> (Vec<Value>, bool) {
        self.grant_cleaning();
        let (mut lines, mut is_clean) = (Vec::new(), true);
        for mut account in std::mem::take(&mut self.accounts.made) {
            let state = match self.clean_one(&mut account).await {
                Ok(state) => state,
                Err(Halt(reason)) => {
                    is_clean = false;
                    format!("left: {reason}")
                }
            };
            lines.push(json!({"account_id": account.id, "email": account.email, "state": state}));
        }
        (lines, is_clean)
    }

    async fn clean_one(&mut self, account: &mut TestAccount) -> Result<String, Halt> {
        if account.id.is_empty() {
            // The answer to its registration was lost. If it was made, it can log in.
            let answer = self.send(&account.login()).await?;
            if !account.take(&answer.json()) {
                return Ok("was not made".to_owned());
            }
            let answer = self.send(&TestRequest::get("/v1/auth/session").bearer(&account.access_token)).await?;
            account.learn(&answer.json());
        }
        if let Some(admin) = self.accounts.with("accounts.erase").cloned() {
            let reason = json!({"reason": format!("penetration test {}", self.run)});
            let path = format!("/v1/accounts/{}/erasure", account.id);
            let erase = TestRequest::post(path, &reason).bearer(&admin.access_token);
            let mut answer = self.send(&erase).await?;
            if answer.member("code") == "step_up_required" && !admin.password.is_empty() {
                let password = json!({"password": &*admin.password});
                self.send(&TestRequest::post("/v1/auth/step-up", &password).bearer(&admin.access_token)).await?;
                answer = self.send(&erase).await?;
            }
            if answer.is_success() || answer.member("code") == "account_erased" {
                return Ok("erased".to_owned());
            }
        }
        let start = |token: &str| TestRequest::new("POST", "/v1/me/erasure").bearer(token);
        let mut answer = self.send(&start(&account.access_token)).await?;
        if !answer.is_success() {
            let login = self.send(&account.login()).await?;
            account.take(&login.json());
            answer = self.send(&start(&account.access_token)).await?;
        }
        if !answer.is_success() {
            return Err(Halt(format!("its erasure is answered {}", answer.status)));
        }
        self.send(&TestRequest::new("POST", "/v1/auth/logout").bearer(&account.access_token)).await?;
        Ok(format!("will be erased at {}", cut(&answer.member("due_at"), 40)))
    }
}
