//! `fulexo security-audit`: the audit of a service, its report, and the comparison with the report before.

mod environment;
mod evidence;

use std::io::Read;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use clap::Args;
use clap::builder::PossibleValuesParser;
use fulexo_database::chain;
use fulexo_node::config;
use fulexo_ops::audit::acceptance::{self, Acceptance};
use fulexo_ops::audit::accounts::AccountLimits;
use fulexo_ops::audit::database::{open, target, verifies};
use fulexo_ops::audit::reports::{self, LastReport, Previous, ReportDirectory, ReportsError};
use fulexo_ops::audit::{
    CHECKS, accounts, api_keys, append_only, backups, configuration, database_access, database_grants, database_roles,
    database_settings, files, keys, log, nats, policy, public_url, read_models, roles, secrets,
};
use fulexo_ops::clock::now;
use fulexo_ops::finding::Finding;
use fulexo_ops::headers::parse_url;
use fulexo_ops::report::{Check, Comparison, Report};
use fulexo_tlog::key::SignerKey;
use serde_json::{Value, json};
use sqlx::PgConnection;
use url::Url;
use zeroize::Zeroizing;

use self::environment::AuditEnvironment;
use super::ReportArgs;
use crate::cli::audit::trust::{Trust, TrustArgs};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::process::block_on;
use crate::cli::target::Target;

/// The length of the longest key file, in bytes.
const MAX_KEY_FILE: u64 = 64 * 1_024;

#[derive(Args)]
pub struct SecurityAuditArgs {
    /// Keep the report in this directory, and compare it with the last one there [default: FULEXO_AUDIT_REPORTS].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Sign the report with the Ed25519 key in this file, and believe the last one only under its signature. Create the
    /// key with `fulexo signer new-key`; do not use the log's.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Accept the findings that this file lists, each with a reason: JSON, as docs/security-audit.md shows.
    #[arg(long, value_name = "FILE")]
    accept: Option<PathBuf>,
    /// Leave this check out. Repeat the option for several.
    #[arg(long, value_name = "CHECK", value_parser = PossibleValuesParser::new(CHECKS.map(|check| check.id)))]
    without: Vec<String>,
    /// Replay the log, and compare the read models with it. Takes minutes for millions of events.
    #[arg(long)]
    replay: bool,
    /// Find accounts without a login, and grants and keys without a use, in this many days.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    dormant_days: u32,
    /// Find more administrators than these.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    max_administrators: u32,
    /// Check the certificate, the TLS and the headers of this URL [default: FULEXO_PUBLIC_URL, or FULEXO_ISSUER].
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<Url>,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: ReportArgs,
}

impl SecurityAuditArgs {
    pub fn run(self) -> Result<(), Failure> {
        let url = Zeroizing::new(self.target.database_url()?);
        let accepted = self.accept.as_deref().map(acceptances).transpose()?;
        let signing_key = self.signing_key.as_deref().map(signing_key).transpose()?;
        let trust = self.trust.given()?;
        let epoch = config::key_epoch()?;
        let directory = self.out.clone().or_else(|| std::env::var("FULEXO_AUDIT_REPORTS").ok().map(PathBuf::from));
        let directory = directory.filter(|path| !path.as_os_str().is_empty());
        let directory = directory.as_deref().map(ReportDirectory::open).transpose().map_err(unkept)?;

        let mut report = Report::begin("security-audit", target(&url), now());
        let last = self.last(directory.as_ref(), signing_key.as_ref(), &mut report)?;
        let reports_check = report.checks.pop();
        let environment = AuditEnvironment::read(&url);
        let audit = SecurityAudit { args: &self, url: &url, environment: &environment, epoch, last: last.as_ref() };
        block_on(audit.run(&mut report, trust))?;
        report.checks.extend(reports_check);
        if self.wants(acceptance::CHECK.id)
            && let Some(accepted) = &accepted
        {
            acceptance::apply(accepted, &mut report, now());
        }
        report.facts.insert("left_out".to_owned(), json!(self.without));
        report.facts.insert("replayed".to_owned(), self.replay.into());
        let signature = if signing_key.is_some() { "signed" } else { "unsigned" };
        report.facts.insert("signature".to_owned(), signature.into());
        let comparison = last.as_ref().map(|last| (last.number, report.compared_with(&last.report)));
        if let Some((number, comparison)) = &comparison {
            report.facts.insert("comparison".to_owned(), compared(*number, comparison));
        }
        report.ended_at = now();
        let kept = directory.map(|directory| directory.keep(&report, signing_key.as_ref())).transpose();
        self.print(&mut report, comparison.as_ref(), kept)
    }

