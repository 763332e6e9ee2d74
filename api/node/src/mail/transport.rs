//! Sends a letter to a mail server, or writes it to a file. It tries once: the caller keeps the letter, and tries again unless
//! [`SendError::is_permanent`].

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fulexo_domain::values::EmailAddress;
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use tokio::time;
use uuid::Uuid;

use crate::clock;
use crate::config::mail::{MailConfig, MailTransport, Relay, SmtpSecurity};

/// The timeout of a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The timeout of a letter, from the look-up of the server's name to its acceptance.
const WHOLE: Duration = Duration::from_secs(20);
/// The timeout of QUIT.
const GOODBYE: Duration = Duration::from_secs(1);

/// A letter to one person. It has no `Debug`: the address and the text are personal, and the text may contain a token.
pub struct Letter {
    /// The recipient.
    pub to: EmailAddress,
    /// The subject: one line.
    pub subject: String,
    /// The plain text, with lines that end in `\n`.
    pub text: String,
    /// The id, the same at every attempt. It becomes the `Message-ID`, by which a repeated letter is recognised.
    pub id: Uuid,
}

/// A transport of letters.
pub enum Transport {
    /// SMTP (RFC 5321), with one connection per letter.
    Smtp(Smtp),
    /// Files.
    Files(FileTransport),
}

/// A mail server.
pub struct Smtp {
    from: Mailbox,
    host: String,
    port: u16,
    hello: ClientId,
    security: SmtpSecurity,
    /// The parameters of TLS or STARTTLS.
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    limit: Duration,
}

/// A directory of `.eml` files.
pub struct FileTransport {
    from: Mailbox,
    dir: PathBuf,
}

/// The failure to send a letter. Its text has no part of the letter, and not the server's reply, which may repeat the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A reply of 4yz (RFC 5321, section 4.2.1), or one that only the operator can resolve.
    #[error("the mail server refuses temporarily, with {0}")]
    RefusedForNow(u16),
    /// A reply of 5yz to the letter itself.
    #[error("the mail server refuses the letter, with {0}")]
    Refused(u16),
    /// An address that needs an extension which the server lacks (SMTPUTF8, RFC 6531), or that is not a mail address.
    #[error("the mail server cannot deliver to this address")]
    Address,
    /// A failed connection, TLS handshake or login.
    #[error("{0}")]
    Connection(&'static str),
    /// A timeout. The server may have the letter.
    #[error("the mail server did not respond in time")]
    Timeout,
    /// A failed write of a file.
    #[error("cannot write to the mail directory")]
    File,
}

impl SendError {
    /// `true` if the same letter would be refused again.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::Refused(_) | Self::Address => true,
            Self::RefusedForNow(_) | Self::Connection(_) | Self::Timeout | Self::File => false,
        }
    }
}

impl Transport {
    /// Prepares the transport. It does not connect.
    ///
    /// # Errors
    /// If the directory cannot be created, or no certificate can have the server's name.
    pub fn new(config: &MailConfig) -> Result<Self, String> {
        let from = config.from.clone();
        match &config.transport {
            MailTransport::Smtp(relay) => Smtp::new(from, relay).map(Self::Smtp),
            MailTransport::Files(dir) => FileTransport::new(from, dir).map(Self::Files),
        }
    }

    /// Replaces the timeout of 20 seconds per letter.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        if let Self::Smtp(smtp) = &mut self {
            smtp.limit = limit;
        }
        self
    }

    /// Sends a letter, once, within 20 seconds.
    ///
    /// # Errors
    /// If the letter was not sent, or may not have been sent.
    pub async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        match self {
            Self::Smtp(smtp) => smtp.send(letter).await,
            Self::Files(files) => files.send(letter).await,
        }
    }
}

impl Smtp {
    fn new(from: Mailbox, relay: &Relay) -> Result<Self, String> {
        let tls = match relay.security {
            SmtpSecurity::Tls | SmtpSecurity::StartTls => {
                Some(TlsParameters::new(relay.host.clone()).map_err(|_| {
                    "TLS to the host of SMTP_URL is not possible: no certificate can have this name".to_owned()
                })?)
            }
            SmtpSecurity::Loopback => None,
        };
        let credentials =
            relay.login.as_ref().map(|login| Credentials::new(login.user.clone(), login.password.to_string()));
        Ok(Self {
            hello: ClientId::Domain(from.email.domain().to_owned()),
            from,
            host: relay.host.clone(),
            port: relay.port,
            security: relay.security,
            tls,
            credentials,
            limit: WHOLE,
        })
    }

