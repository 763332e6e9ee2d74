//! Events as messages: subject, headers, leaf. Also the key by which nodes recognise their own messages in a stream
//! that others may write to.

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::message::StreamMessage;
use fulexo_domain::event::Stream;
use fulexo_domain::jetstream::{EPOCH, LEAF_HASH, MAC, POSITION, STREAM, SUBJECT_PREFIX, VERSION, hex, unhex};
use fulexo_domain::leaf;
use uuid::Uuid;

use crate::vault::crypto::equal;
use crate::vault::{SymmetricKey, Vault};

/// The key of the MAC on each message, over its epoch, position and leaf. It is derived from the service key, so only
/// nodes with the same vault have it.
#[derive(Clone)]
pub struct CopyKey(SymmetricKey);

impl CopyKey {
    /// Derives the key of a vault.
    #[must_use]
    pub fn of(vault: &Vault) -> Self {
        Self(vault.derive("fulexo/copy/1"))
    }

    /// Computes the MAC of a message: HMAC-SHA-256 (RFC 2104).
    #[must_use]
    pub fn mac(&self, epoch: Uuid, position: u64, leaf: &[u8]) -> [u8; 32] {
        self.0.digest("copy", &[epoch.as_bytes(), &position.to_be_bytes(), leaf])
    }

    /// Returns `true` if a node with this key made the message, for this position.
    #[must_use]
    pub fn is_genuine(&self, epoch: Uuid, position: u64, leaf: &[u8], mac: &[u8]) -> bool {
        equal(&self.mac(epoch, position, leaf), mac)
    }
}

/// A row of the log, as the relay reads it.
pub(super) struct LogRow {
    pub position: i64,
    pub stream_id: Uuid,
    pub category: String,
    pub version: i64,
    pub leaf: Vec<u8>,
    pub leaf_hash: Vec<u8>,
}

impl LogRow {
    /// Returns the message to publish, with its subject, or `None` if row, leaf and hash disagree.
    pub fn message(self, key: &CopyKey, epoch: Uuid, position: u64, to: &str) -> Option<(String, PublishMessage)> {
        if self.position.unsigned_abs() != position || leaf::hash(&self.leaf) != self.leaf_hash.as_slice() {
            return None;
        }
        // The projections stop at such a leaf too, and log the cause.
        let raw = leaf::read(position, &self.leaf).ok()?;
        let Stream { category, id } = Stream { category: raw.category, id: raw.stream };
        if (id, category.as_str(), raw.version) != (self.stream_id, &self.category, self.version.unsigned_abs()) {
            return None;
        }
        let subject = format!("{SUBJECT_PREFIX}{}", raw.r#type);
        let mut headers = HeaderMap::new();
        headers.insert(POSITION, position.to_string());
        headers.insert(STREAM, format!("{}/{id}", category.as_str()));
        headers.insert(VERSION, raw.version.to_string());
        headers.insert(EPOCH, epoch.to_string());
        headers.insert(LEAF_HASH, hex(&self.leaf_hash));
        headers.insert(MAC, hex(&key.mac(epoch, position, &self.leaf)));
        let id = raw.id.to_string();
        let publish = PublishMessage::build().headers(headers).payload(self.leaf.into()).message_id(id);
        // Position 0 is sequence 1. The stream's name rejects messages still in flight to a retired stream.
        Some((subject, publish.expected_stream(to).expected_last_sequence(position)))
    }
}

/// Returns the epoch of a message in a stream, or `None` if no node with this key made it, or if it is at the wrong
/// sequence.
pub(super) fn epoch_of(message: &StreamMessage, key: &CopyKey) -> Option<Uuid> {
    let header = |name| Some(message.headers.get(name)?.as_str());
    let epoch = Uuid::parse_str(header(EPOCH)?).ok()?;
    let position: u64 = header(POSITION)?.parse().ok()?;
    let is_genuine = key.is_genuine(epoch, position, &message.payload, &unhex(header(MAC)?)?);
    (is_genuine && position.checked_add(1) == Some(message.sequence)).then_some(epoch)
}
