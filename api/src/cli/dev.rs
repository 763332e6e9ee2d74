//! `fulexo dev`: the whole service on one machine. A private PostgreSQL and NATS, keys, migrations by the owner role, the
//! server under the application role, and demo accounts, all in one directory and on loopback.
//!
//! `DIR/dev.json` (mode 0600) has the URLs, the demo accounts and the variables with which `fulexo serve` joins as another
//! node.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use fulexo_commands::vault::crypto::random_bytes;
use fulexo_commands::{CommandError, NewAccount};
use fulexo_database::chain;
use fulexo_domain::password::Password;
use fulexo_domain::values::{DisplayName, EmailAddress, RoleName};
use fulexo_node::config::{Config, Environment};
use fulexo_node::http::listener::Reserved;
use fulexo_node::schema;
use fulexo_node::start::RunningNode;
use fulexo_node::start::listening::reserve_port;
use fulexo_node::state::App;
use fulexo_tlog::key::{KeyKind, SignerKey};
use fulexo_tlog::note::KeyName;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::{Output, note};
use super::postgres_variables;
use super::process::{StopSignals, block_on, operator, start_logging};
use crate::faces;
use fulexo_dev_servers::{DataDir, Nats, Options, Postgres};

#[derive(Args)]
pub struct DevArgs {
    /// Listen on this port; 0 lets the system choose.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Keep everything in this directory; each running instance needs its own.
    #[arg(long, value_name = "DIR", default_value = ".fulexo")]
    data_dir: PathBuf,
    /// Accept any number of requests, for load tests. Lockout stays on.
    #[arg(long)]
    no_rate_limits: bool,
    /// Print the contents of dev.json on one line, for programs.
    #[arg(long)]
    json: bool,
}

/// The secrets that a data directory keeps between starts, in a file of mode 0600.
#[derive(Serialize, Deserialize)]
struct Secrets {
    owner_password: String,
    application_password: String,
    jwt_secret: String,
    encryption_key: String,
    account_passwords: BTreeMap<String, String>,
}

/// The contents of `dev.json`.
#[derive(Serialize)]
struct DevFile<'a> {
    url: String,
    database_url: &'a str,
    owner_database_url: &'a str,
    nats_url: &'a str,
    accounts: BTreeMap<&'static str, DemoAccount>,
    env: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct DemoAccount {
    email: String,
    password: String,
}

/// The demo accounts: key, e-mail address, display name, roles.
const DEMO: [(&str, &str, &str, &[&str]); 3] = [
    ("admin", "admin@example.com", "Ada Admin", &["admin", "customer"]),
    ("auditor", "auditor@example.com", "Otto Auditor", &["auditor", "customer"]),
    ("customer", "customer@example.com", "Clara Customer", &["customer"]),
];
const DATABASE: &str = "fulexo";
const OWNER: &str = "fulexo_owner";
const APPLICATION: &str = "fulexo";
/// The file with the key that signs the log's checkpoints.
const LOG_KEY: &str = "log.key";
/// The name of the log.
const LOG_NAME: &str = "localhost/fulexo";

impl DevArgs {
    pub fn run(self) -> Result<(), Failure> {
        postgres_variables::leave()?;
        start_logging(Environment::Development, "warn,fulexo_api=info,fulexo_node=info");
        let reserved = reserve_port((Ipv4Addr::LOCALHOST, self.port).into())?;
        let dir = DataDir::open(&self.data_dir)?;
        // The last run may have left a file with old URLs.
        dir.remove("dev.json")?;
        let secrets = Secrets::of(&dir)?;
        create_log_key(&dir)?;
        step("starting a private PostgreSQL and NATS");
        let mut postgres = Postgres::start(&dir, &Options::default())?;
        let mut nats = Nats::start(&dir)?;
        let outcome = block_on(self.serve(reserved, &dir, &secrets, &postgres, &nats));
        nats.stop();
        postgres.stop();
        outcome
    }

