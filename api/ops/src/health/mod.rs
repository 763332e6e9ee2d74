//! `health-check`: what is well and what is not, in under three seconds, also when the service, PostgreSQL or both are down.
//!
//! ```text
//! nodes by their URLs --.          .-- the state, then the roots at the sizes of the checkpoints
//! PostgreSQL, connected -+-- then -+
//! NATS, files, backups  -'         '-- the judgement of each area, by what was observed
//! ```
//! Every probe has its time, and all of each step run at once. The database is read after the nodes have answered: positions
//! only grow, so a node that is ahead of the database is not late but wrong.

mod anchor;
mod area;
mod backups;
mod certificate;
mod checkpoint;
mod clocks;
mod following;
mod keys;
mod nats;
mod nodes;
mod observations;
mod postgres;
mod probes;
mod response;
mod services;
mod sources;

use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_tlog::hash::TreeHash;
use futures_util::future::join_all;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use self::checkpoint::LogTrust;
pub use self::probes::nats_servers::NatsAccess;
pub use self::probes::service::{CertificateName, ServiceAddress};

use self::area::HealthArea;
use self::observations::HealthObservations;
use self::probes::backup_directory::BackupsSeen;
use self::probes::certificate_file::CertificateFile;
use self::probes::database::DatabaseView;
use self::probes::nats_servers;
use self::probes::root::{RootFault, root_of_tiles};
use self::probes::service::ObservedService;
use crate::audit::audit_check::AuditCheck;
use crate::backup::TargetAddress;
use crate::clock::now;
use crate::report::Report;
use crate::tls::TlsPolicy;

/// All checks, in the order of the report.
pub const CHECKS: [AuditCheck; 16] = [
    services::CHECK,
    nodes::CHECK,
    postgres::CHECK,
    nats::CHECK,
    following::READ_MODELS,
    following::RELAY,
    following::TREE,
    checkpoint::CHECK,
    anchor::CHECK,
    certificate::CHECK,
    backups::CHECK,
    keys::CHECK,
    clocks::CHECK,
    response::LOCKDOWN,
    response::INCIDENTS,
    sources::CHECK,
];

/// The most nodes that are asked.
pub const MOST_SERVICES: usize = 32;

/// The service as the operator knows it.
pub struct HealthRequest {
    /// The nodes, and what stands before them.
    pub services: Vec<ServiceAddress>,
    /// The URL of the database.
    pub database: Option<Zeroizing<String>>,
    /// NATS.
    pub nats: Option<NatsAccess>,
    /// The certificate file of a node.
    pub certificate: Option<PathBuf>,
    /// The measure of certificates.
    pub tls: TlsPolicy,
    /// The place of the backups.
    pub backups: Option<TargetAddress>,
    /// The age up to which the newest verified backup is recent.
    pub max_backup_age: TimeDelta,
    /// The keys that are trusted.
    pub trust: LogTrust,
    /// The time after which a key is due.
    pub key_epoch: TimeDelta,
    /// The checks to leave out.
    pub without: Vec<String>,
    /// The time for everything.
    pub patience: Duration,
}

/// Checks the service, within the time of the request.
pub async fn check(request: &HealthRequest, target: String) -> Report {
    let mut report = Report::begin("health-check", target, now());
    let observations = observe(request).await;
    for area in judge(request, &observations) {
        if request.without.contains(&area.check.id) {
            continue;
        }
        if !area.facts.is_empty() {
            report.facts.insert(area.check.id.clone(), Value::Object(area.facts));
        }
        report.checks.push(area.check);
    }
    if !request.without.is_empty() {
        report.facts.insert("left_out".to_owned(), request.without.clone().into());
    }
    report.ended_at = now();
    report
}

async fn observe(request: &HealthRequest) -> HealthObservations {
    // Two steps, one after the other, and some time for the judgement and the print.
    let step = request.patience.mul_f32(0.4);
    let wants = |check: &AuditCheck| !request.without.iter().any(|left_out| *left_out == check.id);
    let services =
        join_all(request.services.iter().take(MOST_SERVICES).map(|address| ObservedService::ask(address, step)));
    let nats = async {
        match request.nats.as_ref().filter(|_| wants(&nats::CHECK)) {
            Some(access) => Some(nats_servers::ask(access, step).await),
            None => None,
        }
    };
    let certificate = async {
        match request.certificate.clone().filter(|_| wants(&certificate::CHECK)) {
            Some(path) => Some(CertificateFile::read(path, step).await),
            None => None,
        }
    };
    let backups = request.backups.clone().filter(|_| wants(&backups::CHECK));
    let (services, database, nats, certificate, backups) = tokio::join!(
        services,
        DatabaseView::open(request.database.as_ref().map(|url| url.as_str()), step),
        nats,
        certificate,
        BackupsSeen::read(backups, step),
    );
    let mut observations = HealthObservations { services, database, roots: Vec::new(), nats, certificate, backups };
    let began = std::time::Instant::now();
    if let Some(mut connection) = observations.database.read(step).await {
        let left = step.saturating_sub(began.elapsed());
        observations.roots = roots(&observations, &mut connection, left).await;
    }
    observations
}

/// Reads the roots at the sizes of the checkpoints that were seen.
async fn roots(
    observations: &HealthObservations,
    connection: &mut PgConnection,
    patience: Duration,
) -> Vec<(u64, Result<TreeHash, RootFault>)> {
    let most = observations.state().map_or(0, |state| state.tree.size);
    let mut roots = Vec::new();
    let reading = async {
        for size in checkpoint::sizes(observations).into_iter().filter(|size| *size <= most) {
            let root = root_of_tiles(connection, size).await;
            roots.push((size, root));
        }
    };
    // Those that were not read in time are not compared, which the report says.
    let _ = timeout(patience, reading).await;
    roots
}

/// Judges each area, in the order of [`CHECKS`].
fn judge(request: &HealthRequest, observations: &HealthObservations) -> Vec<HealthArea> {
    vec![
        services::check(observations),
        nodes::check(observations),
        postgres::check(observations),
        nats::check(observations),
        following::read_models(observations),
        following::relay(observations),
        following::tree(observations),
        checkpoint::check(observations, &request.trust),
        anchor::check(observations, &request.trust),
        certificate::check(observations, &request.services, &request.tls, now()),
        backups::check(observations, request.max_backup_age, now()),
        keys::check(observations, request.key_epoch),
        clocks::check(observations),
        response::lockdown(observations),
        response::incidents(observations),
        sources::check(observations),
    ]
}
