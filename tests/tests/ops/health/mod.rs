//! `fulexo health-check`: a sound service is clean, and each fault is found, as itself, by whatever still answers.

mod backups;
mod certificates;
mod down;
mod fake;
mod faults;
mod trail;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use fulexo_dev_servers::DataDir;
use fulexo_ops::backup::{BackupName, VerificationRecord};
use fulexo_ops::clock::now;
use fulexo_tests::{Database, Ended, Node, Program, eventually, own_dir, superuser};
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use super::tls_servers::{Authority, Shown, authority, certificate};

/// A service that is set up whole: TLS, a signed log, NATS, and a backup that was verified.
pub struct Ground {
    node: Option<Node>,
    pub database: Arc<Database>,
    pub pool: PgPool,
    pub dir: DataDir,
    pub root: Authority,
    /// The variables of the check: those of the node.
    pub env: BTreeMap<String, String>,
    /// The public key of the log.
    pub vkey: String,
}

/// A report, and the exit code that came with it.
pub struct Checked {
    pub status: i32,
    pub report: Value,
}

impl Ground {
    pub async fn start() -> Self {
        let (database, dir) = (Arc::new(Database::create().await), own_dir());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (root, name) = (authority("the root", None), KeyName::parse("log.example/fulexo").unwrap());
        let key = SignerKey::from_seed(name.clone(), KeyKind::Ed25519, &[7; SEED_LENGTH]).unwrap();
        dir.store("log.key", &SignerKey::text(name, KeyKind::Ed25519, &[7; SEED_LENGTH]).unwrap()).unwrap();
        dir.store("ca.pem", &root.pem()).unwrap();
        store(&dir, &certificate("localhost", (-30, 60), Some(&root)));
        let mut own = database.env();
        for (variable, value) in [
            ("FULEXO_LOG_KEY_FILE", file("log.key")),
            ("FULEXO_SIGNER_MEMORY", file("signer.json")),
            ("TLS_CERT", file("cert.pem")),
            ("TLS_KEY", file("key.pem")),
            ("FULEXO_NODE_NAME", "first".to_owned()),
        ] {
            own.insert(variable.to_owned(), value);
        }
        let node = Node::with(&database, own.clone()).await;
        for (variable, value) in [
            ("FULEXO_PORT", node.port().to_string()),
            ("FULEXO_ISSUER", "https://localhost".to_owned()),
            ("FULEXO_BACKUP_TO", file("backups")),
        ] {
            own.insert(variable.to_owned(), value);
        }
        fs::create_dir(file("backups")).unwrap();
        let (pool, vkey) = (superuser(&database).await, key.verifier().to_string());
        let ground = Self { node: Some(node), database, pool, dir, root, env: own, vkey };
        ground.back_up(3, true);
        ground.node().register(&["customer"]).await;
        ground.settled().await;
        ground
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Stops the service.
    pub async fn stop(&mut self) {
        self.node.take().unwrap().stop().await;
    }

    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Puts what looks like a backup of so many hours ago in its place; it was verified by a restore, or by its checksums alone.
    pub fn back_up(&self, hours: i64, is_verified: bool) {
        let path =
            self.dir.path().join("backups").join(BackupName::new(now() - TimeDelta::hours(hours), 7).to_string());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("manifest.json"), "{}").unwrap();
        let (program, rung) = ("0.1.0".to_owned(), if is_verified { "restore" } else { "checksums" });
        let rungs = vec![rung.to_owned()];
        let record = VerificationRecord { at: now(), seconds: 1.0, program, rungs, has_findings: false };
        fs::write(path.join("verified.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    }

    /// Waits until the log is signed, and the read models have all of it.
    pub async fn settled(&self) {
        let settled = "select (select min(position) from projection.checkpoint) = position
                              and (select size from tree.checkpoint) = position from log.head";
        eventually("everything follows the log", async || {
            sqlx::query_scalar(settled).fetch_one(&self.pool).await.unwrap()
        })
        .await;
    }

    /// Runs statements as the superuser.
    pub async fn plant(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.pool).await.unwrap();
    }

    /// The arguments of a check that trusts what is the service's own, and has time.
    pub fn arguments<'a>(&'a self, ca: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["health-check", "--timeout", "60", "--key", &self.vkey, "--ca", ca][..], more].concat()
    }

    /// Checks with the node's variables.
    pub fn check(&self, more: &[&str]) -> Checked {
        self.check_with(&self.env, more)
    }

    /// Checks with these variables.
    pub fn check_with(&self, env: &BTreeMap<String, String>, more: &[&str]) -> Checked {
        let ca = self.file("ca.pem");
        Self::rested(&self.arguments(&ca, &[&["--json"], more].concat()), env)
    }

    /// Checks until the node of this process holds its lease: a busy machine takes it away, and it comes back.
    pub fn rested(arguments: &[&str], env: &BTreeMap<String, String>) -> Checked {
        let began = Instant::now();
        loop {
            let checked = Checked::of(&Program::run(arguments, env));
            let lost = |it: &String| it == "nodes.down first" || it.starts_with("service.no_lease ");
            if began.elapsed() > Duration::from_secs(60) || !checked.findings().iter().any(lost) {
                return checked;
            }
        }
    }

    /// Returns the variables with this one changed, or removed if it is empty.
    pub fn with(&self, variable: &str, value: &str) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.insert(variable.to_owned(), value.to_owned());
        env
    }

    /// Plants a fault, and returns what is found; then mends it.
    pub async fn found(&self, fault: &str, mended: &str) -> BTreeSet<String> {
        self.plant(fault).await;
        let checked = self.check(&[]);
        self.plant(mended).await;
        checked.findings()
    }
}

