//! NATS servers of one test, alone or as a cluster, of the oldest and the newest supported version: killed, stopped,
//! suspended, wiped, and returned to what they had stored before.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context, Message};
use fulexo_dev_servers::{ClusterOptions, DataDir, Nats, NatsOptions};
use futures_util::StreamExt;
use tokio::time::sleep;

use crate::cluster::{dir, own_dir};
use crate::port::free_port;

const PASSWORD: &str = "only-for-tests";

/// A nats-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsVersion {
    /// The installed version: 2.9 on Debian 12.
    Installed,
    /// A current version, which `scripts/setup` puts into `target/tools/nats`.
    Current,
}

impl NatsVersion {
    /// Both versions.
    pub const ALL: [Self; 2] = [Self::Installed, Self::Current];

    fn binary(self) -> Option<PathBuf> {
        match self {
            Self::Installed => None,
            Self::Current => {
                // All servers link to one copy: their directories may be in another file system.
                static COPY: LazyLock<PathBuf> = LazyLock::new(|| {
                    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/nats/bin/nats-server");
                    assert!(path.exists(), "there is no current nats-server: run scripts/setup");
                    let copy = dir().join("nats-server");
                    // By another process: a child that a thread of this one starts meanwhile would have the copy open for
                    // writing, too, and nobody could execute it until then.
                    assert!(Command::new("cp").arg(path).arg(&copy).status().unwrap().success());
                    copy
                });
                Some(COPY.clone())
            }
        }
    }
}

/// One server, or several that form a cluster. They end with the test.
pub struct NatsCluster {
    dir: DataDir,
    options: Vec<NatsOptions>,
    servers: Vec<Mutex<Option<Nats>>>,
    /// The ports of the servers at the start; a restarted server uses its port again.
    ports: Vec<u16>,
}

impl NatsCluster {
    /// Starts this many servers; returns when JetStream answers.
    pub async fn start(version: NatsVersion, count: usize) -> Self {
        Self::start_with(version, count, "1GB").await
    }

    /// Does the same, with this much room on disk.
    pub async fn start_with(version: NatsVersion, count: usize, max_file_store: &str) -> Self {
        let dir = own_dir();
        let routes: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let options: Vec<NatsOptions> = routes
            .iter()
            .enumerate()
            .map(|(number, port)| NatsOptions {
                name: Some(format!("nats-{number}")),
                binary: version.binary(),
                password: Some(PASSWORD.to_owned()),
                max_file_store: Some(max_file_store.to_owned()),
                cluster: (count > 1).then(|| ClusterOptions { port: *port, routes: routes.clone() }),
            })
            .collect();
        for number in 0..count {
            // The file is there as if the server had run before: a server that is killed must return to its port.
            let port = dir.path().join(format!("nats-{number}.port"));
            std::fs::write(port, free_port().to_string()).unwrap();
        }
        let servers: Vec<Nats> = options.iter().map(|options| Nats::start_with(&dir, options).unwrap()).collect();
        let ports = servers.iter().map(Nats::port).collect();
        let servers = servers.into_iter().map(|server| Mutex::new(Some(server))).collect();
        let cluster = Self { dir, options, servers, ports };
        cluster.wait_for_jetstream().await;
        cluster
    }

    /// Starts one server.
    pub async fn one(version: NatsVersion) -> Self {
        Self::start(version, 1).await
    }

