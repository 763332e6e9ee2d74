//! An event as a line of OCSF: what every class has, the details of the event, and in `unmapped` everything of the leaf that
//! has no place elsewhere.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Actor, Category, RecordedEvent, SealedDigest};
use fulexo_domain::leaf::{RawLeaf, micros};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::details::OcsfDetails;
use super::mapping::OcsfMapping;
use super::objects::OcsfActor;
use super::vocabulary::{OcsfClass, OcsfVersion, PRODUCT};

/// The line.
#[derive(Serialize)]
pub struct OcsfRecord<'a> {
    activity_id: u32,
    activity_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<OcsfActor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation_list: Option<[OcsfAttestation; 1]>,
    category_uid: u32,
    class_uid: u32,
    #[serde(flatten)]
    details: OcsfDetails<'a>,
    metadata: OcsfMetadata<'a>,
    raw_data_hash: OcsfFingerprint,
    raw_data_size: usize,
    severity: &'static str,
    severity_id: u32,
    status: &'static str,
    status_id: u32,
    /// In milliseconds.
    time: i64,
    type_uid: u32,
    unmapped: OcsfUnmapped<'a>,
}

#[derive(Serialize)]
struct OcsfMetadata<'a> {
    /// The id of the request.
    correlation_uid: Uuid,
    /// The event type.
    event_code: &'a str,
    product: OcsfProduct,
    #[serde(skip_serializing_if = "Option::is_none")]
    profiles: Option<[&'static str; 1]>,
    /// The position in the log.
    sequence: u64,
    /// The id of the event.
    uid: Uuid,
    /// That of OCSF.
    version: &'static str,
}

#[derive(Serialize)]
struct OcsfProduct {
    name: &'static str,
    vendor_name: &'static str,
    version: &'static str,
}

/// The hash of the leaf.
#[derive(Clone, Serialize)]
struct OcsfFingerprint {
    algorithm: &'static str,
    algorithm_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    serialization: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serialization_id: Option<u32>,
    value: String,
}

/// The log vouches for the event: its leaf is in the tree.
#[derive(Serialize)]
struct OcsfAttestation {
    fingerprint: OcsfFingerprint,
}

/// The members of the leaf that OCSF has no place for, or a less exact one.
#[derive(Serialize)]
struct OcsfUnmapped<'a> {
    actor: Actor,
    category: Category,
    causation: Option<Uuid>,
    data: &'a RawValue,
    policy_version: u32,
    schema_version: u32,
    sealed: &'a [SealedDigest],
    stream: Uuid,
    subject: Option<Uuid>,
    #[serde(with = "micros")]
    time: DateTime<Utc>,
    version: u64,
}

impl<'a> OcsfRecord<'a> {
    /// Puts the record of an event together. Both forms are read from its leaf, which has this hash and length.
    #[must_use]
    pub fn of(
        version: OcsfVersion,
        event: &'a RecordedEvent,
        leaf: &'a RawLeaf<'a>,
        leaf_hash: &[u8],
        leaf_length: usize,
    ) -> Self {
        let mapping = OcsfMapping::of(&event.event, version);
        let hash = OcsfFingerprint {
            algorithm: "SHA-256",
            algorithm_id: 3,
            serialization: None,
            serialization_id: None,
            value: hex(leaf_hash),
        };
        // A profile of 1.9. What is hashed is the leaf, not this record, and the chain is the tree.
        let attestation = match version {
            OcsfVersion::V1_8 => None,
            OcsfVersion::V1_9 => Some(OcsfAttestation {
                fingerprint: OcsfFingerprint {
                    serialization: Some("RFC 6962 leaf of the source event in RFC 8785 form"),
                    serialization_id: Some(99),
                    ..hash.clone()
                },
            }),
        };
        Self {
            activity_id: mapping.activity.id,
            activity_name: mapping.activity.name,
            actor: actor(mapping, leaf.actor),
            category_uid: mapping.class.category_uid(),
            class_uid: mapping.class.uid(),
            details: OcsfDetails::of(version, mapping.class, event),
            metadata: OcsfMetadata {
                correlation_uid: leaf.correlation,
                event_code: leaf.r#type,
                product: OcsfProduct { name: PRODUCT, vendor_name: PRODUCT, version: env!("CARGO_PKG_VERSION") },
                profiles: attestation.is_some().then_some(["record_integrity"]),
                sequence: event.position,
                uid: leaf.id,
                version: version.as_str(),
            },
            attestation_list: attestation.map(|attestation| [attestation]),
            raw_data_hash: hash,
            raw_data_size: leaf_length,
            severity: mapping.severity.as_str(),
            severity_id: mapping.severity.id(),
            status: mapping.status.as_str(),
            status_id: mapping.status.id(),
            time: leaf.time.timestamp_millis(),
            type_uid: mapping.type_uid(),
            unmapped: OcsfUnmapped {
                actor: leaf.actor,
                category: leaf.category,
                causation: leaf.causation,
                data: leaf.data,
                policy_version: leaf.policy_version,
                schema_version: leaf.schema_version,
                sealed: &leaf.sealed,
                stream: leaf.stream,
                subject: leaf.subject,
                time: leaf.time,
                version: leaf.version,
            },
        }
    }
}

/// The actor, where the class has one.
fn actor(mapping: OcsfMapping, actor: Actor) -> Option<OcsfActor> {
    (!matches!(mapping.class, OcsfClass::DetectionFinding | OcsfClass::IncidentFinding)).then(|| actor.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
