//! The configuration: read once from the environment and checked as a whole. Every problem is reported at once. A weak secret
//! and an unknown FULEXO_ variable are problems, too.
//!
//! docs/configuration.md lists the variables in the same order.

mod environment;
mod errors;
mod feed_source;
mod keys;
pub mod mail;
mod reader;
mod secrets;
mod signer;
#[cfg(test)]
mod tests;
mod tls;
mod witness;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use chrono::TimeDelta;
use fulexo_commands::access_token::SigningKey;
use fulexo_commands::vault::Kek;
use fulexo_domain::rate_limit::RateLimits;
use ipnet::IpNet;
use zeroize::Zeroizing;

pub use self::environment::Environment;
pub use self::errors::ConfigErrors;
pub use self::feed_source::FeedSource;
pub use self::keys::KeySources;
pub(crate) use self::keys::pem_blocks;
use self::mail::MailConfig;
use self::reader::EnvironmentReader;
pub use self::signer::{LogSignerConfig, SignerConfig};
pub use self::witness::{CosigningConfig, WitnessConfig};
use crate::database::LEAST_CONNECTIONS;
use crate::http::cors::Origins;
use crate::tls::Source;

/// The configuration of a node. It has no `Debug`: it contains secrets.
pub struct Config {
    /// The environment.
    pub environment: Environment,
    /// The name of this node.
    pub node_name: String,
    /// The address to listen on.
    pub bind: IpAddr,
    /// The port to listen on. 0 lets the system choose.
    pub port: u16,
    /// The source of the certificate. `None` for plain HTTP.
    pub tls: Option<Source>,
    /// The port of the plain listener, which redirects to HTTPS and answers ACME challenges.
    pub http_port: Option<u16>,
    /// The database URL of the application role.
    pub database_url: String,
    /// The maximum number of database connections.
    pub database_connections: u32,
    /// One or several NATS URLs, for the doorbell and the copy of the log. Without NATS, nodes poll every 200 ms.
    pub nats_url: Option<String>,
    /// The text of a NATS credentials file.
    pub nats_credentials: Option<Zeroizing<String>>,
    /// The number of replicas of the log in JetStream. 0 for no copy.
    pub nats_replicas: u32,
    /// The source of the log for projections.
    pub feed: FeedSource,
    /// The `iss` of access tokens.
    pub issuer: String,
    /// The `aud` of access tokens.
    pub audience: String,
    /// The signing keys. The first signs unless the database names another; all verify.
    pub signing_keys: Vec<SigningKey>,
    /// The lifetime of an access token.
    pub access_lifetime: TimeDelta,
    /// The lifetime of a refresh token.
    pub refresh_lifetime: TimeDelta,
    /// The encryption keys. The first wraps in a new database; all unwrap.
    pub encryption_keys: Vec<Kek>,
    /// The variables and files that these keys come from.
    pub key_sources: KeySources,
    /// The time after which a key is due to be replaced.
    pub key_epoch: TimeDelta,
    /// The time for which data is kept that is sealed for nobody in particular.
    pub anonymous_retention: TimeDelta,
    /// The signer of the log's checkpoints. `None` if this node has none.
    pub signer: Option<SignerConfig>,
    /// The witnesses that cosign checkpoints. `None` if there are none.
    pub cosigning: Option<CosigningConfig>,
    /// The cost of bcrypt.
    pub bcrypt_cost: u32,
    /// `true` if anybody may register.
    pub registration: bool,
    /// The token by whose digest this node consents to a penetration test. `None` for no consent.
    pub penetration_test_token: Option<Zeroizing<String>>,
    /// The proxies that may name the client's address.
    pub trusted_proxies: Vec<IpNet>,
    /// The rate limits. `None` for no limits.
    pub rate_limits: Option<RateLimits>,
    /// The origins whose pages may read responses.
    pub origins: Origins,
    /// The configuration of e-mail. `None` if the service sends none.
    pub mail: Option<MailConfig>,
}

