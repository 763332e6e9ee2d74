//! The configuration of the signer of the log's checkpoints.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::environment::Environment;
use super::reader::EnvironmentReader;
use crate::signer::LogKeys;

const KEY_FILE: &str = "FULEXO_LOG_KEY_FILE";
const MEMORY: &str = "FULEXO_SIGNER_MEMORY";
const SOCKET: &str = "FULEXO_SIGNER_SOCKET";

/// The signer that a node asks.
pub enum SignerConfig {
    /// One in the node's process.
    Here(LogSignerConfig),
    /// One that listens on this socket.
    Socket(PathBuf),
}

/// The configuration of a signer itself.
pub struct LogSignerConfig {
    /// The log's keys.
    pub keys: LogKeys,
    /// The file that they come from.
    pub file: PathBuf,
    /// The file in which it remembers what it signed.
    pub memory: PathBuf,
}

impl EnvironmentReader {
    /// Reads the signer of a node.
    pub(super) fn node_signer(
        &mut self,
        environment: Environment,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Option<SignerConfig> {
        let own = [KEY_FILE, MEMORY].into_iter().find(|name| self.optional(name).is_some());
        match (self.optional(SOCKET), own) {
            (Some(_), Some(own)) => {
                self.problem(format!("{SOCKET} and {own} are set: a node has one signer"));
                None
            }
            (Some(socket), None) => Some(SignerConfig::Socket(PathBuf::from(socket))),
            (None, Some(own)) => {
                if environment == Environment::Production {
                    self.problem(format!(
                        "{own} is set, but production does not sign in the process that serves requests. Run `fulexo signer` \
                         as another user, and set {SOCKET}"
                    ));
                }
                self.log_signer(read_file).map(SignerConfig::Here)
            }
            (None, None) => None,
        }
    }

    /// Reads a signer.
    fn log_signer(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<LogSignerConfig> {
        let memory = self.optional(MEMORY).map(PathBuf::from);
        if memory.is_none() {
            self.problem(format!(
                "{MEMORY} is not set. Name a file in which the signer remembers what it signed, on a disk that is not restored \
                 with the database"
            ));
        }
        let Some(path) = self.optional(KEY_FILE) else {
            self.problem(format!("{KEY_FILE} is not set. Create a key with `fulexo signer new-key`"));
            return None;
        };
        let text = match read_file(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                self.problem(format!("{KEY_FILE}: cannot read {path}: {error}"));
                return None;
            }
        };
        match LogKeys::parse(text.lines().map(str::trim).filter(|line| !line.is_empty())) {
            Ok(keys) => Some(LogSignerConfig { keys, file: PathBuf::from(path), memory: memory? }),
            Err(error) => {
                self.problem(format!("{KEY_FILE}: {path}: {error}"));
                None
            }
        }
    }

    /// Reads what `fulexo signer` needs: its keys, its memory, and its socket.
    pub(super) fn signer_process(
        &mut self,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Option<(LogSignerConfig, PathBuf)> {
        let socket = self.optional(SOCKET).map(PathBuf::from);
        if socket.is_none() {
            self.problem(format!("{SOCKET} is not set. Name the socket on which the signer listens"));
        }
        let signer = self.log_signer(read_file);
        signer.zip(socket)
    }
}
