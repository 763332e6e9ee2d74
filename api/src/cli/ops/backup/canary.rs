//! The rung that uses the restored database as a node would: with the encryption keys, sealed data opens, and an account logs in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use fulexo_commands::context::Context;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::vault::{Kek, Vault, VaultError};
use fulexo_commands::{CommandError, Credentials, LoginResult};
use fulexo_database::chain;
use fulexo_domain::event::Actor;
use fulexo_domain::jetstream::hex;
use fulexo_domain::password::Password;
use fulexo_domain::values::EmailAddress;
use fulexo_node::config::{Config, KeySources};
use fulexo_node::database::connect;
use fulexo_node::start::Core;
use fulexo_ops::backup::{OpenedBackup, PartKind, RUNGS, sealed_sample};
use fulexo_ops::finding::{Finding, Rule, Severity};
use fulexo_ops::report::Check;
use zeroize::Zeroizing;

use super::places::text;
use crate::cli::failure::Failure;
use crate::cli::process::operator;

const KEYS: Rule = Rule {
    id: "backup.encryption_keys",
    title: "the encryption keys that are kept do not open the wrapped keys of the backup",
    severity: Severity::Critical,
    remedy: "Find the keys with the ids that the finding names: without them nothing personal in the backup opens.",
    reference: "docs/backups.md",
};
const SEALED: Rule = Rule {
    id: "backup.sealed",
    title: "sealed data in the backup does not open",
    severity: Severity::Critical,
    remedy: "Use another backup, and find out who changed the database of the service.",
    reference: "docs/backups.md",
};
const LOGIN: Rule = Rule {
    id: "backup.login",
    title: "the account of the canary cannot log in to the restored service",
    severity: Severity::High,
    remedy: "Log in to the service itself with that account: if it accepts the password, use another backup.",
    reference: "docs/backups.md",
};
/// The length of the longest file of an account that is read, in bytes.
const MAX_ACCOUNT: u64 = 4_096;

/// The secrets that the last rung needs.
#[derive(Args)]
pub struct CanaryArgs {
    /// Open sealed data with the encryption keys in this file, the one of ENCRYPTION_KEYS_FILE.
    #[arg(long, value_name = "FILE")]
    encryption_keys: Option<PathBuf>,
    /// Log in to the restored service with the account in this file: its e-mail address, and in a second line its password.
    #[arg(long, value_name = "FILE", requires = "encryption_keys")]
    canary: Option<PathBuf>,
}

/// The means to climb the last rung. It has no `Debug`: it contains secrets.
pub struct Canary {
    /// A node that has the keys, and no database yet.
    config: Config,
    account: Option<Credentials>,
}

impl CanaryArgs {
    /// Reads the files; `None` if no keys are given.
    pub fn given(&self) -> Result<Option<Canary>, Failure> {
        let Some(path) = &self.encryption_keys else { return Ok(None) };
        let keys = text(path)?;
        // Nobody gets a token that is signed with this.
        let secret = random_bytes::<32>().map_err(|error| Failure::Failed(format!("cannot draw a key: {error}")))?;
        let vars = [
            // Reads every key that a node reads, those of a machine of developers, too.
            ("APP_ENV", "development".to_owned()),
            ("DATABASE_URL", "postgres://127.0.0.1/postgres".to_owned()),
            ("ENCRYPTION_KEYS_FILE", path.display().to_string()),
            ("JWT_SECRET", hex(&secret)),
        ];
        let vars: BTreeMap<_, _> = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut config = Config::from_vars(vars, |_| Ok(keys.to_string()))?;
        config.key_sources = KeySources::none();
        config.rate_limits = None;
        let account = self.canary.as_deref().map(account).transpose()?;
        Ok(Some(Canary { config, account }))
    }
}

/// Reads an account from a file, which nobody but its owner may read. No error repeats what is in it.
fn account(path: &Path) -> Result<Credentials, Failure> {
    let misused = |reason: String| Failure::Misused(format!("--canary: {}: {reason}", path.display()));
    let unread = |error: std::io::Error| misused(error.to_string());
    let file = File::open(path).map_err(unread)?;
    if file.metadata().map_err(unread)?.permissions().mode() & 0o077 != 0 {
        return Err(misused("it has a password, and others may read it: run chmod 600".to_owned()));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_ACCOUNT).read_to_string(&mut text).map_err(unread)?;
    let mut lines = text.lines();
    let email = lines.next().and_then(|line| EmailAddress::parse(line.trim()).ok());
    let password = lines.next().filter(|line| !line.is_empty());
    match (email, password, lines.next()) {
        (Some(email), Some(password), None) => {
            Ok(Credentials { email, password: Password::new(password.to_owned()), device_token: None })
        }
        _ => Err(misused("it must have two lines, an e-mail address and its password".to_owned())),
    }
}

