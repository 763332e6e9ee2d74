//! `fulexo security-audit`: a sound instance is clean, and each planted weakness is found, as itself and nothing else.

mod database;
mod environment;
mod gentle;
mod kept;
mod measure;
mod outside;
mod page;
mod people;
mod plants;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_dev_servers::{DataDir, Options, Postgres};
use fulexo_ops::age::Identity;
use fulexo_ops::backup::{BackupName, VerificationRecord};
use fulexo_ops::clock;
use fulexo_tests::{Database, Ended, Node, Program, eventually, nats_url, own_dir, prepare, rsa_key};
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::tls_servers::{Authority, Listening, authority, certificate, serve};

/// The name of the only database.
const NAME: &str = "fulexo";
/// Drawn at random.
const STRONG: [&str; 2] = ["8f1c66d2b04e7a83c5d1e0f29b7a4c68", "1b9e07c4d2af836551e08d7cb3f6a924"];

/// An instance that is set up as docs/production.md says, on a PostgreSQL of its own, and a node with two administrators.
pub struct Instance {
    node: Option<Node>,
    pub superuser: PgPool,
    pub dir: DataDir,
    /// The environment of the audit: that of a node in production.
    pub env: BTreeMap<String, String>,
    /// The public key of the log.
    pub vkey: String,
    /// The administrators.
    pub administrators: [Uuid; 2],
    /// The authority that the environment trusts, and the server at the public URL.
    pub authority: Authority,
    _public: Listening,
    _postgres: Postgres,
}

/// The answer of a service with every header.
pub const SOUND_ANSWER: &str = "HTTP/1.1 200 OK\r\nstrict-transport-security: max-age=31536000; includeSubDomains\r\n\
    x-frame-options: DENY\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
    permissions-policy: camera=()\r\ncross-origin-opener-policy: same-origin\r\n\
    cross-origin-resource-policy: same-origin\r\ncross-origin-embedder-policy: require-corp\r\n\
    content-security-policy: default-src 'none'; frame-ancestors 'none'\r\ncontent-length: 0\r\n\r\n";

impl Instance {
    pub async fn start() -> Self {
        Self::with(&Options::default()).await
    }