    async fn serve(
        &self,
        reserved: Reserved,
        dir: &DataDir,
        secrets: &Secrets,
        postgres: &Postgres,
        nats: &Nats,
    ) -> Result<(), Failure> {
        prepare_database(&postgres.superuser_url("postgres"), secrets).await?;
        let owner_url = postgres.url(OWNER, &secrets.owner_password, DATABASE);
        let database_url = postgres.url(APPLICATION, &secrets.application_password, DATABASE);
        for migration in schema::migrate(&owner_url, APPLICATION).await?.applied {
            step(&format!("applied migration {migration}"));
        }

        let nats_url = nats.url();
        let mut env = secrets.env(&database_url, &nats_url);
        if self.no_rate_limits {
            env.insert("FULEXO_RATE_LIMITS".to_owned(), "off".to_owned());
        }
        let log_key = dir.path().join(LOG_KEY).display().to_string();
        let memory = dir.path().join("signer.json").display().to_string();
        // Links in e-mails contain the port.
        let port = reserved.port().unwrap_or(self.port);
        let url = format!("http://127.0.0.1:{port}");
        let mail_dir = dir.path().join("mail").display().to_string();
        for (name, value) in [
            ("FULEXO_LOG_KEY_FILE", log_key.as_str()),
            ("FULEXO_SIGNER_MEMORY", &memory),
            ("FULEXO_MAIL_DIR", &mail_dir),
            ("MAIL_FROM", "Fulexo <no-reply@example.com>"),
            ("FULEXO_PUBLIC_URL", &url),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        let mut config =
            Config::from_vars(env.clone(), |path| std::fs::read_to_string(path).map_err(|error| error.to_string()))?;
        config.port = port;
        let running = RunningNode::start_on(config, Some(reserved), faces::endpoint).await?;
        let accounts = demo_accounts(running.app(), secrets).await?;
        let file = DevFile {
            url: url.clone(),
            database_url: &database_url,
            owner_database_url: &owner_url,
            nats_url: &nats_url,
            accounts,
            env: &env,
        };
        // Before a client learns that the service runs.
        let mut stop = StopSignals::listen()?;
        let text = serde_json::to_string_pretty(&file).map_err(|error| error.to_string())?;
        dir.store("dev.json", &text)?;
        if self.json {
            Output::new().line(json!(file))?;
        } else {
            banner(&file, dir, &url)?;
        }

        stop.received().await;
        note("");
        step("stopping");
        running.stop().await;
        Ok(())
    }
}

impl Secrets {
    /// Reads the secrets of the directory. Generates them at the first start.
    fn of(dir: &DataDir) -> Result<Self, Failure> {
        let path = dir.path().join("secrets.json");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return serde_json::from_str(&text).map_err(|error| {
                Failure::Failed(format!(
                    "cannot read {}: {error}. Remove the directory to start from scratch",
                    path.display()
                ))
            });
        }
        let secrets = Self {
            owner_password: random_text::<24>()?,
            application_password: random_text::<24>()?,
            jwt_secret: random_text::<64>()?,
            encryption_key: STANDARD.encode(random::<32>()?),
            account_passwords: DEMO
                .iter()
                // The suffix has the required kinds of characters; the rest is random.
                .map(|(name, ..)| Ok(((*name).to_owned(), format!("{}-aA1", random_text::<15>()?))))
                .collect::<Result<_, Failure>>()?,
        };
        let text = serde_json::to_string_pretty(&secrets).map_err(|error| error.to_string())?;
        dir.store("secrets.json", &text)?;
        Ok(secrets)
    }

