//! The reader of variables. It records every problem for the operator, and no problem repeats a secret.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use async_nats::ConnectOptions;
use chrono::TimeDelta;
use fulexo_domain::rate_limit::{Quota, RateLimit, RateLimits};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::feed_source::FeedSource;
use crate::http::cors::Origins;
use crate::nats;
use crate::spelling::{did_you_mean, nearest};

/// The FULEXO_ variables. Any other is a misspelling.
const OWN: [&str; 36] = [
    "FULEXO_NODE_NAME",
    "FULEXO_BIND",
    "FULEXO_PORT",
    "FULEXO_HTTP_PORT",
    "FULEXO_DATABASE_CONNECTIONS",
    "FULEXO_NATS_REPLICAS",
    "FULEXO_FEED",
    "FULEXO_ISSUER",
    "FULEXO_AUDIENCE",
    "FULEXO_KEY_EPOCH",
    "FULEXO_ANONYMOUS_RETENTION",
    "FULEXO_LOG_KEY_FILE",
    "FULEXO_SIGNER_MEMORY",
    "FULEXO_SIGNER_SOCKET",
    "FULEXO_TRUST_POLICY_FILE",
    "FULEXO_WITNESS_INTERVAL",
    "FULEXO_WITNESS_KEY_FILE",
    "FULEXO_WITNESS_LOGS_FILE",
    "FULEXO_WITNESS_STATE",
    "FULEXO_BCRYPT_COST",
    "FULEXO_REGISTRATION",
    "FULEXO_PENETRATION_TEST_TOKEN",
    "FULEXO_RATE_LIMITS",
    "FULEXO_CORS_ORIGINS",
    "FULEXO_MAIL_DIR",
    "FULEXO_PUBLIC_URL",
    "FULEXO_BACKUP_TO",
    "FULEXO_BACKUP_RECIPIENTS_FILE",
    "FULEXO_BACKUP_KEY_RECIPIENTS_FILE",
    "FULEXO_BACKUP_SIGNING_KEY_FILE",
    "FULEXO_BACKUP_PIECE_MIB",
    "FULEXO_BACKUP_ALLOW_HTTP",
    "FULEXO_LOG",
    "FULEXO_LOG_FORMAT",
    "FULEXO_AUDIT_REPORTS",
    "FULEXO_ADVISORY_DB",
];

/// The example secrets of the documentation, which are refused.
pub(super) const DEMO: [&str; 3] = [
    "your-super-secret-jwt-key-minimum-64-characters-long",
    "your-32-character-encryption-key",
    "strong-database-password-here",
];

pub(super) struct EnvironmentReader {
    pub(super) vars: BTreeMap<String, String>,
    /// The problems so far.
    pub(super) problems: Vec<String>,
}

