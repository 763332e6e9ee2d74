//! Real servers, in directories below a parent of mode 0700: run as root, every test shows that the
//! servers' user need not reach its home by path.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::server::until;
use crate::{DataDir, Ended, Nats, Options, Postgres, ServerError};

const LIMIT: Duration = Duration::from_secs(60);

struct Parent(PathBuf);

impl Parent {
    fn new() -> Parent {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fulexo-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        Parent(path)
    }

    fn dir(&self) -> PathBuf {
        self.0.join("data dir")
    }

    fn open(&self) -> DataDir {
        DataDir::open(&self.dir()).unwrap()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn psql(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["-XAtqv", "ON_ERROR_STOP=1", url, "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Starts on a thread that ends, as a blocking task of a runtime may: the server must not end with it.
fn start(dir: &DataDir) -> Postgres {
    let start = || Postgres::start(dir, &Options::default()).unwrap();
    std::thread::scope(|scope| scope.spawn(start).join().unwrap())
}

fn kill(pid: u32) {
    assert!(Command::new("sh").args(["-c", "kill -KILL \"$0\"", &pid.to_string()]).status().unwrap().success());
}

fn exists(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_cluster_outlives_its_server() {
    let parent = Parent::new();
    let dir = parent.open();
    let mut postgres = start(&dir);
    psql(&postgres.superuser_url("postgres"), "create table t as select 42 as n");
    let url = postgres.superuser_url("postgres");
    assert_eq!(postgres.stop(), Ended::Clean);
    assert_eq!(postgres.stop(), Ended::Gone);
    let postgres = start(&dir);
    assert_eq!(postgres.superuser_url("postgres"), url);
    assert_eq!(psql(&url, "select n from t"), "42");
}

#[test]
fn a_cluster_is_as_promised() {
    let parent = Parent::new();
    let options = Options { settings: vec![("fsync".to_owned(), "off".to_owned())] };
    let postgres = Postgres::start(&parent.open(), &options).unwrap();
    let url = postgres.superuser_url("postgres");
    psql(&url, "create role \"a b\" login password 'p/@:%'");
    let shown = "select string_agg(current_setting(name), '|') from unnest(array['fsync', 'listen_addresses',
        'unix_socket_directories', 'timezone', 'lc_collate', 'server_encoding', 'password_encryption']) name";
    assert_eq!(psql(&url, shown), "off|127.0.0.1||UTC|C.UTF-8|UTF8|scram-sha-256");
    assert_eq!(psql(&url, "select distinct auth_method from pg_hba_file_rules"), "scram-sha-256");
    assert_eq!(psql(&postgres.url("a b", "p/@:%", "postgres"), "select current_user"), "a b");
}

#[test]
fn a_killed_postmaster_loses_no_commit() {
    let parent = Parent::new();
    let dir = parent.open();
    let mut postgres = start(&dir);
    psql(&postgres.superuser_url("postgres"), "create table t as select 42 as n");
    kill(postgres.pid());
    assert_eq!(postgres.stop(), Ended::Gone);
    let postgres = start(&dir);
    assert_eq!(psql(&postgres.superuser_url("postgres"), "select n from t"), "42");
}

#[test]
fn a_pid_file_that_names_a_stranger_is_cleared_and_the_stranger_left_alone() {
    let parent = Parent::new();
    let dir = parent.open();
    start(&dir).stop();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let pid_file = dir.path().join("postgres/data/postmaster.pid");
    fs::write(&pid_file, format!("{}\n/elsewhere\n", stranger.id())).unwrap();
    start(&dir).stop();
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_taken_port_is_left_for_another() {
    let parent = Parent::new();
    let dir = parent.open();
    let mut postgres = start(&dir);
    let port = postgres.port();
    postgres.stop();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert_ne!(start(&dir).port(), port);
}

#[test]
fn nats_keeps_its_url_and_ends_when_asked() {
    let parent = Parent::new();
    let dir = parent.open();
    let mut nats = Nats::start(&dir).unwrap();
    let url = nats.url();
    assert!(dir.path().join("nats/jetstream").is_dir());
    assert_eq!(nats.stop(), Ended::Clean);
    assert_eq!(Nats::start(&dir).unwrap().url(), url);
}

#[test]
fn a_directory_has_one_owner_until_its_last_server_ends() {
    let parent = Parent::new();
    let dir = parent.open();
    let nats = Nats::start(&dir).unwrap();
    drop(dir);
    assert!(matches!(DataDir::open(&parent.dir()), Err(ServerError::Locked(_))));
    drop(nats);
    parent.open();
}

#[test]
fn a_directory_with_other_files_is_refused() {
    let parent = Parent::new();
    fs::write(parent.0.join("thesis.tex"), "").unwrap();
    assert!(matches!(DataDir::open(&parent.0), Err(ServerError::NotOurs(_))));
}

#[test]
fn a_failed_start_shows_the_log_and_no_secret() {
    let parent = Parent::new();
    let dir = parent.open();
    start(&dir).stop();
    let options = Options { settings: vec![("shared_buffers".to_owned(), "much".to_owned())] };
    let error = Postgres::start(&dir, &options).err().unwrap().to_string();
    assert!(error.contains("postgres.log") && error.contains("\"shared_buffers\": \"much\""), "{error}");
    let password = fs::read_to_string(dir.path().join("postgres.password")).unwrap();
    assert!(password.len() == 64 && !error.contains(&password));
}

#[test]
fn a_long_log_is_cut() {
    let parent = Parent::new();
    let dir = parent.open();
    let nats = Nats::start(&dir).unwrap();
    let log = dir.path().join("nats.log");
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(&vec![b'\n'; 17 << 20]).unwrap();
    assert!(until(LIMIT, || fs::metadata(&log).unwrap().len() < 1 << 20));
    assert!(fs::metadata(dir.path().join("nats.log.old")).unwrap().len() > 16 << 20);
    assert!(nats.is_running());
}

#[test]
fn secrets_are_in_private_files_and_nowhere_in_sight() {
    let parent = Parent::new();
    let dir = parent.open();
    let (postgres, nats) = (start(&dir), Nats::start(&dir).unwrap());
    for name in ["postgres.password", "nats.password", "nats/nats.conf", "postgres.log", "nats.log", "lock"] {
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!dir.path().join("postgres/initial-password").exists());
    for (pid, name) in [(postgres.pid(), "postgres"), (nats.pid(), "nats")] {
        let password = fs::read_to_string(dir.path().join(name).with_extension("password")).unwrap();
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&arguments).contains(&password), "{name}");
        // Hidden from a root without CAP_SYS_PTRACE, as in a container.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains("CARGO"), "{name}");
    }
}

#[test]
fn servers_run_in_their_own_process_group_and_never_as_root() {
    let parent = Parent::new();
    let dir = parent.open();
    let (postgres, nats) = (start(&dir), Nats::start(&dir).unwrap());
    for pid in [postgres.pid(), nats.pid()] {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let group = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap().to_owned();
        assert_eq!(group, pid.to_string());
        assert_ne!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 0);
    }
}

/// Not a test of its own: the process that the tests below kill.
#[test]
#[ignore = "the tests below run it"]
fn owner() {
    let Some(dir) = std::env::var_os("FULEXO_TEST_OWNED") else { return };
    let dir = DataDir::open(Path::new(&dir)).unwrap();
    let (postgres, nats) = (start(&dir), Nats::start(&dir).unwrap());
    let text = format!("{} {} {}", postgres.superuser_url("postgres"), postgres.pid(), nats.pid());
    fs::write(dir.path().join("ready.new"), text).unwrap();
    fs::rename(dir.path().join("ready.new"), dir.path().join("ready")).unwrap();
    std::thread::sleep(Duration::from_mins(10));
}

struct Owner {
    process: Child,
    url: String,
    pids: [u32; 2],
}

fn owner_of(parent: &Parent, path: &str) -> Owner {
    let name = format!("{}::owner", module_path!().split_once("::").unwrap().1);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--ignored"]).env("FULEXO_TEST_OWNED", parent.dir()).env("PATH", path);
    let process = command.process_group(0).spawn().unwrap();
    let ready = parent.dir().join("ready");
    assert!(until(LIMIT, || ready.exists()));
    let text = fs::read_to_string(&ready).unwrap();
    let [url, postgres, nats] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
    Owner { process, url: url.to_owned(), pids: [postgres.parse().unwrap(), nats.parse().unwrap()] }
}

#[test]
fn servers_end_with_a_killed_owner() {
    let parent = Parent::new();
    let mut owner = owner_of(&parent, "/usr/bin:/bin");
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    assert!(until(LIMIT, || !owner.pids.into_iter().any(exists)));
    let log = fs::read_to_string(parent.dir().join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"));
}

#[test]
fn a_killed_owners_servers_are_taken_over_with_every_commit() {
    // Without a PATH there is no setpriv, and the servers stay behind.
    for (path, left_behind) in [("/usr/bin:/bin", false), ("", true)] {
        let parent = Parent::new();
        let mut owner = owner_of(&parent, path);
        assert!(matches!(DataDir::open(&parent.dir()), Err(ServerError::Locked(_))));
        psql(&owner.url, "create table t as select 42 as n");
        owner.process.kill().unwrap();
        owner.process.wait().unwrap();
        if left_behind {
            psql(&owner.url, "insert into t values (43)");
            assert!(owner.pids.into_iter().all(exists));
        }
        let dir = parent.open();
        let (postgres, _nats) = (start(&dir), Nats::start(&dir).unwrap());
        assert!(!owner.pids.into_iter().any(exists));
        let expected = if left_behind { "85" } else { "42" };
        assert_eq!(psql(&postgres.superuser_url("postgres"), "select sum(n) from t"), expected);
    }
}