    /// Starts one whose database server has these settings.
    pub async fn with(options: &Options) -> Self {
        let dir = own_dir();
        let postgres = Postgres::start(&dir, options).unwrap();
        prepare(&postgres, NAME).await;
        let superuser = PgPool::connect(&postgres.superuser_url(NAME)).await.unwrap();
        let url = |user: &str, password: &str| postgres.url(user, password, NAME);
        for statement in [
            format!("alter role fulexo password '{}'", STRONG[0]),
            format!("alter role fulexo_owner password '{}'", STRONG[1]),
            // As docs/security-audit.md says, so that the audit sees who is let in.
            "grant select on pg_hba_file_rules to fulexo_owner".to_owned(),
            "grant execute on function pg_hba_file_rules() to fulexo_owner".to_owned(),
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&superuser).await.unwrap();
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let key = |name: &str, kind, seed| {
            let name = KeyName::parse(name).unwrap();
            let key = SignerKey::from_seed(name.clone(), kind, &[seed; SEED_LENGTH]).unwrap();
            (key.verifier().to_string(), SignerKey::text(name, kind, &[seed; SEED_LENGTH]).unwrap())
        };
        let (vkey, log_key) = key("log.example/fulexo", KeyKind::Ed25519, 7);
        let (witness, _) = key("witness.example/w", KeyKind::Ed25519Cosignature, 8);
        let (_, report_key) = key("audit.example/reports", KeyKind::Ed25519, 9);
        let policy = format!("log {vkey}\nwitness w {witness} http://127.0.0.1:1\nquorum w\n");
        let encryption = "first:cXVpZXQtT3R0ZXI3IHBhaW50cyAxMiBncmVlbiBvd2w=\n";
        for (name, text) in [
            ("log.key", log_key.as_str()),
            ("report.key", report_key.as_str()),
            ("policy", policy.as_str()),
            ("jwt.pem", rsa_key().as_str()),
            ("encryption.keys", encryption),
        ] {
            dir.store(name, text).unwrap();
        }
        let mut own = fulexo_tests::env(&url("fulexo", STRONG[0]), &nats_url());
        own.remove("ENCRYPTION_KEY");
        for (name, value) in [
            ("ENCRYPTION_KEYS_FILE", path("encryption.keys")),
            ("FULEXO_NATS_REPLICAS", "0".to_owned()),
            ("FULEXO_LOG_KEY_FILE", path("log.key")),
            ("FULEXO_SIGNER_MEMORY", path("signer.json")),
        ] {
            own.insert(name.to_owned(), value);
        }
        let node = Node::with(&Arc::new(Database { name: NAME.to_owned() }), own).await;
        let administrators = [node.admin().await.account, node.admin().await.account];
        let authority = authority("the audit's", None);
        dir.store("ca.pem", &authority.pem()).unwrap();
        let shown = certificate("localhost", (-30, 60), Some(&authority));
        let public = serve(vec![shown.der], &shown.key, SOUND_ANSWER).await;
        let recipient = Identity::generate_hybrid().unwrap().recipient();
        dir.store("recipients", &recipient.to_string()).unwrap();
        fs::create_dir(dir.path().join("backups")).unwrap();
        let env = [
            ("APP_ENV", "production".to_owned()),
            ("SSL_CERT_FILE", path("ca.pem")),
            ("FULEXO_BACKUP_TO", path("backups")),
            ("FULEXO_BACKUP_RECIPIENTS_FILE", path("recipients")),
            ("DATABASE_URL", url("fulexo", STRONG[0])),
            ("DATABASE_OWNER_URL", url("fulexo_owner", STRONG[1])),
            ("NATS_URL", nats_url()),
            ("JWT_PRIVATE_KEY_FILE", path("jwt.pem")),
            ("ENCRYPTION_KEYS_FILE", path("encryption.keys")),
            ("FULEXO_SIGNER_SOCKET", path("signer.sock")),
            ("FULEXO_TRUST_POLICY_FILE", path("policy")),
            ("FULEXO_ISSUER", format!("https://localhost:{}", public.port)),
            ("TRUSTED_PROXIES", "127.0.0.1/32".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        let node = Some(node);
        let instance =
            Self { node, superuser, dir, env, vkey, administrators, authority, _public: public, _postgres: postgres };
        instance.back_up(TimeDelta::hours(1), Some(false), true);
        instance.plant("update access.account set second_factor_enabled = true").await;
        instance.settled().await;
        instance
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Stops the service.
    pub async fn stop(&mut self) {
        self.node.take().unwrap().stop().await;
    }

    /// Waits until the log is signed, and the read models have all of it.
    pub async fn settled(&self) {
        let settled = "select (select min(position) from projection.checkpoint) = position
                              and (select size from tree.checkpoint) = position from log.head";
        eventually("everything follows the log", async || {
            sqlx::query_scalar(settled).fetch_one(&self.superuser).await.unwrap()
        })
        .await;
    }

    /// Puts a backup of this age into the directory of backups, as far as an audit reads one: with a verification that found
    /// something or nothing, and with or without its keys.
    pub fn back_up(&self, age: TimeDelta, has_findings: Option<bool>, has_keys: bool) -> BackupName {
        let at = clock::now() - age;
        let name = BackupName::new(at, 7);
        let path = self.path("backups").join(name.to_string());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("manifest.json"), "{}").unwrap();
        if has_keys {
            fs::write(path.join("keys.age"), "").unwrap();
        }
        if let Some(has_findings) = has_findings {
            let rungs = vec!["restore".to_owned()];
            let record = VerificationRecord { at, seconds: 1.0, program: "tests".to_owned(), rungs, has_findings };
            fs::write(path.join("verified.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        }
        name
    }

    /// Runs statements as the superuser.
    pub async fn plant(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.superuser).await.unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the audit with the log's key, and more arguments.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Self::run_with(&self.env, &[&["--key", &self.vkey], arguments].concat())
    }

    pub fn run_with(env: &BTreeMap<String, String>, arguments: &[&str]) -> Ended {
        Program::run(&[&["security-audit"], arguments].concat(), env)
    }

    /// Audits, and returns the report; every secret stays out of it.
    pub fn audit(&self, arguments: &[&str]) -> Audited {
        let ended = self.run(&[&["--json"], arguments].concat());
        let secrets = STRONG.into_iter().chain(["cXVpZXQtT3R0ZXI3", "only-for-tests", "@example.com"]);
        for secret in secrets {
            assert!(!ended.said.contains(secret) && !ended.errors.contains(secret), "{secret} in {}", ended.said);
        }
        Audited::of(&ended)
    }

    /// Plants a weakness, and returns what the audit finds that a sound instance does not have; mends it.
    pub async fn found(&self, weakness: &str, mended: &str) -> BTreeSet<String> {
        self.plant(weakness).await;
        let audited = self.audit(&[]);
        self.plant(mended).await;
        assert_eq!(audited.unchecked(), BTreeMap::new(), "{weakness}");
        audited.beyond_sound()
    }

    /// A file that accepts what the private servers of tests lack.
    pub fn accept(&self) -> String {
        let entries = SOUND.map(|name| {
            let (rule, subject) = name.split_once(' ').unwrap();
            json!({"rule": rule, "subject": subject, "reason": "the servers of tests"})
        });
        fs::write(self.path("accept.json"), json!(entries).to_string()).unwrap();
        self.path("accept.json").display().to_string()
    }
}

/// The findings of a sound instance of the tests: the password of its NATS is in a URL, and its PostgreSQL has no checksums.
pub const SOUND: [&str; 2] = ["database_settings.no_checksums data_checksums", "secrets.in_environment NATS_URL"];

/// The result of an audit.
#[derive(Debug)]
pub struct Audited {
    pub status: Option<i32>,
    pub report: Value,
}

impl Audited {
    pub fn of(ended: &Ended) -> Self {
        let report = serde_json::from_str(&ended.said);
        let report = report.unwrap_or_else(|error| panic!("{error}: {} {}", ended.said, ended.errors));
        Self { status: ended.status.code(), report }
    }

    /// The rules and subjects of all findings that were not accepted.
    pub fn findings(&self) -> BTreeSet<String> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        let findings = checks.flat_map(|check| check["findings"].as_array().into_iter().flatten());
        let open = findings.filter(|finding| finding["accepted"].is_null());
        open.map(|it| format!("{} {}", it["rule"].as_str().unwrap(), it["subject"].as_str().unwrap())).collect()
    }

    /// Those that a sound instance does not have. It has its own in any case.
    pub fn beyond_sound(&self) -> BTreeSet<String> {
        assert_eq!(self.status, Some(1), "{:#}", self.report);
        let mut findings = self.findings();
        for sound in SOUND {
            assert!(findings.remove(sound), "{sound} is missing: {findings:?}");
        }
        findings
    }

    /// The checks that were not made, and the reasons.
    pub fn unchecked(&self) -> BTreeMap<String, String> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        let unchecked = checks.filter(|check| check["result"] == "not_checked");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        unchecked.map(|check| (text(&check["id"]), text(&check["reason"]))).collect()
    }
}

/// A set of texts.
pub fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_instance_is_clean_but_for_what_is_accepted_and_only_its_owner_is_asked_about_access() {
    let instance = Instance::start().await;
    let audited = instance.audit(&["--replay"]);
    assert_eq!((audited.findings(), audited.status), (set(SOUND), Some(1)), "{:#}", audited.report);
    assert_eq!(audited.unchecked(), BTreeMap::new());

    let accept = instance.accept();
    let clean = instance.audit(&["--accept", &accept, "--replay"]);
    assert_eq!((clean.findings(), clean.status), (set([]), Some(0)), "{:#}", clean.report);
    let text = instance.run(&["--accept", &accept]);
    assert_eq!(text.status.code(), Some(0), "{}", text.said);
    assert!(text.said.contains("accepted: the servers of tests") && text.said.contains("no findings"), "{}", text.said);
    let sarif: Value = serde_json::from_str(&instance.run(&["--accept", &accept, "--sarif"]).said).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), SOUND.len());

