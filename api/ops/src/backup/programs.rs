//! The client programs of PostgreSQL: where they are, which version they have, and how they end.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use super::client_url::bare_command;
use super::error::BackupError;

/// The directory of the programs on Debian, a directory per version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The most lines of a program's errors that are repeated, and the longest one, in characters.
const MAX_LINES: usize = 3;
const MAX_LINE: usize = 300;
/// The longest answer to `--version` that is read, in bytes.
const MAX_VERSION: u64 = 1_024;

/// A program of PostgreSQL.
pub struct ClientProgram {
    pub path: PathBuf,
    /// The version as the program says it, such as `15.14`.
    pub version: String,
}

/// Finds a program that is at least as new as a server of this major version: of these the oldest, whose archives most other
/// programs read.
pub fn find_program(name: &'static str, major: u32) -> Result<ClientProgram, BackupError> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let installed: BTreeSet<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    let mut found: Vec<(u32, ClientProgram)> = Vec::new();
    for path in std::env::split_paths(&search).chain(installed).map(|dir| dir.join(name)) {
        if !path.is_absolute() || !path.is_file() || found.iter().any(|(_, known)| known.path == path) {
            continue;
        }
        if let Some(version) = version_of(&path)
            && let Some(its_major) = version.split('.').next().and_then(|major| major.parse().ok())
        {
            found.push((its_major, ClientProgram { path, version }));
        }
    }
    let newest = found.iter().map(|(major, _)| *major).max();
    let fitting = found.into_iter().filter(|(its_major, _)| *its_major >= major).min_by_key(|(major, _)| *major);
    fitting.map(|(_, program)| program).ok_or_else(|| {
        BackupError::NoProgram(match newest {
            None => format!("{name} is not installed"),
            Some(newest) => format!("{name} is of version {newest}, and the server of version {major}"),
        })
    })
}

/// Asks a program for its version: the first word that begins with a digit.
fn version_of(path: &Path) -> Option<String> {
    let mut child = bare_command(path).arg("--version").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut text = String::new();
    let read = child.stdout.take().map(|stdout| stdout.take(MAX_VERSION).read_to_string(&mut text));
    let ended = child.wait().ok()?;
    let version = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    version.filter(|_| ended.success() && matches!(read, Some(Ok(_)))).map(str::to_owned)
}

/// A running program whose errors are read. Killed when dropped, if it still runs.
pub struct RunningProgram {
    name: &'static str,
    pub child: Child,
    errors: Option<JoinHandle<Vec<String>>>,
}

impl RunningProgram {
    /// Starts a command whose standard error is a pipe.
    pub fn start(name: &'static str, command: &mut std::process::Command) -> Result<Self, BackupError> {
        let spawned = command.stderr(Stdio::piped()).spawn();
        let mut child = spawned
            .map_err(|error| BackupError::Program { program: name, problem: format!("did not start: {error}") })?;
        let errors = child.stderr.take().map(|stderr| thread::spawn(move || complaints(stderr)));
        Ok(Self { name, child, errors })
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<(), BackupError> {
        let status = self.child.wait();
        let lines = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(BackupError::Program { program: self.name, problem: ending(status, &lines) }),
            Err(error) => Err(BackupError::Program { program: self.name, problem: error.to_string() }),
        }
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ending(status: ExitStatus, lines: &[String]) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    if lines.is_empty() { how } else { format!("{how}: {}", lines.join("; ")) }
}

/// Reads the errors to their end, and keeps the first lines that name one. Lines of detail and context are left out: they repeat
/// values of rows.
fn complaints(stderr: ChildStderr) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        // A line without an end is read in pieces.
        match (&mut reader).take(64 << 10).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return lines,
        }
        let line = String::from_utf8_lossy(&line);
        if lines.len() < MAX_LINES
            && let Some((_, text)) = line.split_once("error: ")
        {
            lines.push(text.trim_end().chars().take(MAX_LINE).collect());
        }
    }
}
