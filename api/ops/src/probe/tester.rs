//! The tester: sends requests within its bounds, waits where it is told to, and looks at each answer for what no answer
//! should say. It knows no probe.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use chrono::SecondsFormat;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::accounts::TestAccounts;
use super::bounds::{Halt, TestBounds};
use super::disclosure::disclosed;
use super::document::ApiDocument;
use super::request::TestRequest;
use super::target::TestTarget;
use super::wire::{self, TestAnswer};
use crate::clock;
use crate::finding::{Finding, Rule, Severity};

/// The most bytes of an answer. The OpenAPI document is the longest.
const MOST: usize = 8 * 1024 * 1024;
/// The longest wait for a quota, at once.
const MAX_WAIT: Duration = Duration::from_secs(90);
/// The attempts at a request that a quota refuses.
const ATTEMPTS: u32 = 5;
/// The silence after which nothing more is expected of a connection.
const SILENCE: Duration = Duration::from_secs(3);
/// Findings of a kind that are kept: the rest says no more.
const MOST_FINDINGS: usize = 10;

const SERVER_ERROR: Rule = Rule {
    id: "errors.server_error",
    title: "a request makes the service fail",
    severity: Severity::Medium,
    remedy: "Find the cause in the service's log by the request id, and refuse the request with a 4xx.",
    reference: "CWE-755",
};

const DISCLOSURE: Rule = Rule {
    id: "errors.disclosure",
    title: "an error shows the inside of the service",
    severity: Severity::Medium,
    remedy: "Answer errors with a code and a request id. Write the cause to the log alone.",
    reference: "CWE-209; OWASP ASVS 5.0, 16.5.1",
};

/// The tester.
pub struct Tester {
    /// The instance.
    pub target: TestTarget,
    /// The id of this run, which every request carries.
    pub run: String,
    /// The accounts that were given and those that were made.
    pub accounts: TestAccounts,
    /// The document that the instance serves.
    pub document: ApiDocument,
    /// The requests so far.
    pub requests: u32,
    tls: Option<TlsConnector>,
    bounds: TestBounds,
    began: Instant,
    last: Option<Instant>,
    /// The check under way, for the journal.
    check: String,
    journal: Option<std::fs::File>,
    /// `true` once a request could not be written to the journal.
    is_untold: bool,
    /// The faults that any answer has shown, by rule and subject.
    passive: BTreeMap<(&'static str, String), Finding>,
}

impl Tester {
    /// Creates a tester. The journal gets a line per request.
    #[must_use]
    pub fn new(
        target: TestTarget,
        run: String,
        tls: Option<TlsConnector>,
        bounds: TestBounds,
        journal: Option<std::fs::File>,
    ) -> Self {
        Self {
            target,
            run,
            accounts: TestAccounts::default(),
            document: ApiDocument::default(),
            requests: 0,
            tls,
            bounds,
            began: Instant::now(),
            last: None,
            check: String::new(),
            journal,
            is_untold: false,
            passive: BTreeMap::new(),
        }
    }

    /// Begins a check.
    pub fn begin(&mut self, check: &str) {
        check.clone_into(&mut self.check);
    }

    /// Lets cleaning up have a share of its own of time and requests. It goes on without a journal that cannot be written.
    pub fn grant_cleaning(&mut self) {
        if std::mem::take(&mut self.is_untold) {
            self.journal = None;
        }
        self.bounds.time = self.began.elapsed() + Duration::from_secs(60);
        self.bounds.requests = self.requests + 100;
    }

    /// Returns the time so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the user agent of every request.
    #[must_use]
    pub fn agent(&self) -> String {
        format!("fulexo-penetration-test/{}", self.run)
    }

    /// Sends a request. One that is refused for its rate, or for want of room, is sent again when the answer says, unless it takes
    /// refusals.
    ///
    /// # Errors
    /// [`Halt`] if the bounds are reached, or there is no answer.
    pub async fn send(&mut self, request: &TestRequest) -> Result<TestAnswer, Halt> {
        let mut attempt = 1;
        loop {
            self.turn().await?;
            let bytes = request.bytes(&self.target.authority, &self.agent());
            let asked = async {
                let mut connection = wire::connect(&self.target, self.tls.as_ref()).await?;
                wire::ask(&mut *connection, &bytes, MOST).await
            };
            let answered = asked.await;
            let status = answered.as_ref().map_or(0, |answer| answer.status);
            let id = answered.as_ref().ok().and_then(|answer| answer.header("request-id")).map(str::to_owned);
            self.note(&request.method, request.path(), status, id.as_deref())?;
            let answer = answered.map_err(|error| Halt(format!("{} {}: {error}", request.method, request.path())))?;
            if matches!(answer.status, 429 | 503) && !request.takes_refusals && attempt < ATTEMPTS {
                attempt += 1;
                let wait = answer.header("retry-after").and_then(|wait| wait.parse().ok()).map(Duration::from_secs);
                sleep(wait.unwrap_or(Duration::from_secs(1)).min(MAX_WAIT).max(Duration::from_millis(100))).await;
                continue;
            }
            self.look_at(request, &answer);
            return Ok(answer);
        }
    }

