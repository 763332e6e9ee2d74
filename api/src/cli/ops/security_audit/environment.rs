//! The environment as the audit sees it: the configuration of a node, its secrets, and the files that it names. Secrets stay
//! here; of them only judgements leave.

use std::env::var;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::TimeDelta;
use fulexo_node::config::{Config, ConfigErrors, Environment};
use fulexo_ops::audit::backups::{self, AuditedBackups};
use fulexo_ops::audit::configuration::{AuditedConfiguration, NodeFacts};
use fulexo_ops::audit::files::{self, AuditedFile};
use fulexo_ops::audit::nats::{self, NatsAddress};
use fulexo_ops::audit::public_url;
use fulexo_ops::audit::secrets::{self, AuditedSecret};
use fulexo_ops::clock::now;
use fulexo_ops::headers::parse_url;
use fulexo_ops::report::Check;
use url::Url;
use zeroize::Zeroizing;

use super::evidence::told;
use crate::cli::ops::backup::{address, places};

/// The variables of which a node needs at least one of each kind.
const KEYS: [&str; 6] = [
    "JWT_SECRET",
    "JWT_PRIVATE_KEY",
    "JWT_PRIVATE_KEY_FILE",
    "ENCRYPTION_KEY",
    "ENCRYPTION_KEYS",
    "ENCRYPTION_KEYS_FILE",
];
/// The variables that name files of keys or secrets.
const FILES: [&str; 9] = [
    "TLS_KEY",
    "JWT_PRIVATE_KEY_FILE",
    "ENCRYPTION_KEYS_FILE",
    "NATS_CREDS",
    "FULEXO_LOG_KEY_FILE",
    "FULEXO_SIGNER_MEMORY",
    "FULEXO_WITNESS_KEY_FILE",
    "FULEXO_BACKUP_SIGNING_KEY_FILE",
    "PGPASSFILE",
];
/// The variables that are URLs with a password.
const URLS: [&str; 2] = ["DATABASE_OWNER_URL", "SMTP_URL"];
const ABSENT: &str =
    "the environment configures no node. Run the audit with the environment of one: set -a; . ./fulexo.env";

/// The environment of the audit. It has no `Debug`: it contains secrets.
pub struct AuditEnvironment {
    /// The configuration of a node.
    pub configuration: AuditedConfiguration,
    /// The database URL of the owner, if there is one.
    pub owner_url: Option<Zeroizing<String>>,
    secrets: Vec<HeldSecret>,
    files: Vec<AuditedFile>,
    public_url: Option<Zeroizing<String>>,
    certificate: Option<PathBuf>,
    nats_url: Option<Zeroizing<String>>,
}

struct HeldSecret {
    variable: &'static str,
    text: Zeroizing<String>,
    file_variable: Option<&'static str>,
}

impl AuditEnvironment {
    /// Reads the variables of this process. `database_url` is the one that the audit uses.
    pub fn read(database_url: &str) -> Self {
        let has_keys = KEYS.iter().any(|name| variable(name).is_some());
        let configuration = match has_keys.then(Config::from_env) {
            None => AuditedConfiguration::Absent,
            Some(Ok(config)) => AuditedConfiguration::Valid(facts(&config)),
            Some(Err(ConfigErrors(problems))) => AuditedConfiguration::Invalid(problems),
        };
        let file = |name: &'static str| Some(AuditedFile { variable: name, path: PathBuf::from(&*variable(name)?) });
        Self {
            configuration,
            owner_url: variable("DATABASE_OWNER_URL"),
            secrets: held(database_url),
            files: FILES.into_iter().filter_map(file).collect(),
            public_url: variable("FULEXO_PUBLIC_URL").or_else(|| variable("FULEXO_ISSUER")),
            certificate: variable("TLS_CERT").map(|path| PathBuf::from(&*path)),
            nats_url: variable("NATS_URL"),
        }
    }

    pub fn secrets_check(&self) -> Check {
        let secrets = self.secrets.iter().map(|HeldSecret { variable, text, file_variable }| AuditedSecret {
            variable,
            text,
            file_variable: *file_variable,
        });
        secrets::check(&secrets.collect::<Vec<_>>())
    }

    pub fn files_check(&self) -> Check {
        match self.configuration {
            AuditedConfiguration::Absent if self.files.is_empty() => files::CHECK.unchecked(ABSENT),
            _ => files::check(&self.files),
        }
    }

    /// Checks the TLS of the public URL, or of a given one.
    pub async fn tls_check(&self, given: Option<&Url>) -> Check {
        match self.url(given) {
            Ok(url) => public_url::check_tls(&url, self.certificate.as_deref(), now()).await,
            Err(reason) => public_url::TLS.unchecked(reason),
        }
    }

    /// Checks the headers of the public URL, or of a given one.
    pub async fn headers_check(&self, given: Option<&Url>) -> Check {
        match self.url(given) {
            Ok(url) => public_url::check_headers(&url, now()).await,
            Err(reason) => public_url::HEADERS.unchecked(reason),
        }
    }

