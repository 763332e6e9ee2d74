//! One server process: spawned as the right user, watched, stopped, and taken over from a dead owner.
//!
//! ```text
//! take_over -> serve -> running -> stop: INT, QUIT, KILL
//!                          |
//!                     owner dies -> INT from the kernel (setpriv --pdeathsig)
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::data_dir::{
    DataDir, ServerError, SystemUser, append_to, effective_uid, free_port, io_error, private_dir, remove, store,
};

/// The longest wait for a server to come up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const WATCH: Duration = Duration::from_millis(200);
const LOG_LIMIT: u64 = 16 << 20;

/// The signals that ask a server to leave, with rising force, and the wait after each. PostgreSQL calls the first two
/// fast and immediate.
const FAREWELL: [(&str, Duration); 3] =
    [("INT", Duration::from_secs(30)), ("QUIT", Duration::from_secs(10)), ("KILL", Duration::from_secs(5))];

/// A server's home as the server names it: by an inherited descriptor. A path would fail where the
/// server's user may not enter a parent directory, such as /root.
pub(super) const HOME: &str = "/proc/self/fd/3";

/// The way in which a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself or by another's hand, before it was asked. The next start recovers.
    Gone,
    /// After the first signal.
    Clean,
    /// Only under force; the next start recovers.
    Forced,
    /// Not at all, even killed: the kernel holds it.
    Stuck,
}

/// A running server. Its keeper thread both spawns and reaps it: the kernel counts a parent as dead when the spawning
/// *thread* ends, and only the thread that reaps a process knows that its id is not yet another's.
pub(super) struct ServerProcess {
    pub(super) pid: u32,
    stop: mpsc::Sender<()>,
    keeper: Option<JoinHandle<Ended>>,
    /// Let go only after the server has ended.
    _lock: DataDir,
}

