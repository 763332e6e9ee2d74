//! The line of an event in an export as NDJSON: an item of `GET /v1/audit/events`, and the hash of its leaf. The leaf's data
//! are copied as they stand.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use fulexo_domain::event::{Category, SealedDigest};
use fulexo_domain::leaf::{RawLeaf, micros};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The line, whose members are those of the API.
#[derive(Serialize)]
pub(super) struct ExportItem<'a> {
    actor: ExportActor,
    category: Category,
    causation: Option<Uuid>,
    correlation: Uuid,
    data: &'a RawValue,
    id: Uuid,
    leaf_hash: String,
    policy_version: u32,
    position: u64,
    schema_version: u32,
    sealed: &'a [SealedDigest],
    stream: Uuid,
    subject: Option<Uuid>,
    #[serde(with = "micros")]
    time: DateTime<Utc>,
    r#type: &'a str,
    version: u64,
}

/// The actor, whose id is `null` for some kinds.
#[derive(Serialize)]
struct ExportActor {
    id: Option<Uuid>,
    kind: &'static str,
}

impl<'a> ExportItem<'a> {
    pub(super) fn of(position: u64, leaf: &'a RawLeaf<'a>, leaf_hash: &[u8]) -> Self {
        Self {
            actor: ExportActor { id: leaf.actor.id(), kind: leaf.actor.kind() },
            category: leaf.category,
            causation: leaf.causation,
            correlation: leaf.correlation,
            data: leaf.data,
            id: leaf.id,
            leaf_hash: URL_SAFE_NO_PAD.encode(leaf_hash),
            policy_version: leaf.policy_version,
            position,
            schema_version: leaf.schema_version,
            sealed: &leaf.sealed,
            stream: leaf.stream,
            subject: leaf.subject,
            time: leaf.time,
            r#type: leaf.r#type,
            version: leaf.version,
        }
    }
}
