//! The steps that make a restored database fit to serve: what was lost, who has to be erased again, the new epoch, the signer.

use std::collections::BTreeSet;
use std::path::PathBuf;

use fulexo_database::chain;
use fulexo_domain::backup::{BackupCommand, BackupContent};
use fulexo_domain::values::Epoch;
use fulexo_node::config::Config;
use fulexo_node::schema;
use fulexo_node::signer::SignedLog;
use fulexo_node::start::{Core, open_signer};
use fulexo_node::state::App;
use fulexo_ops::backup::{read_tree, root_at};
use fulexo_ops::finding::Finding;
use fulexo_ops::report::{Check, Report};
use fulexo_ops::restore::{ENDED_LOG, HISTORY, LOST, LostEvents, NO_LIST, REVOCATIONS, UNKNOWN};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::hash::TreeHash;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::copies::{CopyResult, read_database, read_nats, read_place};
use super::erasures::erase;
use super::steps::{STEPS, target};
use crate::cli::audit::trust::Trust;
use crate::cli::failure::Failure;
use crate::cli::ops::backup::OutsideCheckpoint;
use crate::cli::output::note;
use crate::cli::process::operator;
use crate::cli::progress::grouped;

/// The most types of events that a line names.
const MAX_TYPES: usize = 8;

/// A database with a restored log, which no node works on.
pub struct RestoredDatabase {
    /// The URL of the role of the nodes.
    pub url: String,
    /// The URL of the role that owns the tables.
    pub owner_url: String,
    /// The superuser's URL of the database that it replaces.
    pub replaced: Option<String>,
    /// The backup that was restored, as the log tells of it; `None` if another program has restored it.
    pub backup: Option<BackupContent>,
}

/// The places that tell what the restored log lacks.
pub struct FinishPlan {
    /// A copy of the log, and the token with which it is read.
    pub copy: Option<(String, Option<Zeroizing<String>>)>,
    /// A checkpoint that was kept outside.
    pub outside: Option<OutsideCheckpoint>,
    /// The keys that it and a copy are verified with; `None` for the key that the restored log names.
    pub trust: Option<Trust>,
    /// Those who were erased since the backup; `None` if that is not known.
    pub erasures: Option<Vec<Uuid>>,
    /// The file for the list of events.
    pub list: Option<PathBuf>,
}

/// The log as others tell of it.
struct ToldLog {
    lost: LostEvents,
    /// The number of events that somebody knows of.
    known: u64,
    /// `true` if anybody told.
    is_told: bool,
    /// The checkpoint that was kept outside.
    outside: Option<Checkpoint>,
    /// `true` if a checkpoint of the restored log was published.
    is_signed: bool,
    /// The log as the signer remembers it.
    signed: Option<Result<SignedLog, String>>,
    /// The places that tell of another history.
    findings: Vec<Finding>,
    /// The places that were read, in a few words.
    places: Vec<String>,
}

