//! Configuration: read once, from the environment, and checked as a whole. Whatever is wrong is said all at once, and
//! a weak secret or an unknown FULEXO_ variable is wrong.
//!
//! The variables are documented in the README, in the same order.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use fulexo_commands::token::{KeyError, SigningKey};
use fulexo_commands::vault::{Kek, Key};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

/// What the service is told. No `Debug`: it holds secrets.
pub struct Config {
    /// Where it runs.
    pub environment: Environment,
    /// The address it listens on.
    pub bind: IpAddr,
    /// The port it listens on; 0 lets the system choose.
    pub port: u16,
    /// The application role.
    pub database_url: String,
    /// Most connections to the database.
    pub database_connections: u32,
    /// The doorbell between nodes; without it they look every 200 ms.
    pub nats_url: Option<String>,
    /// A credentials file for NATS.
    pub nats_credentials: Option<String>,
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
}

/// Where the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// RS256 alone, no plain HTTP but behind a declared proxy.
    Production,
    /// HS256 will do.
    Development,
}

/// Everything that is wrong, in words for whoever sets the variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| writeln!(f, "  - {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// FULEXO_ variables that mean something; any other is a spelling mistake.
const OWN: [&str; 9] = [
    "FULEXO_BIND",
    "FULEXO_PORT",
    "FULEXO_DATABASE_CONNECTIONS",
    "FULEXO_ISSUER",
    "FULEXO_AUDIENCE",
    "FULEXO_BCRYPT_COST",
    "FULEXO_REGISTRATION",
    "FULEXO_LOG",
    "FULEXO_LOG_FORMAT",
];