/// Stores a certificate and its key as the node's.
pub fn store(dir: &DataDir, shown: &Shown) {
    let body = STANDARD.encode(&shown.der);
    dir.store("cert.pem", &format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")).unwrap();
    dir.store("key.pem", &shown.key.serialize_pem()).unwrap();
}

impl Checked {
    pub fn of(ended: &Ended) -> Self {
        let report = serde_json::from_str(&ended.said).unwrap_or_else(|error| panic!("{error}: {}", ended.errors));
        Self { status: ended.status.code().unwrap(), report }
    }

    /// The findings, each as its rule and its subject.
    pub fn findings(&self) -> BTreeSet<String> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        let findings = checks.filter_map(|check| check["findings"].as_array()).flatten();
        let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
        findings.map(|finding| format!("{} {}", text(finding, "rule"), text(finding, "subject"))).collect()
    }

    /// The result of a check, by its name.
    pub fn result(&self, check: &str) -> &str {
        let checks = self.report["checks"].as_array().unwrap();
        let check = checks.iter().find(|it| it["id"] == check).unwrap_or_else(|| panic!("{check}: {:#}", self.report));
        check["result"].as_str().unwrap()
    }

    /// The reason for which a check was not made.
    pub fn reason(&self, check: &str) -> &str {
        let mut checks = self.report["checks"].as_array().unwrap().iter();
        checks.find(|it| it["id"] == check).unwrap()["reason"].as_str().unwrap_or_default()
    }

    /// The facts of a check.
    pub fn facts(&self, check: &str) -> &Value {
        &self.report["facts"][check]
    }

    /// The results of all checks but these.
    pub fn results_but(&self, but: &[&str]) -> BTreeSet<&str> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        checks
            .filter(|check| !but.contains(&check["id"].as_str().unwrap()))
            .map(|check| check["result"].as_str().unwrap())
            .collect()
    }
}

pub fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_service_is_clean_and_is_said_to_be_in_lines_of_eighty_columns() {
    let ground = Ground::start().await;
    let checked = ground.check(&[]);
    assert_eq!((checked.status, &checked.report["verdict"]), (0, &"clean".into()), "{:#}", checked.report);
    assert_eq!(checked.report["checks"].as_array().unwrap().len(), 16);
    assert_eq!(checked.facts("checkpoint")["compared_with_the_tree"], true, "{:#}", checked.report);
    assert_eq!(checked.facts("checkpoint")["key"], "given");
    assert_eq!(checked.facts("nodes")["nodes"][0]["name"], "first");
    assert_eq!(checked.facts("clocks")["seconds_ahead_of_this_machine"].as_object().unwrap().len(), 2);

    let ca = ground.file("ca.pem");
    let mut text = Program::run(&ground.arguments(&ca, &[]), &ground.env);
    eventually("it is clean as text, too", async || {
        text = Program::run(&ground.arguments(&ca, &[]), &ground.env);
        text.status.code() == Some(0)
    })
    .await;
    assert!(text.said.lines().all(|line| line.chars().count() <= 80), "{}", text.said);
    assert!(text.said.contains("\n  ok        nodes        1 of 1 holds a lease (database)\n"), "{}", text.said);
    assert!(text.said.ends_with("\nno findings, 16 clean\n"), "{}", text.said);
    for secret in ["tests only", "JWT_SECRET", ground.env["DATABASE_URL"].split('@').next().unwrap()] {
        assert!(!text.said.contains(secret) && !checked.report.to_string().contains(secret), "{secret}");
    }

    let sarif = Program::run(&ground.arguments(&ca, &["--sarif"]), &ground.env);
    assert!(sarif.said.contains("\"version\":\"2.1.0\""), "{}", sarif.said);

    // As an operator runs it: with three seconds.
    let began = Instant::now();
    let quick = Program::run(&["health-check", "--key", &ground.vkey, "--ca", &ca], &ground.env);
    println!("health-check of a sound service: {:?}, exit code {:?}", began.elapsed(), quick.status.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn from_elsewhere_the_url_suffices_and_what_it_does_not_tell_is_not_checked() {
    let ground = Ground::start().await;
    let url = format!("https://localhost:{}", ground.node().port());
    let checked = ground.check_with(&BTreeMap::new(), &["--url", &url]);
    assert_eq!((checked.status, checked.findings()), (3, set([])), "{:#}", checked.report);
    for check in ["service", "nodes", "postgres", "nats", "read_models", "tree", "checkpoint", "certificate", "keys"] {
        assert_eq!(checked.result(check), "passed", "{check}: {:#}", checked.report);
    }
    for check in ["backup", "lockdown", "incidents", "sources"] {
        assert_eq!(checked.result(check), "not_checked", "{check}: {:#}", checked.report);
    }
    let without = ["--url", &url, "--without", "backup", "--without", "lockdown", "--without", "incidents"];
    let checked = ground.check_with(&BTreeMap::new(), &[&without[..], &["--without", "sources"]].concat());
    assert_eq!((checked.status, checked.results_but(&[])), (0, ["passed"].into()), "{:#}", checked.report);
    assert_eq!(checked.report["facts"]["left_out"].as_array().unwrap().len(), 4);

    for wrong in [&[][..], &["--url", "localhost"], &["--url", &url, "--without", "everything"], &["--timeout", "0"]] {
        let misused = Program::run(&[&["health-check"], wrong].concat(), &BTreeMap::new());
        assert_eq!(misused.status.code(), Some(2), "{wrong:?}: {}", misused.errors);
    }
}