    // Without the owner one check cannot be made, unless it is left out.
    let mut env = instance.env.clone();
    env.remove("DATABASE_OWNER_URL");
    let arguments = ["--json", "--key", &instance.vkey, "--accept", &accept];
    let alone = Audited::of(&Instance::run_with(&env, &arguments));
    assert_eq!((alone.status, alone.findings()), (Some(3), set([])));
    assert_eq!(alone.unchecked().into_keys().collect::<Vec<_>>(), ["database_access"]);
    let without = [&arguments[..], &["--without", "database_access"]].concat();
    let without = Audited::of(&Instance::run_with(&env, &without));
    assert_eq!((without.status, &without.report["facts"]["left_out"]), (Some(0), &json!(["database_access"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_without_a_database_says_what_it_could_not_check() {
    let env: BTreeMap<String, String> =
        [("DATABASE_URL".to_owned(), format!("postgres://fulexo:{}@127.0.0.1:1/fulexo", STRONG[0]))].into();
    let audited = Audited::of(&Instance::run_with(&env, &["--json"]));
    assert_eq!(audited.status, Some(3), "{:#}", audited.report);
    let unchecked = audited.unchecked();
    for check in ["configuration", "append_only", "database_grants", "accounts", "log"] {
        assert!(unchecked.contains_key(check), "{check}: {unchecked:?}");
    }
    let misused = Instance::run_with(&BTreeMap::new(), &[]);
    assert_eq!(misused.status.code(), Some(2), "{}", misused.errors);
    for wrong in [["--accept", "/nowhere"], ["--signing-key", "/nowhere"], ["--without", "everything"]] {
        let misused = Instance::run_with(&env, &wrong);
        assert_eq!(misused.status.code(), Some(2), "{wrong:?}: {}", misused.errors);
    }
}