/// Makes a database fit to serve. Adds each step to the report, and returns `false` if one of them forbids to serve from it.
pub async fn finish(database: &RestoredDatabase, plan: FinishPlan, report: &mut Report) -> Result<bool, Failure> {
    let options: PgConnectOptions =
        database.url.parse().map_err(|_| Failure::Failed("DATABASE_URL must be a PostgreSQL URL".to_owned()))?;
    note(format_args!("restore  migrating {}", target(&database.url)));
    schema::migrate(&database.owner_url, options.get_username()).await?;
    let mut owner = PgConnection::connect(&database.owner_url).await?;
    let epoch: Uuid = sqlx::query_scalar("select epoch from log.head").fetch_one(&mut owner).await?;
    let listed: Option<BTreeSet<Uuid>> = plan.erasures.as_ref().map(|listed| listed.iter().copied().collect());

    note(format_args!("restore  reading what other places tell of the log"));
    let mut told = told(database, plan, epoch, &mut owner).await?;
    let is_same = history(&mut told, &mut owner, report).await?;
    lost(&told, report)?;
    let Some(erasures) = erasures(&told, listed, report) else { return Ok(false) };
    if !is_same {
        return Ok(false);
    }

    let began: Uuid = sqlx::query_scalar("update log.head set epoch = gen_random_uuid() returning epoch")
        .fetch_one(&mut owner)
        .await?;
    let core = Core::start(config(database)?).await?;
    let erased = erase(&core.app, &erasures).await;
    let recorded = match &erased {
        Ok(erased) => record(&core.app, database, &told, began, erased.count).await,
        Err(_) => Ok(()),
    };
    core.stop().await;
    let erased = erased?;
    recorded?;
    let (id, title) = STEPS[2];
    let unknown = match erased.unknown {
        0 => String::new(),
        unknown => format!("; {} of them registered after the backup", grouped(unknown)),
    };
    let detail = format!("{} of {} accounts{unknown}", grouped(erased.count), grouped(erasures.len() as u64));
    report.facts.insert("erased".to_owned(), erased.count.into());
    report.checks.push(Check::of(id, title, detail, erased.findings));
    let (id, title) = STEPS[3];
    report.facts.insert("epoch".to_owned(), json!(began));
    report.checks.push(Check::passed(id, title, format!("{began}; tokens issued after the backup are refused")));
    report.checks.push(signer(&told));
    Ok(true)
}

/// Records that the database was restored.
async fn record(
    app: &App,
    database: &RestoredDatabase,
    told: &ToldLog,
    epoch: Uuid,
    erasures: u64,
) -> Result<(), Failure> {
    let position = told.lost.restored();
    let lost = told.is_told.then(|| told.known.saturating_sub(position));
    let epoch = Epoch::from(epoch);
    let restored = BackupCommand::Restore { backup: database.backup.clone(), epoch, erasures, lost, position };
    let recorded = app.commands.record_backup(&operator(), restored).await;
    recorded.map(drop).map_err(|error| Failure::Failed(format!("the restore was not recorded: {}", chain(&error))))
}

/// Returns the configuration of a node on this database.
fn config(database: &RestoredDatabase) -> Result<Config, Failure> {
    let mut config = Config::from_env()?;
    config.database_url.clone_from(&database.url);
    Ok(config)
}

async fn told(
    database: &RestoredDatabase,
    plan: FinishPlan,
    epoch: Uuid,
    owner: &mut PgConnection,
) -> Result<ToldLog, Failure> {
    let failed = |error: fulexo_ops::backup::BackupError| Failure::Failed(error.to_string());
    let tree = read_tree(owner, u64::MAX).await.map_err(failed)?;
    let last: Option<Vec<u8>> = sqlx::query_scalar("select leaf_hash from log.event order by position desc limit 1")
        .fetch_optional(&mut *owner)
        .await?;
    let last = last.and_then(|hash| hash.try_into().ok()).map(TreeHash);
    let outside = match (plan.outside, &plan.trust) {
        (None, _) | (_, None) => None,
        (Some(place), Some(trust)) => {
            let read = place.read(trust.has_policy()).await?;
            let verified = trust.verify(&read).map_err(|fault| Failure::Failed(format!("--checkpoint: {fault}")))?;
            Some(verified.checkpoint)
        }
    };
    let signed = match config(database)?.signer {
        None => None,
        Some(signer) => Some(match open_signer(signer) {
            Ok(signer) => signer.log().await.map_err(|error| chain(&error).to_string()),
            Err(error) => Err(error.0),
        }),
    };
    let is_signed: bool =
        sqlx::query_scalar("select note is not null from tree.checkpoint").fetch_one(&mut *owner).await?;
    let remembered = signed.as_ref().and_then(|signed| signed.as_ref().ok()?.last.as_ref());
    let sizes: Vec<u64> = [&outside, &remembered.cloned()].into_iter().flatten().map(|it| it.size).collect();
    let known = sizes.iter().copied().max().unwrap_or_default().max(tree.size());
    let is_told = !sizes.is_empty();
    let list = plan.list.as_deref();
    let lost = LostEvents::begin(tree, last, sizes, list).map_err(|error| {
        Failure::Failed(format!("cannot create {}: {error}", list.unwrap_or_else(|| "".as_ref()).display()))
    })?;
    let mut told =
        ToldLog { lost, known, is_told, outside, is_signed, signed, findings: Vec::new(), places: Vec::new() };
    if let Some(url) = &database.replaced {
        let read = read_database(&mut told.lost, owner, url).await;
        told.add("the replaced database", read);
    }
    if let Some((place, token)) = plan.copy {
        let read = read_place(&mut told.lost, owner, &place, token, &database.owner_url, plan.trust).await;
        told.add("the copy", read);
    }
    if let Some(read) = read_nats(&mut told.lost, config(database)?, epoch).await {
        told.add("the copy in NATS", read);
    }
    told.lost.finish().map_err(|error| Failure::Failed(format!("cannot write the list of events: {error}")))?;
    Ok(told)
}

