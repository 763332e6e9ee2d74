//! The messages that a client sends to Postgres, whole, for tests that hold some of them up (PostgreSQL's
//! documentation, section 55.7). Each test decides what a message means.

/// The bytes that were read of one connection.
#[derive(Default)]
pub struct Messages {
    /// The bytes that were not taken yet, whole messages or not.
    pub bytes: Vec<u8>,
    /// `true` once messages have a type.
    is_started: bool,
}

impl Messages {
    /// Takes the next whole message. The flag is `true` if it belongs to the start of the connection and has no type.
    pub fn take(&mut self) -> Option<(Vec<u8>, bool)> {
        const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
        let is_startup = !self.is_started;
        let kind = usize::from(self.is_started);
        let length = self.bytes.get(kind..kind + 4)?.try_into().map(u32::from_be_bytes).unwrap();
        let end = kind + length as usize;
        if self.bytes.len() < end {
            return None;
        }
        let message: Vec<u8> = self.bytes.drain(..end).collect();
        self.is_started |= message[..] != SSL_REQUEST;
        Some((message, is_startup))
    }
}

/// Returns the address in a URL of Postgres, `host:port`.
#[must_use]
pub fn address(url: &str) -> &str {
    split(url).1
}

/// Returns the URL of the same database by this port of 127.0.0.1.
#[must_use]
pub fn through(url: &str, port: u16) -> String {
    let (credentials, _, database) = split(url);
    format!("{credentials}@127.0.0.1:{port}/{database}")
}

fn split(url: &str) -> (&str, &str, &str) {
    let (credentials, place) = url.rsplit_once('@').unwrap();
    let (address, database) = place.split_once('/').unwrap();
    (credentials, address, database)
}
