//! The operations of a store, each repeated within bounds if it may succeed the next time.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chrono::DateTime;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, DATE, ETAG, LAST_MODIFIED};
use hyper::{HeaderMap, Method, Request, StatusCode};

use super::connection::{Connection, StoreAnswer};
use super::error::S3Error;
use super::settings::S3Settings;
use super::signature::{SignedParts, encode_path, encode_query, sha256_hex, sign};
use super::xml::{elements, first};
use crate::clock;

/// The pauses between the attempts of a request.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1_800),
    Duration::from_millis(5_400),
];
/// The longest answer that is read where none is asked for, and the longest list, in bytes.
const SMALL: usize = 64 << 10;
const LIST: usize = 4 << 20;
/// The most lists that are read one after the other: a million objects.
const MAX_LISTS: usize = 1_000;
/// The time that a store may take to put an object together, as the bytes that would be carried meanwhile.
const COMPLETION: u64 = 600 * (64 << 10);

/// A client of a bucket. Keys are relative to its prefix.
#[derive(Clone)]
pub struct S3Client {
    settings: Arc<S3Settings>,
    connection: Connection,
}

/// The head of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// The length, in bytes.
    pub length: u64,
    /// The tag of this content.
    pub etag: String,
    /// The time since it was written, by the store's clock; `None` if the store does not say.
    pub age: Option<Duration>,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its key.
    pub key: String,
    /// Its length, in bytes.
    pub length: u64,
}

/// An upload in several pieces that was begun and not completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The key that the object would have.
    pub key: String,
    /// The id of the upload.
    pub id: String,
}

/// A request.
struct Call<'a> {
    method: Method,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'a str, &'a str)],
    body: Bytes,
    /// The most bytes of the answer.
    most: usize,
    /// The bytes whose time the answer may take.
    carried: u64,
}

impl<'a> Call<'a> {
    const fn new(method: Method, key: &'a str) -> Self {
        Self { method, key, query: &[], headers: &[], body: Bytes::new(), most: SMALL, carried: 0 }
    }
}

