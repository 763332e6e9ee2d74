//! `fulexo keys`: the keys of the service, and their replacement.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use clap::{Args, Subcommand};
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_database::chain;
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_node::config::{self, Config};
use fulexo_node::database::connect;
use fulexo_node::keys::compromise;
use fulexo_node::keys::encryption::{self, EncryptionRotation};
use fulexo_node::keys::log::{self, LogRotation};
use fulexo_node::keys::rotation::{Rotation, RotationError, RotationStep};
use fulexo_node::keys::signing::{self, SigningRotation};
use fulexo_node::start::Core;
use fulexo_node::state::App;
use serde_json::json;

use super::failure::Failure;
use super::output::{Output, note};
use super::process::{block_on, operator, start_logging};
use super::progress::{Progress, grouped};
use super::table::{Table, TableColumn};
use super::target::Target;

#[derive(Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    verb: KeysVerb,
}

#[derive(Subcommand)]
enum KeysVerb {
    /// List the keys: purpose, state, age, and the number of keys that each wraps.
    ///
    /// Destroyed keys are listed, too: with them went what old backups hold of erased persons. The verb reads no key.
    List(KeysListArgs),
    /// Put a new key in use, and destroy the one before.
    #[command(subcommand)]
    Rotate(RotateVerb),
}

#[derive(Subcommand)]
enum RotateVerb {
    /// Replace the key that wraps the keys of the vault.
    ///
    /// Adds a key to the file ENCRYPTION_KEYS_FILE, waits until every node has it, puts it in use, wraps everything with it that
    /// the key before wraps, and destroys that one. Logins and registrations go on meanwhile. Without a file it takes the first
    /// key of ENCRYPTION_KEYS, and says which key may be removed afterwards.
    Encryption(RotateArgs),
    /// Replace the key that signs access tokens.
    ///
    /// Adds a key to the file JWT_PRIVATE_KEY_FILE, has every node publish it, and has it sign once no cache of the key set lacks
    /// it, five minutes later. The key before verifies until its last token has expired: run the verb again then, or with
    /// --finish. No token is refused.
    ///
    /// If the key may have leaked, use --compromised.
    Signing(RotateSigningArgs),
    /// Replace the key that signs the log's checkpoints.
    ///
    /// Adds a key to the signer's file. Both sign for the time of the overlap, in which those who verify the log learn the new
    /// public key. Run the verb again then: the new key signs alone. Run it where the signer's file is.
    Log(RotateLogArgs),
}

#[derive(Args)]
struct RotateSigningArgs {
    /// Wait for the end of the last token of the key before, and destroy that key.
    #[arg(long)]
    finish: bool,
    /// Replace a key that leaked: have the new one sign at once, and refuse all others.
    ///
    /// Distrusts every key in the file. From the moment at which the new key signs, tokens of the others get 401, and clients
    /// go on with their refresh tokens. Services that verify tokens by themselves refuse new tokens until they have read the key
    /// set again, and accept old ones as long as their caches last.
    #[arg(long, conflicts_with = "finish")]
    compromised: bool,
    #[command(flatten)]
    rotation: RotateArgs,
}

#[derive(Args)]
struct RotateLogArgs {
    /// Change this file, with the private keys of the log: FULEXO_LOG_KEY_FILE of the signer.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Have both keys sign for this many days.
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(..=3_650))]
    overlap: u16,
    #[command(flatten)]
    rotation: RotateArgs,
}

#[derive(Args)]
struct KeysListArgs {
    /// Print the list as JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Print whole lines, regardless of the width of the terminal.
    #[arg(long, conflicts_with = "json")]
    wide: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Args)]
struct RotateArgs {
    /// Wait this long, in seconds, for the other nodes at each step.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    wait: u64,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl KeysArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            KeysVerb::List(verb) => verb.run(),
            KeysVerb::Rotate(verb) => verb.run(),
        }
    }
}

impl KeysListArgs {
    fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let epoch = config::key_epoch()?;
        let (lives, wrapped) = block_on(async {
            let pool = connect(&url, 1).await?;
            Ok((key_epochs::list(&pool).await?, key_epochs::wrapped(&pool).await?))
        })?;
        if self.json {
            let all: Vec<_> = lives.iter().map(|life| as_json(life, &wrapped, epoch)).collect();
            return Output::new().line(json!(all));
        }
        Output::wide(self.wide).table(&table(&lives, &wrapped, epoch), true)
    }
}

/// Returns `true` if a key has been in use for longer than an epoch.
fn is_due(life: &KeyEpoch, epoch: TimeDelta) -> bool {
    life.is_in_use() && life.age.is_some_and(|age| age > epoch.num_seconds())
}

/// Returns the number of keys that a key wraps; `None` if it signs.
fn wraps(life: &KeyEpoch, wrapped: &BTreeMap<String, u64>) -> Option<u64> {
    match life.kind {
        KeyPurpose::Encryption => Some(wrapped.get(life.id.as_str()).copied().unwrap_or_default()),
        KeyPurpose::Signing | KeyPurpose::Log => None,
    }
}

fn as_json(life: &KeyEpoch, wrapped: &BTreeMap<String, u64>, epoch: TimeDelta) -> serde_json::Value {
    json!({
        "kind": life.kind.as_str(),
        "id": life.id.as_str(),
        "state": life.state(),
        "wraps": wraps(life, wrapped),
        "age_seconds": life.age,
        "due": is_due(life, epoch),
        "added_at": life.added_at,
        "first_used_at": life.first_used_at,
        "replaced_at": life.replaced_at,
        "retired_at": life.retired_at,
        "destroyed_at": life.destroyed_at,
    })
}

