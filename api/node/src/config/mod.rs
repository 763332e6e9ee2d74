//! Configuration: read once, from the environment, and checked as a whole. Whatever is wrong is said all at once, and
//! a weak secret or an unknown FULEXO_ variable is wrong.
//!
//! The variables are documented in docs/configuration.md, in the same order.

mod environment;
mod feed_source;
pub mod mail;
mod reader;
mod secrets;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use chrono::TimeDelta;
use fulexo_commands::access_token::SigningKey;
use fulexo_commands::vault::Kek;
use fulexo_domain::rate_limit::RateLimits;
use ipnet::IpNet;
use zeroize::Zeroizing;

pub use self::environment::Environment;
pub use self::feed_source::FeedSource;
use self::mail::MailConfig;
use self::reader::Reader;
use crate::database::LEAST_CONNECTIONS;
use crate::http::cors::Origins;
use crate::tls::Source;

/// What the service is told. No `Debug`: it holds secrets.
pub struct Config {
    /// Where it runs.
    pub environment: Environment,
    /// What this node is called among others.
    pub node_name: String,
    /// The address it listens on.
    pub bind: IpAddr,
    /// The port it listens on; 0 lets the system choose.
    pub port: u16,
    /// Where the certificate comes from; plain HTTP without.
    pub tls: Option<Source>,
    /// The port of the plain listener that redirects to HTTPS and answers ACME challenges; none without.
    pub http_port: Option<u16>,
    /// The application role.
    pub database_url: String,
    /// Most connections to the database.
    pub database_connections: u32,
    /// The doorbell between nodes, and the copy of the log; without it they look every 200 ms. One URL or several.
    pub nats_url: Option<String>,
    /// The text of a credentials file for NATS.
    pub nats_credentials: Option<Zeroizing<String>>,
    /// How many servers of NATS keep the copy of the log; none makes no copy.
    pub nats_replicas: u32,
    /// Where projections read the log.
    pub feed: FeedSource,
    /// `iss` of access tokens.
    pub issuer: String,
    /// `aud` of access tokens.
    pub audience: String,
    /// The first signs, all verify.
    pub signing_keys: Vec<SigningKey>,
    /// Life of an access token.
    pub access_lifetime: TimeDelta,
    /// Life of a refresh token.
    pub refresh_lifetime: TimeDelta,
    /// The first wraps, all open.
    pub encryption_keys: Vec<Kek>,
    /// bcrypt's cost.
    pub bcrypt_cost: u32,
    /// Whether anybody may register.
    pub registration: bool,
    /// Proxies whose word on the client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// How many requests are let in; without it, however many come.
    pub rate_limits: Option<RateLimits>,
    /// Whose pages may read answers.
    pub origins: Origins,
    /// How mail is sent; without it, none is.
    pub mail: Option<MailConfig>,
}

/// Everything that is wrong, in words for whoever sets the variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_vars(std::env::vars().collect(), |path| {
            std::fs::read_to_string(path).map_err(|error| error.to_string())
        })
    }

    /// Reads variables given; `read_file` reads the files that some of them name.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn from_vars(
        vars: BTreeMap<String, String>,
        read_file: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader { vars, problems: Vec::new() };
        reader.refuse_unknown();
        reader.refuse_demo_secrets();

        let environment = reader.environment();
        let port = reader.parsed("FULEXO_PORT", 8080, "a port from 0 to 65535");
        let tls = reader.tls(&read_file);
        let config = Self {
            environment,
            node_name: reader.node_name(),
            bind: reader.parsed("FULEXO_BIND", IpAddr::from([127, 0, 0, 1]), "an IP address"),
            port,
            http_port: reader.http_port(port, tls.as_ref()),
            tls,
            database_url: reader.database_url(),
            database_connections: reader.in_range("FULEXO_DATABASE_CONNECTIONS", "20", LEAST_CONNECTIONS, 200),
            nats_url: reader.nats_url(environment),
            nats_credentials: reader.nats_credentials(&read_file),
            nats_replicas: reader.nats_replicas(),
            feed: reader.feed(),
            issuer: reader.issuer(),
            audience: reader.text("FULEXO_AUDIENCE", "fulexo"),
            signing_keys: reader.signing_keys(environment, &read_file),
            access_lifetime: reader.duration("JWT_EXPIRES_IN", "1h", TimeDelta::minutes(1), TimeDelta::hours(24)),
            refresh_lifetime: reader.duration(
                "JWT_REFRESH_EXPIRES_IN",
                "7d",
                TimeDelta::minutes(5),
                TimeDelta::days(90),
            ),
            encryption_keys: reader.encryption_keys(environment),
            bcrypt_cost: reader.in_range("FULEXO_BCRYPT_COST", "10", 4, 16),
            registration: reader.switch("FULEXO_REGISTRATION", true),
            trusted_proxies: reader.networks("TRUSTED_PROXIES"),
            rate_limits: reader.rate_limits(environment),
            origins: reader.origins("FULEXO_CORS_ORIGINS"),
            mail: reader.mail(environment),
        };
        reader.check_logging();
        if environment == Environment::Production {
            if config.trusted_proxies.is_empty() && config.tls.is_none() {
                reader.problem(
                    "TRUSTED_PROXIES is not set, nor is TLS_CERT or ACME_DOMAINS: production speaks HTTPS, itself or by a \
                     proxy in front of it; name the proxy's addresses, for example TRUSTED_PROXIES=127.0.0.1/32",
                );
            }
            if config.bcrypt_cost < 10 {
                reader.problem("FULEXO_BCRYPT_COST is below 10, the least that production accepts");
            }
        }
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigErrors(reader.problems)) }
    }
}

/// The database URL of the owner role, for `migrate` alone.
///
/// # Errors
/// When it is missing or is no URL of Postgres.
pub fn owner_database_url() -> Result<String, ConfigErrors> {
    let mut reader = Reader { vars: std::env::vars().collect(), problems: Vec::new() };
    let url = reader.postgres_url("DATABASE_OWNER_URL", "the owner role, which migrations run as");
    if reader.problems.is_empty() { Ok(url) } else { Err(ConfigErrors(reader.problems)) }
}

/// The database URL alone, for verbs that need nothing else.
///
/// # Errors
/// When it is missing or is no URL of Postgres.
pub fn database_url() -> Result<String, ConfigErrors> {
    let mut reader = Reader { vars: std::env::vars().collect(), problems: Vec::new() };
    let url = reader.database_url();
    if reader.problems.is_empty() { Ok(url) } else { Err(ConfigErrors(reader.problems)) }
}
