//! A real ACME server, pebble, with a name server that says 127.0.0.1 to every name. Both end with the test process.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use fulexo_tests::{Client, Database, eventually, free_port};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::net::TcpStream;

use crate::pki::{Authority, CertificateFiles, believing, directory, put};

/// A running ACME server, and the port at which it looks for http-01.
pub struct Pebble {
    /// The port that stands for 80.
    pub http_port: u16,
    place: Place,
    _servers: [Running; 2],
}

/// The part that stays when a server is started again at the same address.
pub struct Place {
    ports: [u16; 4],
    /// The authority of its own certificate.
    authority: Authority,
    root: PathBuf,
    http_port: u16,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    pub fn new() -> Self {
        let root = directory().join("root.pem");
        let authority = Authority::new();
        put(&root, &authority.pem());
        Self { ports: [0; 4].map(|_| free_port()), authority, root, http_port: free_port() }
    }

    /// Returns a node's variables for the server, even if it does not run.
    pub fn env(&self, names: &str, http_port: u16) -> Vec<(String, String)> {
        [
            ("ACME_DOMAINS", names),
            ("ACME_DIRECTORY", &format!("https://localhost:{}/dir", self.ports[0])),
            ("ACME_ROOT", self.root.to_str().unwrap()),
            ("ACME_CONTACT", "hostmaster@example.com"),
            ("FULEXO_HTTP_PORT", &http_port.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Returns the port at which the server looks for http-01.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Starts the server; its certificates are valid for this many seconds.
    pub async fn start(self, seconds: u32) -> Pebble {
        let [port, management, names, names_management] = self.ports;
        let files = CertificateFiles::new(&self.authority.issue(&["localhost"]));
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": files.cert,
            "privateKey": files.key,
            "httpPort": self.http_port,
            "tlsPort": 1,
            "certificateValidityPeriod": seconds,
        }});
        let path = files.cert.with_file_name("pebble.json");
        put(&path, &config.to_string());
        let name_server = format!("127.0.0.1:{names}");
        let answers = run(
            "pebble-challtestsrv",
            &[
                "-dns01",
                &name_server,
                "-management",
                &format!("127.0.0.1:{names_management}"),
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
            ],
        );
        let pebble = run("pebble", &["-config", path.to_str().unwrap(), "-strict", "-dnsserver", &name_server]);
        for port in [port, management, names] {
            eventually("pebble listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        }
        Pebble { http_port: self.http_port, place: self, _servers: [answers, pebble] }
    }
}

impl Pebble {
    /// Returns the settings of a client that trusts this server's certificates. Its root is another one after each
    /// start.
    pub async fn believed(&self) -> Arc<ClientConfig> {
        let url = format!("https://localhost:{}", self.place.ports[1]);
        let client = Client { tls: Some(self.place.authority.believed()), ..Client::new(&url) };
        let root = CertificateDer::from_pem_slice(client.get("/roots/0").await.text.as_bytes()).unwrap();
        Arc::new(believing(root, rustls::ALL_VERSIONS))
    }

    /// Returns a node's variables for the server.
    pub fn env(&self, names: &str, http_port: u16) -> Vec<(String, String)> {
        self.place.env(names, http_port)
    }

    /// Stops the server; its state is lost.
    pub fn stop(self) -> Place {
        self.place
    }
}

/// Returns the variables of a node on this database, and these.
pub fn with(database: &Database, more: Vec<(String, String)>) -> std::collections::BTreeMap<String, String> {
    let mut env = database.env();
    env.extend(more);
    env
}

/// Starts a program that ends with the thread that started it, even if that thread panics.
fn run(program: &str, arguments: &[&str]) -> Running {
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", program])
        .args(arguments)
        // It neither waits before it looks at a challenge, nor refuses good nonces at random.
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; make setup installs it"));
    Running(child)
}
