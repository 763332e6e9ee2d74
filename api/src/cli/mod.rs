//! The command line: one file per verb.
//!
//! Exit codes: 0, the verb did its job; 1, it failed, and the last line says why; 2, the configuration or the arguments are
//! wrong, and every problem is listed; 3, only of the verbs in `ops/`, something could not be checked.

mod as_of;
mod audit;
mod completions;
mod dev;
mod erasure;
mod events;
mod failure;
mod incident;
mod key_file;
mod keys;
mod lockdown;
mod migrate;
mod openapi;
mod ops;
mod output;
mod postgres_variables;
mod process;
mod progress;
mod projections;
mod rebuild;
mod register;
mod replay;
mod serve;
mod signer;
mod table;
mod target;
mod text_file;
mod witness;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use colorchoice_clap::{Color, ColorChoice};

use self::failure::Failure;
use self::output::note;
pub use self::process::operator;

/// Event-sourced security backend: logins, sessions and roles in an immutable log.
#[derive(Parser)]
#[command(name = "fulexo", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Use colours always, never, or if the output is a terminal.
    #[arg(long, value_name = "WHEN", value_enum, global = true, default_value_t)]
    color: ColorChoice,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the service on this machine with a private PostgreSQL and NATS, keys and demo accounts.
    ///
    /// Runs until Ctrl-C. The data directory keeps everything: the next start continues with it, also after a crash.
    Dev(dev::DevArgs),
    /// Run one node, configured by the environment.
    ///
    /// docs/configuration.md lists the variables. The verb reports every problem of the configuration at once.
    Serve(serve::ServeArgs),
    /// Sign the log's checkpoints, in a process apart from the service.
    ///
    /// Run it as another user than the nodes: neither they nor the database can then have another history signed than the one
    /// that was signed before. Needs FULEXO_LOG_KEY_FILE, FULEXO_SIGNER_MEMORY and FULEXO_SIGNER_SOCKET.
    Signer(signer::SignerArgs),
    /// Witness other logs: cosign their checkpoints as long as each extends the one before.
    ///
    /// Run it for another organisation. It needs no database, and keeps its state in a directory. Needs FULEXO_WITNESS_KEY_FILE,
    /// FULEXO_WITNESS_LOGS_FILE and FULEXO_WITNESS_STATE; listens on FULEXO_BIND and FULEXO_PORT.
    Witness(witness::WitnessArgs),
    /// Update the schema of the database, as the owner role.
    ///
    /// Applies the missing migrations, each as a whole or not at all, and makes the role of DATABASE_URL a member of
    /// fulexo_app. Safe to repeat, and safe while nodes of the previous release run. Needs DATABASE_OWNER_URL and
    /// DATABASE_URL.
    Migrate(migrate::MigrateArgs),
    /// Register an account with roles, and print its password.
    ///
    /// Use it to create the first administrator. Works directly on the database, alongside running nodes. The log names the
    /// operator as the actor. Takes the same configuration as `serve`.
    Register(register::RegisterArgs),
    /// Respond to an incident: open it, contain it, record its phases, close it.
    ///
    /// Works directly on the database, alongside running nodes or while none runs. The log names the operator as the actor.
    /// Takes the same configuration as `serve`.
    Incident(incident::IncidentArgs),
    /// Impose a lockdown, or lift it.
    ///
    /// A lockdown refuses everybody except incident responders. Works directly on the database, alongside running nodes. The
    /// log names the operator as the actor. Takes the same configuration as `serve`.
    Lockdown(lockdown::LockdownArgs),
    /// List keys, and replace them: those that wrap the vault, and those that sign.
    ///
    /// Works alongside running nodes, which read their keys again by themselves. A run that was interrupted is run again, and
    /// continues where it was. The log names the operator as the actor. Takes the same configuration as `serve`.
    Keys(keys::KeysArgs),
    /// Print the OpenAPI document.
    Openapi(openapi::OpenapiArgs),
    /// Rebuild read models from the log, compare them with the live ones, and switch to them.
    ///
    /// Works alongside running nodes. Readers see the live tables until the new ones are complete; the switch is one
    /// transaction. An interrupted rebuild resumes at the next run. Exits with 1 if a live read model differed from the log:
    /// the rebuilt one is then in use, and --rollback restores the previous one.
    Rebuild(rebuild::RebuildArgs),
    /// Show accounts, sessions, roles, grants or metrics at a position or a time.
    ///
    /// Queries the read models, which keep every version of their rows. Replays nothing.
    AsOf(as_of::AsOfArgs),
    /// Replay the log up to a position, and compare the result with the live read models.
    ///
    /// Uses temporary tables, works alongside running nodes, and changes nothing. Exits with 1 if a table or a snapshot
    /// differs.
    Replay(replay::ReplayArgs),
    /// List the read models: version, position, lag, owner, state.
    Projections(projections::ProjectionsArgs),
    /// Verify the log, copy it, and prove its events, without trust in whoever keeps it.
    Audit(audit::AuditArgs),
    /// Search for what is left of an erased person.
    Erasure(erasure::ErasureArgs),
    /// Back up the database, encrypted and signed, and verify backups.
    ///
    /// Works alongside running nodes, and without any.
    Backup(ops::backup::BackupArgs),
    /// Restore a backup in place of the database, which is kept under another name.
    ///
    /// Verifies the backup, loads it into a new database, lists the events that are lost, erases again whoever was erased since,
    /// begins a new epoch, asks the signer, and gives the new database the name of the old one as the last step: until then nothing
    /// has changed. Takes the same configuration as `serve`, DATABASE_OWNER_URL and DATABASE_SUPERUSER_URL. Exits with 0 if nothing
    /// was lost, with 1 if the report has findings, with 3 if nothing was restored or something could not be checked.
    Restore(ops::restore::RestoreArgs),
    /// Test an instance of your own for weaknesses, as an attacker would.
    ///
    /// Sends requests, registers accounts and guesses passwords, all within bounds, and takes away what it made. Tests an
    /// instance on loopback; any other has to be confirmed, and has to show that its operator consents. Exits with 1 if it finds
    /// anything, and with 3 if it could not try everything.
    PenetrationTest(ops::penetration_test::PenetrationTestArgs),
    /// Audit the service: its configuration, database, log, accounts, roles and keys.
    ///
    /// Works when the service is down, and changes nothing: from the database of DATABASE_URL, the environment of a node, and
    /// the files that it names. Exits with 0 if nothing was found, 1 if something was, 2 if the arguments are wrong, 3 if
    /// something could not be checked. docs/security-audit.md explains each finding.
    SecurityAudit(ops::security_audit::SecurityAuditArgs),
    /// Follow the log in the terminal.
    ///
    /// Prints one line per event: position, time, type, actor, subject, data.
    Events(events::EventsArgs),
    /// Check what is well and what is not: nodes, PostgreSQL, NATS, log, certificate, backups, keys.
    ///
    /// Takes less than three seconds, also when the service, PostgreSQL or both are down. On the machine of a node it takes
    /// the node's variables; from elsewhere give --url. Exits with 0 if all is well, 1 if something is not, 2 if the
    /// arguments are wrong, 3 if something could not be checked.
    HealthCheck(ops::health_check::HealthCheckArgs),
    /// Check the certificate and the TLS of a server, whoever runs it.
    ///
    /// Judges trust, name, times, keys, versions, cipher suites and stapling. Sends no request. Exits with 1 if it found
    /// something, with 3 if it could not check everything.
    CheckSsl(ops::check_ssl::CheckSslArgs),
    /// Check the security headers of a server, whoever runs it.
    ///
    /// Each header is judged, with the line of nginx that mends it. Grades from A to F: of 100 points a high finding takes 30,
    /// a medium one 15, a low one 5; A needs 90, B 75, C 60, D 40. Exits with 1 if it found something, with 3 if there was no
    /// answer.
    CheckHeaders(ops::check_headers::CheckHeadersArgs),
    /// Scan for known vulnerabilities: this program's dependencies, and the versions of the services beside it.
    ///
    /// Compares the dependencies with a copy of the RustSec advisory database, without any network. Judges PostgreSQL
    /// (DATABASE_URL), NATS (NATS_URL) and nginx by a dated table, as far as they are there. Exits with 1 if anything was
    /// found, and with 3 if anything could not be checked: a database that is missing or older than 7 days is never clean.
    VulnerabilityScan(ops::vulnerability_scan::VulnerabilityScanArgs),
    /// Print this program's bill of materials (CycloneDX 1.6, JSON).
    ///
    /// Names every package that the program was built of, with its checksum, licence and dependencies. The same program
    /// prints the same bytes. SOURCE_DATE_EPOCH sets the time in it; otherwise it has none.
    Sbom(ops::sbom::SbomArgs),
    /// Print the completions of a shell.
    ///
    /// For bash: `fulexo completions bash > ~/.local/share/bash-completion/completions/fulexo`.
    Completions(completions::CompletionsArgs),
    /// Write the manual: one page for fulexo and one per verb.
    ///
    /// Read a page with `man -l DIR/fulexo.1`, or with `man fulexo` if `man` searches DIR.
    Man(completions::ManArgs),
}