    /// Returns the environment of another node.
    fn env(&self, database_url: &str, nats_url: &str) -> BTreeMap<String, String> {
        [
            ("APP_ENV", "development"),
            ("DATABASE_URL", database_url),
            ("NATS_URL", nats_url),
            ("JWT_SECRET", &self.jwt_secret),
            ("ENCRYPTION_KEY", &self.encryption_key),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}

/// Creates the log's key at the first start.
fn create_log_key(dir: &DataDir) -> Result<(), Failure> {
    if dir.path().join(LOG_KEY).exists() {
        return Ok(());
    }
    let failed = |reason: &str| Failure::Failed(format!("cannot create the log's key: {reason}"));
    let name = KeyName::parse(LOG_NAME).ok_or_else(|| failed("its name is not one"))?;
    let seed = Zeroizing::new(random()?);
    let key = SignerKey::text(name, KeyKind::Ed25519, &seed).map_err(|error| failed(&error.to_string()))?;
    dir.store(LOG_KEY, &key)?;
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    random_bytes().map_err(|error| Failure::Failed(error.to_string()))
}

fn random_text<const N: usize>() -> Result<String, Failure> {
    Ok(URL_SAFE_NO_PAD.encode(random::<N>()?))
}

/// Creates the roles and the database at the first start. Sets the passwords at each start to those of the directory.
async fn prepare_database(superuser_url: &str, secrets: &Secrets) -> Result<(), Failure> {
    let mut connection = PgConnection::connect(superuser_url).await?;
    for (role, password, rights) in
        [(OWNER, &secrets.owner_password, "createrole"), (APPLICATION, &secrets.application_password, "nocreaterole")]
    {
        let known = sqlx::query_scalar::<_, bool>("select exists (select from pg_roles where rolname = $1)")
            .bind(role)
            .fetch_one(&mut connection)
            .await?;
        let verb = if known { "alter" } else { "create" };
        // DDL takes no parameters. The names are constants, and the password is base64url.
        let statement = format!("{verb} role {role} login nosuperuser {rights} password '{password}'");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    let known = sqlx::query_scalar::<_, bool>("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut connection)
        .await?;
    if !known {
        let statement = format!("create database {DATABASE} owner {OWNER}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    Ok(())
}

/// Registers the missing demo accounts.
async fn demo_accounts(app: &App, secrets: &Secrets) -> Result<BTreeMap<&'static str, DemoAccount>, Failure> {
    let mut accounts = BTreeMap::new();
    for (name, email, display_name, roles) in DEMO {
        let password = secrets.account_passwords.get(name).cloned().unwrap_or_default();
        let invalid = |error: fulexo_domain::values::InvalidValue| Failure::Failed(error.to_string());
        let new = NewAccount {
            email: EmailAddress::parse(email).map_err(invalid)?,
            password: Password::new(password.clone()),
            display_name: DisplayName::parse(display_name).ok(),
            roles: roles.iter().map(|role| RoleName::parse(role)).collect::<Result<_, _>>().map_err(invalid)?,
        };
        match app.commands.register(&operator(), new).await {
            Ok(_) => step(&format!("registered {email}")),
            Err(CommandError::EmailTaken) => {}
            Err(error) => return Err(Failure::Failed(format!("cannot register {email}: {}", chain(&error)))),
        }
        accounts.insert(name, DemoAccount { email: email.to_owned(), password });
    }
    Ok(accounts)
}

fn step(text: &str) {
    note(format_args!("  {text}"));
}

fn banner(file: &DevFile<'_>, dir: &DataDir, url: &str) -> Result<(), Failure> {
    let mut out = Output::new();
    out.line("\nFulexo is running. Demo accounts:\n")?;
    for account in file.accounts.values() {
        out.line(format_args!("  {:<22} {}", account.email, account.password))?;
    }
    // The name by which it was called: the program that `make dev` builds is not in PATH.
    let program = std::env::args().next().unwrap_or_else(|| "fulexo".to_owned());
    out.line(format_args!("\n  Follow the log    {program} events --data-dir {}", dir.path().display()))?;
    out.line(format_args!("  Read e-mails      {}", dir.path().join("mail").display()))?;
    out.line(format_args!("  URLs and secrets  {}/dev.json", dir.path().display()))?;
    out.line(format_args!("  Documentation     {url}/docs"))?;
    out.line("\nPress Ctrl-C to stop.")
}