/// Demo secrets of the security document, and its placeholders: never good for anything but reading.
const DEMO: [&str; 3] = [
    "your-super-secret-jwt-key-minimum-64-characters-long",
    "your-32-character-encryption-key",
    "strong-database-password-here",
];

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
        let config = Self {
            environment,
            bind: reader.parsed("FULEXO_BIND", IpAddr::from([127, 0, 0, 1]), "an IP address"),
            port: reader.parsed("FULEXO_PORT", 8080, "a port from 0 to 65535"),
            database_url: reader.database_url(),
            database_connections: reader.in_range("FULEXO_DATABASE_CONNECTIONS", "20", 4, 200),
            nats_url: reader.nats_url(environment),
            nats_credentials: reader.optional("NATS_CREDS"),
            issuer: reader.text("FULEXO_ISSUER", "https://api.fulexo.com"),
            audience: reader.text("FULEXO_AUDIENCE", "fulexo"),
            signing_keys: reader.signing_keys(environment, &read_file),
            access_lifetime: reader.duration("JWT_EXPIRES_IN", "1h", TimeDelta::minutes(1), TimeDelta::hours(24)),
            refresh_lifetime: reader.duration(
                "JWT_REFRESH_EXPIRES_IN",
                "7d",
                TimeDelta::minutes(5),
                TimeDelta::days(90),
            ),
            encryption_keys: reader.encryption_keys(),
            bcrypt_cost: reader.in_range("FULEXO_BCRYPT_COST", "10", 4, 16),
            registration: reader.switch("FULEXO_REGISTRATION", true),
            trusted_proxies: reader.networks("TRUSTED_PROXIES"),
        };
        reader.check_logging();
        if environment == Environment::Production {
            if config.trusted_proxies.is_empty() {
                reader.problem(
                    "TRUSTED_PROXIES is not set: in production this plain HTTP listener needs a TLS proxy in front of it; \
                     name the proxy's addresses, for example TRUSTED_PROXIES=127.0.0.1/32",
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

struct Reader {
    vars: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// An empty variable counts as unset, as in most shells' idiom.
    fn optional(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.optional(name).unwrap_or_else(|| default.to_owned())
    }

    fn refuse_unknown(&mut self) {
        let unknown: Vec<_> = self
            .vars
            .keys()
            .filter(|name| name.starts_with("FULEXO_") && !OWN.contains(&name.as_str()))
            .map(|name| format!("{name} is not a variable of Fulexo; those are {}", OWN.join(", ")))
            .collect();
        self.problems.extend(unknown);
    }

    fn refuse_demo_secrets(&mut self) {
        let demos: Vec<_> = ["JWT_SECRET", "ENCRYPTION_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "NATS_URL"]
            .into_iter()
            .filter(|name| self.optional(name).is_some_and(|value| DEMO.iter().any(|demo| value.contains(demo))))
            .map(|name| format!("{name} holds an example from the documentation: generate one of your own"))
            .collect();
        self.problems.extend(demos);
    }

    /// The two variables of the log are read where logging starts, before anything can be said about them.
    fn check_logging(&mut self) {
        if let Some(filter) = self.optional("FULEXO_LOG")
            && EnvFilter::try_new(filter).is_err()
        {
            self.problem("FULEXO_LOG is no filter, such as info or info,fulexo_commands=debug");
        }
        if self.optional("FULEXO_LOG_FORMAT").is_some_and(|format| format != "json" && format != "text") {
            self.problem("FULEXO_LOG_FORMAT must be json or text");
        }
    }

    fn environment(&mut self) -> Environment {
        match self.text("APP_ENV", "development").as_str() {
            "production" => Environment::Production,
            "development" => Environment::Development,
            _ => {
                self.problem("APP_ENV must be production or development");
                // The stricter one, so that its problems are listed too.
                Environment::Production
            }
        }
    }

    /// On a value that cannot be read it goes on with `fallback`, so that the other problems are found too.
    fn parsed<T: FromStr>(&mut self, name: &str, fallback: T, what: &str) -> T {
        let Some(text) = self.optional(name) else { return fallback };
        if let Ok(value) = text.parse() {
            value
        } else {
            self.problem(format!("{name} must be {what}"));
            fallback
        }
    }

    fn in_range(&mut self, name: &str, default: &str, least: u32, most: u32) -> u32 {
        match self.text(name, default).parse::<u32>() {
            Ok(value) if (least..=most).contains(&value) => value,
            Ok(_) | Err(_) => {
                self.problem(format!("{name} must be a number from {least} to {most}"));
                least
            }
        }
    }

    fn switch(&mut self, name: &str, default: bool) -> bool {
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

    fn duration(&mut self, name: &str, default: &str, least: TimeDelta, most: TimeDelta) -> TimeDelta {
        match parse_duration(&self.text(name, default)) {
            Some(duration) if least <= duration && duration <= most => duration,
            Some(_) => {
                self.problem(format!("{name} must lie between {} and {}", show(least), show(most)));
                least
            }
            None => {
                self.problem(format!("{name} must be a number with a unit, for example 30m, {default} or 7d"));
                least
            }
        }
    }

    fn networks(&mut self, name: &str) -> Vec<IpNet> {
        let Some(text) = self.optional(name) else { return Vec::new() };
        let mut networks = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)) {
                Ok(network) if network.prefix_len() == 0 => {
                    self.problem(format!("{name} must not hold {part}: it would believe anybody"));
                }
                Ok(network) => networks.push(network),
                Err(_) => self.problem(format!("{name} holds an entry that is no address or network: {part:?}")),
            }
        }
        networks
    }

    fn database_url(&mut self) -> String {
        self.postgres_url("DATABASE_URL", "the application role")
    }

    fn postgres_url(&mut self, name: &str, role: &str) -> String {
        let Some(url) = self.optional(name) else {
            self.problem(format!(
                "{name} is not set: the URL of Postgres for {role}, postgresql://user:password@host/database"
            ));
            return String::new();
        };
        // sqlx takes any scheme.
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        if !is_postgres || sqlx::postgres::PgConnectOptions::from_str(&url).is_err() {
            self.problem(format!("{name} is not a URL of Postgres, postgresql://user:password@host/database"));
        }
        url
    }

    fn nats_url(&mut self, environment: Environment) -> Option<String> {
        let url = self.optional("NATS_URL")?;
        let has_password = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).is_some();
        if environment == Environment::Production && !has_password && self.optional("NATS_CREDS").is_none() {
            self.problem("NATS_URL has no password and NATS_CREDS is not set: production needs one of them");
        }
        Some(url)
    }

    fn signing_keys(
        &mut self,
        environment: Environment,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Vec<SigningKey> {
        let mut keys = Vec::new();
        let mut sources = Vec::new();
        if let Some(pem) = self.optional("JWT_PRIVATE_KEY") {
            // Environment files often cannot hold line breaks.
            sources.push(("JWT_PRIVATE_KEY", pem.replace("\\n", "\n")));
        }
        if let Some(path) = self.optional("JWT_PRIVATE_KEY_FILE") {
            match read_file(&path) {
                Ok(pem) => sources.push(("JWT_PRIVATE_KEY_FILE", pem)),
                Err(error) => self.problem(format!("JWT_PRIVATE_KEY_FILE cannot be read: {error}")),
            }
        }
        for (name, pem) in sources {
            let blocks = pem_blocks(&pem);
            if blocks.is_empty() {
                self.problem(format!("{name} {}", KeyError::NotRsa));
            }
            for block in blocks {
                match SigningKey::rs256(&block) {
                    Ok(key) => keys.push(key),
                    Err(error) => self.problem(format!("{name} {error}")),
                }
            }
        }
        match (self.optional("JWT_SECRET"), environment) {
            (Some(_), Environment::Production) => {
                self.problem("JWT_SECRET is set: production signs with RS256 alone; set JWT_PRIVATE_KEY_FILE instead");
            }
            (Some(secret), Environment::Development) => match SigningKey::hs256(&secret) {
                Ok(key) => keys.push(key),
                Err(error) => self.problem(format!("JWT_SECRET {error}")),
            },
            (None, Environment::Production) if keys.is_empty() => self.problem(
                "JWT_PRIVATE_KEY_FILE is not set: generate a key with `openssl genpkey -algorithm RSA -pkeyopt \
                 rsa_keygen_bits:2048 -out jwt.pem`",
            ),
            (None, Environment::Development) if keys.is_empty() => {
                self.problem("JWT_SECRET is not set: at least 64 characters, for example from `openssl rand -hex 32`");
            }
            (None, _) => {}
        }
        keys
    }

    fn encryption_keys(&mut self) -> Vec<Kek> {
        let several = self.optional("ENCRYPTION_KEYS");
        let one = self.optional("ENCRYPTION_KEY");
        let mut keys = Vec::new();
        for entry in several.iter().flat_map(|text| text.split(',')).map(str::trim) {
            match entry.split_once(':') {
                Some((id, key)) if !id.is_empty() && keys.iter().all(|known: &Kek| known.id != id) => {
                    match parse_key(key) {
                        Some(key) => keys.push(Kek { id: id.to_owned(), key }),
                        None => self.problem(format!("ENCRYPTION_KEYS: the key {id:?} {KEY_FORM}")),
                    }
                }
                Some(_) | None => self.problem("ENCRYPTION_KEYS must be a list of id:key, each id once"),
            }
        }
        if let Some(text) = one {
            if keys.iter().any(|key| key.id == "default") {
                self.problem(
                    "ENCRYPTION_KEY is the key \"default\", which ENCRYPTION_KEYS names too: give that one another id",
                );
            }
            match parse_key(&text) {
                Some(key) => keys.push(Kek { id: "default".to_owned(), key }),
                None => self.problem(format!("ENCRYPTION_KEY {KEY_FORM}")),
            }
        } else if several.is_none() {
            self.problem("ENCRYPTION_KEY is not set: 32 random bytes, for example from `openssl rand -base64 32`");
        }
        keys
    }
}

const KEY_FORM: &str = "must be 32 characters, or 32 bytes in base64, with at least 8 different bytes";

fn parse_key(text: &str) -> Option<Key> {
    let decoded =
        [STANDARD.decode(text), STANDARD_NO_PAD.decode(text), URL_SAFE.decode(text), URL_SAFE_NO_PAD.decode(text)]
            .into_iter()
            .flatten()
            .find(|bytes| bytes.len() == 32);
    let bytes: [u8; 32] = match decoded {
        Some(bytes) => bytes.try_into().ok()?,
        None => text.as_bytes().try_into().ok()?,
    };
    let distinct: std::collections::BTreeSet<u8> = bytes.iter().copied().collect();
    (distinct.len() >= 8).then(|| Key::from_bytes(bytes))
}

/// `90s`, `30m`, `1h`, `7d`.
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

/// The private keys of a PEM file, in order; whatever stands between them is passed over.
fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        rest = rest.get(start..).unwrap_or_default();
        let Some(end) = rest.find("-----END ") else { break };
        let after =
            rest.get(end + 9..).and_then(|tail| tail.find("-----")).map_or(rest.len(), |dashes| end + 9 + dashes + 5);
        let (block, tail) = rest.split_at_checked(after).unwrap_or((rest, ""));
        if block.lines().next().is_some_and(|line| line.contains("PRIVATE KEY")) {
            blocks.push(block.to_owned());
        }
        rest = tail;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of sixty-four characters, as the security document says!";

    fn sound() -> BTreeMap<String, String> {
        [
            ("DATABASE_URL", "postgresql://fulexo:pw@127.0.0.1/fulexo"),
            ("JWT_SECRET", SECRET),
            ("ENCRYPTION_KEY", "abcdefghijklmnopqrstuvwxyz012345"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn problems(changes: &[(&str, &str)]) -> Vec<String> {
        let mut vars = sound();
        vars.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let read = |_: &str| Err("no such file".to_owned());
        Config::from_vars(vars, read).err().map_or_else(Vec::new, |errors| errors.0)
    }

    #[test]
    fn the_least_configuration_is_three_variables() {
        assert_eq!(problems(&[]), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let found = problems(&[
            ("JWT_SECRET", "short"),
            ("ENCRYPTION_KEY", "short"),
            ("DATABASE_URL", "mysql://x"),
            ("FULEXO_PROT", "80"),
            ("JWT_EXPIRES_IN", "1 fortnight"),
            ("TRUSTED_PROXIES", "0.0.0.0/0"),
        ]);
        assert_eq!(found.len(), 6, "{found:#?}");
    }

    #[test]
    fn production_refuses_hs256_plain_http_and_a_nats_without_a_password() {
        let found = problems(&[("APP_ENV", "production"), ("NATS_URL", "nats://127.0.0.1:4222")]);
        assert!(found.iter().any(|problem| problem.starts_with("JWT_SECRET")), "{found:#?}");
        assert!(found.iter().any(|problem| problem.starts_with("TRUSTED_PROXIES")), "{found:#?}");
        assert!(found.iter().any(|problem| problem.starts_with("NATS_URL")), "{found:#?}");
    }

    #[test]
    fn the_examples_of_the_documentation_are_refused() {
        let secret = format!("{}-and-some-more-characters", DEMO[0]);
        assert_eq!(problems(&[("JWT_SECRET", &secret)]).len(), 1);
        assert_eq!(problems(&[("ENCRYPTION_KEY", DEMO[1])]).len(), 1);
    }

    #[test]
    fn a_key_is_thirty_two_characters_or_base64_and_not_monotonous() {
        assert!(parse_key("abcdefghijklmnopqrstuvwxyz012345").is_some());
        assert!(parse_key(&STANDARD.encode((0..32).collect::<Vec<u8>>())).is_some());
        assert!(parse_key(&"x".repeat(32)).is_none());
        assert!(parse_key("abcdefghijklmnopqrstuvwxyz01234").is_none());
    }

    #[test]
    fn no_message_repeats_a_secret() {
        let found = problems(&[("JWT_SECRET", "hunter2"), ("ENCRYPTION_KEY", "hunter3"), ("DATABASE_URL", "hunter4")]);
        assert!(found.iter().all(|problem| !problem.contains("hunter")), "{found:#?}");
    }

    #[test]
    fn several_private_keys_may_stand_in_one_file() {
        let text = "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\nnote\n-----BEGIN PUBLIC KEY-----\nBB\n\
                    -----END PUBLIC KEY-----\n-----BEGIN RSA PRIVATE KEY-----\nCC\n-----END RSA PRIVATE KEY-----\n";
        let blocks = pem_blocks(text);
        assert_eq!(blocks.len(), 2);
        assert!(blocks[0].contains("AA") && blocks[1].contains("CC"));
    }
}
