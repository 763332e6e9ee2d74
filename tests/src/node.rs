//! A node of the service in this process, and people who use it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::TimeDelta;
use fulexo_api::cli::operator;
use fulexo_api::faces;
use fulexo_commands::NewAccount;
use fulexo_commands::access_token::TokenGrant;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::password::Password;
use fulexo_domain::values::{AccountId, EmailAddress, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_node::config::Config;
use fulexo_node::start::RunningNode;
use fulexo_node::state::App;
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use serde_json::json;
use uuid::Uuid;

use crate::client::Client;
use crate::cluster::{Database, own_dir};

/// The password of every user.
pub const PASSWORD: &str = "correct-Horse7battery";

/// A running node.
pub struct Node {
    /// The URL on which it listens.
    pub url: String,
    /// The database on which it works.
    pub database: Arc<Database>,
    running: RunningNode,
}

impl Node {
    /// Starts a node on its own database.
    pub async fn start() -> Self {
        Self::join(&Arc::new(Database::create().await)).await
    }

    /// Starts a node on its own database, which signs the log as `log.example/fulexo`.
    pub async fn signed() -> Self {
        let (database, dir) = (Arc::new(Database::create().await), own_dir());
        let name = KeyName::parse("log.example/fulexo").unwrap();
        dir.store("log.key", &SignerKey::text(name, KeyKind::Ed25519, &[7; SEED_LENGTH]).unwrap()).unwrap();
        let mut env = database.env();
        for (variable, file) in [("FULEXO_LOG_KEY_FILE", "log.key"), ("FULEXO_SIGNER_MEMORY", "signer.json")] {
            env.insert(variable.to_owned(), dir.path().join(file).display().to_string());
        }
        Self::with(&database, env).await
    }

    /// Starts another node on a database.
    pub async fn join(database: &Arc<Database>) -> Self {
        Self::with(database, database.env()).await
    }

    /// Starts a node with its own variables.
    pub async fn with(database: &Arc<Database>, mut env: BTreeMap<String, String>) -> Self {
        env.insert("FULEXO_PORT".into(), "0".into());
        let config = Config::from_vars(env, |path| std::fs::read_to_string(path).map_err(|error| error.to_string()));
        let running =
            RunningNode::start(config.unwrap_or_else(|errors| panic!("{errors}")), faces::endpoint).await.unwrap();
        Self {
            url: format!("{}://127.0.0.1:{}", running.scheme, running.port),
            database: Arc::clone(database),
            running,
        }
    }

    /// Returns the state with which its handlers work.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        self.running.app()
    }

    /// Returns the port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.running.port
    }

    /// Returns the port that redirects to HTTPS.
    #[must_use]
    pub fn http_port(&self) -> Option<u16> {
        self.running.http_port
    }

    /// Stops it as an operator would.
    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// Returns a client that is not logged in.
    #[must_use]
    pub fn anonymous(&self) -> Client {
        Client::new(&self.url)
    }

    /// Registers a user with these roles; returns the address and the account.
    pub async fn register(&self, roles: &[&str]) -> (String, Uuid) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let email = format!("user-{}@example.com", NUMBER.fetch_add(1, Ordering::Relaxed));
        let new = NewAccount {
            email: EmailAddress::parse(&email).unwrap(),
            password: Password::new(PASSWORD.to_owned()),
            display_name: None,
            roles: roles.iter().map(|role| RoleName::parse(role).unwrap()).collect(),
        };
        let done = self.app().commands.register(&operator(), new).await.unwrap();
        (email, done.value.0)
    }

    /// Registers a user with these roles, and logs in.
    pub async fn user(&self, roles: &[&str]) -> Client {
        let (email, account) = self.register(roles).await;
        self.log_in(&email, account).await
    }

    /// Registers a customer, who may do nothing to others, and logs in.
    pub async fn customer(&self) -> Client {
        self.user(&["customer"]).await
    }

    /// Registers an administrator, and logs in.
    pub async fn admin(&self) -> Client {
        self.user(&["admin", "customer"]).await
    }

    /// Registers an auditor, and logs in.
    pub async fn auditor(&self) -> Client {
        self.user(&["auditor", "customer"]).await
    }

    /// Logs in over HTTP.
    pub async fn log_in(&self, email: &str, account: Uuid) -> Client {
        let mut client = self.anonymous();
        let answer = client.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client.email = email.to_owned();
        client.account = account;
        client.log_in_with(&answer);
        client
    }

    /// Returns the same caller in the same session, with a token that says they logged in this long ago.
    #[must_use]
    pub fn as_if_logged_in(&self, ago: TimeDelta, client: &Client, roles: &[&str]) -> Client {
        let grant = TokenGrant {
            account: AccountId(client.account),
            session: SessionId(client.session),
            authenticated_at: clock::now() - ago,
            methods: vec![AuthenticationMethod::Password],
            step_up_required: false,
            roles: roles.iter().map(|role| RoleName::parse(role).unwrap()).collect(),
            position: 0,
            epoch: self.app().gate.epoch(),
            expires_at: clock::now() + TimeDelta::hours(1),
        };
        let token = self.app().commands.keys().sign(grant, operator().new_id(), clock::now()).unwrap();
        Client { access_token: Some(token), ..client.clone() }
    }
}

/// Returns a new RSA key of 2048 bits, PKCS#8 in PEM.
#[must_use]
pub fn rsa_key() -> String {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use base64::Engine;
    let der = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}
