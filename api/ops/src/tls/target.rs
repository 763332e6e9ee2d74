//! The address of a TLS server as an operator writes it, and connections to it.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A host and a port. The host is a name or an address.
#[derive(Clone, Debug)]
pub struct TlsTarget {
    /// The name that the certificate must have.
    pub name: ServerName<'static>,
    /// The port.
    pub port: u16,
}

/// A connection that did not come about. The text names no credential and no address beyond the target's own.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

impl TlsTarget {
    /// Parses `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT` or a bare IPv6 address. The default port is 443. Names of other
    /// scripts are turned into A-labels (UTS 46).
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("an IPv6 address begins with [ and has no ]")?;
                (host, port)
            }
            None if text.matches(':').count() > 1 => (text, ""),
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).ok_or("the port is not a number from 1 to 65535")?
            }
            None if port.is_empty() => 443,
            None => return Err("between ] and the port there is no colon".to_owned()),
        };
        // The dot of the root is in no certificate.
        let host = host.strip_suffix('.').unwrap_or(host);
        let ascii = idna::domain_to_ascii(host).ok().filter(|ascii| !ascii.is_empty());
        let name = host.to_owned().try_into().ok().or_else(|| ascii.and_then(|ascii| ascii.try_into().ok()));
        let name = name.ok_or("neither a host name nor an IP address: write HOST or HOST:PORT, without https://")?;
        Ok(Self { name, port })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`Unreachable`] if no address of the host accepts one within `patience`.
    pub async fn connect(&self, patience: Duration) -> Result<TcpStream, Unreachable> {
        let host = self.name.to_str();
        match timeout(patience, TcpStream::connect((&*host, self.port))).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Unreachable(format!("cannot connect: {error}"))),
            Err(_) => Err(Unreachable(format!("no connection within {} seconds", patience.as_secs_f32()))),
        }
    }
}

impl fmt::Display for TlsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => {
                write!(f, "[{}]:{}", self.name.to_str(), self.port)
            }
            name => write!(f, "{}:{}", name.to_str(), self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_written_in_every_usual_way() {
        for (text, shown) in [
            ("example.com", "example.com:443"),
            ("example.com:8443", "example.com:8443"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[::1]:8443", "[::1]:8443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
            ("2001:db8::1", "[2001:db8::1]:443"),
            ("example.com.", "example.com:443"),
            ("bücher.example", "xn--bcher-kva.example:443"),
        ] {
            assert_eq!(TlsTarget::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "https://example.com",
            "a b",
            "example.com:0",
            "example.com:65536",
            "example.com:x",
            "[::1",
            "[::1]1",
            ":443",
        ] {
            assert!(TlsTarget::parse(text).is_err(), "{text}");
        }
    }
}