    fn wants(&self, check: &str) -> bool {
        !self.without.iter().any(|left_out| left_out == check)
    }

    /// Reads the last report, and adds the check of it.
    fn last(
        &self,
        directory: Option<&ReportDirectory>,
        key: Option<&SignerKey>,
        report: &mut Report,
    ) -> Result<Option<LastReport>, Failure> {
        let Some(directory) = directory.filter(|_| self.wants(reports::CHECK.id)) else { return Ok(None) };
        let (last, findings, detail) = match directory.last(key, &report.target, now()).map_err(unkept)? {
            Previous::None => (None, Vec::new(), "there is none yet".to_owned()),
            Previous::Untrusted(finding) => (None, vec![finding], String::new()),
            Previous::Report(last, findings) => {
                let signature = if last.is_verified { "its signature is verified" } else { "no signature is verified" };
                let detail = format!("number {}, {signature}", last.number);
                (Some(*last), findings, detail)
            }
        };
        report.checks.push(Check::of(reports::CHECK.id, reports::CHECK.title, detail, findings));
        Ok(last)
    }

    fn print(
        &self,
        report: &mut Report,
        comparison: Option<&(u64, Comparison)>,
        kept: Result<Option<PathBuf>, ReportsError>,
    ) -> Result<(), Failure> {
        if let Ok(Some(path)) = &kept {
            report.facts.insert("kept".to_owned(), path.display().to_string().into());
        }
        let verdict = self.report.print(report);
        if self.report.is_text() {
            let mut out = Output::new();
            if let Some((number, comparison)) = comparison {
                print_comparison(*number, comparison, &mut out)?;
            }
            if let Ok(Some(path)) = &kept {
                let signature = if self.signing_key.is_some() { "signed" } else { "unsigned: give --signing-key" };
                out.line(format_args!("kept as {}, {signature}", path.display()))?;
            }
        }
        match kept {
            Ok(_) => verdict,
            Err(error) => {
                note(format_args!("fulexo: the report was not kept: {}", chain(&error)));
                verdict.and(Err(Failure::Unchecked(None)))
            }
        }
    }
}

/// An audit that runs.
struct SecurityAudit<'a> {
    args: &'a SecurityAuditArgs,
    url: &'a str,
    environment: &'a AuditEnvironment,
    epoch: TimeDelta,
    last: Option<&'a LastReport>,
}

impl SecurityAudit<'_> {
    async fn run(&self, report: &mut Report, trust: Option<Trust>) -> Result<(), Failure> {
        let wants = |check: &str| self.args.wants(check);
        let environment = self.environment;
        if wants(configuration::CHECK.id) {
            report.checks.push(environment.configuration.check());
        }
        if wants(secrets::CHECK.id) {
            report.checks.push(environment.secrets_check());
        }
        if wants(files::CHECK.id) {
            report.checks.push(environment.files_check());
        }
        let url = self.args.url.as_ref();
        if wants(public_url::TLS.id) {
            report.checks.push(environment.tls_check(url).await);
        }
        if wants(public_url::HEADERS.id) {
            report.checks.push(environment.headers_check(url).await);
        }
        if wants(nats::CHECK.id) {
            report.checks.push(environment.nats_check().await);
        }
        let opened = open(self.url).await;
        match opened {
            Ok(mut connection) => {
                self.server(&mut connection, &mut report.checks).await;
                self.people(&mut connection, &mut report.checks).await;
                if wants(log::CHECK.id) {
                    let since = self.last.and_then(|last| evidence::checkpoint(&last.report));
                    let checked = evidence::log(self.url, &mut connection, trust, since, &mut report.facts).await;
                    report.checks.push(checked);
                }
            }
            Err(error) => {
                let reason = format!("cannot reach the database: {}", chain(&error));
                let database = CHECKS.iter().filter(|check| needs_database(check.id) && wants(check.id));
                report.checks.extend(database.map(|check| check.unchecked(reason.as_str())));
            }
        }
        if self.args.replay && wants(read_models::CHECK.id) {
            report.checks.push(evidence::read_models(self.url).await);
        }
        if wants(backups::CHECK.id) {
            report.checks.push(environment.backups_check(self.epoch));
        }
        Ok(())
    }

    /// Checks the server and the schema.
    async fn server(&self, connection: &mut PgConnection, checks: &mut Vec<Check>) {
        let wants = |check: &str| self.args.wants(check);
        if wants(database_settings::CHECK.id) {
            checks.push(database_settings::check(connection, verifies(self.url)).await);
        }
        if wants(database_access::CHECK.id) {
            let checked = match &self.environment.owner_url {
                None => database_access::check(connection).await,
                Some(owner) => match open(owner).await {
                    Ok(mut owner) => database_access::check(&mut owner).await,
                    Err(error) => database_access::CHECK
                        .unchecked(format!("cannot reach the database with DATABASE_OWNER_URL: {}", chain(&error))),
                },
            };
            checks.push(checked);
        }
        if wants(database_roles::CHECK.id) {
            checks.push(database_roles::check(connection).await);
        }
        if wants(database_grants::CHECK.id) {
            checks.push(database_grants::check(connection).await);
        }
        if wants(append_only::CHECK.id) {
            checks.push(append_only::check(connection).await);
        }
    }

    /// Checks the policy, the accounts, the roles and the keys.
    async fn people(&self, connection: &mut PgConnection, checks: &mut Vec<Check>) {
        let (args, wants) = (self.args, |check: &str| self.args.wants(check));
        if wants(policy::CHECK.id) {
            checks.push(policy::check(connection, self.environment.configuration.is_production()).await);
        }
        let (of_roles, custom) = roles::check(connection).await;
        if wants(accounts::CHECK.id) {
            let limits =
                AccountLimits { dormant_days: args.dormant_days, most_administrators: args.max_administrators };
            checks.push(accounts::check(connection, &custom, limits, now()).await);
        }
        if wants(roles::CHECK.id) {
            checks.push(of_roles);
        }
        if wants(api_keys::CHECK.id) {
            checks.push(api_keys::check(connection, args.dormant_days, now()).await);
        }
        if wants(keys::CHECK.id) {
            checks.push(keys::check(connection, self.epoch).await);
        }
    }
}

