//! Backups: written, interrupted, altered and verified, by the program.

mod altered;
mod bucket;
mod canary;
mod drill;
mod interrupted;
mod recorded;
mod verified;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use fulexo_dev_servers::DataDir;
use fulexo_tests::{Database, Ended, Program, own_dir};
use serde_json::Value;

/// The files of those who back up a database.
pub struct Ground {
    pub dir: DataDir,
    /// The variables of `fulexo backup`.
    pub env: BTreeMap<String, String>,
    /// The public half of the key that signs manifests.
    pub signed_by: String,
}

impl Ground {
    pub fn new(database: &Database) -> Self {
        let dir = own_dir();
        let file = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(file("backups")).unwrap();
        for name in ["main", "keys", "other"] {
            let made = keygen(&["--out", &file(name)]);
            fs::write(file(&format!("{name}.recipients")), format!("# of {name}\n{made}\n")).unwrap();
        }
        let signed_by = keygen(&["--signing", "tests.example/backups", "--out", &file("signing.key")]);
        let env = [
            ("DATABASE_OWNER_URL", database.owner_url()),
            ("FULEXO_BACKUP_TO", file("backups")),
            ("FULEXO_BACKUP_RECIPIENTS_FILE", file("main.recipients")),
            ("FULEXO_BACKUP_KEY_RECIPIENTS_FILE", file("keys.recipients")),
            ("FULEXO_BACKUP_SIGNING_KEY_FILE", file("signing.key")),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        Self { env, signed_by, dir }
    }

    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        Program::run(&[&["backup"], arguments].concat(), &self.env)
    }

    /// Writes a backup, and returns its directory.
    pub fn create(&self) -> PathBuf {
        let ended = self.run(&["create", "--full", "--json"]);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
        let created: Value = serde_json::from_str(&ended.said).unwrap();
        PathBuf::from(created["path"].as_str().unwrap())
    }

    /// Writes the file of the encryption keys of services that tests start, and returns its path.
    pub fn encryption_keys(&self) -> String {
        let file = self.file("encryption-keys");
        fs::write(&file, "default:cXVpZXQtT3R0ZXI3IHBhaW50cyAxMiBncmVlbiBvd2w=\n").unwrap();
        file
    }

    /// Verifies a backup with these arguments and all identities; returns the exit code and the report.
    fn verify(&self, backup: &str, arguments: &[&str]) -> (i32, Value) {
        let (main, keys) = (self.file("main"), self.file("keys"));
        self.verify_with(backup, &[&main, &keys], arguments)
    }

    fn verify_with(&self, backup: &str, identities: &[&str], arguments: &[&str]) -> (i32, Value) {
        let scratch = self.file("");
        let mut all = vec!["verify", backup, "--json", "--signed-by", &self.signed_by, "--scratch", &scratch];
        all.extend(identities.iter().flat_map(|identity| ["--identity", identity]));
        all.extend(arguments);
        let ended = self.run(&all);
        let report = serde_json::from_str(&ended.said).unwrap_or_else(|_| panic!("{}", ended.errors));
        (ended.status.code().unwrap(), report)
    }

    /// The names in the target, but for the lock.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.file("backups")).unwrap().map(|entry| entry.unwrap());
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }
}

/// Creates a key, and returns its public half.
pub fn keygen(arguments: &[&str]) -> String {
    let ended = Program::run(&[&["backup", "keygen"], arguments].concat(), &BTreeMap::new());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    ended.said.trim().to_owned()
}

/// The result of each rung, in their order.
fn rungs(report: &Value) -> Vec<(String, String)> {
    let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks.map(|check| (text(check, "id"), text(check, "result"))).collect()
}

/// Panics unless the rungs below this one passed, this one has this result, and those above were not climbed.
#[track_caller]
fn assert_stops(report: &Value, rung: &str, result: &str) {
    let rungs = rungs(report);
    let place = rungs.iter().position(|(id, _)| id == rung).unwrap_or_else(|| panic!("{rung}: {report:#}"));
    for (number, (id, found)) in rungs.iter().enumerate() {
        let expected = match number.cmp(&place) {
            std::cmp::Ordering::Less => "passed",
            std::cmp::Ordering::Equal => result,
            std::cmp::Ordering::Greater => "not_checked",
        };
        assert_eq!(found, expected, "{id}: {report:#}");
    }
}