impl Config {
    /// Reads the environment of the process.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_vars(std::env::vars().collect(), |path| {
            std::fs::read_to_string(path).map_err(|error| error.to_string())
        })
    }

    /// Reads these variables. `read_file` reads the files that some of them name.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn from_vars(
        vars: BTreeMap<String, String>,
        read_file: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = EnvironmentReader { vars, problems: Vec::new() };
        reader.refuse_unknown();
        reader.refuse_demo_secrets();

        let environment = reader.environment();
        let port = reader.port();
        let tls = reader.tls(&read_file);
        let config = Self {
            environment,
            node_name: reader.node_name(),
            bind: reader.bind(),
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
            encryption_keys: reader.encryption_keys(environment, &read_file),
            key_sources: reader.key_sources(environment),
            key_epoch: reader.key_epoch(),
            anonymous_retention: reader.duration(
                "FULEXO_ANONYMOUS_RETENTION",
                "90d",
                TimeDelta::days(1),
                TimeDelta::days(3_650),
            ),
            signer: reader.node_signer(environment, &read_file),
            cosigning: reader.cosigning(&read_file),
            bcrypt_cost: reader.in_range("FULEXO_BCRYPT_COST", "10", 4, 16),
            registration: reader.switch("FULEXO_REGISTRATION", true),
            penetration_test_token: reader.penetration_test_token(),
            trusted_proxies: reader.networks("TRUSTED_PROXIES"),
            rate_limits: reader.rate_limits(environment),
            origins: reader.origins("FULEXO_CORS_ORIGINS"),
            mail: reader.mail(environment),
        };
        reader.check_logging();
        if environment == Environment::Production {
            if config.trusted_proxies.is_empty() && config.tls.is_none() {
                reader.problem(
                    "TRUSTED_PROXIES is not set, and neither is TLS_CERT or ACME_DOMAINS. Production needs HTTPS: set TLS_CERT \
                     or ACME_DOMAINS, or name the proxy in front of the node, for example TRUSTED_PROXIES=127.0.0.1/32",
                );
            }
            if config.bcrypt_cost < 10 {
                reader.problem("FULEXO_BCRYPT_COST must be at least 10 in production");
            }
        }
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigErrors(reader.problems)) }
    }
}

/// Returns the configuration of `fulexo signer`, and the socket on which it listens. It reads no other variable.
///
/// # Errors
/// Every problem of the configuration.
pub fn signer_process() -> Result<(LogSignerConfig, PathBuf), ConfigErrors> {
    let mut reader = EnvironmentReader { vars: std::env::vars().collect(), problems: Vec::new() };
    let read_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
    reader.signer_process(&read_file).ok_or(ConfigErrors(reader.problems))
}

/// Returns the configuration of `fulexo witness`. It reads no other variable.
///
/// # Errors
/// Every problem of the configuration.
pub fn witness_process() -> Result<WitnessConfig, ConfigErrors> {
    let read_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
    witness::witness(std::env::vars().collect(), &read_file).map_err(ConfigErrors)
}

/// Returns the time after which a key is due to be replaced, for verbs that need no other variable.
///
/// # Errors
/// If the variable is malformed.
pub fn key_epoch() -> Result<TimeDelta, ConfigErrors> {
    let mut reader = EnvironmentReader { vars: std::env::vars().collect(), problems: Vec::new() };
    let epoch = reader.key_epoch();
    if reader.problems.is_empty() { Ok(epoch) } else { Err(ConfigErrors(reader.problems)) }
}

/// Returns the database URL of the owner role, for `migrate`.
///
/// # Errors
/// If the variable is missing or malformed.
pub fn owner_database_url() -> Result<String, ConfigErrors> {
    let mut reader = EnvironmentReader { vars: std::env::vars().collect(), problems: Vec::new() };
    let url = reader.postgres_url("DATABASE_OWNER_URL", "the owner role, which runs migrations");
    if reader.problems.is_empty() { Ok(url) } else { Err(ConfigErrors(reader.problems)) }
}

/// Returns the superuser's database URL, for restores.
///
/// # Errors
/// If the variable is missing or malformed.
pub fn superuser_database_url() -> Result<String, ConfigErrors> {
    let mut reader = EnvironmentReader { vars: std::env::vars().collect(), problems: Vec::new() };
    let url = reader.postgres_url("DATABASE_SUPERUSER_URL", "a superuser, who creates and renames databases");
    if reader.problems.is_empty() { Ok(url) } else { Err(ConfigErrors(reader.problems)) }
}

/// Returns the database URL, for verbs that need no other variable.
///
/// # Errors
/// If the variable is missing or malformed.
pub fn database_url() -> Result<String, ConfigErrors> {
    let mut reader = EnvironmentReader { vars: std::env::vars().collect(), problems: Vec::new() };
    let url = reader.database_url();
    if reader.problems.is_empty() { Ok(url) } else { Err(ConfigErrors(reader.problems)) }
}