/// `true` if the check asks the database.
fn needs_database(check: &str) -> bool {
    ![
        configuration::CHECK.id,
        secrets::CHECK.id,
        files::CHECK.id,
        public_url::TLS.id,
        public_url::HEADERS.id,
        nats::CHECK.id,
        read_models::CHECK.id,
        backups::CHECK.id,
        reports::CHECK.id,
        acceptance::CHECK.id,
    ]
    .contains(&check)
}

fn unkept(error: ReportsError) -> Failure {
    Failure::Unchecked(Some(format!("the reports: {}", chain(&error))))
}

/// Reads a file that an argument names, if it is not too long.
fn text(argument: &str, path: &Path, most: u64) -> Result<Zeroizing<String>, Failure> {
    let wrong = |problem: String| Failure::Misused(format!("{argument}: {}: {problem}", path.display()));
    let mut text = Zeroizing::new(String::new());
    let read = std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    match read {
        Ok(length) if u64::try_from(length).unwrap_or(u64::MAX) > most => Err(wrong("the file is too long".to_owned())),
        Ok(_) => Ok(text),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn acceptances(path: &Path) -> Result<Vec<Acceptance>, Failure> {
    let text = text("--accept", path, acceptance::MAX_FILE)?;
    acceptance::parse(&text, &CHECKS)
        .map_err(|problem| Failure::Misused(format!("--accept: {}: {problem}", path.display())))
}

fn signing_key(path: &Path) -> Result<SignerKey, Failure> {
    let text = text("--signing-key", path, MAX_KEY_FILE)?;
    let key = SignerKey::parse(text.trim()).map_err(|error| error.to_string());
    key.map_err(|problem| Failure::Misused(format!("--signing-key: {}: {problem}", path.display())))
}

/// The comparison as JSON: rules and subjects.
fn compared(number: u64, comparison: &Comparison) -> Value {
    let names = |findings: &[Finding]| -> Vec<Value> {
        findings.iter().map(|it| json!({"rule": it.rule, "subject": it.subject, "severity": it.severity})).collect()
    };
    let Comparison { new, mended, left } = comparison;
    json!({"report": number, "new": names(new), "mended": names(mended), "left": names(left)})
}

fn print_comparison(number: u64, comparison: &Comparison, out: &mut Output) -> Result<(), Failure> {
    let Comparison { new, mended, left } = comparison;
    let (news, mends, lefts) = (new.len(), mended.len(), left.len());
    out.line(format_args!("compared with report {number}: {news} new, {mends} mended, {lefts} left"))?;
    for (label, findings) in [("new", new), ("mended", mended)] {
        for finding in findings {
            // A report that was not verified may have been written by anybody.
            let text = format!("{}: {} ({})", finding.subject, finding.title, finding.rule);
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            out.cut_line(&format!("  {label:<8}  {text}"))?;
        }
    }
    Ok(())
}
