//! A private nats-server with JetStream, for one user.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::server::{HOME, Home, Server};
use super::{DataDir, Ended, StartError, find, store};

const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// A running nats-server. Dropping it shuts it down.
pub struct Nats {
    server: Server,
    port: u16,
    password: Zeroizing<String>,
}

impl Nats {
    /// Starts the server of this directory and returns once it accepts connections. A server still running
    /// there is shut down first. JetStream keeps up to 64 MB in memory and 1 GB on disk.
    pub fn start(dir: &DataDir) -> Result<Nats, StartError> {
        let home = Home::open(dir, "nats", "nats-server")?;
        let missing = StartError::Missing("nats-server", "nats-server");
        let dirs = ["/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
        let binary = find("nats-server", dirs).ok_or(missing)?;
        let password = home.password(true)?;
        home.take_over(&home.path.join("nats.pid"))?;
        let args = |port: u16| {
            let config = Zeroizing::new(config(port, &password));
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

    /// Whether the server still runs; up to 200 ms late.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Shuts down; by force after 30 s.
    pub fn stop(&mut self) -> Ended {
        self.server.stop()
    }
}

fn config(port: u16, password: &str) -> String {
    format!(
        r#"listen: "127.0.0.1:{port}"
pid_file: "{HOME}/nats.pid"
authorization {{ user: "fulexo", password: "{password}" }}
jetstream {{ store_dir: "{HOME}", max_memory_store: 64MB, max_file_store: 1GB }}
"#
    )
}

/// Whether the server on this port has this name: it says so before it asks for a password.
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
