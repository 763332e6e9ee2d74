//! The keys of a node: those that wrap the vault's keys, and those that sign access tokens. They are read at the start, and again
//! while the node runs: `fulexo keys rotate` changes their files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use fulexo_commands::access_token::{KeyError, SigningKey};
use fulexo_commands::vault::{Kek, SymmetricKey};
use fulexo_domain::key::KeyLabel;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::errors::ConfigErrors;
use super::reader::EnvironmentReader;
use super::secrets;

const ENCRYPTION_FILE: &str = "ENCRYPTION_KEYS_FILE";
const SIGNING_FILE: &str = "JWT_PRIVATE_KEY_FILE";
/// The variables that have or name keys.
const VARIABLES: [&str; 6] =
    ["ENCRYPTION_KEY", "ENCRYPTION_KEYS", ENCRYPTION_FILE, "JWT_PRIVATE_KEY", SIGNING_FILE, "JWT_SECRET"];

/// The variables and files that keys come from. It has no `Debug`: it contains secrets.
pub struct KeySources {
    environment: Environment,
    vars: BTreeMap<String, Zeroizing<String>>,
}

impl KeySources {
    /// No keys: those of a node that opens and signs nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { environment: Environment::Production, vars: BTreeMap::new() }
    }

    /// Reads the keys that wrap again. Fails as the node would at its start.
    ///
    /// # Errors
    /// Every problem of them.
    pub fn encryption(&self) -> Result<Vec<Kek>, ConfigErrors> {
        self.read(|reader, environment| reader.encryption_keys(environment, &from_disk))
    }

    /// Reads the keys that wrap and that are in the file, in its order; `None` if there is no file.
    ///
    /// # Errors
    /// Every problem of them.
    pub fn encryption_keys_in_file(&self) -> Result<Option<Vec<Kek>>, ConfigErrors> {
        let Some(_) = self.encryption_file() else { return Ok(None) };
        self.read(|reader, environment| reader.encryption_key_file(environment, &from_disk)).map(Some)
    }

    /// Reads the keys that sign access tokens and that are in the file, in its order.
    ///
    /// # Errors
    /// Every problem of them.
    pub fn signing_keys_in_file(&self) -> Result<Vec<SigningKey>, ConfigErrors> {
        self.read(|reader, environment| {
            reader.vars.retain(|name, _| name == SIGNING_FILE);
            reader.signing_keys(environment, &from_disk)
        })
    }

    /// Reads the keys that sign access tokens again. Fails as the node would at its start.
    ///
    /// # Errors
    /// Every problem of them.
    pub fn signing(&self) -> Result<Vec<SigningKey>, ConfigErrors> {
        self.read(|reader, environment| reader.signing_keys(environment, &from_disk))
    }

    /// Returns the file of keys that wrap, if there is one.
    #[must_use]
    pub fn encryption_file(&self) -> Option<PathBuf> {
        self.file(ENCRYPTION_FILE)
    }

    /// Returns the file of keys that sign access tokens, if there is one.
    #[must_use]
    pub fn signing_file(&self) -> Option<PathBuf> {
        self.file(SIGNING_FILE)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.vars.get(name).map(|path| PathBuf::from(path.trim())).filter(|path| !path.as_os_str().is_empty())
    }

    fn read<T>(&self, read: impl FnOnce(&mut EnvironmentReader, Environment) -> T) -> Result<T, ConfigErrors> {
        let vars = self.vars.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        let mut reader = EnvironmentReader { vars, problems: Vec::new() };
        let keys = read(&mut reader, self.environment);
        if reader.problems.is_empty() { Ok(keys) } else { Err(ConfigErrors(reader.problems)) }
    }
}