    fn url(&self, given: Option<&Url>) -> Result<Url, String> {
        match (given, &self.public_url) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(text)) => {
                parse_url(text).map_err(|error| format!("FULEXO_PUBLIC_URL or FULEXO_ISSUER: {error}"))
            }
            (None, None) => Err("neither FULEXO_PUBLIC_URL nor FULEXO_ISSUER is set: give --url".to_owned()),
        }
    }

    /// Checks the backups. `epoch` is the time for which wrapped keys may be kept.
    pub fn backups_check(&self, epoch: TimeDelta) -> Check {
        let Some(dir) = variable("FULEXO_BACKUP_TO") else {
            return backups::CHECK.unchecked("FULEXO_BACKUP_TO is not set: it names the place of the backups");
        };
        let place = match address(PathBuf::from(&*dir)) {
            Ok(place) => place,
            Err(failure) => return backups::CHECK.unchecked(format!("FULEXO_BACKUP_TO: {}", told(failure))),
        };
        let mut audited = AuditedBackups { place, recipients: Vec::new(), signing_key: None, problems: Vec::new() };
        for name in ["FULEXO_BACKUP_RECIPIENTS_FILE", "FULEXO_BACKUP_KEY_RECIPIENTS_FILE"] {
            let Some(path) = variable(name) else { continue };
            match places::recipients(Some(PathBuf::from(&*path))) {
                Ok(read) => audited.recipients.extend(read.into_iter().map(|recipient| (name, recipient))),
                Err(failure) => audited.problems.push(format!("{name}: {}", told(failure))),
            }
        }
        if let Some(path) = variable("FULEXO_BACKUP_SIGNING_KEY_FILE") {
            match places::signing_key(Some(PathBuf::from(&*path))) {
                Ok(key) => audited.signing_key = Some(key.verifier().clone()),
                Err(failure) => audited.problems.push(format!("FULEXO_BACKUP_SIGNING_KEY_FILE: {}", told(failure))),
            }
        }
        audited.check(epoch, now())
    }

    pub async fn nats_check(&self) -> Check {
        match (&self.nats_url, &self.configuration) {
            (None, AuditedConfiguration::Absent) => nats::CHECK.unchecked(ABSENT),
            (None, _) => nats::check(&[]).await,
            (Some(urls), _) => {
                let addresses: Option<Vec<NatsAddress>> = urls.split(',').map(NatsAddress::parse).collect();
                match addresses {
                    Some(addresses) => nats::check(&addresses).await,
                    None => nats::CHECK.unchecked("NATS_URL is not a URL of NATS, or a list of them"),
                }
            }
        }
    }
}

/// Returns a variable. An empty one counts as unset.
fn variable(name: &str) -> Option<Zeroizing<String>> {
    let value = Zeroizing::new(var(name).ok()?);
    (!value.trim().is_empty()).then(|| Zeroizing::new(value.trim().to_owned()))
}

fn facts(config: &Config) -> NodeFacts {
    let log = variable("FULEXO_LOG").map_or_else(String::new, |filter| filter.to_lowercase());
    NodeFacts {
        is_production: config.environment == Environment::Production,
        serves_tls: config.tls.is_some(),
        is_loopback: config.bind.is_loopback(),
        has_rate_limits: config.rate_limits.is_some(),
        bcrypt_cost: config.bcrypt_cost,
        access_minutes: config.access_lifetime.num_minutes(),
        has_signer: config.signer.is_some(),
        has_witnesses: config.cosigning.is_some(),
        lacks_copy: config.nats_url.is_some() && config.nats_replicas == 0,
        is_verbose: log.contains("debug") || log.contains("trace"),
    }
}

/// Returns the secrets of the environment.
fn held(database_url: &str) -> Vec<HeldSecret> {
    let mut held: Vec<HeldSecret> = Vec::new();
    let mut hold = |variable, text: Zeroizing<String>, file_variable| {
        // The servers of a cluster share one.
        if !held.iter().any(|it| it.variable == variable && *it.text == *text) {
            held.push(HeldSecret { variable, text, file_variable });
        }
    };
    if let Some(password) = password(database_url) {
        hold("DATABASE_URL", password, None);
    }
    for name in URLS {
        if let Some(password) = variable(name).and_then(|url| password(&url)) {
            hold(name, password, None);
        }
    }
    for url in variable("NATS_URL").iter().flat_map(|urls| urls.split(',')) {
        let Ok(url) = Url::from_str(url.trim()) else { continue };
        // A token stands where otherwise the user does.
        let secret = url.password().unwrap_or(url.username());
        if !secret.is_empty() {
            hold("NATS_URL", Zeroizing::new(secret.to_owned()), Some("NATS_CREDS"));
        }
    }
    for (name, file) in [
        ("JWT_SECRET", None),
        ("JWT_PRIVATE_KEY", Some("JWT_PRIVATE_KEY_FILE")),
        ("ENCRYPTION_KEY", Some("ENCRYPTION_KEYS_FILE")),
    ] {
        if let Some(text) = variable(name) {
            hold(name, text, file);
        }
    }
    for entry in variable("ENCRYPTION_KEYS").iter().flat_map(|entries| entries.split(',')) {
        if let Some((_, key)) = entry.split_once(':') {
            hold("ENCRYPTION_KEYS", Zeroizing::new(key.trim().to_owned()), Some("ENCRYPTION_KEYS_FILE"));
        }
    }
    held
}

/// Returns the password in a URL, as it stands there.
fn password(url: &str) -> Option<Zeroizing<String>> {
    let url = Url::from_str(url).ok()?;
    let query = || url.query_pairs().find(|(name, _)| name == "password").map(|(_, value)| value.into_owned());
    url.password().map(str::to_owned).or_else(query).filter(|it| !it.is_empty()).map(Zeroizing::new)
}
