//! The signature of a request (AWS Signature Version 4), in its header and over its body: what a proxy or a disk alters on the way
//! is refused by the store, and no URL is worth anything to somebody who reads it.

use aws_lc_rs::{digest, hmac};
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::settings::S3Credentials;

/// The characters that stand for themselves in no part of a request.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for a path.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// A request to sign.
pub struct SignedParts<'a> {
    /// The method.
    pub method: &'a str,
    /// The host, as its header has it.
    pub host: &'a str,
    /// The path, encoded.
    pub path: &'a str,
    /// The query, encoded and in order.
    pub query: &'a str,
    /// The SHA-256 of the body, in hexadecimal.
    pub body_sha256: &'a str,
}

/// Encodes a path.
pub fn encode_path(path: &str) -> String {
    percent_encode(path.as_bytes(), ENCODED_IN_PATH).to_string()
}

/// Encodes a query, in the order of its names.
pub fn encode_query(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| percent_encode(text.as_bytes(), ENCODED).to_string();
    let mut encoded: Vec<_> = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    encoded.sort_unstable();
    encoded.join("&")
}

/// Returns a digest in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Returns the headers of a request that its signature covers, besides `host`, and the one that has the signature.
pub fn sign(
    parts: &SignedParts<'_>,
    credentials: &S3Credentials,
    region: &str,
    now: DateTime<Utc>,
) -> Vec<(&'static str, String)> {
    let (time, day) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
    let mut headers = vec![("x-amz-content-sha256", parts.body_sha256.to_owned()), ("x-amz-date", time.clone())];
    if let Some(token) = &credentials.token {
        headers.push(("x-amz-security-token", token.to_string()));
    }
    let mut canonical = format!("{}\n{}\n{}\nhost:{}\n", parts.method, parts.path, parts.query, parts.host);
    let mut names = "host".to_owned();
    for (name, value) in &headers {
        canonical.push_str(&format!("{name}:{value}\n"));
        names.push(';');
        names.push_str(name);
    }
    canonical.push_str(&format!("\n{names}\n{}", parts.body_sha256));

    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let secret = zeroize::Zeroizing::new(format!("AWS4{}", *credentials.secret));
    let mut key = mac(secret.as_bytes(), day.as_bytes());
    for step in [region, "s3", "aws4_request"] {
        key = mac(key.as_ref(), step.as_bytes());
    }
    let signature = hex(mac(key.as_ref(), text.as_bytes()).as_ref());
    let id = &credentials.key_id;
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
    headers.push(("authorization", authorization));
    headers
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A string takes all that is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