fn from_disk(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

impl EnvironmentReader {
    /// Reads the time after which a key is due to be replaced.
    pub(super) fn key_epoch(&mut self) -> TimeDelta {
        self.duration("FULEXO_KEY_EPOCH", "30d", TimeDelta::hours(1), TimeDelta::days(3_650))
    }

    /// Returns where the keys come from.
    pub(super) fn key_sources(&self, environment: Environment) -> KeySources {
        let of = |name: &str| Some((name.to_owned(), Zeroizing::new(self.vars.get(name)?.clone())));
        KeySources { environment, vars: VARIABLES.into_iter().filter_map(of).collect() }
    }

    /// Reads the keys that sign access tokens.
    pub(super) fn signing_keys(
        &mut self,
        environment: Environment,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Vec<SigningKey> {
        let mut keys = Vec::new();
        let mut sources = Vec::new();
        if let Some(pem) = self.optional("JWT_PRIVATE_KEY") {
            // Many environment files cannot contain line breaks.
            sources.push(("JWT_PRIVATE_KEY", pem.replace("\\n", "\n")));
        }
        if let Some(path) = self.optional("JWT_PRIVATE_KEY_FILE") {
            match read_file(&path) {
                Ok(pem) => sources.push(("JWT_PRIVATE_KEY_FILE", pem)),
                Err(error) => self.problem(format!("JWT_PRIVATE_KEY_FILE: cannot read {path}: {error}")),
            }
        }
        for (name, pem) in sources {
            let blocks = pem_blocks(&pem);
            if blocks.is_empty() {
                self.problem(format!("{name} {}", KeyError::NotRsa));
            }
            for block in blocks {
                match SigningKey::rs256(&block) {
                    Ok(key) => keys.push(key),
                    Err(error) => self.problem(format!("{name} {error}")),
                }
            }
        }
        match (self.optional("JWT_SECRET"), environment) {
            (Some(_), Environment::Production) => {
                self.problem(
                    "JWT_SECRET is set, but production signs only with RS256. Set JWT_PRIVATE_KEY_FILE instead",
                );
            }
            (Some(secret), Environment::Development) => match SigningKey::hs256(&secret) {
                Ok(_) if secrets::is_guessable(secret.as_bytes(), secrets::OF_A_SECRET) => {
                    self.problem(format!("JWT_SECRET {WEAK}. Generate one with `openssl rand -hex 32`"));
                }
                Ok(key) => keys.push(key),
                Err(error) => self.problem(format!("JWT_SECRET {error}")),
            },
            (None, Environment::Production) if keys.is_empty() => self.problem(
                "JWT_PRIVATE_KEY_FILE is not set. Generate a key with `openssl genpkey -algorithm RSA -pkeyopt \
                 rsa_keygen_bits:2048 -out jwt.pem`",
            ),
            (None, Environment::Development) if keys.is_empty() => {
                self.problem(
                    "JWT_SECRET is not set. Set at least 64 characters, for example from `openssl rand -hex 32`",
                );
            }
            (None, _) => {}
        }
        keys
    }

    /// Reads the keys that wrap: those of the file, then those of the variables.
    pub(super) fn encryption_keys(
        &mut self,
        environment: Environment,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Vec<Kek> {
        let several = self.optional("ENCRYPTION_KEYS");
        let one = self.optional("ENCRYPTION_KEY");
        let mut keys = self.encryption_key_file(environment, read_file);
        for entry in several.iter().flat_map(|text| text.split(',')).map(str::trim) {
            match entry.split_once(':') {
                Some((id, key)) if KeyLabel::parse(id).is_ok() && keys.iter().all(|known| known.id != id) => {
                    match parse_key(key, environment) {
                        Ok(key) => keys.push(Kek { id: id.to_owned(), key }),
                        Err(fault) => self.problem(format!("ENCRYPTION_KEYS: the key {id:?} {fault}")),
                    }
                }
                Some(_) | None => self.problem("ENCRYPTION_KEYS must be a list of id:key entries, each id once"),
            }
        }
        if let Some(text) = one {
            if keys.iter().any(|key| key.id == "default") {
                self.problem(
                    "ENCRYPTION_KEY has the id \"default\", which another encryption key also has. Give that key another id",
                );
            }
            match parse_key(&text, environment) {
                Ok(key) => keys.push(Kek { id: "default".to_owned(), key }),
                Err(fault) => self.problem(format!("ENCRYPTION_KEY {fault}")),
            }
        } else if several.is_none() && keys.is_empty() {
            self.problem("ENCRYPTION_KEY is not set. Set 32 random bytes, for example from `openssl rand -base64 32`");
        }
        keys
    }

    /// Reads the file of keys that wrap, if there is one: a key a line, `id:key`, and comments.
    fn encryption_key_file(
        &mut self,
        environment: Environment,
        read_file: &impl Fn(&str) -> Result<String, String>,
    ) -> Vec<Kek> {
        let mut keys: Vec<Kek> = Vec::new();
        let Some(path) = self.optional(ENCRYPTION_FILE) else { return keys };
        let text = match read_file(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                self.problem(format!("{ENCRYPTION_FILE}: cannot read {path}: {error}"));
                return keys;
            }
        };
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((id, key)) if KeyLabel::parse(id).is_ok() && keys.iter().all(|known| known.id != id) => {
                    match parse_key(key, environment) {
                        Ok(key) => keys.push(Kek { id: id.to_owned(), key }),
                        Err(fault) => self.problem(format!("{ENCRYPTION_FILE}: {path}: the key {id:?} {fault}")),
                    }
                }
                Some(_) | None => {
                    self.problem(format!("{ENCRYPTION_FILE}: {path}: line {number} must be id:key, each id once"));
                }
            }
        }
        if keys.is_empty() && ["ENCRYPTION_KEY", "ENCRYPTION_KEYS"].iter().all(|name| self.optional(name).is_none()) {
            self.problem(format!(
                "{ENCRYPTION_FILE}: {path} has no key. Add a line such as first:KEY, with a KEY from `openssl rand -base64 32`"
            ));
        }
        keys
    }
}

