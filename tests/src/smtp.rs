//! A mail server on loopback that keeps what it is given (RFC 5321), and misbehaves if a test wants it to. It delivers
//! nothing and believes every login.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A mail that was handed over.
#[derive(Clone)]
pub struct Mail {
    /// The sender, from the envelope.
    pub from: String,
    /// The recipients, from the envelope.
    pub to: Vec<String>,
    /// Head and body as they were sent, without the doubled dots.
    pub data: String,
}

impl Mail {
    /// Returns a mail that was written to a file.
    #[must_use]
    pub fn of(data: String) -> Self {
        let unaddressed = Self { from: String::new(), to: Vec::new(), data };
        let header = |name| unaddressed.header(name).unwrap_or_default();
        let (from, to) = (header("From"), vec![header("To")]);
        Self { from, to, ..unaddressed }
    }

    /// `true` if its link leads to this page.
    #[must_use]
    pub fn leads_to(&self, page: &str) -> bool {
        self.text().contains(&format!("/account/{page}#token="))
    }

    /// Returns the token that its link holds.
    #[must_use]
    pub fn token(&self) -> String {
        let text = self.text();
        let (_, rest) = text.split_once("#token=").unwrap();
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect()
    }

    /// Returns the value of a header, unfolded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.data.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        head.split("\r\n").find_map(|line| {
            let (is, value) = line.split_once(": ")?;
            is.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }

    /// Returns the text, its transfer encoding undone (RFC 2045, section 6), lines ended by `\n`.
    #[must_use]
    pub fn text(&self) -> String {
        let body = self.data.split_once("\r\n\r\n").unwrap().1;
        match self.header("Content-Transfer-Encoding").as_deref() {
            Some("7bit" | "8bit") => body.to_owned(),
            Some("quoted-printable") => quoted_printable(body),
            Some("base64") => {
                use base64::Engine;
                let packed: String = body.split("\r\n").collect();
                String::from_utf8(base64::engine::general_purpose::STANDARD.decode(packed).unwrap()).unwrap()
            }
            other => panic!("encoding {other:?}"),
        }
        .replace("\r\n", "\n")
    }
}

