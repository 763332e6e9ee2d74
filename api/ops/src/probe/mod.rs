//! The penetration test: a bounded, polite, active test of the operator's own instance.
//!
//! It knows the instance by its URL and its OpenAPI document alone. Probes are made one after another, each a check of the
//! report that says what was tried; those that exhaust a quota come last. It ends with taking away what it made.

mod accounts;
mod authentication;
mod authorization;
mod bounds;
mod browser;
mod disclosure;
mod document;
mod enumeration;
mod forgery;
mod injection;
mod limits;
mod redirects;
mod registration;
mod request;
mod smuggling;
mod statistics;
mod surface;
mod target;
mod tester;
mod tokens;
mod trail;
mod wire;

use std::fs::File;
use std::pin::pin;

use self::accounts::random_hex;
pub use self::accounts::{AccountEntry, read as read_accounts};
use self::bounds::Halt;
pub use self::bounds::TestBounds;
use self::document::ApiDocument;
use self::request::TestRequest;
pub use self::target::{CONSENT, Consent, LEAST_TOKEN, TargetError, digest};
use self::target::{TestTarget, is_shown};
use self::tester::Tester;
use crate::clock;
use crate::finding::{Finding, Rule, Severity};
use crate::report::{Check, Report};

/// The name of the verb.
const VERB: &str = "penetration-test";

const LEFT: Rule = Rule {
    id: "cleanup.left",
    title: "an account of the test is left",
    severity: Severity::Low,
    remedy: "Erase the account: POST /v1/accounts/ID/erasure.",
    reference: "docs/penetration-test.md",
};

/// A test, as the operator wants it.
pub struct PenetrationTest {
    /// The instance.
    pub url: String,
    /// The consent, for an instance that is not on loopback.
    pub consent: Consent,
    /// The bounds.
    pub bounds: TestBounds,
    /// The accounts that the operator gives.
    pub accounts: Vec<AccountEntry>,
    /// The file that gets a line per request.
    pub journal: Option<File>,
}

impl PenetrationTest {
    /// Runs the test until it is done or `stop` is. Cleans up in both cases. `progress` is told the title of each check.
    ///
    /// # Errors
    /// [`TargetError`] if the instance may not be tested, or does not answer.
    pub async fn run(self, stop: impl Future<Output = ()>, progress: impl Fn(&str)) -> Result<Report, TargetError> {
        let target = TestTarget::resolve(&self.url).await?;
        let token = target.token(&self.consent)?.map(str::to_owned).map(zeroize::Zeroizing::new);
        let tls = if target.is_tls { Some(wire::tls().map_err(TargetError::Refused)?) } else { None };
        let refused = |Halt(reason)| TargetError::Refused(reason);
        let run = random_hex().map_err(refused)?;
        let mut report = Report::begin(VERB, format!("{}://{}", target.scheme(), target.authority), clock::now());
        let mut tester = Tester::new(target, run, tls, self.bounds, self.journal);
        if let Some(token) = token {
            let shown = tester.send(&TestRequest::get(CONSENT)).await.map_err(refused)?;
            if !shown.is_success() || !is_shown(&token, &shown.body) {
                let host = &tester.target.host;
                return Err(TargetError::Refused(format!(
                    "{host} does not consent: {CONSENT} does not show the digest of this token. Set \
                     FULEXO_PENETRATION_TEST_TOKEN on its nodes, too, and restart them"
                )));
            }
        }
        let served = tester.send(&TestRequest::get("/openapi.json")).await.map_err(refused)?;
        tester.document = ApiDocument::read(&served.json());

        let was_stopped = {
            let probing = pin!(probe(&mut tester, &mut report, self.accounts, &progress));
            tokio::select! {
                () = probing => false,
                () = stop => true,
            }
        };
        if was_stopped {
            report.checks.push(Check::not_checked("stopped", "The test ran to its end", "it was stopped"));
        }
        progress("cleaning up");
        tester.begin("cleanup");
        let made = tester.accounts.made.len();
        let (accounts, is_clean) = tester.clean().await;
        let detail = format!("{made} accounts, which were erased or will be");
        let left = accounts.iter().filter(|it| it["state"].as_str().is_some_and(|state| state.starts_with("left")));
        let left = left.map(|it| LEFT.finding(it["email"].as_str().unwrap_or_default(), it["state"].to_string()));
        let left: Vec<Finding> = if is_clean { Vec::new() } else { left.collect() };
        report.checks.push(Check::of("cleanup", "Nothing of the test is left", detail, left));
        report.ended_at = clock::now();
        report.facts.insert("run".to_owned(), tester.run.clone().into());
        report.facts.insert("user_agent".to_owned(), tester.agent().into());
        report.facts.insert("requests".to_owned(), tester.requests.into());
        report.facts.insert("seconds".to_owned(), tester.elapsed().as_secs().into());
        report.facts.insert("address".to_owned(), tester.target.address.to_string().into());
        report.facts.insert("operations".to_owned(), tester.document.operations.len().into());
        report.facts.insert("accounts".to_owned(), accounts.into());
        Ok(report)
    }
}

