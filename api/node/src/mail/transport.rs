//! Sends a letter to a mail server, or writes it to a file. It tries once: whoever calls keeps the letter, and tries
//! again where [`SendError::is_permanent`] says that this may help.

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
use crate::config::mail::{MailConfig, MailTransport, Relay, Security};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a letter may take, from the look-up of the server's name to its word that it has the letter.
const WHOLE: Duration = Duration::from_secs(20);
/// How long the server may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A letter to one person. No `Debug`: address and text are personal, and the text may hold a token.
pub struct Letter {
    /// Whom it is for.
    pub to: EmailAddress,
    /// One line.
    pub subject: String,
    /// Plain text, lines ended by `\n`.
    pub text: String,
    /// The same at every try: it becomes the `Message-ID`, by which a repeated letter is recognised.
    pub id: Uuid,
}

/// A way to send letters.
pub enum Transport {
    /// By SMTP (RFC 5321), one connection a letter.
    Smtp(Smtp),
    /// Into files.
    Files(Files),
}

/// A mail server and how to talk to it.
pub struct Smtp {
    from: Mailbox,
    host: String,
    port: u16,
    hello: ClientId,
    security: Security,
    /// Where there is TLS of either kind.
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    limit: Duration,
}

/// A directory of `.eml` files.
pub struct Files {
    from: Mailbox,
    dir: PathBuf,
}

/// Why a letter was not sent. Says nothing of the letter, nor what the server said: that may repeat the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A reply of 4yz (RFC 5321, section 4.2.1), or one that only who runs the service can mend.
    #[error("the mail server refuses for now, with {0}")]
    RefusedForNow(u16),
    /// A reply of 5yz to the letter itself.
    #[error("the mail server refuses the letter, with {0}")]
    Refused(u16),
    /// The server does not know the extension that the address needs (SMTPUTF8, RFC 6531), or the address has no form
    /// in mail.
    #[error("the address cannot be written to")]
    Address,
    /// No connection, no TLS, no login, or none that lasted.
    #[error("{0}")]
    Connection(&'static str),
    /// The time was over. The server may have the letter.
    #[error("the mail server took too long")]
    Timeout,
    /// A file could not be written.
    #[error("the mail directory cannot be written to")]
    File,
}

impl SendError {
    /// Whether the same letter would be refused again.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::Refused(_) | Self::Address => true,
            Self::RefusedForNow(_) | Self::Connection(_) | Self::Timeout | Self::File => false,
        }
    }
}

impl Transport {
    /// Prepares what does not change from letter to letter; connects to nothing.
    ///
    /// # Errors
    /// When the directory cannot be made, or the server's name is none that a certificate could be for.
    pub fn new(config: &MailConfig) -> Result<Self, String> {
        let from = config.from.clone();
        match &config.transport {
            MailTransport::Smtp(relay) => Smtp::new(from, relay).map(Self::Smtp),
            MailTransport::Files(dir) => Files::new(from, dir).map(Self::Files),
        }
    }

    /// The same with another limit for a letter than 20 seconds.
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
    /// When it was not sent, or nobody knows.
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
            Security::Tls | Security::StartTls => Some(
                TlsParameters::new(relay.host.clone())
                    .map_err(|_| "no TLS to the host of SMTP_URL: no certificate could have that name".to_owned())?,
            ),
            Security::Loopback => None,
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
        // It has the letter: whatever comes of the goodbye changes nothing.
        let _ = time::timeout(GOODBYE, connection.quit()).await;
        Ok(())
    }

    /// A connection that a letter may go over. What goes wrong up to here has nothing to do with the letter.
    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let server = (self.host.as_str(), self.port);
        let tls = self.tls.clone();
        let (at_once, later) = match self.security {
            Security::Tls => (tls, None),
            Security::StartTls => (None, tls),
            Security::Loopback => (None, None),
        };
        let mut connection = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT), &self.hello, at_once, None)
            .await
            .map_err(|error| unready(&error, "the mail server cannot be reached, or not by TLS"))?;
        if let Some(tls) = later {
            connection
                .starttls(tls, &self.hello)
                .await
                .map_err(|error| unready(&error, "the mail server offers no STARTTLS that can be trusted"))?;
        }
        // Against a later edit: beyond this line there are passwords and letters.
        if self.security != Security::Loopback && !connection.is_encrypted() {
            return Err(SendError::Connection("the connection to the mail server is not encrypted"));
        }
        if let Some(credentials) = &self.credentials {
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], credentials)
                .await
                .map_err(|error| unready(&error, "the mail server lets nobody log in"))?;
        }
        Ok(connection)
    }
}

type SmtpError = lettre::transport::smtp::Error;

/// Before the letter: another try may find the server set right.
fn unready(error: &SmtpError, what: &'static str) -> SendError {
    error.status().map_or(SendError::Connection(what), |code| SendError::RefusedForNow(code.into()))
}

fn refused(error: &SmtpError) -> SendError {
    match error.status() {
        // RFC 4954, section 6: the server wants a login, or another one. Nothing is wrong with the letter.
        Some(code) if error.is_permanent() && !wants_login(code) => SendError::Refused(code.into()),
        Some(code) => SendError::RefusedForNow(code.into()),
        // The only thing that the client itself refuses: an address or text beyond what the server has announced.
        None if error.is_client() => SendError::Address,
        None => SendError::Connection("the connection to the mail server broke"),
    }
}

/// 530 to 538.
fn wants_login(code: lettre::transport::smtp::response::Code) -> bool {
    let number = u16::from(code);
    (530..=538).contains(&number)
}

impl Files {
    fn new(from: Mailbox, dir: &Path) -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(dir)
            .map_err(|error| format!("FULEXO_MAIL_DIR cannot be made: {error}"))?;
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

/// Writes a file, mode 0600, that nobody sees before it is whole.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// The letter as RFC 5322 has it. Breaks of line in the subject become spaces, so it stays one header.
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
        // RFC 3834, section 5: nobody's holiday answers this.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(letter.text.clone())
        .map_err(|_| SendError::Address)
}
