//! One private Postgres and one NATS for the test process; they end with it. One database per test.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread;
use std::time::Duration;

use fulexo_dev_servers::{DataDir, Nats, Options, Postgres};
use fulexo_node::schema;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

struct Cluster {
    postgres: Postgres,
    nats: Nats,
}

/// `true` if Postgres must write to disk before it acknowledges. Tests never pull its plug; benches measure it.
static DURABLE: AtomicBool = AtomicBool::new(false);

/// Has the Postgres of this process run with its default settings, if it has not been started yet.
pub fn use_durable_postgres() {
    DURABLE.store(true, Ordering::Relaxed);
}

/// The directory of everything of this test process; it goes with the process.
static DIR: LazyLock<DataDir> = LazyLock::new(|| {
    let pid = std::process::id();
    let dir = match memory() {
        Some(memory) if !DURABLE.load(Ordering::Relaxed) => memory.join(format!("fulexo-tests-{pid}")),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clusters").join(pid.to_string()),
    };
    let dir = DataDir::open(&dir).expect("a directory for the test process");
    remove_at_the_end(dir.path());
    dir
});

/// Returns a file system in memory, if it has plenty of room. A database is 500 files, and a process that writes,
/// deletes and writes hundreds of databases waits for a disk.
fn memory() -> Option<PathBuf> {
    const PLENTY_KIB: u64 = 8 << 20;
    let path = Path::new("/dev/shm");
    let room = Command::new("df").args(["-k", "--output=avail"]).arg(path).output().ok()?;
    let room: u64 = String::from_utf8(room.stdout).ok()?.lines().last()?.trim().parse().ok()?;
    let figures = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = figures.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available: u64 = available.trim().trim_end_matches(" kB").parse().ok()?;
    (room.min(available) >= PLENTY_KIB).then(|| path.to_owned())
}

/// Removes the directory when this process has ended, however it ends: the pipe breaks then.
#[expect(clippy::zombie_processes, reason = "it outlives this process")]
fn remove_at_the_end(dir: &Path) {
    // The servers end at the same moment, and write one last time.
    let remove = r#"cat; for _ in 1 2 3 4 5; do sleep 1; rm -rf "$0"; [ -e "$0" ] || exit; done"#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", remove]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in a terminal must not end it.
    let mut remover = command.process_group(0).spawn().expect("a shell");
    std::mem::forget(remover.stdin.take());
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    // Of hundreds of databases one after another would be vacuumed, by a new process each.
    let quick = [("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"), ("autovacuum", "off")];
    let quick = if DURABLE.load(Ordering::Relaxed) { &[][..] } else { &quick[..] };
    let settings = quick.iter().chain(&[("max_connections", "500")]);
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let postgres = Postgres::start(&DIR, &Options { settings }).expect("a private Postgres");
    let nats = Nats::start(&DIR).expect("a private NATS");
    Cluster { postgres, nats }
});

const SUPERUSER: &str = "fulexo_superuser";
const OWNER: &str = "fulexo_owner";
const APPLICATION: &str = "fulexo";
/// Reachable from this machine alone, and gone with the test process.
const ROLE_PASSWORD: &str = "only-for-tests";
/// The verifier that Postgres keeps of that password (RFC 5802, section 3), after one round: the 4,096 of a real one,
/// at each connection of a node, would be a third of all that unoptimised tests do.
const ROLE_VERIFIER: &str = "SCRAM-SHA-256$1:c2FsdCBmb3IgdGVzdHMhIQ==$\
                             arKSJ2hk7b4DrYHLE0CZAq5ZHM7BT0Pg8JmBUjuMD/c=:\
                             3Q5gI7X0LhYvPe8Pys7Sxkz2s08im9QueJx92USpqHM=";
const TEMPLATE: &str = "fulexo_template";

/// A database with the current schema and no events.
pub struct Database {
    /// Its name.
    pub name: String,
}

