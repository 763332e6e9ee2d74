//! Appends per second, at 1, 16, 64 and 256 callers, against the stock esrs `PgStore` on the same Postgres.
//!
//! Both append one event at a time to streams of ten, each expecting the version it knows, about 300 bytes of data.
//! Ours also keeps one gapless position, hashes a canonical leaf, and derives what gates requests. The stock store is
//! its own program, since it needs another sqlx.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fulexo_commands::log::{AppendOutcome, AppendRequest, EventLog, ExpectedVersion, LogHooks};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, FailureReason};
use fulexo_domain::event::{Actor, Category, SealedDigest, Stream};
use fulexo_domain::leaf::EventDraft;
use fulexo_domain::sealed_field::SealedField;
use fulexo_node::clock;
use fulexo_projections::access;
use fulexo_tests::{Database, operator};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::table;

const CALLERS: [usize; 4] = [1, 16, 64, 256];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);

pub fn run(runtime: &Runtime) {
    let reference = build_reference();
    let database = runtime.block_on(Database::create());
    let mut ours = vec![Vec::new(); CALLERS.len()];
    let mut theirs = vec![Vec::new(); CALLERS.len()];
    for _ in 0..ROUNDS {
        for (index, callers) in CALLERS.into_iter().enumerate() {
            ours[index].push(runtime.block_on(appends(&database, callers)));
            theirs[index].push(reference_appends(&reference, &database, callers));
        }
    }
    table::head("appends/s, one event each, durable", "fulexo log", "esrs PgStore");
    for ((callers, ours), theirs) in CALLERS.into_iter().zip(ours).zip(theirs) {
        let wanted = (callers == 64).then_some(4.0);
        table::line(&format!("{callers} callers"), table::median(ours), table::median(theirs), wanted);
    }
}

/// Appends until the log holds this many events.
pub async fn fill(database: &Database, events: u64) {
    let until = |count: &AtomicU64| count.load(Ordering::Relaxed) >= events;
    while_appending(database, 256, |count| async move {
        while !until(&count) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Appends per second of this many callers.
pub async fn appends(database: &Database, callers: usize) -> f64 {
    while_appending(database, callers, |count| async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (before, started) = (count.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(ROUND).await;
        (count.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64()
    })
    .await
}

/// Lets `callers` append for as long as `meanwhile` takes; `meanwhile` is given the number of appends so far.
async fn while_appending<T, F: Future<Output = T>>(
    database: &Database,
    callers: usize,
    meanwhile: impl FnOnce(Arc<AtomicU64>) -> F,
) -> T {
    let pool = database.pool().await;
    let hooks =
        LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock: clock::now };
    let (log, sequencer) = EventLog::new(pool.clone(), hooks);
    let (stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    let (done, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (log, done, count) = (log.clone(), Arc::clone(&done), Arc::clone(&count));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let stream = Stream { category: Category::Authentication, id: operator().new_id() };
                    for version in 0..10 {
                        let appended = log.append(request(stream, version)).await.unwrap();
                        assert!(matches!(appended, AppendOutcome::New(_)));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let result = meanwhile(Arc::clone(&count)).await;
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let _ = stop.send(());
    sequencer.await.unwrap();
    pool.close().await;
    result
}

/// Returns the append of a failed login, without the facts that are sealed alongside it.
fn request(stream: Stream, version: u64) -> AppendRequest {
    let draft = EventDraft {
        id: operator().new_id(),
        stream,
        subject: Some(stream.id),
        actor: Actor::Anonymous,
        correlation: Uuid::nil(),
        causation: None,
        policy_version: 1,
        event: AuthenticationEvent::Failed {
            factor: Factor::Password,
            reason: FailureReason::WrongPassword,
            device: None,
        }
        .into(),
        sealed: vec![SealedDigest {
            commitment: "HfC2gwCPAjzSjvIyXPz2KmoM9a6Lb8fVvBtLDsRwRFo".into(),
            digest: "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".into(),
            fields: vec![SealedField::Ip, SealedField::UserAgent],
        }],
    };
    let expected = if version == 0 { ExpectedVersion::New } else { ExpectedVersion::Exact(version) };
    AppendRequest {
        events: vec![draft.encode().expect("it fits")],
        expected: vec![(stream, expected)],
        ..AppendRequest::default()
    }
}

fn build_reference() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("esrs-pgstore");
    let target = crate_dir.join("target");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(crate_dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo");
    assert!(built.success(), "the reference does not build: it needs libssl-dev and pkg-config");
    target.join("release/esrs-pgstore")
}

fn reference_appends(program: &Path, database: &Database, callers: usize) -> f64 {
    // Tables in public belong to the owner.
    let output = Command::new(program)
        .env("DATABASE_URL", database.owner_url())
        .args([callers.to_string(), ROUND.as_secs().to_string()])
        .output()
        .expect("the reference");
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = text.lines().next().and_then(|line| line.split('\t').nth(1)).and_then(|figure| figure.parse().ok());
    figure.unwrap_or_else(|| panic!("the reference failed: {}", String::from_utf8_lossy(&output.stderr)))
}
