//! A wire between the log and Postgres that is cut at a chosen message of the client.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fulexo_tests::postgres_wire::{Messages, address, through};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The fate of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Passes,
    /// It arrives after the answer to one that was late.
    Waits,
    /// It is on its way until it is released; neither end is told.
    IsHeld,
    /// The wire is cut before it.
    NeverArrives,
    /// It arrives, but the wire is cut at once: the client races with what the message does.
    ArrivesUnanswered,
    /// It is answered, but the wire is cut before the answer arrives.
    AnswerIsLost,
    /// The wire is cut to the client; Postgres gets the message, and those sent with it, when it is released.
    ArrivesLate,
}

/// One message of the client (PostgreSQL's documentation, section 55.7).
pub struct Message<'a> {
    /// `true` if Postgres commits on this message: COMMIT, or the Sync after a statement outside a transaction.
    pub commits: bool,
    /// `true` if a statement begins with it.
    pub binds: bool,
    /// The messages that are late.
    pub late: &'a Late,
}

/// Messages held up on the wire.
#[derive(Default)]
pub struct Late {
    is_held: watch::Sender<bool>,
    is_released: watch::Sender<bool>,
    is_answered: watch::Sender<bool>,
}

impl Late {
    /// Lets the held message through.
    pub fn release(&self) {
        self.is_released.send_replace(true);
    }

    /// Returns when one is held.
    pub async fn held(&self) {
        self.is_held.subscribe().wait_for(|is| *is).await.unwrap();
    }

    /// Returns when it has been answered.
    pub async fn answered(&self) {
        self.is_answered.subscribe().wait_for(|is| *is).await.unwrap();
    }
}

type Judge = Arc<dyn Fn(Message<'_>) -> Fate + Send + Sync>;

/// A proxy that listens on its own port until the test ends.
pub struct Proxy {
    port: u16,
    pub late: Arc<Late>,
}

impl Proxy {
    /// Starts a proxy in front of the Postgres of this URL; `judge` is asked about every message after a connection's
    /// first.
    pub async fn start(url: &str, judge: impl Fn(Message<'_>) -> Fate + Send + Sync + 'static) -> Self {
        let postgres: SocketAddr = address(url).parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let late = Arc::new(Late::default());
        let (judge, held): (Judge, _) = (Arc::new(judge), Arc::clone(&late));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (judge, late) = (Arc::clone(&judge), Arc::clone(&held));
                // A wire that breaks by itself looks to both ends like one that is cut.
                tokio::spawn(async move { connect(client, postgres, &judge, &late).await });
            }
        });
        Self { port, late }
    }

    /// Returns the URL of the same database, over this wire.
    pub fn url(&self, url: &str) -> String {
        through(url, self.port)
    }
}

/// Returns a judge that gives the first message that commits this fate; all others pass.
pub fn first_commit(fate: Fate) -> impl Fn(Message<'_>) -> Fate {
    let commits = AtomicUsize::new(0);
    move |message| {
        let is_first = message.commits && commits.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { fate } else { Fate::Passes }
    }
}

async fn connect(mut client: TcpStream, postgres: SocketAddr, judge: &Judge, late: &Late) -> io::Result<()> {
    let mut server = TcpStream::connect(postgres).await?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (mut messages, mut standing, mut answers) = (Messages::default(), Standing::default(), [0; 16_384]);
    loop {
        tokio::select! {
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
                    let kind = if is_startup { Kind::Startup } else { standing.kind(&bytes) };
                    let (commits, binds) = (kind == Kind::Commits, kind == Kind::Binds);
                    let fate = match kind {
                        Kind::Startup => Fate::Passes,
                        _ => judge(Message { commits, binds, late }),
                    };
                    if fate == Fate::Waits {
                        late.answered().await;
                    }
                    if fate == Fate::IsHeld {
                        late.is_held.send_replace(true);
                        late.is_released.subscribe().wait_for(|is| *is).await.unwrap();
                        // Postgres's output so far came before the message.
                        if let Ok(length) = server.try_read(&mut answers) {
                            client.write_all(&answers[..length]).await?;
                        }
                    }
                    match fate {
                        Fate::Passes | Fate::Waits | Fate::IsHeld => server.write_all(&bytes).await?,
                        Fate::NeverArrives => return Ok(()),
                        Fate::ArrivesUnanswered => {
                            drop(client);
                            server.write_all(&bytes).await?;
                            return server.read(&mut answers).await.map(drop);
                        }
                        Fate::AnswerIsLost => {
                            server.write_all(&bytes).await?;
                            return server.read(&mut answers).await.map(drop);
                        }
                        Fate::ArrivesLate => {
                            let rest = until_sync(&mut messages, &mut client, kind).await?;
                            drop(client);
                            late.is_released.subscribe().wait_for(|is| *is).await.unwrap();
                            server.write_all(&[bytes, rest].concat()).await?;
                            let answered = server.read(&mut answers).await.map(drop);
                            late.is_answered.send_replace(true);
                            return answered;
                        }
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Binds,
    Commits,
    Other,
}

/// The state of a connection.
#[derive(Default)]
struct Standing {
    is_in_transaction: bool,
    has_executed: bool,
}

impl Standing {
    fn kind(&mut self, message: &[u8]) -> Kind {
        match (message[0], &message[5..]) {
            (b'Q', b"BEGIN\0") => self.is_in_transaction = true,
            (b'Q', b"COMMIT\0") => {
                self.is_in_transaction = false;
                return Kind::Commits;
            }
            (b'Q', b"ROLLBACK\0") => self.is_in_transaction = false,
            (b'B', _) => return Kind::Binds,
            (b'E', _) => self.has_executed = true,
            (b'S', _) if std::mem::take(&mut self.has_executed) && !self.is_in_transaction => return Kind::Commits,
            _ => {}
        }
        Kind::Other
    }
}

/// Returns everything that was sent together with a message of this kind.
async fn until_sync(messages: &mut Messages, client: &mut TcpStream, kind: Kind) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut is_whole = kind == Kind::Commits;
    while !is_whole {
        if let Some((message, _)) = messages.take() {
            is_whole = message[0] == b'S';
            all.extend(message);
        } else if client.read_buf(&mut messages.bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(all)
}