    /// Sends bytes as they are, and returns all that comes back.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn exchange(&mut self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, Halt> {
        self.turn().await?;
        let exchanged = async {
            let mut connection = wire::connect(&self.target, self.tls.as_ref()).await?;
            wire::exchange(&mut *connection, bytes, SILENCE).await
        };
        let answered = exchanged.await;
        let status = answered.as_ref().ok().and_then(|bytes| wire::statuses(bytes).first().copied()).unwrap_or(0);
        self.note("RAW", name, status, None)?;
        answered.map_err(|error| Halt(format!("{name}: {error}")))
    }

    /// Sends bytes without TLS, and returns all that comes back.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn exchange_plainly(&mut self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, Halt> {
        let tls = self.tls.take();
        let exchanged = self.exchange(name, bytes).await;
        self.tls = tls;
        exchanged
    }

    /// Returns the findings about errors that any answer has shown.
    pub fn take_passive(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.passive).into_values().collect()
    }

    /// Judges one more request by the bounds.
    ///
    /// # Errors
    /// [`Halt`] if they are reached.
    pub fn within_bounds(&self) -> Result<(), Halt> {
        let TestBounds { requests, time, .. } = self.bounds;
        if self.is_untold {
            return Err(Halt("the journal cannot be written".to_owned()));
        }
        if self.requests >= requests {
            return Err(Halt(format!("the bound of {requests} requests is reached: raise --most-requests")));
        }
        if self.began.elapsed() >= time {
            let minutes = time.as_secs() / 60;
            return Err(Halt(format!("the bound of {minutes} minutes is reached: raise --most-minutes")));
        }
        Ok(())
    }

    /// Waits for the turn of one more request.
    async fn turn(&mut self) -> Result<(), Halt> {
        self.within_bounds()?;
        if let Some(last) = self.last {
            let least = Duration::from_secs(1) / self.bounds.rate.max(1);
            sleep(least.saturating_sub(last.elapsed())).await;
        }
        self.last = Some(Instant::now());
        self.requests += 1;
        Ok(())
    }

    /// Writes the request to the journal. A journal that cannot be written ends the probes: they would not be told whole.
    fn note(&mut self, method: &str, path: &str, status: u16, id: Option<&str>) -> Result<(), Halt> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let line = json!({
            "time": clock::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            "check": self.check,
            "method": method,
            "path": path,
            "status": if status == 0 { Value::Null } else { status.into() },
            "request_id": id,
        });
        writeln!(journal, "{line}").map_err(|error| {
            self.is_untold = true;
            Halt(format!("cannot write the journal: {error}"))
        })
    }

    fn look_at(&mut self, request: &TestRequest, answer: &TestAnswer) {
        if request.is_judged || answer.status < 400 {
            return;
        }
        let subject = || format!("{} {}", request.method, cut(request.path(), 80));
        let mut keep = |rule: &Rule, evidence: String| {
            let kept = self.passive.keys().filter(|(id, _)| *id == rule.id).count();
            if kept < MOST_FINDINGS {
                self.passive.entry((rule.id, subject())).or_insert_with(|| rule.finding(subject(), evidence));
            }
        };
        if let Some(sign) = disclosed(&answer.text()) {
            keep(&DISCLOSURE, format!("the answer {} contains {sign:?}", answer.status));
        } else if matches!(answer.status, 500 | 502) {
            let id = answer.header("request-id").unwrap_or("none");
            keep(&SERVER_ERROR, format!("the answer is {}, request id {}", answer.status, cut(id, 80)));
        }
    }
}

/// Cuts a text to so many characters.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tester(journal: Option<std::fs::File>) -> Tester {
        let target = TestTarget {
            host: "127.0.0.1".to_owned(),
            authority: "127.0.0.1:9".to_owned(),
            is_tls: false,
            address: ([127, 0, 0, 1], 9).into(),
        };
        let bounds = TestBounds { requests: 2, rate: 1_000, time: Duration::from_secs(60) };
        Tester::new(target, "run".to_owned(), None, bounds, journal)
    }

    #[test]
    fn a_journal_on_a_full_disk_ends_the_probes_and_not_the_cleaning() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut tester = tester(Some(full));
        assert!(tester.note("GET", "/", 200, None).is_err());
        assert!(tester.within_bounds().is_err());
        tester.grant_cleaning();
        assert!(tester.within_bounds().is_ok() && tester.note("GET", "/", 200, None).is_ok());
    }

    #[tokio::test]
    async fn no_request_is_sent_beyond_the_bound() {
        let mut tester = tester(None);
        for _ in 0..2 {
            assert!(tester.turn().await.is_ok());
        }
        assert!(tester.turn().await.is_err());
        assert_eq!(tester.requests, 2);
    }

    #[test]
    fn an_error_that_shows_the_inside_is_kept_once_for_each_request_and_ten_times_at_most() {
        let mut tester = tester(None);
        let answer = TestAnswer { status: 500, body: b"panicked at".to_vec(), ..TestAnswer::default() };
        for number in 0..30 {
            tester.look_at(&TestRequest::get(format!("/{}", number % 15)), &answer);
        }
        tester.look_at(&TestRequest::get("/judged").judged(), &answer);
        let found = tester.take_passive();
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|it| it.rule == DISCLOSURE.id && it.subject != "GET /judged"));
    }
}