/// Makes all probes.
async fn probe(tester: &mut Tester, report: &mut Report, accounts: Vec<AccountEntry>, progress: &impl Fn(&str)) {
    let given = accounts.len();
    let refused = tester.log_in_given(accounts).await;
    if given > 0 {
        let (id, title) = ("accounts", "The given accounts log in");
        report.checks.push(match refused {
            Ok(refused) if refused.is_empty() => Check::passed(id, title, format!("{given} accounts")),
            Ok(refused) => {
                let reason = format!("{} cannot log in by password alone: give an access_token", refused.join(", "));
                Check::not_checked(id, title, reason)
            }
            Err(Halt(reason)) => Check::not_checked(id, title, reason),
        });
    }
    let mut run = Run { tester, report, progress };
    run.check("tls", "Nothing goes in clear", surface::tls).await;
    run.check("headers", "Answers have the security headers", surface::headers).await;
    run.check("exposure", "No file is served that is not for the public", surface::exposure).await;
    run.check("methods", "Methods that do not exist are refused", surface::methods).await;
    run.check("redirects", "No header or query decides where an answer leads", redirects::redirects).await;
    run.check("authorization.anonymous", "Operations are closed without credentials", authorization::anonymous).await;
    run.check("authorization.tricks", "No other spelling gets past authorisation", authorization::tricks).await;
    run.check("authorization.roles", "Operations are closed without their permission", authorization::roles).await;
    run.check("authorization.objects", "What belongs to others is closed", authorization::objects).await;
    run.check("tokens.forgeries", "Forged tokens are refused", tokens::forgeries).await;
    run.check("tokens.ends", "Tokens that have ended are refused", tokens::ends).await;
    run.check("browser.sessions", "Sessions by cookie are protected", browser::sessions).await;
    run.check("browser.origins", "Pages of foreign origins read nothing", browser::origins).await;
    run.check("browser.caching", "No cache keeps what is for one account", browser::caching).await;
    run.check("smuggling", "No request hides another one", smuggling::desync).await;
    run.check("smuggling.malformed", "Malformed requests are refused", smuggling::malformed).await;
    run.check("bodies", "Long, deep and compressed bodies are refused", surface::bodies).await;
    run.check("idempotency", "A key gives the answer to its caller alone", trail::idempotency).await;
    run.check("authentication.defaults", "No usual account has a usual password", authentication::defaults).await;
    run.check("authentication.confusions", "Only a password logs in", authentication::confusions).await;
    run.check("authentication.assignments", "No extra member grants rights", authentication::assignments).await;
    run.check("injection", "No text is read as another language", injection::injections).await;
    run.check("enumeration.content", "No answer tells whether an account exists", enumeration::content).await;
    run.check("enumeration.time", "No time tells whether an account exists", enumeration::time).await;
    run.check("audit", "What the test does is in the trail", trail::recorded).await;
    run.check("lockout", "Wrong passwords lock an account", limits::lockout).await;
    run.check("rate_limit", "A burst of logins is refused", limits::rate).await;
    run.check("errors", "No error shows the inside of the service", errors).await;
}

/// A run of the probes.
struct Run<'a, P> {
    tester: &'a mut Tester,
    report: &'a mut Report,
    progress: &'a P,
}

impl<P: Fn(&str)> Run<'_, P> {
    /// Makes one check. Findings made before a probe had to give up count.
    async fn check(
        &mut self,
        id: &str,
        title: &str,
        probe: impl AsyncFnOnce(&mut Tester, &mut Vec<Finding>) -> Result<String, Halt>,
    ) {
        (self.progress)(title);
        self.tester.begin(id);
        let mut found = Vec::new();
        let check = match probe(self.tester, &mut found).await {
            Ok(detail) => Check::of(id, title, detail, found),
            Err(Halt(_)) if !found.is_empty() => Check::of(id, title, "", found),
            Err(Halt(reason)) => Check::not_checked(id, title, reason),
        };
        self.report.checks.push(check);
    }
}

/// Judges the errors of all answers so far.
async fn errors(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    found.extend(tester.take_passive());
    Ok(format!("all answers to {} requests", tester.requests))
}