    /// Returns the URLs of all servers, for `NATS_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<_> = (0..self.ports.len()).map(|number| self.url_of(number)).collect();
        urls.join(",")
    }

    /// Returns the URL of one server.
    #[must_use]
    pub fn url_of(&self, number: usize) -> String {
        format!("nats://fulexo:{PASSWORD}@127.0.0.1:{}", self.ports[number])
    }

    /// Connects another client to JetStream.
    pub async fn jetstream(&self) -> Context {
        let options = ConnectOptions::with_user_and_password("fulexo".to_owned(), PASSWORD.to_owned());
        let addresses: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        jetstream::new(options.retry_on_initial_connect().connect(addresses).await.unwrap())
    }

    /// Returns when JetStream takes orders.
    pub async fn wait_for_jetstream(&self) {
        let mut jetstream = self.jetstream().await;
        jetstream.set_timeout(Duration::from_secs(1));
        for _ in 0..300 {
            // The leader of a cluster returns names; any server returns an account's figures.
            let query = serde_json::json!({});
            let answer: Result<serde_json::Value, _> = jetstream.request("STREAM.NAMES", &query).await;
            if answer.is_ok_and(|answer| answer.get("error").is_none()) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("JetStream does not answer");
    }

    /// Returns when every server has all of this stream: a cluster survives the loss of one at a time.
    pub async fn wait_for_replicas(&self, stream: &str) {
        self.wait_for_jetstream().await;
        let mut jetstream = self.jetstream().await;
        jetstream.set_timeout(Duration::from_secs(1));
        for _ in 0..600 {
            if let Ok(stream) = jetstream.get_stream(stream).await {
                let cluster = stream.cached_info().cluster.as_ref().unwrap();
                let caught_up = cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count();
                if cluster.leader.is_some() && caught_up + 1 == self.servers.len() {
                    return;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("the servers do not come to the same");
    }

    /// Kills a server, so that it cannot write anything more.
    pub fn kill(&self, number: usize) {
        let mut server = self.servers[number].lock().unwrap();
        if let Some(mut server) = server.take() {
            signal("KILL", server.pid());
            server.stop();
        }
    }

    /// Stops a server as an operator would.
    pub fn stop(&self, number: usize) {
        let server = self.servers[number].lock().unwrap().take();
        drop(server);
    }

    /// Starts a server again on what it has stored.
    pub fn start_again(&self, number: usize) {
        let server = Nats::start_with(&self.dir, &self.options[number]).unwrap();
        assert_eq!(server.port(), self.ports[number], "somebody took the port");
        *self.servers[number].lock().unwrap() = Some(server);
    }

    /// Suspends a server; it looks alive to the kernel, and answers nobody.
    pub fn suspend(&self, number: usize) {
        signal("STOP", self.servers[number].lock().unwrap().as_ref().unwrap().pid());
    }

    /// Resumes the server.
    pub fn resume(&self, number: usize) {
        signal("CONT", self.servers[number].lock().unwrap().as_ref().unwrap().pid());
    }

    /// Removes the stored data of a server that does not run.
    pub fn wipe(&self, number: usize) {
        assert!(self.servers[number].lock().unwrap().is_none(), "it runs");
        let _ = std::fs::remove_dir_all(self.store(number));
    }

    /// Copies the stored data of a server that does not run.
    #[must_use]
    pub fn copy_store(&self, number: usize) -> PathBuf {
        assert!(self.servers[number].lock().unwrap().is_none(), "it runs");
        let copy = self.dir.path().join(format!("copy-of-{number}"));
        let _ = std::fs::remove_dir_all(&copy);
        copy_dir(&self.store(number), &copy);
        copy
    }

    /// Returns a server that does not run to a copy of its stored data.
    pub fn restore_store(&self, number: usize, copy: &Path) {
        self.wipe(number);
        copy_dir(copy, &self.store(number));
    }

    /// Returns the number of the server that leads this stream.
    pub async fn leader(&self, stream: &str) -> usize {
        let jetstream = self.jetstream().await;
        let info = jetstream.get_stream(stream).await.unwrap().get_info().await.unwrap();
        let leader = info.cluster.unwrap().leader.unwrap();
        self.number_of(&leader)
    }

    fn number_of(&self, name: &str) -> usize {
        let is_it = |number: &usize| self.name_of(*number) == name;
        (0..self.servers.len()).find(is_it).unwrap()
    }

    /// Returns the name that a server gives itself: its place in the file system.
    fn name_of(&self, number: usize) -> String {
        use std::os::unix::fs::MetadataExt;
        let home = std::fs::metadata(self.dir.path().join(format!("nats-{number}"))).unwrap();
        format!("fulexo-{:x}-{:x}", home.dev(), home.ino())
    }

    fn store(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("nats-{number}/jetstream"))
    }
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("/bin/sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Copies with owners and modes, which the user that runs the server needs.
fn copy_dir(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// Returns all messages that a stream holds. If its leader changes meanwhile, the server ends the consumer with an error; any
/// consumer would then ask again.
pub async fn stored_messages(stream: &Stream) -> Vec<Message> {
    let mut failures = Vec::new();
    while failures.len() < 20 {
        match read_all(stream).await {
            Ok(messages) => return messages,
            Err(error) => failures.push(error.to_string()),
        }
        sleep(Duration::from_millis(250)).await;
    }
    panic!("the stream could not be read: {failures:?}");
}

async fn read_all(stream: &Stream) -> Result<Vec<Message>, async_nats::Error> {
    let config =
        pull::Config { deliver_policy: DeliverPolicy::All, ack_policy: AckPolicy::None, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await?;
    let (held, mut messages) = (stream.cached_info().state.messages, Vec::new());
    while (messages.len() as u64) < held {
        let (before, mut batch) = (messages.len(), consumer.fetch().max_messages(1_000).messages().await?);
        while let Some(message) = batch.next().await {
            messages.push(message?);
        }
        if messages.len() == before {
            return Err("a batch is empty".into());
        }
    }
    Ok(messages)
}
