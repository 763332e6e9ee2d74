//! The settings of a store: where it is, the bucket and the prefix in it, and the credentials.

use url::Url;
use zeroize::Zeroizing;

/// The region of a store that does not care.
const DEFAULT_REGION: &str = "us-east-1";
/// The longest prefix, in bytes. Keys have at most 1,024.
const MAX_PREFIX: usize = 512;

/// The credentials of a store. They cannot be printed.
#[derive(Clone)]
pub struct S3Credentials {
    /// The id of the key.
    pub key_id: String,
    /// The key.
    pub secret: Zeroizing<String>,
    /// The token of temporary credentials.
    pub token: Option<Zeroizing<String>>,
}

/// The settings of a store.
#[derive(Clone)]
pub struct S3Settings {
    pub(super) endpoint: Url,
    pub(super) region: String,
    pub(super) bucket: String,
    /// The beginning of all keys: empty, or with a slash at its end.
    pub(super) prefix: String,
    /// `true` if the bucket is part of the host, as Amazon has it.
    pub(super) is_virtual_host: bool,
    pub(super) credentials: S3Credentials,
}

impl S3Settings {
    /// Reads `s3://bucket/prefix`. Without an endpoint the store is Amazon's in the region. Plain HTTP leads to this machine only,
    /// unless `allows_http`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(
        place: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
        credentials: S3Credentials,
        allows_http: bool,
    ) -> Result<Self, String> {
        let rest = place.strip_prefix("s3://").ok_or("a bucket is written as s3://bucket/prefix")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_name) || bucket.starts_with(['.', '-']) {
            return Err("the name of a bucket has 3 to 63 lower-case letters, digits, dots and dashes".to_owned());
        }
        let prefix = prefix.trim_end_matches('/');
        let is_segment = |segment: &str| {
            !["", ".", ".."].contains(&segment)
                && segment.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c))
        };
        if prefix.len() > MAX_PREFIX || !(prefix.is_empty() || prefix.split('/').all(is_segment)) {
            return Err("the prefix in a bucket has letters, digits, dots, dashes, underscores and slashes".to_owned());
        }
        let region = region.unwrap_or(DEFAULT_REGION);
        if region.is_empty() || !region.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
            return Err("the region has letters, digits and dashes".to_owned());
        }
        let amazon = format!("https://s3.{region}.amazonaws.com");
        let endpoint = Url::parse(endpoint.unwrap_or(&amazon)).map_err(|_| "the endpoint is not a URL".to_owned())?;
        let is_virtual_host = endpoint.as_str().trim_end_matches('/') == amazon && !bucket.contains(['.', '_']);
        check_endpoint(&endpoint, allows_http)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self {
            endpoint,
            region: region.to_owned(),
            bucket: bucket.to_owned(),
            prefix,
            is_virtual_host,
            credentials,
        })
    }

    /// Returns the name of a key for people.
    #[must_use]
    pub fn display(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    /// Returns the name of the host, with its port if it is not the usual one.
    pub(super) fn host(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        let host = if self.is_virtual_host { format!("{}.{host}", self.bucket) } else { host.to_owned() };
        match self.endpoint.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

fn check_endpoint(endpoint: &Url, allows_http: bool) -> Result<(), String> {
    let is_loopback = match endpoint.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("the endpoint has no host".to_owned()),
    };
    let has_more = endpoint.query().is_some() || endpoint.fragment().is_some();
    if !endpoint.username().is_empty() || endpoint.password().is_some() || has_more {
        return Err("the endpoint is the URL of a host: it has no user, no password and no query".to_owned());
    }
    match endpoint.scheme() {
        "https" => Ok(()),
        "http" if is_loopback || allows_http => Ok(()),
        "http" => Err("plain HTTP leads to this machine only: use https".to_owned()),
        _ => Err("the endpoint is a URL of https".to_owned()),
    }
}
