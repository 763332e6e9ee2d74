//! A private nats-server with JetStream, for one user; for tests also several, as a cluster.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::data_dir::{DataDir, ServerError, find, io_error, remove, store};
use crate::server::{Ended, HOME, Home, ServerProcess};

const GREETING_LIMIT: Duration = Duration::from_secs(1);
const PROGRAM: &str = "nats-server";

/// The differences from the server that `fulexo dev` starts.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// Its name in the data directory, where that has several.
    pub name: Option<String>,
    /// The program; else the one that is installed.
    pub binary: Option<PathBuf>,
    /// The password; else one is drawn.
    pub password: Option<String>,
    /// Most that JetStream keeps on disk, such as `64MB`; else 1 GB.
    pub max_file_store: Option<String>,
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterOptions>,
}

/// A server's place among others on this machine.
#[derive(Clone)]
pub struct ClusterOptions {
    /// The port on which it listens for the other servers.
    pub port: u16,
    /// The ports on which all of them listen for each other.
    pub routes: Vec<u16>,
}

/// A running nats-server. Dropping it shuts it down.
pub struct Nats {
    server: ServerProcess,
    port: u16,
    password: Zeroizing<String>,
}

impl Nats {
    /// Starts the server of this directory and returns once it accepts connections. A server still running
    /// there is shut down first. JetStream keeps up to 64 MB in memory and 1 GB on disk.
    pub fn start(dir: &DataDir) -> Result<Nats, ServerError> {
        Self::start_with(dir, &NatsOptions::default())
    }

    /// The same for a server that differs.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start_with(dir: &DataDir, options: &NatsOptions) -> Result<Nats, ServerError> {
        let home = Home::open(dir, options.name.as_deref().unwrap_or("nats"), PROGRAM)?;
        let binary = match &options.binary {
            Some(binary) => bring(binary, &home)?,
            None => installed()?,
        };
        let password = match &options.password {
            Some(password) => Zeroizing::new(password.clone()),
            None => home.password(true)?,
        };
        home.take_over(&home.path.join("nats.pid"))?;
        let args = |port: u16| {
            let config = config(port, &password, options);
            store(&home.path.join("nats.conf"), &config, home.user)?;
            let config_path = format!("{HOME}/nats.conf");
            Ok(vec!["-c".to_owned(), config_path, "--name".to_owned(), home.mark.clone()])
        };
        let (server, port) = home.serve(&binary, args, |_, port| greets_as(&home.mark, port))?;
        Ok(Nats { server, port, password })
    }

    /// The URL, with the user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://fulexo:{}@127.0.0.1:{}", *self.password, self.port)
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid
    }

    /// `true` if the server still runs. The answer may be 200 ms late.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Shuts down; by force after 30 s.
    pub fn stop(&mut self) -> Ended {
        self.server.stop()
    }
}

fn installed() -> Result<PathBuf, ServerError> {
    let dirs = ["/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    find(PROGRAM, dirs).ok_or(ServerError::Missing(PROGRAM, PROGRAM))
}

/// The program inside the server's home: its user may not be able to enter the directory where it is.
fn bring(binary: &Path, home: &Home) -> Result<PathBuf, ServerError> {
    let here = home.path.join(PROGRAM);
    remove(&here)?;
    fs::hard_link(binary, &here).or_else(|_| fs::copy(binary, &here).map(drop)).map_err(io_error("copy", binary))?;
    Ok(PathBuf::from(HOME).join(PROGRAM))
}

/// The configuration file. It holds the password, so its text has its full capacity from the start, and is wiped.
fn config(port: u16, password: &str, options: &NatsOptions) -> Zeroizing<String> {
    let max_file_store = options.max_file_store.as_deref().unwrap_or("1GB");
    let cluster = options.cluster.as_ref().map(|ClusterOptions { port, routes }| {
        let routes: Vec<_> = routes.iter().map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).collect();
        // Clients know the servers that they were told of, and no others.
        format!(
            "cluster {{ name: \"fulexo\", listen: \"127.0.0.1:{port}\", no_advertise: true, routes: [{}] }}\n",
            routes.join(", ")
        )
    });
    let before = format!(
        r#"listen: "127.0.0.1:{port}"
pid_file: "{HOME}/nats.pid"
authorization {{ user: "fulexo", password: ""#
    );
    let after = format!(
        r#"" }}
jetstream {{ store_dir: "{HOME}", max_memory_store: 64MB, max_file_store: {max_file_store} }}
{}"#,
        cluster.unwrap_or_default()
    );
    let mut text = Zeroizing::new(String::with_capacity(before.len() + password.len() + after.len()));
    for part in [before.as_str(), password, after.as_str()] {
        text.push_str(part);
    }
    text
}

/// `true` if the server on this port has this name. A server says its name before it asks for a password.
fn greets_as(name: &str, port: u16) -> bool {
    let mut greeting = [0; 4096];
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let read = TcpStream::connect_timeout(&address, GREETING_LIMIT).and_then(|mut stream| {
        stream.set_read_timeout(Some(GREETING_LIMIT))?;
        stream.read(&mut greeting)
    });
    let text = read.ok().and_then(|length| greeting.get(..length)).unwrap_or_default();
    String::from_utf8_lossy(text).contains(&format!(r#""server_name":"{name}""#))
}
