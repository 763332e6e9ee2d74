//! Offers that rustls does not make: old versions and weak cipher suites, to learn whether a server takes them.
//!
//! Only the first record of the answer is read. No key is agreed, and nothing is ever encrypted.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The answer to an offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HelloAnswer {
    /// The server takes this version and cipher suite.
    Taken {
        /// The version as on the wire: 0x0301 is TLS 1.0.
        version: u16,
        /// The cipher suite.
        suite: u16,
    },
    /// The server refuses: an alert, or the end of the connection.
    Refused,
    /// The server sends something else than TLS.
    Garbage,
    /// The server sends nothing in time.
    Silent,
}

const RANDOM: [u8; 32] = [0x5a; 32];
/// The longest record that is read: a `ServerHello` has a few hundred bytes.
const MOST: usize = 16 * 1024;

/// Offers a version and cipher suites, and returns the answer.
pub async fn offer(
    mut stream: TcpStream,
    name: &ServerName<'_>,
    version: u16,
    suites: &[u16],
    patience: Duration,
) -> HelloAnswer {
    let hello = client_hello(name, version, suites);
    let exchange = async {
        stream.write_all(&hello).await.ok()?;
        let mut header = [0; 5];
        stream.read_exact(&mut header).await.ok()?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] == 21 {
            return Some(HelloAnswer::Refused);
        }
        if header[0] != 22 || header[1] != 3 || length > MOST {
            return Some(HelloAnswer::Garbage);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some(server_hello(&body).unwrap_or(HelloAnswer::Garbage))
    };
    match timeout(patience, exchange).await {
        Ok(answer) => answer.unwrap_or(HelloAnswer::Refused),
        Err(_) => HelloAnswer::Silent,
    }
}

/// Reads the version and the cipher suite of a `ServerHello` (RFC 5246, section 7.4.1.3).
fn server_hello(body: &[u8]) -> Option<HelloAnswer> {
    let message = body.strip_prefix(&[2])?;
    // Three bytes of length, the version, the server's random, the session id.
    let version = u16::from_be_bytes(message.get(3..5)?.try_into().ok()?);
    let id = usize::from(*message.get(37)?);
    let suite = message.get(38 + id..40 + id)?;
    Some(HelloAnswer::Taken { version, suite: u16::from_be_bytes(suite.try_into().ok()?) })
}

/// Writes a `ClientHello` (RFC 5246, section 7.4.1.2) in one record.
fn client_hello(name: &ServerName<'_>, version: u16, suites: &[u16]) -> Vec<u8> {
    let mut extensions = Vec::new();
    // SSL 3.0 has none.
    if version >= 0x0301 {
        if let ServerName::DnsName(name) = name {
            let entry = [&[0][..], &with_length(name.as_ref().as_bytes())].concat();
            extension(&mut extensions, 0, &with_length(&entry));
        }
        // Groups: P-256, P-384, P-521, X25519. Points: uncompressed. Signatures: RSA and ECDSA, SHA-1 included.
        extension(&mut extensions, 10, &with_length(&[0, 23, 0, 24, 0, 25, 0, 29]));
        extension(&mut extensions, 11, &[1, 0]);
        if version >= 0x0303 {
            extension(
                &mut extensions,
                13,
                &with_length(&[4, 1, 5, 1, 6, 1, 4, 3, 5, 3, 6, 3, 8, 4, 8, 5, 8, 6, 2, 1, 2, 3]),
            );
        }
        // Secure renegotiation (RFC 5746).
        extension(&mut extensions, 0xff01, &[0]);
        // Padding: some old servers hang on a message of 256 to 511 bytes (RFC 7685).
        extension(&mut extensions, 21, &[0; 512]);
    }
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let mut body = version.to_be_bytes().to_vec();
    // The client's random: no secret depends on it, since no key is agreed.
    body.extend(RANDOM);
    // No session, the suites, no compression.
    body.push(0);
    body.extend(with_length(&suites));
    body.extend([1, 0]);
    if !extensions.is_empty() {
        body.extend(with_length(&extensions));
    }
    let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    // The record's version is the lowest, as old servers expect (RFC 5246, appendix E.1).
    [&[22, 3, u8::from(version > 0x0300)][..], &with_length(&message)].concat()
}

fn extension(extensions: &mut Vec<u8>, kind: u16, data: &[u8]) {
    extensions.extend(kind.to_be_bytes());
    extensions.extend(with_length(data));
}

/// Writes two bytes of length before the data. All that is offered is far shorter than 64 KiB.
fn with_length(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_hello_of_any_bytes_is_read_or_garbage() {
        let mut hello = vec![2, 0, 0, 70, 3, 1];
        hello.extend([7; 32]);
        hello.extend([3, 1, 1, 1, 0, 5]);
        assert_eq!(server_hello(&hello), Some(HelloAnswer::Taken { version: 0x0301, suite: 5 }));
        for length in 0..hello.len() {
            assert_eq!(server_hello(&hello[..length]), None, "{length}");
        }
    }

    #[test]
    fn rustls_understands_what_is_offered() {
        let name = ServerName::try_from("example.com").unwrap();
        let hello = client_hello(&name, 0x0303, &[0xc02f, 0x002f]);
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut &hello[..]).unwrap();
        let accepted = acceptor.accept().unwrap().unwrap();
        assert_eq!(accepted.client_hello().server_name(), Some("example.com"));
        assert_eq!(accepted.client_hello().cipher_suites().len(), 2);
    }
}
