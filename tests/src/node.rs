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
use fulexo_node::start::Running;
use fulexo_node::state::App;
use serde_json::json;
use uuid::Uuid;

use crate::client::Client;
use crate::cluster::Database;

/// What everybody's password is.
pub const PASSWORD: &str = "correct-Horse7battery";

/// A running node.
pub struct Node {
    /// Where it listens.
    pub url: String,
    /// What it works on.
    pub database: Arc<Database>,
    running: Running,
}

impl Node {
    /// A node on a database of its own.
    pub async fn start() -> Self {
        Self::join(&Arc::new(Database::create().await)).await
    }

    /// Another node on a database.
    pub async fn join(database: &Arc<Database>) -> Self {
        Self::with(database, database.env()).await
    }

    /// A node with variables of its own.
    pub async fn with(database: &Arc<Database>, mut env: BTreeMap<String, String>) -> Self {
        env.insert("FULEXO_PORT".into(), "0".into());
        let config = Config::from_vars(env, |path| std::fs::read_to_string(path).map_err(|error| error.to_string()));
        let running =
            Running::start(config.unwrap_or_else(|errors| panic!("{errors}")), faces::endpoint).await.unwrap();
        Self {
            url: format!("{}://127.0.0.1:{}", running.scheme, running.port),
            database: Arc::clone(database),
            running,
        }
    }

    /// What its handlers work with.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        self.running.app()
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.running.port
    }

    /// The port that redirects to HTTPS.
    #[must_use]
    pub fn http_port(&self) -> Option<u16> {
        self.running.http_port
    }

    /// Stops it as an operator would.
    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// Somebody not logged in.
    #[must_use]
    pub fn anonymous(&self) -> Client {
        Client::new(&self.url)
    }

    /// Registers somebody with these roles; answers with the address and the account.
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

    /// Somebody with these roles, logged in.
    pub async fn user(&self, roles: &[&str]) -> Client {
        let (email, account) = self.register(roles).await;
        self.log_in(&email, account).await
    }

    /// A customer, logged in: may do nothing to others.
    pub async fn customer(&self) -> Client {
        self.user(&["customer"]).await
    }

    /// An administrator, logged in.
    pub async fn admin(&self) -> Client {
        self.user(&["admin", "customer"]).await
    }

    /// An auditor, logged in.
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

    /// The same caller in the same session, with a token that says they logged in so long ago.
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

/// A new RSA key of 2048 bits, PKCS#8 in PEM.
#[must_use]
pub fn rsa_key() -> String {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use base64::Engine;
    let der = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}
