//! How mail is sent, who sends it, and where the pages are that its links lead to. Sends nothing: `crate::mail` does.

use std::net::IpAddr;
use std::path::PathBuf;

use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::reader::Reader;

/// Everything a mail needs but what it says. No `Debug`: it may hold a password.
pub struct MailConfig {
    /// Where mail goes.
    pub transport: MailTransport,
    /// `From` of every mail; ASCII.
    pub from: Mailbox,
    /// Where people reach the pages, without a slash at the end.
    pub public_url: String,
}

/// Where mail goes.
pub enum MailTransport {
    /// To a server that delivers it.
    Smtp(Relay),
    /// Into files of this directory, for whoever develops.
    Files(PathBuf),
}

/// A mail server.
pub struct Relay {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 465, 587 or as given.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// As whom to log in, if at all.
    pub login: Option<Login>,
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (RFC 8314, section 3.3).
    Tls,
    /// STARTTLS before anything else, or no mail (RFC 3207).
    StartTls,
    /// None: the server is on this machine.
    Loopback,
}

/// A user of a mail server.
pub struct Login {
    /// The name.
    pub user: String,
    /// The password; wiped.
    pub password: Zeroizing<String>,
}

const SMTP_FORM: &str = "SMTP_URL must be smtps://user:password@host:465 or, with STARTTLS, smtp://user:password@host:587, \
                         without a path; what is special in user or password is percent-encoded";

impl Relay {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|host| bare && !host.is_empty())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let on_this_machine = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Tls, 465),
            "smtp" if on_this_machine => (Security::Loopback, 25),
            "smtp" => (Security::StartTls, 587),
            _ => return None,
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() && !password.is_empty() => Some(Login {
                user: percent_decode_str(user).decode_utf8().ok()?.into_owned(),
                password: Zeroizing::new(percent_decode_str(password).decode_utf8().ok()?.into_owned()),
            }),
            _ => return None,
        };
        let port = url.port().unwrap_or(port);
        (port != 0).then_some(Self { host, port, security, login })
    }
}

impl Reader {
    /// `None` where nothing says how to send, or where something is wrong.
    pub(super) fn mail(&mut self, environment: Environment) -> Option<MailConfig> {
        let url = self.optional("SMTP_URL");
        let dir = self.optional("FULEXO_MAIL_DIR");
        let from = self.optional("MAIL_FROM");
        if dir.is_some() && environment == Environment::Production {
            self.problem("FULEXO_MAIL_DIR is set: production sends its mail; set SMTP_URL instead");
        }
        let transport = match (url, dir) {
            (Some(_), Some(_)) => {
                self.problem("SMTP_URL and FULEXO_MAIL_DIR are both set: mail goes one way; leave one of them out");
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
                    self.problem("MAIL_FROM is set, and nothing says how to send: set SMTP_URL too");
                }
                // Looked at all the same: what is wrong now would be wrong later.
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
            self.problem("MAIL_FROM is not set: who mail comes from, such as Fulexo <no-reply@example.com>");
            return None;
        };
        match text.parse::<Mailbox>() {
            // Its domain stands in the Message-ID, which is ASCII.
            Ok(mailbox)
                if AsRef::<str>::as_ref(&mailbox.email).is_ascii() && !text.contains(|c: char| c.is_control()) =>
            {
                Some(mailbox)
            }
            Ok(_) | Err(_) => {
                self.problem("MAIL_FROM must be an address in ASCII, such as Fulexo <no-reply@example.com>");
                None
            }
        }
    }

    /// `iss` of access tokens: services that know it alone find the keys from there, where people reach this service.
    pub(super) fn issuer(&mut self) -> String {
        let public_url = self.optional("FULEXO_PUBLIC_URL");
        let default = public_url.as_deref().map_or("https://api.fulexo.com", |url| url.trim_end_matches('/'));
        self.text("FULEXO_ISSUER", default)
    }

    fn public_url(&mut self, environment: Environment) -> Option<String> {
        let (name, text) = match (self.optional("FULEXO_PUBLIC_URL"), self.optional("FULEXO_ISSUER")) {
            (Some(url), _) => ("FULEXO_PUBLIC_URL", url),
            (None, Some(issuer)) => ("FULEXO_ISSUER, which stands in for FULEXO_PUBLIC_URL,", issuer),
            (None, None) => {
                // The default issuer is somebody's: links in mail have tokens in them, and must not lead there.
                self.problem("FULEXO_PUBLIC_URL is not set: where people reach this service, https://auth.example.com");
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
            self.problem(format!("{name} must begin with https:// in production: its links have tokens in them"));
        }
        Some(url.as_str().trim_end_matches('/').to_owned())
    }
}