impl EnvironmentReader {
    pub(super) fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Returns a variable. An empty one counts as unset.
    pub(super) fn optional(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&self, name: &str, default: &str) -> String {
        self.optional(name).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn refuse_unknown(&mut self) {
        let unknown: Vec<_> = self
            .vars
            .keys()
            .filter(|name| name.starts_with("FULEXO_") && !OWN.contains(&name.as_str()))
            .map(|name| {
                // All names begin alike: only the rest is compared.
                let rest = |name: &'static str| name.strip_prefix("FULEXO_").unwrap_or(name);
                match nearest(name.strip_prefix("FULEXO_").unwrap_or(name), OWN.map(rest)) {
                    Some(near) => format!("{name} is not a variable of Fulexo; did you mean FULEXO_{near}?"),
                    None => format!("{name} is not a variable of Fulexo. The variables are {}", OWN.join(", ")),
                }
            })
            .collect();
        self.problems.extend(unknown);
    }

    pub(super) fn refuse_demo_secrets(&mut self) {
        let demos: Vec<_> = ["JWT_SECRET", "ENCRYPTION_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "NATS_URL", "SMTP_URL"]
            .into_iter()
            .filter(|name| self.optional(name).is_some_and(|value| DEMO.iter().any(|demo| value.contains(demo))))
            .map(|name| format!("{name} contains an example from the documentation. Generate your own secret"))
            .collect();
        self.problems.extend(demos);
    }

    /// Checks the two variables of the log. They are used where logging starts, which cannot report a problem.
    pub(super) fn check_logging(&mut self) {
        if let Some(filter) = self.optional("FULEXO_LOG")
            && EnvFilter::try_new(filter).is_err()
        {
            self.problem("FULEXO_LOG must be a filter such as info or info,fulexo_commands=debug");
        }
        if self.optional("FULEXO_LOG_FORMAT").is_some_and(|format| format != "json" && format != "text") {
            self.problem("FULEXO_LOG_FORMAT must be json or text");
        }
    }

    pub(super) fn environment(&mut self) -> Environment {
        match self.text("APP_ENV", "development").as_str() {
            "production" => Environment::Production,
            "development" => Environment::Development,
            other => {
                let near = did_you_mean(other, ["production", "development"]);
                self.problem(format!("APP_ENV must be production or development{near}"));
                // The rules of production could report problems that do not exist.
                Environment::Development
            }
        }
    }

    /// Parses a variable. A malformed value is recorded and replaced by `fallback`, so that all problems are found.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, fallback: T, what: &str) -> T {
        let Some(text) = self.optional(name) else { return fallback };
        if let Ok(value) = text.parse() {
            value
        } else {
            self.problem(format!("{name} must be {what}"));
            fallback
        }
    }

    pub(super) fn bind(&mut self) -> IpAddr {
        self.parsed("FULEXO_BIND", IpAddr::from([127, 0, 0, 1]), "an IP address")
    }

    pub(super) fn port(&mut self) -> u16 {
        self.parsed("FULEXO_PORT", 8080, "a port from 0 to 65535")
    }

    pub(super) fn in_range(&mut self, name: &str, default: &str, least: u32, most: u32) -> u32 {
        match self.text(name, default).parse::<u32>() {
            Ok(value) if (least..=most).contains(&value) => value,
            Ok(_) | Err(_) => {
                self.problem(format!("{name} must be a number from {least} to {most}"));
                least
            }
        }
    }

    pub(super) fn switch(&mut self, name: &str, default: bool) -> bool {
        match self.optional(name).as_deref() {
            None => default,
            Some("on" | "true" | "1") => true,
            Some("off" | "false" | "0") => false,
            Some(_) => {
                self.problem(format!("{name} must be on or off"));
                default
            }
        }
    }

    pub(super) fn duration(&mut self, name: &str, default: &str, least: TimeDelta, most: TimeDelta) -> TimeDelta {
        match parse_duration(&self.text(name, default)) {
            Some(duration) if least <= duration && duration <= most => duration,
            Some(_) => {
                self.problem(format!("{name} must be from {} to {}", show(least), show(most)));
                least
            }
            None => {
                self.problem(format!("{name} must be a number with a unit, for example 30m, {default} or 7d"));
                least
            }
        }
    }

    /// Returns the token of a penetration test, which nobody should guess from its digest.
    pub(super) fn penetration_test_token(&mut self) -> Option<Zeroizing<String>> {
        const NAME: &str = "FULEXO_PENETRATION_TEST_TOKEN";
        let token = self.optional(NAME).map(Zeroizing::new)?;
        if token.chars().count() < 32 {
            self.problem(format!("{NAME} must have at least 32 characters: openssl rand -hex 32"));
        }
        Some(token)
    }

    pub(super) fn networks(&mut self, name: &str) -> Vec<IpNet> {
        let Some(text) = self.optional(name) else { return Vec::new() };
        let mut networks = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)) {
                Ok(network) if network.prefix_len() == 0 => {
                    self.problem(format!(
                        "{name} must not contain {part}, which trusts every client. Name only your proxies"
                    ));
                }
                Ok(network) => networks.push(network),
                Err(_) => self.problem(format!("{name} contains {part:?}, which is not an IP address or network")),
            }
        }
        networks
    }

    /// Returns the rate limits. `login=30/1m,address=1200/1m` changes these quotas; `off` disables all, in development.
    pub(super) fn rate_limits(&mut self, environment: Environment) -> Option<RateLimits> {
        const NAME: &str = "FULEXO_RATE_LIMITS";
        let mut limits = RateLimits::default();
        let Some(text) = self.optional(NAME) else { return Some(limits) };
        if text == "off" {
            if environment == Environment::Production {
                self.problem(format!("{NAME} is off, which production does not allow. Change quotas instead"));
            }
            return None;
        }
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let entry = part.split_once('=').and_then(|(name, quota)| {
                let limit = RateLimit::all().find(|limit| limit.as_str() == name.trim())?;
                let (requests, window) = quota.split_once('/')?;
                Some((limit, Quota::new(requests.trim().parse().ok()?, parse_duration(window.trim())?)?))
            });
            match entry {
                Some((limit, quota)) => limits.set(limit, quota),
                None => self.problem(format!(
                    "{NAME} contains {part:?}, which is not a limit with its quota. Write entries such as login=30/1m; \
                     the limits are {}, and a quota is 1 to 1000000 requests in 1s to 1d",
                    RateLimit::all().map(RateLimit::as_str).collect::<Vec<_>>().join(", ")
                )),
            }
        }
        Some(limits)
    }

    /// Returns the node's name, as responses, health and the log show it.
    pub(super) fn node_name(&mut self) -> String {
        const NAME: &str = "FULEXO_NODE_NAME";
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = self.optional(NAME).unwrap_or_else(|| host().trim().chars().take(63).collect());
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.len() > 63 || !name.chars().all(fits) {
            self.problem(format!("{NAME} must have 1 to 63 letters, digits, dots, dashes or underscores"));
        }
        if name.is_empty() { "fulexo".to_owned() } else { name }
    }

    pub(super) fn origins(&mut self, name: &str) -> Origins {
        let text = self.optional(name).unwrap_or_default();
        let mut origins = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match Origins::parse(part) {
                Some(origin) => origins.push(origin),
                None => self.problem(format!(
                    "{name} contains {part:?}, which is not an origin. Write it as browsers send it, such as \
                     https://panel.example.com: in lower case, without a path or a wildcard, with http:// only for localhost"
                )),
            }
        }
        Origins::new(origins)
    }

    pub(super) fn database_url(&mut self) -> String {
        self.postgres_url("DATABASE_URL", "the application role")
    }

    pub(super) fn postgres_url(&mut self, name: &str, role: &str) -> String {
        let Some(url) = self.optional(name) else {
            self.problem(format!(
                "{name} is not set. Set it to the PostgreSQL URL of {role}: postgresql://user:password@host/database"
            ));
            return String::new();
        };
        // sqlx accepts any scheme.
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        if !is_postgres || sqlx::postgres::PgConnectOptions::from_str(&url).is_err() {
            self.problem(format!("{name} must be a PostgreSQL URL such as postgresql://user:password@host/database"));
        }
        url
    }

    pub(super) fn nats_url(&mut self, environment: Environment) -> Option<String> {
        let url = self.optional("NATS_URL")?;
        let has_password = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).is_some();
        if environment == Environment::Production && !has_password && self.optional("NATS_CREDS").is_none() {
            self.problem("NATS_URL has no password, and NATS_CREDS is not set. Production needs one of them");
        }
        if nats::addresses(&url).is_none() {
            self.problem("NATS_URL must be a NATS URL such as nats://user:password@host:4222, or a list of them");
        }
        Some(url)
    }

    pub(super) fn nats_credentials(
        &mut self,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Option<Zeroizing<String>> {
        let path = self.optional("NATS_CREDS")?;
        let credentials = match read_file(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                self.problem(format!("NATS_CREDS: cannot read {path}: {error}"));
                return None;
            }
        };
        if ConnectOptions::new().credentials(&credentials).is_err() {
            self.problem(format!("NATS_CREDS: {path} is not a NATS credentials file"));
        }
        Some(credentials)
    }

    pub(super) fn nats_replicas(&mut self) -> u32 {
        const NAME: &str = "FULEXO_NATS_REPLICAS";
        match self.text(NAME, "1").parse() {
            Ok(replicas @ (0 | 1 | 3 | 5)) => replicas,
            Ok(_) | Err(_) => {
                self.problem(format!("{NAME} must be 1, 3 or 5, or 0 to keep no copy of the log in NATS"));
                1
            }
        }
    }

    pub(super) fn feed(&mut self) -> FeedSource {
        const NAME: &str = "FULEXO_FEED";
        match self.text(NAME, "postgres").as_str() {
            "postgres" => FeedSource::Postgres,
            "jetstream" => {
                if self.optional("NATS_URL").is_none() {
                    self.problem(format!("{NAME} is jetstream, and NATS_URL is not set. Set NATS_URL, too"));
                }
                FeedSource::JetStream
            }
            _ => {
                self.problem(format!("{NAME} must be postgres or jetstream"));
                FeedSource::Postgres
            }
        }
    }
}

/// Parses a duration such as `90s`, `30m`, `1h` or `7d`.
fn parse_duration(text: &str) -> Option<TimeDelta> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok()?;
    match unit {
        "s" => TimeDelta::try_seconds(number),
        "m" => TimeDelta::try_minutes(number),
        "h" => TimeDelta::try_hours(number),
        "d" => TimeDelta::try_days(number),
        _ => None,
    }
}

fn show(duration: TimeDelta) -> String {
    match (duration.num_days(), duration.num_hours(), duration.num_minutes()) {
        (days, ..) if days > 1 => format!("{days}d"),
        (_, hours, _) if hours > 0 => format!("{hours}h"),
        (.., minutes) => format!("{minutes}m"),
    }
}