impl ServerProcess {
    fn spawn(mut command: Command, log: ServerLog, lock: DataDir) -> io::Result<ServerProcess> {
        let (born, birth) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let keeper = thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            let spawned = command.spawn();
            drop(command);
            // The sends cannot fail: `birth` waits below.
            match spawned {
                Ok(child) => {
                    let _ = born.send(Ok(child.id()));
                    keep(child, &stopped, &log)
                }
                Err(cause) => {
                    let _ = born.send(Err(cause));
                    Ended::Gone
                }
            }
        })?;
        let pid = birth.recv().map_err(io::Error::other)??;
        Ok(ServerProcess { pid, stop, keeper: Some(keeper), _lock: lock })
    }

    pub(super) fn is_running(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished())
    }

    pub(super) fn stop(&mut self) -> Ended {
        let Some(keeper) = self.keeper.take() else { return Ended::Gone };
        // Fails only when the keeper has ended with its server.
        let _ = self.stop.send(());
        keeper.join().unwrap_or(Ended::Gone)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep(mut child: Child, stopped: &mpsc::Receiver<()>, log: &ServerLog) -> Ended {
    let pid = child.id();
    let running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
    while stopped.recv_timeout(WATCH) == Err(mpsc::RecvTimeoutError::Timeout) {
        if !running(&mut child) {
            return Ended::Gone;
        }
        log.bound();
    }
    match (end(pid, || running(&mut child)), child.try_wait()) {
        // It was dying when we asked.
        (Ended::Clean, Ok(Some(status))) if !status.success() => Ended::Gone,
        (ended, _) => ended,
    }
}

/// Asks a process to leave. It consults `running` before every signal, so that none goes to another process that has
/// taken the same id.
fn end(pid: u32, mut running: impl FnMut() -> bool) -> Ended {
    if !running() {
        return Ended::Gone;
    }
    for (signal, patience) in FAREWELL {
        // The shell's own kill: std has SIGKILL only, and slim images lack /bin/kill. The wait below tells
        // whether it worked.
        let _ = Command::new("/bin/sh")
            .args(["-c", r#"kill -s "$0" "$1""#, signal, &pid.to_string()])
            .process_group(0)
            .stderr(Stdio::null())
            .status();
        if until(patience, || !running()) {
            return if signal == "INT" { Ended::Clean } else { Ended::Forced };
        }
    }
    Ended::Stuck
}

pub(super) fn until(limit: Duration, mut met: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if met() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// The log of a server's standard output and error.
#[derive(Clone)]
pub(super) struct ServerLog {
    path: PathBuf,
    file: Arc<File>,
    start: u64,
}

impl ServerLog {
    fn open(path: PathBuf) -> Result<ServerLog, ServerError> {
        let file = append_to(&path)?;
        let start = file.metadata().map_err(io_error("read", &path))?.len();
        Ok(ServerLog { path, file: Arc::new(file), start })
    }

    fn duplicate(&self) -> Result<File, ServerError> {
        self.file.try_clone().map_err(io_error("open", &self.path))
    }

    /// Keeps the log and its copy under [`LOG_LIMIT`] each. Lines written between copy and cut are lost.
    fn bound(&self) {
        if self.file.metadata().is_ok_and(|log| log.len() > LOG_LIMIT) {
            // Without room for a copy, the cut is wanted all the more.
            let _ = fs::copy(&self.path, self.path.with_added_extension("old"));
            let _ = self.file.set_len(0);
        }
    }

    /// Returns everything that was logged since this was opened; nothing of a log that cannot be read.
    fn written(&self) -> String {
        let mut bytes = Vec::new();
        let _ = File::open(&self.path).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.start))?;
            log.read_to_end(&mut bytes)
        });
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// An error that ends in the last lines logged since this was opened.
    pub(super) fn failure(self, program: &'static str, problem: &'static str) -> ServerError {
        let text = self.written();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
        ServerError::Failed(program, problem, self.path, tail)
    }
}

/// One server's place in the data directory.
pub(super) struct Home {
    pub(super) path: PathBuf,
    /// The user that the server runs as, if not our own.
    pub(super) user: Option<SystemUser>,
    /// Stands in the server's arguments and names this very directory: a copy of it has another mark, and
    /// so does every other directory of this machine.
    pub(super) mark: String,
    program: &'static str,
    data_dir: DataDir,
}

impl Home {
    /// Opens the home of a server. Started by root, the server runs as the owner of its home: `postgres`, else
    /// `nobody`.
    pub(super) fn open(data_dir: &DataDir, name: &str, program: &'static str) -> Result<Home, ServerError> {
        let path = private_dir(&data_dir.path().join(name))?;
        let meta = fs::metadata(&path).map_err(io_error("read", &path))?;
        let user = match (effective_uid(), meta.uid()) {
            (Some(0), 0) => {
                let user = ["postgres", "nobody"].into_iter().find_map(account).ok_or(ServerError::NoUser)?;
                chown(&path, Some(user.uid), Some(user.gid)).map_err(io_error("give away", &path))?;
                Some(user)
            }
            (Some(0), uid) => Some(SystemUser { uid, gid: meta.gid() }),
            _ => None,
        };
        let mark = format!("fulexo-{:x}-{:x}", meta.dev(), meta.ino());
        Ok(Home { path, user, mark, program, data_dir: data_dir.clone() })
    }

    /// The stored password; with `create`, a new one where there is none.
    pub(super) fn password(&self, create: bool) -> Result<Zeroizing<String>, ServerError> {
        let path = self.path.with_extension("password");
        if create && !path.exists() {
            let mut bytes = Zeroizing::new([0_u8; 32]);
            let source = Path::new("/dev/urandom");
            let filled = File::open(source).and_then(|mut source| source.read_exact(&mut *bytes));
            filled.map_err(io_error("read", source))?;
            store(&path, &hexadecimal(&*bytes), None)?;
        }
        fs::read_to_string(&path).map(Zeroizing::new).map_err(io_error("read", &path))
    }

    /// Starts the server, and returns it with its port when `ready(pid, port)`. Tries again while
    /// something is "in use": the port, just taken, or the shared memory of backends that outlive a killed
    /// postmaster for a moment.
    pub(super) fn serve(
        &self,
        binary: &Path,
        args: impl Fn(u16) -> Result<Vec<String>, ServerError>,
        ready: impl Fn(u32, u16) -> bool,
    ) -> Result<(ServerProcess, u16), ServerError> {
        let start = Instant::now();
        loop {
            let port = self.port()?;
            let (command, log) = self.command(binary, &args(port)?)?;
            let server = ServerProcess::spawn(command, log.clone(), self.data_dir.clone());
            let server = server.map_err(io_error("run", binary))?;
            let settled = until(PATIENCE, || !server.is_running() || ready(server.pid, port));
            if settled && server.is_running() {
                store(&self.path.with_extension("port"), &port.to_string(), None)?;
                return Ok((server, port));
            }
            if !settled {
                return Err(log.failure(self.program, "did not answer within 60 s"));
            }
            // Anywhere in it: those that outlive a killed postmaster have their last words after that.
            let is_transient = log.written().contains("in use");
            if !is_transient || start.elapsed() > PATIENCE {
                return Err(log.failure(self.program, "ended while starting"));
            }
            thread::sleep(WATCH);
        }
    }

    /// The port of last time while it is free, else any.
    fn port(&self) -> Result<u16, ServerError> {
        let recorded = fs::read_to_string(self.path.with_extension("port")).ok();
        let recorded = recorded.and_then(|port| port.parse().ok());
        match recorded.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
            Some(port) => Ok(port),
            None => free_port().map_err(io_error("find a port on", Path::new("127.0.0.1"))),
        }
    }

    /// A command in a process group of its own (Ctrl-C in a terminal is for us alone), told to leave when
    /// we die (where setpriv can), without our environment (it may hold secrets), with its home as
    /// descriptor 3. The user changes before setpriv runs: afterwards, the change would undo its work.
    pub(super) fn command(&self, program: &Path, args: &[String]) -> Result<(Command, ServerLog), ServerError> {
        let home = File::open(&self.path).map_err(io_error("open", &self.path))?;
        let log = ServerLog::open(self.path.with_extension("log"))?;
        let leash = ["setpriv", "--pdeathsig", "INT", "--"];
        let mut probe = Command::new("/usr/bin/env");
        let leashed = probe.args(leash).arg("true").stderr(Stdio::null()).status();
        let mut command = Command::new("/usr/bin/env");
        command.args(leash.iter().filter(|_| leashed.as_ref().is_ok_and(|status| status.success())));
        command.args(["/bin/sh", "-c", r#"exec "$@" 3<&0 0</dev/null"#, "sh"]);
        command.arg(program).args(args).current_dir("/").process_group(0);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        command.stdin(home).stdout(log.duplicate()?).stderr(log.duplicate()?);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        Ok((command, log))
    }

    /// Ends the server that a killed owner left behind, or clears the trace of one that is gone.
    pub(super) fn take_over(&self, pid_file: &Path) -> Result<(), ServerError> {
        let text = fs::read_to_string(pid_file).unwrap_or_default();
        let first = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
        let Some(pid) = first else { return Ok(()) };
        end(pid, || self.holder(pid, pid_file) == Holder::Ours);
        match self.holder(pid, pid_file) {
            Holder::Gone => Ok(()),
            // PostgreSQL would take a reused id, or a zombie that no init reaps, for a live postmaster.
            Holder::Stranger => remove(pid_file),
            Holder::Ours | Holder::Unknown => Err(ServerError::Held(self.program, pid, self.path.clone())),
        }
    }

    fn holder(&self, pid: u32, pid_file: &Path) -> Holder {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let Ok(line) = fs::read(process.join("cmdline")) else { return Holder::Gone };
        let line = String::from_utf8_lossy(&line);
        let mut args = line.split('\0');
        if args.next().and_then(|arg| Path::new(arg).file_name()) != Some(OsStr::new(self.program)) {
            return Holder::Stranger;
        }
        if args.any(|arg| arg.ends_with(&self.mark)) {
            return Holder::Ours;
        }
        // Perhaps started by hand on our files: PostgreSQL works inside its data directory.
        let here = pid_file.parent().map(fs::metadata);
        match (fs::metadata(process.join("cwd")), here) {
            (Ok(cwd), Some(Ok(here))) if (cwd.dev(), cwd.ino()) == (here.dev(), here.ino()) => Holder::Ours,
            (Ok(_), Some(Ok(_))) => Holder::Stranger,
            _ => Holder::Unknown,
        }
    }
}

/// The holder of the process id that a pid file names.
#[derive(PartialEq, Eq)]
enum Holder {
    Gone,
    /// Another program, another directory's server, or a zombie.
    Stranger,
    Ours,
    /// The right program, but we may not see where it works.
    Unknown,
}

fn account(name: &str) -> Option<SystemUser> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| Some(SystemUser { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? }))
}

/// Bytes as hexadecimal digits. The text has its full capacity from the start: a string that grows leaves copies of what it
/// held in freed memory, where nothing wipes them.
fn hexadecimal(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        text.extend([byte >> 4, byte & 0xf].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_password_never_grows() {
        let text = hexadecimal(&[0xa9; 32]);
        assert_eq!(*text, "a9".repeat(32));
        assert_eq!(text.capacity(), text.len());
    }
}
