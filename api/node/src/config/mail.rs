//! The configuration of e-mail: the transport, the sender and the base URL of links. `crate::mail` sends.

use std::net::IpAddr;
use std::path::PathBuf;

use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::reader::EnvironmentReader;

/// The configuration of e-mail. It has no `Debug`: it may contain a password.
pub struct MailConfig {
    /// The transport.
    pub transport: MailTransport,
    /// The `From` of every e-mail, in ASCII.
    pub from: Mailbox,
    /// The base URL of the pages, without a trailing slash.
    pub public_url: String,
}

/// The transport of e-mail.
pub enum MailTransport {
    /// A mail server.
    Smtp(Relay),
    /// A directory of files, for development.
    Files(PathBuf),
}

/// A mail server.
pub struct Relay {
    /// The host name or IP address. An IPv6 address has no brackets.
    pub host: String,
    /// The port, by default 465 or 587.
    pub port: u16,
    /// The protection of the connection.
    pub security: SmtpSecurity,
    /// The credentials of the server, if it needs any.
    pub login: Option<SmtpCredentials>,
}

/// The protection of a connection to a mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// TLS from the first byte (RFC 8314, section 3.3).
    Tls,
    /// Required STARTTLS (RFC 3207).
    StartTls,
    /// No protection, because the server is on this machine.
    Loopback,
}

/// The credentials of a mail server.
pub struct SmtpCredentials {
    /// The user name.
    pub user: String,
    /// The password, wiped when dropped.
    pub password: Zeroizing<String>,
}

const SMTP_FORM: &str = "SMTP_URL must be smtps://user:password@host:465 or, with STARTTLS, smtp://user:password@host:587, \
                         without a path, with special characters of user and password percent-encoded";

impl Relay {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|host| bare && !host.is_empty())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let on_this_machine = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let (security, port) = match url.scheme() {
            "smtps" => (SmtpSecurity::Tls, 465),
            "smtp" if on_this_machine => (SmtpSecurity::Loopback, 25),
            "smtp" => (SmtpSecurity::StartTls, 587),
            _ => return None,
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() && !password.is_empty() => Some(SmtpCredentials {
                user: percent_decode_str(user).decode_utf8().ok()?.into_owned(),
                password: Zeroizing::new(percent_decode_str(password).decode_utf8().ok()?.into_owned()),
            }),
            _ => return None,
        };
        let port = url.port().unwrap_or(port);
        (port != 0).then_some(Self { host, port, security, login })
    }
}

impl EnvironmentReader {
    /// Returns the configuration of e-mail, or `None` without a transport or with a problem.
    pub(super) fn mail(&mut self, environment: Environment) -> Option<MailConfig> {
        let url = self.optional("SMTP_URL");
        let dir = self.optional("FULEXO_MAIL_DIR");
        let from = self.optional("MAIL_FROM");
        if dir.is_some() && environment == Environment::Production {
            self.problem("FULEXO_MAIL_DIR is set, but production sends its e-mail. Set SMTP_URL instead");
        }
        let transport = match (url, dir) {
            (Some(_), Some(_)) => {
                self.problem("SMTP_URL and FULEXO_MAIL_DIR are both set. Set only one of them");
                None
            }
            (Some(url), None) => {
                let relay = Relay::parse(&url);
                if relay.is_none() {
                    self.problem(SMTP_FORM);
                }
                relay.map(MailTransport::Smtp)
            }
            (None, Some(dir)) => Some(MailTransport::Files(PathBuf::from(dir))),
            (None, None) => {
                if from.is_some() {
                    self.problem("MAIL_FROM is set, but SMTP_URL is not. Set SMTP_URL, too");
                }
                // Checked without a transport, too: a problem now would be a problem later.
                if self.optional("FULEXO_PUBLIC_URL").is_some() {
                    self.public_url(environment);
                }
                return None;
            }
        };
        let from = self.mail_from(from);
        let public_url = self.public_url(environment);
        Some(MailConfig { transport: transport?, from: from?, public_url: public_url? })
    }

    fn mail_from(&mut self, text: Option<String>) -> Option<Mailbox> {
        let Some(text) = text else {
            self.problem("MAIL_FROM is not set. Set the sender, such as Fulexo <no-reply@example.com>");
            return None;
        };
        match text.parse::<Mailbox>() {
            // The Message-ID contains the domain and is ASCII.
            Ok(mailbox)
                if AsRef::<str>::as_ref(&mailbox.email).is_ascii() && !text.contains(|c: char| c.is_control()) =>
            {
                Some(mailbox)
            }
            Ok(_) | Err(_) => {
                self.problem("MAIL_FROM must be one address in ASCII, such as Fulexo <no-reply@example.com>");
                None
            }
        }
    }

    /// Returns the `iss` of access tokens. Services find the keys from this URL.
    pub(super) fn issuer(&mut self) -> String {
        let public_url = self.optional("FULEXO_PUBLIC_URL");
        let default = public_url.as_deref().map_or("https://api.fulexo.com", |url| url.trim_end_matches('/'));
        self.text("FULEXO_ISSUER", default)
    }

    fn public_url(&mut self, environment: Environment) -> Option<String> {
        let (name, text) = match (self.optional("FULEXO_PUBLIC_URL"), self.optional("FULEXO_ISSUER")) {
            (Some(url), _) => ("FULEXO_PUBLIC_URL", url),
            (None, Some(issuer)) => ("FULEXO_ISSUER, which replaces FULEXO_PUBLIC_URL,", issuer),
            (None, None) => {
                // Links in e-mails contain tokens and must not lead to the default issuer.
                self.problem("FULEXO_PUBLIC_URL is not set. Set the public URL, such as https://auth.example.com");
                return None;
            }
        };
        let url = Url::parse(&text).ok().filter(|url| {
            let plain = url.username().is_empty() && url.password().is_none();
            let whole = url.query().is_none() && url.fragment().is_none();
            plain && whole && url.has_host() && matches!(url.scheme(), "https" | "http")
        });
        let Some(url) = url else {
            self.problem(format!("{name} must be a URL such as https://auth.example.com, without query or fragment"));
            return None;
        };
        if environment == Environment::Production && url.scheme() != "https" {
            self.problem(format!("{name} must begin with https:// in production, because links contain tokens"));
        }
        Some(url.as_str().trim_end_matches('/').to_owned())
    }
}