/// The fault of a weak secret, without the secret.
const WEAK: &str = "repeats itself or runs in sequence, and can be guessed";

/// Parses a key: 32 bytes in base64, or 32 characters in development.
pub(super) fn parse_key(text: &str, environment: Environment) -> Result<SymmetricKey, String> {
    const GENERATE: &str = "Generate one with `openssl rand -base64 32`";
    let decoded =
        [STANDARD.decode(text), STANDARD_NO_PAD.decode(text), URL_SAFE.decode(text), URL_SAFE_NO_PAD.decode(text)]
            .into_iter()
            .flatten()
            .find(|bytes| bytes.len() == 32);
    let (bytes, form) = match (decoded, environment) {
        (Some(bytes), _) => (<[u8; 32]>::try_from(bytes).ok(), ""),
        (None, Environment::Production) => (None, "must be 32 bytes in base64"),
        (None, Environment::Development) => {
            (text.as_bytes().try_into().ok(), "must be 32 bytes in base64, or 32 characters in development")
        }
    };
    let Some(bytes) = bytes else { return Err(format!("{form}. {GENERATE}")) };
    if secrets::is_guessable(&bytes, secrets::OF_A_KEY) {
        return Err(format!("{WEAK}. {GENERATE}"));
    }
    Ok(SymmetricKey::from_bytes(bytes))
}

/// Returns the private keys of a PEM file, in order. Other text is skipped.
pub fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        rest = rest.get(start..).unwrap_or_default();
        let Some(end) = rest.find("-----END ") else { break };
        let after =
            rest.get(end + 9..).and_then(|tail| tail.find("-----")).map_or(rest.len(), |dashes| end + 9 + dashes + 5);
        let (block, tail) = rest.split_at_checked(after).unwrap_or((rest, ""));
        if block.lines().next().is_some_and(|line| line.contains("PRIVATE KEY")) {
            blocks.push(block.to_owned());
        }
        rest = tail;
    }
    blocks
}