impl Database {
    /// Creates one from the template.
    pub async fn create() -> Self {
        static TEMPLATE_MADE: OnceLock<Result<(), String>> = OnceLock::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let made = tokio::task::spawn_blocking(|| TEMPLATE_MADE.get_or_init(make_template)).await.unwrap();
        assert!(made.is_ok(), "the template was not made: {made:?}");
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&superuser_url("postgres")).await.unwrap();
        let statement = format!("create database {name} template {TEMPLATE} owner {OWNER} strategy file_copy");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        let mut connection = PgConnection::connect(&superuser_url(&name)).await.unwrap();
        // The database has its own log, not a copy of the template's.
        sqlx::query("update log.head set epoch = gen_random_uuid()").execute(&mut connection).await.unwrap();
        Self { name }
    }

    /// Returns the URL for the application's role.
    #[must_use]
    pub fn url(&self) -> String {
        application_url(&CLUSTER.postgres, &self.name)
    }

    /// Returns the URL for the role that runs migrations.
    #[must_use]
    pub fn owner_url(&self) -> String {
        owner_url(&CLUSTER.postgres, &self.name)
    }

    /// Returns the URL for the superuser, which no program should use.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        superuser_url(&self.name)
    }

    /// Returns a pool of the application's role.
    pub async fn pool(&self) -> PgPool {
        let pool = fulexo_node::database::connect(&self.url(), 20).await.unwrap();
        // On a busy machine a new connection takes a while.
        let options = pool.options().clone().acquire_timeout(Duration::from_secs(60));
        options.connect_lazy_with(pool.connect_options().as_ref().clone())
    }

    /// Returns the variables with which a node works on this database.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        let mut env = env(&self.url(), &nats_url());
        // None of the many logs on one NATS is copied there.
        env.insert("FULEXO_NATS_REPLICAS".to_owned(), "0".to_owned());
        env
    }
}

/// Makes the template on its own thread: it is made once, even if the test that comes first panics. If that fails, each
/// test says why.
fn make_template() -> Result<(), String> {
    let make = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(prepare(&CLUSTER.postgres, TEMPLATE));
    };
    let failed = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "a panic without words".to_owned(),
    };
    thread::spawn(make).join().map_err(failed)
}

/// Makes the roles and a first database, with the current schema and no events, on a Postgres that has neither.
pub async fn prepare(postgres: &Postgres, database: &str) {
    let mut connection = PgConnection::connect(&postgres.superuser_url("postgres")).await.unwrap();
    for statement in [
        format!("create role {SUPERUSER} login superuser password '{ROLE_VERIFIER}'"),
        format!("create role {OWNER} login createrole password '{ROLE_VERIFIER}'"),
        format!("create role {APPLICATION} login password '{ROLE_VERIFIER}'"),
        format!("create database {database} owner {OWNER}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    schema::migrate(&postgres.url(OWNER, ROLE_PASSWORD, database), APPLICATION).await.unwrap();
}

/// Returns the URL of a database of this Postgres for the application's role.
#[must_use]
pub fn application_url(postgres: &Postgres, database: &str) -> String {
    postgres.url(APPLICATION, ROLE_PASSWORD, database)
}

/// Returns the URL of a database of this Postgres for the role that runs migrations.
#[must_use]
pub fn owner_url(postgres: &Postgres, database: &str) -> String {
    postgres.url(OWNER, ROLE_PASSWORD, database)
}

/// Returns the variables with which a node works on this database and this NATS.
#[must_use]
pub fn env(database_url: &str, nats_url: &str) -> BTreeMap<String, String> {
    [
        ("DATABASE_URL", database_url),
        ("NATS_URL", nats_url),
        // Suites send as fast as they can, all from one address.
        ("FULEXO_RATE_LIMITS", "off"),
        ("JWT_SECRET", "a secret of sixty-four characters, as the security document says!"),
        ("ENCRYPTION_KEY", "cXVpZXQtT3R0ZXI3IHBhaW50cyAxMiBncmVlbiBvd2w="),
        ("FULEXO_BCRYPT_COST", "4"),
        ("FULEXO_DATABASE_CONNECTIONS", "16"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Returns the superuser's URL of a database on the Postgres that has the template.
fn superuser_url(database: &str) -> String {
    CLUSTER.postgres.url(SUPERUSER, ROLE_PASSWORD, database)
}

/// Returns the directory of this test process.
pub(crate) fn dir() -> &'static Path {
    DIR.path()
}

/// Creates a directory for the servers of one test.
#[must_use]
pub fn own_dir() -> DataDir {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    DataDir::open(&DIR.path().join(number.to_string())).expect("a directory for a test's servers")
}

/// Returns the URL of the NATS of this test process.
#[must_use]
pub fn nats_url() -> String {
    CLUSTER.nats.url()
}

/// Returns the process id of this test process's postmaster.
#[must_use]
pub fn postgres_pid() -> u32 {
    CLUSTER.postgres.pid()
}