impl ToldLog {
    fn add(&mut self, place: &str, read: CopyResult) {
        self.known = self.known.max(self.lost.next());
        match read {
            CopyResult::Read(size) => {
                self.is_told = true;
                self.known = self.known.max(size);
                self.places.push(format!("{place}, {} events", grouped(size)));
            }
            CopyResult::Different(because) => self.findings.push(HISTORY.finding(place, because)),
            CopyResult::Unread(because) => note(format_args!("{place} was not read: {because}")),
        }
    }

    /// `true` if every event that somebody knows of was read.
    const fn is_complete(&self) -> bool {
        self.is_told && self.lost.next() >= self.known
    }
}

/// Compares the restored log with what others tell. Returns `false` if whoever is to be believed tells of another one.
async fn history(told: &mut ToldLog, owner: &mut PgConnection, report: &mut Report) -> Result<bool, Failure> {
    let (id, title) = STEPS[0];
    let remembered = told.signed.as_ref().and_then(|signed| signed.as_ref().ok()?.last.clone());
    let mut is_same = true;
    for (place, checkpoint) in [("the checkpoint", told.outside.clone()), ("the signer's memory", remembered)] {
        let Some(Checkpoint { size, root, .. }) = checkpoint else { continue };
        let found = if size <= told.lost.restored() {
            Some(root_at(owner, size).await.map_err(|error| Failure::Failed(error.to_string()))?)
        } else {
            told.lost.root_at(size)
        };
        match found {
            Some(found) if found == root => told.places.push(format!("{place}, {} events", grouped(size))),
            None => told.places.push(format!("{place}, {} events, of which some are unknown", grouped(size))),
            Some(_) => {
                is_same = false;
                let evidence = format!("its first {size} events are not those of the restored log and of the copies");
                told.findings.push(HISTORY.finding(place, evidence));
            }
        }
    }
    let detail = match told.places.is_empty() {
        false => told.places.join("; "),
        true if told.findings.is_empty() => {
            let reason = "no other place tells of the log: give --copy or --checkpoint";
            report.checks.push(Check::not_checked(id, title, reason));
            return Ok(true);
        }
        true => String::new(),
    };
    report.checks.push(Check::of(id, title, detail, std::mem::take(&mut told.findings)));
    Ok(is_same)
}

