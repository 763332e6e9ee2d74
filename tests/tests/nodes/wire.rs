//! A wire between one node and Postgres on which a test holds up what it chooses: all of it, or by what is asked.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fulexo_tests::postgres_wire::{Messages, address, through};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The fate of messages of a kind, until the test changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    #[default]
    Passes,
    /// It is held up.
    Waits,
    /// It arrives, and its answer is held up.
    AnswerWaits,
    /// The connection breaks in its place.
    Breaks,
    /// From here on nothing comes through on this connection, and nobody is told; the others are as before.
    Vanishes,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// All messages that are not one of the others.
    pub rest: Fate,
    /// The statement that renews a lease.
    pub renewals: Fate,
    /// The statement that reads the log's head.
    pub heads: Fate,
    /// The statement that reads the registry of nodes.
    pub registry: Fate,
}

pub struct Wire {
    port: u16,
    rules: watch::Sender<Rules>,
    /// The number of answers that were held up so far.
    held: watch::Sender<usize>,
    /// The number of times that the log's head was read.
    heads: AtomicUsize,
}

impl Wire {
    /// Starts a wire in front of the Postgres of this URL.
    pub async fn start(url: &str) -> Arc<Self> {
        let postgres = address(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (rules, held) = (watch::Sender::default(), watch::Sender::default());
        let wire = Arc::new(Self { port, rules, held, heads: AtomicUsize::new(0) });
        let for_all = Arc::clone(&wire);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (wire, postgres) = (Arc::clone(&for_all), postgres.clone());
                tokio::spawn(async move { wire.connect(client, &postgres).await });
            }
        });
        wire
    }

    /// Returns the URL of the same database, over this wire.
    pub fn url(&self, url: &str) -> String {
        through(url, self.port)
    }

    pub fn rule(&self, rules: Rules) {
        self.rules.send_replace(rules);
    }

    /// Returns the number of times that the log's head was read so far.
    pub fn heads(&self) -> usize {
        self.heads.load(Ordering::Relaxed)
    }

    /// Returns once an answer is held up, or a connection has vanished.
    pub async fn holds_an_answer(&self) {
        self.held.subscribe().wait_for(|held| *held > 0).await.unwrap();
    }

    async fn connect(&self, mut client: TcpStream, postgres: &str) -> io::Result<()> {
        let mut server = TcpStream::connect(postgres).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let (mut rules, mut cut) = (self.rules.subscribe(), self.rules.subscribe());
        let (mut messages, mut statements, mut answers) = (Messages::default(), Statements::default(), [0; 16_384]);
        loop {
            tokio::select! {
                // A wire that is cut is cut for silent connections, too.
                () = async { drop(cut.wait_for(|rules| rules.rest == Fate::Breaks).await) } => return Ok(()),
                read = server.read(&mut answers) => {
                    let length = read?;
                    if length == 0 {
                        return Ok(());
                    }
                    client.write_all(&answers[..length]).await?;
                }
                read = client.read_buf(&mut messages.bytes) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    while let Some((bytes, is_startup)) = messages.take() {
                        let fate = if is_startup { |rules: &Rules| rules.rest } else { statements.rule(&bytes) };
                        let now = *rules.wait_for(|rules| fate(rules) != Fate::Waits).await.unwrap();
                        let is_held = match fate(&now) {
                            Fate::Breaks => return Ok(()),
                            Fate::Vanishes => {
                                self.rules.send_replace(Rules::default());
                                self.held.send_modify(|held| *held += 1);
                                return std::future::pending().await;
                            }
                            Fate::AnswerWaits => true,
                            Fate::Passes | Fate::Waits => false,
                        };
                        let is_head = fate(&Rules { heads: Fate::Breaks, ..Rules::default() }) == Fate::Breaks;
                        self.heads.fetch_add(usize::from(is_head), Ordering::Relaxed);
                        server.write_all(&bytes).await?;
                        if is_held {
                            // The messages after it, up to Sync, were sent with it.
                            server.write_all(&std::mem::take(&mut messages.bytes)).await?;
                            let length = server.read(&mut answers).await?;
                            self.held.send_modify(|held| *held += 1);
                            drop(rules.wait_for(|rules| fate(rules) != Fate::AnswerWaits).await);
                            client.write_all(&answers[..length]).await?;
                        }
                    }
                }
            }
        }
    }
}

/// The rule for a message.
type Rule = fn(&Rules) -> Fate;

/// The statements prepared on a connection: the rule for each, by its name.
#[derive(Default)]
struct Statements(HashMap<Vec<u8>, Rule>);

impl Statements {
    /// Returns the rule for a message.
    fn rule(&mut self, message: &[u8]) -> Rule {
        let mut texts = message[5..].split(|byte| *byte == 0);
        match (message[0], texts.next(), texts.next()) {
            // Parse: the statement's name and its text.
            (b'P', Some(name), Some(text)) => {
                let has = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
                let rule: Rule = if has(b"set renewals = $2") {
                    |rules| rules.renewals
                } else if has(b"from log.head h left join log.event e") {
                    |rules| rules.heads
                } else if has(b"from projection.node order by") {
                    |rules| rules.registry
                } else {
                    |rules| rules.rest
                };
                self.0.insert(name.to_vec(), rule);
                |rules| rules.rest
            }
            // Bind: the portal's name and the statement's.
            (b'B', Some(_), Some(name)) => self.0.get(name).copied().unwrap_or(|rules| rules.rest),
            _ => |rules| rules.rest,
        }
    }
}
