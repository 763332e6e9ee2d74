//! `fulexo restore`: a backup in place of the database. Everything is done in a database beside it, which gets the name last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use fulexo_node::config::{Config, owner_database_url, superuser_database_url};
use fulexo_ops::age::Identity;
use fulexo_ops::backup::{
    BackupTarget, OpenedBackup, PartKind, compare_states, load, read_state, verify_checksums, verify_format,
    verify_signature,
};
use fulexo_ops::clock;
use fulexo_ops::finding::{Rule, Severity};
use fulexo_ops::report::{Check, CheckResult, Report};
use fulexo_ops::restore::{FOREIGN, NEWER, OCCUPIED, ReplacedDatabase, RestoreServer, database_name, database_url};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use super::arguments::FinishArgs;
use super::finish::{FinishPlan, RestoredDatabase, finish};
use super::steps::end;
use crate::cli::failure::Failure;
use crate::cli::ops::backup::{identities, target_dir, trusted_keys, unchecked};
use crate::cli::output::note;
use crate::cli::process::{block_on, start_logging};
use crate::cli::progress::{Progress, grouped};

const DIFFERENT: Rule = Rule {
    id: "restore.content",
    title: "the restored database is not the one that the manifest describes",
    severity: Severity::Critical,
    remedy: "Use another backup.",
    reference: "docs/restore.md",
};

#[derive(Args)]
pub struct CleanArgs {
    /// Restore this backup: its name, or `latest`.
    #[arg(default_value = "latest")]
    backup: String,
    /// Look for the backup in this directory, or in this bucket: s3://BUCKET/PREFIX [default: FULEXO_BACKUP_TO].
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Decrypt with the identities in this file. Repeat the option for wrapped keys that have other recipients.
    #[arg(long = "identity", value_name = "FILE")]
    identities: Vec<PathBuf>,
    /// Trust manifests that this key has signed: a vkey, or a file with one [default: the public half of
    /// FULEXO_BACKUP_SIGNING_KEY_FILE].
    #[arg(long, value_name = "VKEY")]
    signed_by: Vec<String>,
    /// Replace the database of DATABASE_URL. It is kept under another name. Without this option it must be missing or empty.
    #[arg(long)]
    clean: bool,
    /// Replace it also if it has events that the backup lacks, and lose them.
    #[arg(long, requires = "clean")]
    lose_newer_events: bool,
    #[command(flatten)]
    finish: FinishArgs,
}

/// A restore, while it goes on.
struct Restoring {
    backup: OpenedBackup,
    identities: Arc<Vec<Identity>>,
    url: String,
    owner_url: String,
    is_clean: bool,
    loses: bool,
}

impl CleanArgs {
    pub fn run(self) -> Result<(), Failure> {
        let plan = self.finish.plan()?;
        let config = Config::from_env()?;
        let (owner_url, superuser_url) = (owner_database_url()?, superuser_database_url()?);
        start_logging(config.environment, "warn");
        let target = BackupTarget::open(&target_dir(self.from, "--from")?).map_err(unchecked)?;
        let name = target.find(&self.backup).map_err(unchecked)?;
        let (trusted, identities) = (trusted_keys(&self.signed_by)?, Arc::new(identities(&self.identities)?));
        if identities.is_empty() {
            return Err(Failure::Misused("--identity is missing: nothing else decrypts a backup".to_owned()));
        }
        let database = database_name(&config.database_url).map_err(unchecked)?;
        if database_name(&owner_url).ok().as_ref() != Some(&database) {
            return Err(Failure::Misused("DATABASE_URL and DATABASE_OWNER_URL name different databases".to_owned()));
        }
        let mut report = Report::begin("restore", name.to_string(), clock::now());
        let (check, opened) = verify_signature(&target, name, &trusted);
        report.checks.push(check);
        let printed = self.finish.report;
        let Some(backup) = opened else { return end(&printed, report, Ok(false)) };
        let (is_clean, loses, url) = (self.clean, self.lose_newer_events, config.database_url);
        let restoring = Restoring { backup, identities, url, owner_url, is_clean, loses };
        block_on(async {
            let began = Instant::now();
            let is_restored = restoring.run(&superuser_url, &database, plan, &mut report).await;
            report.facts.insert("seconds".to_owned(), json!(began.elapsed().as_secs_f64()));
            end(&printed, report, is_restored)
        })
    }
}

impl Restoring {
    async fn run(
        &self,
        superuser_url: &str,
        database: &str,
        plan: FinishPlan,
        report: &mut Report,
    ) -> Result<bool, Failure> {
        if !self.is_sound(report) {
            return Ok(false);
        }
        let mut server = RestoreServer::connect(superuser_url, database).await.map_err(unchecked)?;
        let before = server.replaced().await.map_err(unchecked)?;
        if !self.may_replace(before, report) {
            return Ok(false);
        }
        let owner =
            self.owner_url.parse::<PgConnectOptions>().map_err(|_| "DATABASE_OWNER_URL is not a URL".to_owned())?;
        server.create(owner.get_username()).await.map_err(unchecked)?;
        let restored = self.restore(&mut server, before, plan, report).await;
        if !matches!(restored, Ok(true)) {
            // As it was before: the database is open, and the other one is gone.
            for undone in [server.reopen().await, server.discard().await] {
                if let Err(error) = undone {
                    note(format_args!("cannot clean up: {error}. The next run does"));
                }
            }
        }
        restored
    }