const COLUMNS: [TableColumn; 6] = [
    TableColumn::Text("kind"),
    TableColumn::Elastic("id"),
    TableColumn::Text("state"),
    TableColumn::Number("wraps"),
    TableColumn::Text("in use since"),
    TableColumn::Text("replaced"),
];

fn table(lives: &[KeyEpoch], wrapped: &BTreeMap<String, u64>, epoch: TimeDelta) -> Table {
    let mut table = Table::new(&COLUMNS);
    let day =
        |at: Option<chrono::DateTime<chrono::Utc>>| at.map_or_else(|| "-".to_owned(), |at| at.format("%F").to_string());
    for life in lives {
        let state = life.state();
        table.row([
            life.kind.as_str().to_owned(),
            life.id.to_string(),
            if is_due(life, epoch) { format!("{state}, due") } else { state.to_owned() },
            wraps(life, wrapped).map_or_else(|| "-".to_owned(), grouped),
            day(life.first_used_at),
            day(life.replaced_at),
        ]);
    }
    table
}

impl RotateVerb {
    fn run(self) -> Result<(), Failure> {
        let config = Config::from_env()?;
        start_logging(config.environment, "warn");
        block_on(async {
            let core = Core::start(config).await?;
            let rotated = self.rotate(&core.app).await;
            core.stop().await;
            rotated
        })
    }

    async fn rotate(self, app: &App) -> Result<(), Failure> {
        let mut progress: Option<Progress> = None;
        let mut tell = |step: RotationStep| match step {
            RotationStep::Note(text) => match &progress {
                Some(progress) => progress.say(&text),
                None => note(text),
            },
            RotationStep::Rewrapped { done, all } => {
                progress.get_or_insert_with(|| Progress::of("keys", "rewrap".to_owned(), 0)).show(done, all);
            }
        };
        let rotated = self.rotate_and_tell(app, &mut tell).await;
        drop(progress);
        let (is_json, rotated) = rotated.map_err(|error| format!("the rotation is not finished: {}", chain(&error)))?;
        let mut out = Output::new();
        if is_json {
            return out.line(rotated.json());
        }
        rotated.lines().into_iter().try_for_each(|line| out.line(line))
    }

    async fn rotate_and_tell(
        self,
        app: &App,
        tell: &mut (dyn FnMut(RotationStep) + Send),
    ) -> Result<(bool, Rotated), RotationError> {
        let context = operator();
        let args = match &self {
            Self::Encryption(args) => args,
            Self::Signing(verb) => &verb.rotation,
            Self::Log(verb) => &verb.rotation,
        };
        let mut rotation = Rotation::begin(app, Duration::from_secs(args.wait), tell).await?;
        Ok(match self {
            Self::Encryption(args) => {
                let done = encryption::rotate(&mut rotation, &context).await?;
                (args.json, Rotated::Encryption(done))
            }
            Self::Signing(RotateSigningArgs { finish, compromised, rotation: args }) => {
                let done = if compromised {
                    compromise::replace(&mut rotation, &context).await?
                } else {
                    signing::rotate(&mut rotation, &context, finish).await?
                };
                (args.json, Rotated::Signing(done))
            }
            Self::Log(RotateLogArgs { key_file, overlap, rotation: args }) => {
                let overlap = TimeDelta::days(overlap.into());
                let done = log::rotate(&mut rotation, &context, &key_file, overlap).await?;
                (args.json, Rotated::Log(done))
            }
        })
    }
}

/// The outcome of a rotation.
enum Rotated {
    Encryption(EncryptionRotation),
    Signing(SigningRotation),
    Log(LogRotation),
}

impl Rotated {
    fn destroyed(&self) -> &[KeyLabel] {
        match self {
            Self::Encryption(done) => &done.destroyed,
            Self::Signing(done) => &done.destroyed,
            Self::Log(done) => &done.destroyed,
        }
    }

    fn json(&self) -> serde_json::Value {
        let destroyed: Vec<_> = self.destroyed().iter().map(KeyLabel::as_str).collect();
        match self {
            Self::Encryption(done) => {
                json!({"in_use": done.to.as_str(), "rewrapped": done.rewrapped, "destroyed": destroyed})
            }
            Self::Signing(done) => {
                let verifying = done.verifying.iter().map(|(key, until)| json!({"id": key.as_str(), "until": until}));
                let verifying: Vec<_> = verifying.collect();
                json!({"in_use": done.to.as_str(), "verifying": verifying, "destroyed": destroyed})
            }
            Self::Log(done) => json!({"vkey": done.to, "overlap_until": done.overlap_until, "destroyed": destroyed}),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = match self {
            Self::Encryption(done) => {
                vec![format!("in use     {}", done.to), format!("rewrapped  {} keys", grouped(done.rewrapped))]
            }
            Self::Signing(done) => {
                let mut lines = vec![format!("in use     {}", done.to)];
                lines.extend(done.verifying.iter().map(|(key, until)| {
                    format!("verifying  {key} until {}: run this again then", until.format("%F %T UTC"))
                }));
                lines
            }
            Self::Log(done) => match done.overlap_until {
                Some(until) => vec![
                    format!("new key    {}", done.to),
                    format!("overlap    until {}: run this again then", until.format("%F %T UTC")),
                ],
                None => vec![format!("in use     {}", done.to)],
            },
        };
        lines.extend(self.destroyed().iter().map(|label| format!("destroyed  {label}")));
        lines
    }
}
