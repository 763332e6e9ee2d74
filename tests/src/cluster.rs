//! One private Postgres and one NATS for the test process; they end with it. One database a test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fulexo_api::private::{DataDir, Nats, Options, Postgres};
use fulexo_api::schema;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;

struct Cluster {
    postgres: Postgres,
    nats: Nats,
    dir: PathBuf,
}

/// Whether Postgres is to write to disk before it acknowledges. Tests never pull its plug; benches measure it.
static DURABLE: AtomicBool = AtomicBool::new(false);

/// From here on, if nothing was started yet: a Postgres with the settings that it comes with.
pub fn use_durable_postgres() {
    DURABLE.store(true, Ordering::Relaxed);
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let clusters = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clusters");
    remove_those_left_behind(&clusters);
    let dir = DataDir::open(&clusters.join(std::process::id().to_string())).expect("a directory for the cluster");
    let settings =
        [("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"), ("max_connections", "300")];
    let settings = if DURABLE.load(Ordering::Relaxed) { &settings[3..] } else { &settings[..] };
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let postgres = Postgres::start(&dir, &Options { settings }).expect("a private Postgres");
    let nats = Nats::start(&dir).expect("a private NATS");
    Cluster { postgres, nats, dir: dir.path().to_owned() }
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
const TEMPLATE: &str = "fulexo_template";

/// A database with the current schema and no events.
pub struct Database {
    /// Its name.
    pub name: String,
}

impl Database {
    /// A new one, from the template.
    pub async fn create() -> Self {
        static TEMPLATE_MADE: OnceCell<()> = OnceCell::const_new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        TEMPLATE_MADE.get_or_init(make_template).await;
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
        role_url(APPLICATION, &self.name)
    }

    /// As migrations see it.
    #[must_use]
    pub fn owner_url(&self) -> String {
        role_url(OWNER, &self.name)
    }

    /// As nobody should.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        superuser_url(&self.name)
    }

    /// A pool of the application's role.
    pub async fn pool(&self) -> PgPool {
        fulexo_api::app::connect(&self.url(), 20).await.unwrap()
    }

    /// The variables with which a node works on it.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        [
            ("DATABASE_URL", self.url().as_str()),
            ("NATS_URL", nats_url().as_str()),
            // Of the many logs on one NATS none is copied there.
            ("FULEXO_NATS_REPLICAS", "0"),
            // Suites send as fast as they can, all from one address.
            ("FULEXO_RATE_LIMITS", "off"),
            ("JWT_SECRET", "a secret of sixty-four characters, as the security document says!"),
            ("ENCRYPTION_KEY", "abcdefghijklmnopqrstuvwxyz012345"),
            ("FULEXO_BCRYPT_COST", "4"),
            ("FULEXO_DATABASE_CONNECTIONS", "16"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}

async fn make_template() {
    let mut connection = PgConnection::connect(&superuser_url("postgres")).await.unwrap();
    for statement in [
        format!("create role {OWNER} login createrole password '{ROLE_PASSWORD}'"),
        format!("create role {APPLICATION} login password '{ROLE_PASSWORD}'"),
        format!("create database {TEMPLATE} owner {OWNER}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    schema::migrate(&role_url(OWNER, TEMPLATE), APPLICATION).await.unwrap();
}

fn role_url(role: &str, database: &str) -> String {
    CLUSTER.postgres.url(role, ROLE_PASSWORD, database)
}

fn superuser_url(database: &str) -> String {
    CLUSTER.postgres.superuser_url(database)
}

/// A directory for servers of a test's own.
pub(crate) fn own_dir() -> DataDir {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    DataDir::open(&CLUSTER.dir.join(number.to_string())).expect("a directory for a test's servers")
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
