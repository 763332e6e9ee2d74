//! One private Postgres and one NATS for the test process; they end with it. One database a test.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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

/// Whether Postgres is to write to disk before it acknowledges. Tests never pull its plug; benches measure it.
static DURABLE: AtomicBool = AtomicBool::new(false);

/// From here on, if nothing was started yet: a Postgres with the settings that it comes with.
pub fn use_durable_postgres() {
    DURABLE.store(true, Ordering::Relaxed);
}

/// Everything of this test process is in it.
static DIR: LazyLock<DataDir> = LazyLock::new(|| {
    let clusters = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clusters");
    // Half a million files, of a process that had hundreds of databases: tests need not wait for it.
    let left = clusters.clone();
    thread::spawn(move || remove_those_left_behind(&left));
    DataDir::open(&clusters.join(std::process::id().to_string())).expect("a directory for the test process")
});

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let settings =
        [("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"), ("max_connections", "500")];
    let settings = if DURABLE.load(Ordering::Relaxed) { &settings[3..] } else { &settings[..] };
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let postgres = Postgres::start(&DIR, &Options { settings }).expect("a private Postgres");
    let nats = Nats::start(&DIR).expect("a private NATS");
    Cluster { postgres, nats }
});

/// Directories of test processes that have ended.
fn remove_those_left_behind(clusters: &Path) {
    let Ok(entries) = std::fs::read_dir(clusters) else { return };
    let dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    for dir in dirs {
        let is_of_the_living = dir.file_name().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !is_of_the_living {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

const OWNER: &str = "fulexo_owner";
const APPLICATION: &str = "fulexo";
/// Reachable from this machine alone, and gone with the test process.
const ROLE_PASSWORD: &str = "only-for-tests";
/// What Postgres keeps of that password (RFC 5802, section 3), after one round: the 4,096 of a real one, at each of a node's
/// connections, would be a third of all that unoptimised tests do.
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
    /// A new one, from the template.
    pub async fn create() -> Self {
        static TEMPLATE_MADE: OnceLock<Result<(), String>> = OnceLock::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let made = tokio::task::spawn_blocking(|| TEMPLATE_MADE.get_or_init(make_template)).await.unwrap();
        assert!(made.is_ok(), "the template was not made: {made:?}");
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&superuser_url("postgres")).await.unwrap();
        let statement = format!("create database {name} template {TEMPLATE} owner {OWNER}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        let mut connection = PgConnection::connect(&superuser_url(&name)).await.unwrap();
        // A log of its own, not a copy of the template's.
        sqlx::query("update log.head set epoch = gen_random_uuid()").execute(&mut connection).await.unwrap();
        Self { name }
    }

    /// As the application sees it.
    #[must_use]
    pub fn url(&self) -> String {
        application_url(&CLUSTER.postgres, &self.name)
    }

    /// As migrations see it.
    #[must_use]
    pub fn owner_url(&self) -> String {
        CLUSTER.postgres.url(OWNER, ROLE_PASSWORD, &self.name)
    }

    /// As nobody should.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        superuser_url(&self.name)
    }

    /// A pool of the application's role.
    pub async fn pool(&self) -> PgPool {
        let pool = fulexo_node::database::connect(&self.url(), 20).await.unwrap();
        // On a busy machine a new connection takes its time.
        let options = pool.options().clone().acquire_timeout(Duration::from_secs(60));
        options.connect_lazy_with(pool.connect_options().as_ref().clone())
    }

    /// The variables with which a node works on it.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        let mut env = env(&self.url(), &nats_url());
        // Of the many logs on one NATS none is copied there.
        env.insert("FULEXO_NATS_REPLICAS".to_owned(), "0".to_owned());
        env
    }
}

/// Makes it on a thread of its own: whatever becomes of the test that comes first, it is made once, and where that fails, each
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
        format!("create role {OWNER} login createrole password '{ROLE_VERIFIER}'"),
        format!("create role {APPLICATION} login password '{ROLE_VERIFIER}'"),
        format!("create database {database} owner {OWNER}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    schema::migrate(&postgres.url(OWNER, ROLE_PASSWORD, database), APPLICATION).await.unwrap();
}

/// A database of this Postgres, as the application sees it.
#[must_use]
pub fn application_url(postgres: &Postgres, database: &str) -> String {
    postgres.url(APPLICATION, ROLE_PASSWORD, database)
}

/// The variables with which a node works on this database and this NATS.
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

fn superuser_url(database: &str) -> String {
    CLUSTER.postgres.superuser_url(database)
}

/// A directory for servers of a test's own.
#[must_use]
pub fn own_dir() -> DataDir {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    DataDir::open(&DIR.path().join(number.to_string())).expect("a directory for a test's servers")
}

/// The NATS of this test process.
#[must_use]
pub fn nats_url() -> String {
    CLUSTER.nats.url()
}

/// The postmaster of this test process.
#[must_use]
pub fn postgres_pid() -> u32 {
    CLUSTER.postgres.pid()
}
