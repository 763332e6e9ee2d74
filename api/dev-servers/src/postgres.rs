//! A private PostgreSQL: a cluster with a superuser and a password, and nothing in it yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::data_dir::{DataDir, ServerError, find, io_error, remove, store};
use crate::server::{Ended, HOME, Home, PATIENCE, ServerProcess, until};

const SUPERUSER: &str = "postgres";

/// The differences from a new cluster's own settings, which are durable.
const SETTINGS: [(&str, &str); 6] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "100"),
    ("shared_buffers", "128MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// The options that the caller may change.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings of postgresql.conf, name and value, over ours. `ps` shows them: no secrets.
    pub settings: Vec<(String, String)>,
}

/// A running PostgreSQL. Dropping it shuts it down.
pub struct Postgres {
    server: ServerProcess,
    port: u16,
    password: Zeroizing<String>,
}

impl Postgres {
    /// Starts the server of this directory and returns once it accepts connections. A new directory gets
    /// a new cluster. A server still running there is shut down first; nothing it acknowledged is lost.
    pub fn start(dir: &DataDir, options: &Options) -> Result<Postgres, ServerError> {
        let home = Home::open(dir, "postgres", "postgres")?;
        let data = home.path.join("data");
        let missing = ServerError::Missing("PostgreSQL", "postgresql");
        let binaries = binaries(&data).ok_or(missing)?;
        let password = home.password(!data.exists())?;
        if !data.exists() {
            create_cluster(&home, &binaries.join("initdb"), &data, &password)?;
        }
        let pid_file = data.join("postmaster.pid");
        home.take_over(&pid_file)?;
        let args = |port: u16| {
            let ours = SETTINGS.iter().map(|(name, value)| format!("{name}={value}"));
            let given = options.settings.iter().map(|(name, value)| format!("{name}={value}"));
            let fixed = [format!("port={port}"), format!("cluster_name={}", home.mark)];
            let settings = ours.chain(given).chain(fixed).flat_map(|one| ["-c".to_owned(), one]);
            Ok(["-D".to_owned(), format!("{HOME}/data")].into_iter().chain(settings).collect())
        };
        let ready = |pid, _| is_ready(&pid_file, pid);
        let (server, port) = home.serve(&binaries.join("postgres"), args, ready)?;
        Ok(Postgres { server, port, password })
    }

    /// The URL for a user of the caller's making. It says all there is to say: what a URL leaves out, clients take from
    /// variables such as `PGSSLMODE`.
    #[must_use]
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        let [user, password, database] = [user, password, database].map(escape);
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The URL for the superuser.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        self.url(SUPERUSER, &self.password, database)
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid
    }

    /// `true` if the server still runs. The answer may be 200 ms late.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Shuts down: fast, after 30 s immediate, after 10 s more by SIGKILL. Backends that a killed
    /// postmaster left may end a moment later.
    pub fn stop(&mut self) -> Ended {
        self.server.stop()
    }
}

/// Returns the directory of the programs: of the cluster's own version if it is installed, else of the newest version,
/// else of the one in PATH.
fn binaries(data: &Path) -> Option<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let own = fs::read_to_string(data.join("PG_VERSION")).ok();
    let own = own.and_then(|version| version.trim().parse::<u32>().ok());
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let installed: BTreeSet<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let versions = own.into_iter().chain(installed.into_iter().rev());
    let dirs = versions.map(|version| root.join(version.to_string()).join("bin"));
    find("initdb", dirs)?.parent().map(Path::to_owned)
}

/// Makes the cluster aside and renames it when whole, so that what an interrupted initdb leaves is never
/// taken for one.
fn create_cluster(home: &Home, initdb: &Path, data: &Path, password: &str) -> Result<(), ServerError> {
    let unfinished = home.path.join("unfinished");
    let password_file = home.path.join("initial-password");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(io_error("remove", &unfinished))?;
    }
    store(&password_file, password, home.user)?;
    let args = [
        format!("--pgdata={HOME}/unfinished"),
        format!("--pwfile={HOME}/initial-password"),
        format!("--username={SUPERUSER}"),
        "--auth=scram-sha-256".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--locale=C.UTF-8".to_owned(),
    ];
    let (mut command, log) = home.command(initdb, &args)?;
    let mut child = command.spawn().map_err(io_error("run", initdb))?;
    if !until(PATIENCE, || !matches!(child.try_wait(), Ok(None))) {
        // It may have ended this instant; its status tells.
        let _ = child.kill();
    }
    let done = child.wait().is_ok_and(|status| status.success());
    remove(&password_file)?;
    if !done {
        return Err(log.failure("initdb", "did not make a cluster"));
    }
    fs::rename(&unfinished, data).map_err(io_error("rename", &unfinished))?;
    // On disk before the first commit is: a power cut must not bring the old name back.
    File::open(&home.path).and_then(|dir| dir.sync_all()).map_err(io_error("write", &home.path))
}

/// `true` if this process is ready. It reads the lines of postmaster.pid that `pg_ctl --wait` reads: line 1 is the
/// process id, line 8 the status.
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    let mut lines = text.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
}

/// Percent-encodes all but the unreserved characters (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}
