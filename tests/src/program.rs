//! `fulexo` as a child process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::block_in_place;

/// The longest time that a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    output: Receiver<String>,
    /// The bytes that it has written on standard error so far.
    written: Arc<Mutex<Vec<u8>>>,
    errors: Option<JoinHandle<()>>,
}

/// The remains of a program that has ended.
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The part of its standard output that nobody had asked for yet.
    pub said: String,
    /// Its standard error.
    pub errors: String,
}

impl Program {
    /// Starts it with these variables and no others.
    #[must_use]
    pub fn start(arguments: &[&str], env: &BTreeMap<String, String>) -> Self {
        Self::spawn(arguments, env, Stdio::piped(), Stdio::piped())
    }

    /// Starts it with a closed pipe for its standard output.
    #[must_use]
    pub fn start_unread(arguments: &[&str], env: &BTreeMap<String, String>) -> Self {
        Self::spawn(arguments, env, closed_pipe(), Stdio::piped())
    }

    /// Starts it with closed pipes for its standard output and its standard error.
    #[must_use]
    pub fn start_unheard(arguments: &[&str], env: &BTreeMap<String, String>) -> Self {
        Self::spawn(arguments, env, closed_pipe(), closed_pipe())
    }

    /// Starts it with this as its standard output.
    #[must_use]
    pub fn start_into(arguments: &[&str], env: &BTreeMap<String, String>, output: Stdio) -> Self {
        Self::spawn(arguments, env, output, Stdio::piped())
    }

    fn spawn(arguments: &[&str], env: &BTreeMap<String, String>, stdout: Stdio, stderr: Stdio) -> Self {
        let mut child = Command::new(binary())
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(env)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        let (line, output) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|text| line.send(text))
            });
        }
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        // The thread reads to the end of what a killed program wrote.
        let errors = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                    kept.lock().unwrap().extend(buffer.iter().take(read));
                }
            })
        });
        Self { child, output, written, errors }
    }

    /// Starts it, and waits for its end.
    ///
    /// # Panics
    /// Outside a runtime of several threads.
    #[must_use]
    pub fn run(arguments: &[&str], env: &BTreeMap<String, String>) -> Ended {
        block_in_place(|| Self::start(arguments, env).wait())
    }

    /// Returns the rest of the first line on standard output that begins with this.
    pub fn says(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("it does not say {beginning:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended: {}", self.wait().errors),
            }
        }
    }

    /// Waits until it has written this on standard error.
    pub fn warns(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.written().contains(text) {
            assert!(Instant::now() < deadline, "it does not write {text:?}, but {}", self.written());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// Returns the program's path.
    #[must_use]
    pub fn path() -> PathBuf {
        binary()
    }

    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal by its short name, such as `STOP`.
    pub fn signal(&self, signal: &str) {
        let status =
            Command::new("/bin/sh").args(["-c", r#"kill -s "$0" "$1""#, signal, &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Asks it to stop, and waits for its end.
    pub fn stop(&mut self, signal: &str) -> Ended {
        self.signal(signal);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(errors) = self.errors.take() {
                    errors.join().unwrap();
                }
                let errors = self.written();
                let said = self.output.iter().map(|line| line + "\n").collect();
                return Ended { status, said, errors };
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // This fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the writing end of a pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Returns the program's path. The program is next to the tests: `target/debug/fulexo` for `target/debug/deps`.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let mut files = test.ancestors().skip(1).map(|dir| dir.join("fulexo"));
    files.find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("there is no program `fulexo` above {}: build it with `cargo build -p fulexo-api`", test.display())
    })
}