impl S3Client {
    /// Creates a client.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(settings: S3Settings) -> Result<Self, String> {
        Ok(Self { settings: Arc::new(settings), connection: Connection::start()? })
    }

    /// Returns the name of a key for people.
    #[must_use]
    pub fn display(&self, key: &str) -> String {
        self.settings.display(key)
    }

    /// Writes an object, over another one if there is one.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn put(&self, key: &str, body: Bytes) -> Result<(), S3Error> {
        self.send(&Call { carried: body.len() as u64, body, ..Call::new(Method::PUT, key) }).map(drop)
    }

    /// Writes an object where there is none.
    ///
    /// # Errors
    /// `S3Error::is_conflict` if there is one, which may be the same one: the answer to an earlier attempt was lost. A store that
    /// does not know the condition writes over it.
    pub fn put_new(&self, key: &str, body: Bytes) -> Result<(), S3Error> {
        self.send(&Call { headers: &[("if-none-match", "*")], body, ..Call::new(Method::PUT, key) }).map(drop)
    }

    /// Returns the head of an object; `None` if there is none.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn head(&self, key: &str) -> Result<Option<ObjectHead>, S3Error> {
        match self.send(&Call::new(Method::HEAD, key)) {
            Ok(answer) => {
                let length = header(&answer.headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
                let length = length.ok_or(S3Error::Garbled("does not say how long an object is"))?;
                Ok(Some(head_of(&answer.headers, length)))
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a small object whole; `None` if there is none. An object that is longer than `most` bytes is an error.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn get(&self, key: &str, most: usize) -> Result<Option<(Bytes, ObjectHead)>, S3Error> {
        match self.send(&Call { most, ..Call::new(Method::GET, key) }) {
            Ok(answer) => {
                let head = head_of(&answer.headers, answer.body.len() as u64);
                Ok(Some((answer.body, head)))
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a range of the object that has this tag.
    ///
    /// # Errors
    /// `S3Error::is_conflict` if the object is another one by now.
    pub fn get_range(&self, key: &str, head: &ObjectHead, from: u64, length: usize) -> Result<Bytes, S3Error> {
        let range = format!("bytes={from}-{}", (from + length as u64).saturating_sub(1));
        let mut headers = vec![("range", range.as_str())];
        if !head.etag.is_empty() {
            headers.push(("if-match", head.etag.as_str()));
        }
        self.repeated(|| {
            let answer = self.once(&Call { headers: &headers, most: length, ..Call::new(Method::GET, key) })?;
            let is_whole = from == 0 && head.length == length as u64;
            let is_range = answer.status == StatusCode::PARTIAL_CONTENT || is_whole;
            if !is_range || answer.body.len() != length {
                return Err(S3Error::Garbled("answered with another range than was asked for"));
            }
            Ok(answer.body)
        })
    }

    /// Removes an object, if there is one.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn delete(&self, key: &str) -> Result<(), S3Error> {
        match self.send(&Call::new(Method::DELETE, key)) {
            Err(error) if !error.is_missing() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Lists the objects whose keys are of interest, in the order of their keys.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn list(&self, is_of_interest: impl Fn(&str) -> bool) -> Result<Vec<StoredObject>, S3Error> {
        let (mut found, mut next): (_, Option<String>) = (Vec::new(), None);
        for _ in 0..MAX_LISTS {
            let mut query = vec![("list-type", "2"), ("prefix", self.settings.prefix.as_str())];
            if let Some(token) = &next {
                query.push(("continuation-token", token));
            }
            let xml = self.send_list(&query)?;
            for element in elements(&xml, "Contents") {
                let length = first(element, "Size").and_then(|size| size.parse().ok());
                if let (Some(key), Some(length)) = (self.key_in(element), length)
                    && is_of_interest(&key)
                {
                    found.push(StoredObject { key, length });
                }
            }
            let token = first(&xml, "NextContinuationToken");
            if first(&xml, "IsTruncated").as_deref() != Some("true") {
                return Ok(found);
            }
            if token.is_none() || token == next {
                return Err(S3Error::Garbled("does not go on with its list"));
            }
            next = token;
        }
        Err(S3Error::Garbled("has more objects below the prefix than are listed"))
    }

    /// Lists the uploads that were begun and not completed.
    ///
    /// # Errors
    /// `S3Error::is_unknown_operation` if the store does not list them.
    pub fn uploads(&self) -> Result<Vec<UnfinishedUpload>, S3Error> {
        let (mut found, mut next): (_, Option<(String, String)>) = (Vec::new(), None);
        for _ in 0..MAX_LISTS {
            let mut query = vec![("prefix", self.settings.prefix.as_str()), ("uploads", "")];
            if let Some((key, id)) = &next {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
            }
            let xml = self.send_list(&query)?;
            for element in elements(&xml, "Upload") {
                if let (Some(key), Some(id)) = (self.key_in(element), first(element, "UploadId")) {
                    found.push(UnfinishedUpload { key, id });
                }
            }
            let markers = first(&xml, "NextKeyMarker").zip(first(&xml, "NextUploadIdMarker"));
            if first(&xml, "IsTruncated").as_deref() != Some("true") {
                return Ok(found);
            }
            if markers.is_none() || markers == next {
                return Err(S3Error::Garbled("does not go on with its list"));
            }
            next = markers;
        }
        Err(S3Error::Garbled("has more uploads below the prefix than are listed"))
    }

    /// Begins an upload in several pieces, and returns its id.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn begin_upload(&self, key: &str) -> Result<String, S3Error> {
        let answer = self.send(&Call { query: &[("uploads", "")], ..Call::new(Method::POST, key) })?;
        let id = first(&String::from_utf8_lossy(&answer.body), "UploadId").filter(|id| !id.is_empty());
        id.ok_or(S3Error::Garbled("gives an upload no id"))
    }

    /// Uploads a piece, and returns its tag. Pieces are numbered from 1.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn upload_piece(&self, upload: &UnfinishedUpload, number: usize, body: Bytes) -> Result<String, S3Error> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload.id.as_str())];
        let carried = body.len() as u64;
        let answer = self.send(&Call { query: &query, body, carried, ..Call::new(Method::PUT, &upload.key) })?;
        // It is repeated in XML.
        let is_tag = |tag: &str| {
            (1..=200).contains(&tag.len())
                && tag.bytes().all(|c| c.is_ascii_alphanumeric() || b"\"-+/=_.:".contains(&c))
        };
        let tag = header(&answer.headers, ETAG.as_str()).filter(|tag| is_tag(tag));
        tag.map(str::to_owned).ok_or(S3Error::Garbled("gives a piece no tag"))
    }

    /// Puts an object of this length together from its pieces.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn complete_upload(&self, upload: &UnfinishedUpload, tags: &[String], length: u64) -> Result<(), S3Error> {
        let pieces = tags.iter().zip(1..).map(|(tag, number)| {
            let tag = tag.replace('"', "&quot;");
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
        });
        let pieces: String = pieces.collect();
        let namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
        let body = format!("<CompleteMultipartUpload xmlns=\"{namespace}\">{pieces}</CompleteMultipartUpload>");
        let (body, query) = (Bytes::from(body), [("uploadId", upload.id.as_str())]);
        let completed = self.repeated(|| {
            let call =
                Call { query: &query, body: body.clone(), carried: COMPLETION, ..Call::new(Method::POST, &upload.key) };
            let answer = self.once(&call)?;
            // The status comes before the store has begun.
            match first(&String::from_utf8_lossy(&answer.body), "Error") {
                Some(_) => Err(S3Error::of(answer.status, &answer.body)),
                None => Ok(()),
            }
        });
        match completed {
            // The answer to an earlier attempt was lost, and stores differ in how they refuse an upload that is no more.
            Err(error) if error.is_refusal() && self.head(&upload.key)?.is_some_and(|head| head.length == length) => {
                Ok(())
            }
            completed => completed,
        }
    }

    /// Gives an upload up. It may have been completed.
    ///
    /// # Errors
    /// `S3Error`.
    pub fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<(), S3Error> {
        let query = [("uploadId", upload.id.as_str())];
        match self.send(&Call { query: &query, ..Call::new(Method::DELETE, &upload.key) }) {
            Err(error) if !error.is_missing() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns the key in an element of a list, without the prefix.
    fn key_in(&self, element: &str) -> Option<String> {
        first(element, "Key")?.strip_prefix(&self.settings.prefix).map(str::to_owned)
    }

    fn send_list(&self, query: &[(&str, &str)]) -> Result<String, S3Error> {
        // The bucket itself.
        let answer = self.repeated(|| self.once_at(&Call { query, most: LIST, ..Call::new(Method::GET, "") }, ""))?;
        String::from_utf8(answer.body.to_vec()).map_err(|_| S3Error::Garbled("answered with a list that is not text"))
    }

    fn send(&self, call: &Call<'_>) -> Result<StoreAnswer, S3Error> {
        self.repeated(|| self.once(call))
    }

    /// Repeats what may succeed the next time.
    fn repeated<T>(&self, attempt: impl Fn() -> Result<T, S3Error>) -> Result<T, S3Error> {
        for pause in PAUSES {
            match attempt() {
                Err(error) if error.is_transient() => thread::sleep(pause),
                result => return result,
            }
        }
        attempt()
    }

    fn once(&self, call: &Call<'_>) -> Result<StoreAnswer, S3Error> {
        self.once_at(call, &format!("{}{}", self.settings.prefix, call.key))
    }

    /// Sends a request once. Any answer but a success is an error.
    fn once_at(&self, call: &Call<'_>, key: &str) -> Result<StoreAnswer, S3Error> {
        let settings = &*self.settings;
        let base = settings.endpoint.path().trim_end_matches('/');
        let bucket = if settings.is_virtual_host { String::new() } else { format!("/{}", settings.bucket) };
        let (path, query) = (format!("{base}{bucket}/{}", encode_path(key)), encode_query(call.query));
        let (host, body_sha256) = (settings.host(), sha256_hex(&call.body));
        let parts = SignedParts {
            method: call.method.as_str(),
            host: &host,
            path: &path,
            query: &query,
            body_sha256: &body_sha256,
        };
        let signed = sign(&parts, &settings.credentials, &settings.region, clock::now());
        let scheme = settings.endpoint.scheme();
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{scheme}://{host}{path}{}{query}", if query.is_empty() { "" } else { "?" }))
            .header("user-agent", "fulexo");
        for (name, value) in
            call.headers.iter().copied().chain(signed.iter().map(|(name, value)| (*name, value.as_str())))
        {
            request = request.header(name, value);
        }
        // Some stores want it even if it is zero.
        if [Method::PUT, Method::POST].contains(&call.method) {
            request = request.header(CONTENT_LENGTH, call.body.len());
        }
        let request = request.body(Full::new(call.body.clone()));
        let request =
            request.map_err(|_| S3Error::Garbled("cannot be asked: the credentials have characters of no header"))?;
        let answer = self.connection.send(request, call.carried, call.most.max(SMALL))?;
        if answer.status.is_success() { Ok(answer) } else { Err(S3Error::of(answer.status, &answer.body)) }
    }
}

fn head_of(headers: &HeaderMap, length: u64) -> ObjectHead {
    let time = |name| header(headers, name).and_then(|text| DateTime::parse_from_rfc2822(text).ok());
    let now = time(DATE.as_str()).map_or_else(clock::now, Into::into);
    let age = time(LAST_MODIFIED.as_str()).map(|written| (now - written.to_utc()).to_std().unwrap_or_default());
    ObjectHead { length, etag: header(headers, ETAG.as_str()).unwrap_or_default().to_owned(), age }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