    async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        let message = message(&self.from, letter)?;
        let (envelope, bytes) = (message.envelope(), message.formatted());
        let mut connection = time::timeout(self.limit, async {
            let mut connection = self.connect().await?;
            connection.send(envelope, &bytes).await.map_err(|error| refused(&error))?;
            Ok(connection)
        })
        .await
        .map_err(|_| SendError::Timeout)??;
        // The server has the letter: a failed QUIT changes nothing.
        let _ = time::timeout(GOODBYE, connection.quit()).await;
        Ok(())
    }

    /// Opens a connection that is ready for a letter. Failures up to this point do not concern the letter.
    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let server = (self.host.as_str(), self.port);
        let tls = self.tls.clone();
        let (at_once, later) = match self.security {
            SmtpSecurity::Tls => (tls, None),
            SmtpSecurity::StartTls => (None, tls),
            SmtpSecurity::Loopback => (None, None),
        };
        let mut connection = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT), &self.hello, at_once, None)
            .await
            .map_err(|error| unready(&error, "the mail server is not reachable, or the TLS handshake failed"))?;
        if let Some(tls) = later {
            connection.starttls(tls, &self.hello).await.map_err(|error| {
                unready(&error, "the mail server does not offer STARTTLS with a trusted certificate")
            })?;
        }
        // A safeguard against later edits: from here on passwords and letters are sent.
        if self.security != SmtpSecurity::Loopback && !connection.is_encrypted() {
            return Err(SendError::Connection("the connection to the mail server is not encrypted"));
        }
        if let Some(credentials) = &self.credentials {
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], credentials)
                .await
                .map_err(|error| unready(&error, "the mail server refuses the login"))?;
        }
        Ok(connection)
    }
}

type SmtpError = lettre::transport::smtp::Error;

/// Maps a failure before the letter: another attempt may succeed.
fn unready(error: &SmtpError, what: &'static str) -> SendError {
    error.status().map_or(SendError::Connection(what), |code| SendError::RefusedForNow(code.into()))
}

fn refused(error: &SmtpError) -> SendError {
    match error.status() {
        // RFC 4954, section 6: the server requires a login, or another one. The letter is not at fault.
        Some(code) if error.is_permanent() && !wants_login(code) => SendError::Refused(code.into()),
        Some(code) => SendError::RefusedForNow(code.into()),
        // The client itself refuses only an address or text that the server's extensions do not cover.
        None if error.is_client() => SendError::Address,
        None => SendError::Connection("the connection to the mail server was lost"),
    }
}

/// `true` for the codes 530 to 538.
fn wants_login(code: lettre::transport::smtp::response::Code) -> bool {
    let number = u16::from(code);
    (530..=538).contains(&number)
}

impl FileTransport {
    fn new(from: Mailbox, dir: &Path) -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(dir)
            .map_err(|error| format!("cannot create the directory in FULEXO_MAIL_DIR: {error}"))?;
        Ok(Self { from, dir: dir.to_owned() })
    }

    async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        let text = String::from_utf8(message(&self.from, letter)?.formatted()).map_err(|_| SendError::Address)?;
        let name = format!("{}-{}.eml", clock::now().format("%Y%m%dT%H%M%S%.3fZ"), letter.id);
        let path = self.dir.join(name);
        let written = tokio::task::spawn_blocking(move || write(&path, &text)).await;
        written.map_err(|_| SendError::File)?.map_err(|_| SendError::File)
    }
}

/// Writes a file of mode 0600, which appears when it is complete.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Formats the letter (RFC 5322). Line breaks in the subject become spaces, so that it stays one header.
fn message(from: &Mailbox, letter: &Letter) -> Result<Message, SendError> {
    let to = Address::new(letter.to.local_part(), letter.to.domain()).map_err(|_| SendError::Address)?;
    let envelope = Envelope::new(Some(from.email.clone()), vec![to.clone()]).map_err(|_| SendError::Address)?;
    let subject: String = letter.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .envelope(envelope)
        .subject(subject)
        .date(SystemTime::from(clock::now()))
        .message_id(Some(format!("<{}@{}>", letter.id, from.email.domain())))
        // RFC 3834, section 5: no automatic reply answers this.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(letter.text.clone())
        .map_err(|_| SendError::Address)
}
