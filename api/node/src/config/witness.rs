//! The configuration of a witness, and of the witnesses that a node asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::TimeDelta;
use fulexo_tlog::key::VerifierKey;
use fulexo_tlog::policy::TrustPolicy;
use ipnet::IpNet;
use url::Url;
use zeroize::Zeroizing;

use super::reader::EnvironmentReader;
use crate::witness::{WitnessKeys, witnessed_logs};

const POLICY_FILE: &str = "FULEXO_TRUST_POLICY_FILE";
const INTERVAL: &str = "FULEXO_WITNESS_INTERVAL";
const KEY_FILE: &str = "FULEXO_WITNESS_KEY_FILE";
const LOGS_FILE: &str = "FULEXO_WITNESS_LOGS_FILE";
const STATE: &str = "FULEXO_WITNESS_STATE";
/// The most witnesses that a node asks: their cosignatures have to fit into a checkpoint.
const MAX_WITNESSES: usize = 32;

/// The witnesses that a node asks to cosign checkpoints.
pub struct CosigningConfig {
    /// The witnesses, and which of them are enough. Each has a URL.
    pub policy: TrustPolicy,
    /// The least time between two checkpoints that witnesses see.
    pub interval: TimeDelta,
}

/// The configuration of `fulexo witness`.
pub struct WitnessConfig {
    /// The keys that cosign.
    pub keys: WitnessKeys,
    /// The keys of the logs; the name of each is the log's origin.
    pub logs: Vec<VerifierKey>,
    /// The directory for what was cosigned.
    pub state: PathBuf,
    /// The address to listen on.
    pub address: SocketAddr,
    /// The proxies in front, whose connections are not counted by address.
    pub trusted_proxies: Vec<IpNet>,
}

impl EnvironmentReader {
    /// Reads the witnesses of a node.
    pub(super) fn cosigning(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<CosigningConfig> {
        let interval = self.duration(INTERVAL, "1m", TimeDelta::seconds(1), TimeDelta::hours(24));
        let path = self.optional(POLICY_FILE)?;
        let text = self.file(POLICY_FILE, &path, read_file)?;
        let policy = match TrustPolicy::parse(text.as_bytes()) {
            Ok(policy) => policy,
            Err(error) => {
                self.problem(format!("{POLICY_FILE}: {path}: {error}"));
                return None;
            }
        };
        if !(1..=MAX_WITNESSES).contains(&policy.witnesses.len()) {
            self.problem(format!("{POLICY_FILE}: {path}: the policy must have 1 to {MAX_WITNESSES} witnesses"));
        }
        if policy.logs.is_empty() {
            self.problem(format!("{POLICY_FILE}: {path}: the policy has no log line with the public key of this log"));
        }
        for witness in &policy.witnesses {
            let url = witness.url.as_deref().and_then(|url| Url::parse(url).ok());
            let is_usable = url.is_some_and(|url| {
                ["http", "https"].contains(&url.scheme())
                    && url.has_host()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
                    && url.fragment().is_none()
            });
            if !is_usable {
                self.problem(format!(
                    "{POLICY_FILE}: {path}: the witness {} needs a URL to which checkpoints are submitted, such as \
                     https://witness.example.com",
                    witness.name
                ));
            }
        }
        Some(CosigningConfig { policy, interval })
    }

    /// Reads what `fulexo witness` needs.
    fn witness(&mut self, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<WitnessConfig> {
        let keys = self.required(KEY_FILE, "Create a key with `fulexo witness new-key`").and_then(|path| {
            let text = Zeroizing::new(self.file(KEY_FILE, &path, read_file)?);
            let keys = WitnessKeys::parse(text.lines().map(str::trim).filter(|line| !line.is_empty()));
            keys.map_err(|error| self.problem(format!("{KEY_FILE}: {path}: {error}"))).ok()
        });
        let logs = self.required(LOGS_FILE, "Name a file with the vkey of each log").and_then(|path| {
            let logs = witnessed_logs(&self.file(LOGS_FILE, &path, read_file)?);
            logs.map_err(|error| self.problem(format!("{LOGS_FILE}: {path}: {error}"))).ok()
        });
        let state = self.required(STATE, "Name a directory for what the witness has cosigned");
        let bind = self.bind();
        let port = self.port();
        let trusted_proxies = self.networks("TRUSTED_PROXIES");
        let (keys, logs) = keys.zip(logs)?;
        Some(WitnessConfig { keys, logs, state: state?.into(), address: (bind, port).into(), trusted_proxies })
    }

    fn required(&mut self, name: &str, advice: &str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.problem(format!("{name} is not set. {advice}"));
        }
        value
    }

    fn file(&mut self, name: &str, path: &str, read_file: &impl Fn(&str) -> Result<String, String>) -> Option<String> {
        read_file(path).map_err(|error| self.problem(format!("{name}: cannot read {path}: {error}"))).ok()
    }
}

/// Reads the configuration of a witness from these variables; every other one is ignored.
pub(super) fn witness(
    vars: BTreeMap<String, String>,
    read_file: &impl Fn(&str) -> Result<String, String>,
) -> Result<WitnessConfig, Vec<String>> {
    let mut reader = EnvironmentReader { vars, problems: Vec::new() };
    let config = reader.witness(read_file);
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(reader.problems),
    }
}