impl Cli {
    /// Runs the verb.
    #[must_use]
    pub fn run(self) -> ExitCode {
        Color { color: self.color }.write_global();
        let outcome = match self.verb {
            Verb::Dev(verb) => verb.run(),
            Verb::Serve(verb) => verb.run(),
            Verb::Signer(verb) => verb.run(),
            Verb::Witness(verb) => verb.run(),
            Verb::Migrate(verb) => verb.run(),
            Verb::Register(verb) => verb.run(),
            Verb::Incident(verb) => verb.run(),
            Verb::Lockdown(verb) => verb.run(),
            Verb::Keys(verb) => verb.run(),
            Verb::Openapi(verb) => verb.run(),
            Verb::Rebuild(verb) => verb.run(),
            Verb::AsOf(verb) => verb.run(),
            Verb::Replay(verb) => verb.run(),
            Verb::Projections(verb) => verb.run(),
            Verb::Audit(verb) => verb.run(),
            Verb::Erasure(verb) => verb.run(),
            Verb::Backup(verb) => verb.run(),
            Verb::Restore(verb) => verb.run(),
            Verb::PenetrationTest(verb) => verb.run(),
            Verb::SecurityAudit(verb) => verb.run(),
            Verb::Events(verb) => verb.run(),
            Verb::HealthCheck(verb) => verb.run(),
            Verb::CheckSsl(verb) => verb.run(),
            Verb::CheckHeaders(verb) => verb.run(),
            Verb::VulnerabilityScan(verb) => verb.run(),
            Verb::Sbom(verb) => verb.run(),
            Verb::Completions(verb) => verb.run(Self::command()),
            Verb::Man(verb) => verb.run(Self::command()),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Failed(text)) => {
                note(format_args!("fulexo: {text}"));
                ExitCode::FAILURE
            }
            Err(Failure::Misused(text)) => {
                note(format_args!("error: {text}\n\nFor more information, try '--help'."));
                ExitCode::from(2)
            }
            Err(Failure::Findings) => ExitCode::FAILURE,
            Err(Failure::Unchecked(text)) => {
                if let Some(text) = text {
                    note(format_args!("fulexo: {text}"));
                }
                ExitCode::from(3)
            }
            Err(Failure::Misconfigured(errors)) => {
                note(format_args!("fulexo: {errors}"));
                ExitCode::from(2)
            }
        }
    }
}