/// Opens a sample of what is sealed, then logs in.
pub async fn verify_canary(backup: &OpenedBackup, url: &str, canary: Option<Canary>) -> Check {
    let (id, title) = RUNGS[6];
    if backup.is_removed(PartKind::Keys) {
        return Check::not_checked(id, title, "the wrapped keys were removed: nothing personal can be opened");
    }
    let Some(Canary { mut config, account }) = canary else {
        return Check::not_checked(id, title, "no encryption keys are given: give --encryption-keys");
    };
    config.database_url = url.to_owned();
    match climb(backup, config, account).await {
        Ok((detail, findings)) => Check::of(id, title, detail, findings),
        Err(failure) => Check::not_checked(id, title, failure.text()),
    }
}

async fn climb(
    backup: &OpenedBackup,
    config: Config,
    account: Option<Credentials>,
) -> Result<(String, Vec<Finding>), Failure> {
    let (opened, findings) = open_sample(backup, &config.database_url, config.encryption_keys.clone()).await?;
    let sealed = format!("the sealed data of {opened} events");
    if !findings.is_empty() {
        return Ok((sealed, findings));
    }
    let Some(account) = account else {
        return Ok((format!("{sealed}; no account was tried: give --canary"), findings));
    };
    let core = Core::start(config).await?;
    // As a client that nobody knows yet.
    let context = Context { actor: Actor::Anonymous, ..operator() };
    let login = core.app.commands.login(&context, account).await;
    core.stop().await;
    match login {
        Ok(done) => {
            let account = match done.value {
                LoginResult::Session(_) => "an account, which logged in",
                LoginResult::Challenge(_) => "the password of an account, which was then asked for its next step",
            };
            Ok((format!("{sealed}, and {account}"), findings))
        }
        Err(CommandError::InvalidCredentials) => {
            let evidence = "the restored service refuses it: the address or the password is another one, or the account is \
                            suspended or locked";
            Ok((sealed, vec![LOGIN.finding(backup.name.to_string(), evidence)]))
        }
        Err(error) => Err(Failure::Failed(format!("the account was not tried: {}", chain(&error)))),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Failed(format!("sealed data was not opened: {}", chain(error)))
}

/// Opens the sample; returns the number of events, and what did not open.
async fn open_sample(backup: &OpenedBackup, url: &str, keys: Vec<Kek>) -> Result<(usize, Vec<Finding>), Failure> {
    let needed = &backup.manifest.database.keys.encryption;
    let wrong = |what: String| {
        let needed = needed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        Ok((0, vec![KEYS.finding(backup.name.to_string(), format!("{what}; needed are: {needed}"))]))
    };
    let missing: Vec<&str> =
        needed.iter().map(String::as_str).filter(|id| keys.iter().all(|key| key.id != *id)).collect();
    if !missing.is_empty() {
        return wrong(format!("the file does not have the keys {}", missing.join(", ")));
    }
    let pool = connect(url, 4).await?;
    let vault = match Vault::open(pool.clone(), keys).await {
        Ok(vault) => vault,
        Err(VaultError::WrongKey(what)) => return wrong(format!("no key in the file opens the {what}")),
        Err(VaultError::MissingKey(id)) => {
            return wrong(format!("the file does not have the key {id}, which is in use"));
        }
        Err(error) => return Err(failed(&error)),
    };
    let mut connection = pool.acquire().await.map_err(|error| failed(&error))?;
    let sample = sealed_sample(&mut connection).await.map_err(|error| failed(&error))?;
    let mut findings = Vec::new();
    for position in &sample.positions {
        // One by one: each says of itself whether it opens.
        let opened = vault.open_personal(&[*position]).await;
        let reason = match opened {
            Ok(_) if sample.lost.contains(position) => "its key is not there, and its person was not erased".to_owned(),
            Ok(opened) if opened.contains_key(position) => continue,
            Ok(_) => "its event is not there".to_owned(),
            Err(VaultError::WrongKey(what)) => {
                format!("no key in the file opens the {what}: one of the two was changed")
            }
            Err(VaultError::Unseal(_)) => "it is not what its leaf says".to_owned(),
            Err(error) => return Err(failed(&error)),
        };
        findings.push(SEALED.finding(format!("{}/log.sealed/{position}", backup.name), reason));
    }
    drop(connection);
    pool.close().await;
    Ok((sample.positions.len(), findings))
}