/// Says what is lost.
fn lost(told: &ToldLog, report: &mut Report) -> Result<(), Failure> {
    let (id, title) = STEPS[1];
    let lost = &told.lost;
    let (restored, next) = (lost.restored(), lost.next());
    let mut findings = Vec::new();
    if next > restored {
        let evidence = format!("{} events: {}", grouped(next - restored), types(lost));
        findings.push(LOST.finding(positions(restored, next), evidence));
    }
    let (revocations, number) = lost.revocations();
    for revocation in &revocations {
        let evidence = format!("{} {}", revocation.kind, revocation.stream);
        findings.push(REVOCATIONS.finding(format!("position {}", revocation.position), evidence));
    }
    if number > revocations.len() as u64 {
        let evidence = format!("{} more: see --lost FILE", grouped(number - revocations.len() as u64));
        findings.push(REVOCATIONS.finding(positions(restored, next), evidence));
    }
    let asked = lost.asked().count() as u64;
    if asked > 0 {
        let evidence = format!("{} accounts had asked for their erasure, and do not any more", grouped(asked));
        findings.push(REVOCATIONS.finding("erasures that were asked for", evidence));
    }
    if told.known > next {
        let evidence = format!("{} events", grouped(told.known - next));
        findings.push(UNKNOWN.finding(positions(next, told.known), evidence));
    }
    report.facts.insert("events".to_owned(), restored.into());
    report.facts.insert("lost".to_owned(), json!({"from": restored, "count": next - restored, "types": lost.counts()}));
    report.checks.push(match told.is_told {
        true => Check::of(id, title, format!("{} events, as everywhere", grouped(restored)), findings),
        false => Check::not_checked(id, title, "no other place tells of the log: give --copy or --checkpoint"),
    });
    Ok(())
}

/// Returns those who have to be erased; `None`, with a finding, if that is not known.
fn erasures(told: &ToldLog, listed: Option<BTreeSet<Uuid>>, report: &mut Report) -> Option<BTreeSet<Uuid>> {
    let (id, title) = STEPS[2];
    if listed.is_none() && !told.is_complete() {
        let evidence = match told.is_told {
            true => format!("{} of {} events are known", grouped(told.lost.next()), grouped(told.known)),
            false => "no other place tells of the log".to_owned(),
        };
        let finding = NO_LIST.finding(positions(told.lost.next(), told.known.max(told.lost.next())), evidence);
        report.checks.push(Check::of(id, title, "", vec![finding]));
        return None;
    }
    let mut all = told.lost.erased().clone();
    all.extend(listed.into_iter().flatten());
    Some(all)
}

/// Judges whether the signer can go on.
fn signer(told: &ToldLog) -> Check {
    let (id, title) = STEPS[4];
    let log = match &told.signed {
        None if !told.is_signed => return Check::passed(id, title, "the log is not signed"),
        None => {
            return Check::not_checked(
                id,
                title,
                "no signer is configured here: see /health/ready of a node that has one",
            );
        }
        Some(Err(because)) => return Check::not_checked(id, title, because.clone()),
        Some(Ok(log)) => log,
    };
    let Some(last) = &log.last else { return Check::passed(id, title, "it has signed nothing yet") };
    if last.size <= told.lost.restored() {
        return Check::passed(id, title, format!("it has signed {} events", grouped(last.size)));
    }
    let shown = match told.lost.root_at(last.size) {
        Some(_) => "the restored ones and the lost ones together are those that it signed",
        None => "some of them are unknown",
    };
    let evidence = format!("it has signed {} events; {shown}", grouped(last.size));
    Check::of(id, title, "", vec![ENDED_LOG.finding(last.origin.to_string(), evidence)])
}

fn positions(from: u64, to: u64) -> String {
    match to.saturating_sub(from) {
        0 => format!("from position {from}"),
        1 => format!("position {from}"),
        _ => format!("positions {from} to {}", to - 1),
    }
}

/// Returns the number of events of each type, the most frequent first.
fn types(lost: &LostEvents) -> String {
    let mut counts: Vec<_> = lost.counts().iter().collect();
    counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), (*kind).clone()));
    let named = counts.iter().take(MAX_TYPES).map(|(kind, count)| format!("{} {kind}", grouped(**count)));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if counts.len() > MAX_TYPES {
        text.push_str(", and others");
    }
    text
}
