//! A request of the tester, before it is bytes.

use serde_json::Value;

/// A request.
#[derive(Clone, Debug)]
pub struct TestRequest {
    /// The method.
    pub method: String,
    /// The target: a path, with a query or without.
    pub target: String,
    /// The headers, in addition to those of every request. A `host` here replaces the target's own.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Vec<u8>>,
    /// `true` if a refusal for its rate is an answer, and no reason to wait and ask again.
    pub takes_refusals: bool,
    /// `true` if the probe that sends it judges errors of the service by itself.
    pub is_judged: bool,
}

impl TestRequest {
    /// Returns a request without a body.
    #[must_use]
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            headers: Vec::new(),
            body: None,
            takes_refusals: false,
            is_judged: false,
        }
    }

    /// Returns a GET.
    #[must_use]
    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// Returns a POST of JSON.
    #[must_use]
    pub fn post(target: impl Into<String>, body: &Value) -> Self {
        Self::new("POST", target).json(body.to_string())
    }

    /// Adds a body of JSON, as text.
    #[must_use]
    pub fn json(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..self }.header("content-type", "application/json")
    }

    /// Adds a header. Line breaks in the value are left out: this is not the place for them.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let value = value.as_ref().chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        self.headers.push((name.to_owned(), value));
        self
    }

    /// Adds a bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Takes a refusal for its rate as an answer.
    #[must_use]
    pub fn refusable(self) -> Self {
        Self { takes_refusals: true, ..self }
    }

    /// Leaves the judgement of errors to the probe.
    #[must_use]
    pub fn judged(self) -> Self {
        Self { is_judged: true, ..self }
    }

    /// Returns its bytes, as HTTP/1.1 on a connection of its own.
    #[must_use]
    pub fn bytes(&self, authority: &str, agent: &str) -> Vec<u8> {
        let host = self.headers.iter().find(|(name, _)| name == "host").map_or(authority, |(_, value)| value);
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {agent}\r\naccept: */*\r\nconnection: close\r\n",
            self.method, self.target
        );
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "host") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }

    /// Returns the path without its query, which may hold a token.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}