fn quoted_printable(body: &str) -> String {
    let mut bytes = Vec::new();
    let joined = body.replace("=\r\n", "");
    let mut rest = joined.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'=' {
            let (digits, tail) = rest.split_at(2);
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// The server's treatment of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It keeps it.
    Accept,
    /// It answers RCPT with this code.
    Refuse(u16),
    /// It does not greet its clients.
    Hang,
    /// It takes the text, and closes the connection without an answer.
    Drop,
}

#[derive(Default)]
struct Kept {
    mails: Vec<Mail>,
    commands: Vec<String>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    kept: Mutex<Kept>,
    extensions: Mutex<Vec<&'static str>>,
    tls: Option<Tls>,
}

struct Tls {
    acceptor: TlsAcceptor,
    /// `true` if TLS begins with the first byte, `false` if after STARTTLS.
    at_once: bool,
}

/// A connection, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The server; it ends when this is dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Sink {
    /// Starts a server on a free port of loopback, without TLS.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a server that speaks TLS from the first byte, or offers STARTTLS.
    pub async fn start_tls(certified: &CertifiedKey<KeyPair>, at_once: bool) -> Self {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        Self::start_with(Some(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), at_once })).await
    }

    async fn start_with(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let extensions = match &tls {
            Some(tls) if !tls.at_once => vec!["8BITMIME", "STARTTLS"],
            Some(_) | None => vec!["8BITMIME"],
        };
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Accept),
            kept: Mutex::default(),
            extensions: Mutex::new(extensions),
            tls,
        });
        let for_all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            // The connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&for_all);
                connections.spawn(async move { shared.converse(stream).await });
            }
        });
        Self { address, shared, task }
    }

    /// Returns the value for `SMTP_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Returns its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the mails that it has kept, in order.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.kept.lock().unwrap().mails.clone()
    }

    /// Returns the commands that it was given, in order, by their first word.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.shared.kept.lock().unwrap().commands.clone()
    }

    /// Sets how it behaves from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// Sets the extensions that it offers from now on.
    pub fn offer(&self, extensions: &[&'static str]) {
        *self.shared.extensions.lock().unwrap() = extensions.to_vec();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn converse(&self, stream: TcpStream) -> Option<()> {
        let wire: Box<dyn Wire> = match &self.tls {
            Some(tls) if tls.at_once => Box::new(tls.acceptor.accept(stream).await.ok()?),
            Some(_) | None => Box::new(stream),
        };
        let mut wire = BufReader::new(wire);
        let mut mail = Mail { from: String::new(), to: Vec::new(), data: String::new() };
        if *self.behaviour.lock().unwrap() == Behaviour::Hang {
            return std::future::pending().await;
        }
        say(&mut wire, b"220 sink.example ESMTP\r\n").await?;
        while let Some(line) = line(&mut wire).await {
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            self.kept.lock().unwrap().commands.push(verb.clone());
            let answer = match verb.as_str() {
                "EHLO" | "HELO" => {
                    let mut lines = vec!["sink.example"];
                    lines.extend(self.extensions.lock().unwrap().iter());
                    let last = lines.pop().unwrap_or_default();
                    lines.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + &format!("250 {last}")
                }
                "STARTTLS" => {
                    let Some(tls) = &self.tls else { return None };
                    say(&mut wire, b"220 go ahead\r\n").await?;
                    wire = BufReader::new(Box::new(tls.acceptor.accept(wire.into_inner()).await.ok()?));
                    continue;
                }
                "AUTH" => "235 welcome".to_owned(),
                "MAIL" => {
                    mail = Mail { from: path(&line), to: Vec::new(), data: String::new() };
                    "250 ok".to_owned()
                }
                "RCPT" => match *self.behaviour.lock().unwrap() {
                    // It repeats the address, as real servers do.
                    Behaviour::Refuse(code) => format!("{code} <{}> is not wanted here", path(&line)),
                    Behaviour::Accept | Behaviour::Hang | Behaviour::Drop => {
                        mail.to.push(path(&line));
                        "250 ok".to_owned()
                    }
                },
                "DATA" if mail.to.is_empty() => "503 no recipient".to_owned(),
                "DATA" => {
                    say(&mut wire, b"354 go on\r\n").await?;
                    mail.data = data(&mut wire).await?;
                    if *self.behaviour.lock().unwrap() == Behaviour::Drop {
                        return None;
                    }
                    self.kept.lock().unwrap().mails.push(mail.clone());
                    mail.to.clear();
                    "250 kept".to_owned()
                }
                "RSET" | "NOOP" => "250 ok".to_owned(),
                "QUIT" => {
                    say(&mut wire, b"221 goodbye\r\n").await?;
                    return None;
                }
                _ => "502 what is that".to_owned(),
            };
            say(&mut wire, format!("{answer}\r\n").as_bytes()).await?;
        }
        None
    }
}

async fn say(wire: &mut BufReader<Box<dyn Wire>>, bytes: &[u8]) -> Option<()> {
    wire.write_all(bytes).await.ok()?;
    wire.flush().await.ok()
}

async fn line(read: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    read.read_until(b'\n', &mut line).await.ok().filter(|read| *read > 0)?;
    // A bare line break would hide an injection.
    let line = line.strip_suffix(b"\r\n").unwrap_or_else(|| panic!("a line without CR LF: {line:?}"));
    assert!(!line.contains(&b'\r'), "a bare CR");
    Some(String::from_utf8(line.to_vec()).unwrap())
}

/// Reads up to the lone dot (RFC 5321, section 4.5.2).
async fn data(read: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut data = String::new();
    loop {
        let line = line(read).await?;
        assert!(line.len() <= 998, "a line of {} bytes (RFC 5322, section 2.1.1)", line.len());
        match line.strip_prefix('.') {
            Some("") => return Some(data),
            Some(stuffed) => data.push_str(stuffed),
            None => data.push_str(&line),
        }
        data.push_str("\r\n");
    }
}

/// Returns the text in the angle brackets.
fn path(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or_else(String::new, |(path, _)| path.to_owned())
}