    /// Climbs the rungs that need no server.
    fn is_sound(&self, report: &mut Report) -> bool {
        let all = self.backup.manifest.length();
        let mut bar = Progress::of("bytes", "checksums".to_owned(), 0);
        report.checks.push(verify_checksums(&self.backup, |read| bar.show(read, all)));
        drop(bar);
        if is_passed(report) {
            note(format_args!("restore  decrypting, to see that everything can be read"));
            let mut bar = Progress::of("bytes", "decrypt".to_owned(), 0);
            report.checks.push(verify_format(&self.backup, &self.identities, |read| bar.show(read, all)));
        }
        is_passed(report)
    }

    /// Judges whether the database may be replaced.
    fn may_replace(&self, before: ReplacedDatabase, report: &mut Report) -> bool {
        let (id, title) = ("target", "the database may be replaced");
        let name = database_name(&self.url).unwrap_or_default();
        let size = self.backup.manifest.database.log.position;
        let (detail, finding) = match before {
            ReplacedDatabase::Missing => ("there is none".to_owned(), None),
            ReplacedDatabase::Empty => ("it is empty".to_owned(), None),
            ReplacedDatabase::Foreign => (String::new(), Some(FOREIGN.finding(name, "it has tables, and no log"))),
            ReplacedDatabase::Log { position, .. } if !self.is_clean => {
                (String::new(), Some(OCCUPIED.finding(name, format!("its log has {position} events"))))
            }
            ReplacedDatabase::Log { position, .. } if position > size && !self.loses => {
                (String::new(), Some(NEWER.finding(name, format!("{position} events, and the backup has {size}"))))
            }
            ReplacedDatabase::Log { position, .. } => {
                let (position, size) = (grouped(position), grouped(size));
                (format!("it has {position} events, the backup {size}"), None)
            }
        };
        report.checks.retain(|check| check.id != id);
        report.checks.push(Check::of(id, title, detail, finding.into_iter().collect()));
        is_passed(report)
    }

    async fn restore(
        &self,
        server: &mut RestoreServer,
        before: ReplacedDatabase,
        plan: FinishPlan,
        report: &mut Report,
    ) -> Result<bool, Failure> {
        let began = Instant::now();
        let (id, title) = ("restore", "the server accepts the backup, and has what the manifest says");
        note(format_args!(
            "restore  loading {} into {}, where indexes are built last",
            self.backup.name,
            server.restoring()
        ));
        let url = server.restoring_url().map_err(unchecked)?;
        let (mut bar, all) = (Progress::of("bytes", "load".to_owned(), 0), self.backup.manifest.length());
        let loaded = load(&self.backup, &self.identities, &url, move |read| bar.show(read, all));
        let left_out = loaded.await.map_err(unchecked)?;
        if let Some((PartKind::Keys, because)) = left_out.first() {
            let reason = format!("without the wrapped keys nothing can be opened, and no node starts: {because}");
            report.checks.push(Check::not_checked(id, title, reason));
            return Ok(false);
        }
        let mut connection = PgConnection::connect(&url).await?;
        sqlx::query("begin isolation level repeatable read read only").execute(&mut connection).await?;
        let found = read_state(&mut connection).await.map_err(unchecked)?;
        let _ = connection.close().await;
        let name = self.backup.name.to_string();
        let differences = compare_states(&self.backup.manifest.database, &found, true);
        let findings = differences.into_iter();
        let findings = findings.map(|what| DIFFERENT.finding(format!("{name}/{what}"), "the manifest says otherwise"));
        let detail = format!("{} events in {:.1} s", grouped(found.log.size), began.elapsed().as_secs_f64());
        report.checks.push(Check::of(id, title, detail, findings.collect()));
        if !is_passed(report) {
            return Ok(false);
        }

        // From here on nothing is added to the database that is replaced: what it has now is what is lost.
        let database = database_name(&self.url).map_err(unchecked)?;
        note(format_args!(
            "restore  closing {database}. If this run is killed, run it again, or open it: alter database {database} connection limit -1"
        ));
        let ended = server.close().await.map_err(unchecked)?;
        if ended > 0 {
            note(format_args!("restore  ended {ended} sessions of the database that is replaced"));
        }
        let closed = server.replaced().await.map_err(unchecked)?;
        if !self.may_replace(closed, report) {
            return Ok(false);
        }
        let replaced = match closed {
            ReplacedDatabase::Log { .. } => Some(server.replaced_url().map_err(unchecked)?),
            ReplacedDatabase::Missing | ReplacedDatabase::Empty | ReplacedDatabase::Foreign => None,
        };
        let restoring = server.restoring();
        let database = RestoredDatabase {
            url: database_url(&self.url, &restoring).map_err(unchecked)?,
            owner_url: database_url(&self.owner_url, &restoring).map_err(unchecked)?,
            replaced,
            backup: Some(self.backup.content().map_err(|error| error.to_string())?),
        };
        if !finish(&database, plan, report).await? {
            return Ok(false);
        }

        // Superusers are not kept out.
        if server.replaced().await.map_err(unchecked)? != closed {
            return Err(Failure::Failed(
                "the database that is replaced has changed meanwhile: stop the nodes".to_owned(),
            ));
        }
        let aside = server.swap(before, clock::now()).await.map_err(unchecked)?;
        let (id, title) = ("swap", "the restored database has its name");
        let detail = match &aside {
            Some(aside) => format!("the one before is {aside}: remove it soon, for no erasure reaches it"),
            None => "there was none before".to_owned(),
        };
        report.facts.insert("replaced".to_owned(), json!(aside));
        report.checks.push(Check::passed(id, title, detail));
        Ok(true)
    }
}

/// `true` if nothing was found, and nothing left out, so far.
fn is_passed(report: &Report) -> bool {
    report.checks.iter().all(|check| matches!(check.result, CheckResult::Passed { .. }))
}
