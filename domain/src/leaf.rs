//! The encoding of an event as a leaf: canonical JSON (a narrow subset of RFC 8785), hashed once, like an RFC 6962
//! leaf. A verifier hashes the stored bytes and never serialises the event again. A projection builds the tree over the
//! hashes.
//!
//! The subset: ASCII keys in order, strings, booleans, null, integers within 2^53, arrays, objects; no floats; times in
//! RFC 3339, UTC, with six digits; binary data in base64url without padding. The maximum is 65,535 bytes, the limit of
//! an entry in a tlog-tiles bundle.

mod canonical;
mod outline;
mod time;

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::de::value::{BorrowedStrDeserializer, Error as TextError};
use serde::de::{DeserializeSeed, EnumAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::canonical::is_canonical_json;
pub use self::outline::LeafOutline;
use crate::account::AccountEvent;
use crate::api_key::ApiKeyEvent;
use crate::audit::AuditTrailEvent;
use crate::authentication::AuthenticationEvent;
use crate::backup::BackupEvent;
use crate::checkpoint::CheckpointEvent;
use crate::event::{Actor, Category, Event, RecordedEvent, SealedDigest, Stream};
use crate::incident::IncidentEvent;
use crate::key::KeyEvent;
use crate::lockdown::LockdownEvent;
use crate::policy::PolicyEvent;
use crate::rate_limit::RateLimitEvent;
use crate::role::RoleEvent;
use crate::session::SessionEvent;

/// The maximum length of a leaf, in bytes.
pub const MAX_LEN: usize = 65_535;

/// An event before its append. Its time, version and position are missing: only the holder of the log's lock knows
/// them.
#[derive(Debug, Clone)]
pub struct EventDraft {
    /// The id of the event, a UUIDv7.
    pub id: Uuid,
    /// The stream.
    pub stream: Stream,
    /// The account concerned.
    pub subject: Option<Uuid>,
    /// The actor who causes the event.
    pub actor: Actor,
    /// The id of the request that causes the event.
    pub correlation: Uuid,
    /// The id of the event that causes this one.
    pub causation: Option<Uuid>,
    /// The version of the policy in force at the decision.
    pub policy_version: u32,
    /// The event itself.
    pub event: Event,
    /// The digests of the personal fields sealed alongside it.
    pub sealed: Vec<SealedDigest>,
}

/// The failure to write or read a leaf.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The event is too long, or is outside the subset.
    #[error("the event does not fit a leaf: {0}")]
    Unfit(&'static str),
    /// The bytes are not a leaf of this log.
    #[error("the leaf at position {position} cannot be read")]
    Unreadable {
        /// The position of the leaf.
        position: u64,
        /// The error of the decoder.
        source: serde_json::Error,
    },
    /// This build does not know the type or schema version.
    #[error("the leaf at position {position} is of a type or version that this build does not know")]
    UnknownType {
        /// The position of the leaf.
        position: u64,
    },
}

/// A leaf without its time and version. The caller encodes it; the holder of the log's lock completes it.
#[derive(Debug, Clone)]
pub struct LeafTemplate {
    draft: EventDraft,
    event_type: Box<str>,
    before_time: String,
    after_time: String,
}

impl EventDraft {
    /// Encodes the draft in advance, so that little work remains under the lock.
    ///
    /// # Errors
    /// [`LeafError::Unfit`] if the leaf is too long or holds a number outside the subset.
    pub fn encode(self) -> Result<LeafTemplate, LeafError> {
        let tagged = match &self.event {
            Event::Account(event) => serde_json::to_value(event),
            Event::Authentication(event) => serde_json::to_value(event),
            Event::Session(event) => serde_json::to_value(event),
            Event::Role(event) => serde_json::to_value(event),
            Event::Policy(event) => serde_json::to_value(event),
            Event::ApiKey(event) => serde_json::to_value(event),
            Event::RateLimit(event) => serde_json::to_value(event),
            Event::Lockdown(event) => serde_json::to_value(event),
            Event::Checkpoint(event) => serde_json::to_value(event),
            Event::Audit(event) => serde_json::to_value(event),
            Event::Key(event) => serde_json::to_value(event),
            Event::Incident(event) => serde_json::to_value(event),
            Event::Backup(event) => serde_json::to_value(event),
        };
        let Ok(Value::Object(tagged)) = tagged else { return Err(LeafError::Unfit("it has no data")) };
        let Some((event_type, data)) = tagged.into_iter().next() else {
            return Err(LeafError::Unfit("it has no type"));
        };
        if !is_canonical(&data) {
            return Err(LeafError::Unfit("it holds a number outside the subset"));
        }
        // serde_json keeps keys in order and writes no white space; its escapes are those of RFC 8785.
        let head = json!({
            "actor": self.actor,
            "category": self.event.category(),
            "causation": self.causation,
            "correlation": self.correlation,
            "data": data,
            "id": self.id,
            "policy_version": self.policy_version,
            "schema_version": self.event.schema_version(),
            "sealed": self.sealed,
            "stream": self.stream.id,
            "subject": self.subject,
        });
        let mut before_time = head.to_string();
        before_time.pop();
        before_time.push_str(",\"time\":\"");
        let after_time = format!("\",\"type\":\"{event_type}\",\"version\":");
        if before_time.len() + after_time.len() + 27 + 17 > MAX_LEN {
            return Err(LeafError::Unfit("it is longer than 65,535 bytes"));
        }
        Ok(LeafTemplate { draft: self, event_type: event_type.into(), before_time, after_time })
    }
}

impl LeafTemplate {
    /// The draft.
    #[must_use]
    pub const fn draft(&self) -> &EventDraft {
        &self.draft
    }

    /// Completes the bytes of the leaf.
    #[must_use]
    pub fn leaf(&self, recorded_at: DateTime<Utc>, version: u64) -> Vec<u8> {
        let time = format_time(recorded_at);
        format!("{}{time}{}{version}}}", self.before_time, self.after_time).into_bytes()
    }

    /// Completes the event as a reader will decode it from the leaf.
    #[must_use]
    pub fn recorded_event(&self, position: u64, recorded_at: DateTime<Utc>, version: u64) -> RecordedEvent {
        let EventDraft { id, stream, subject, actor, correlation, causation, policy_version, event, sealed } =
            self.draft.clone();
        RecordedEvent {
            position,
            id,
            stream,
            version,
            subject,
            actor,
            correlation,
            causation,
            policy_version,
            recorded_at,
            event_type: self.event_type.clone(),
            event,
            sealed,
        }
    }
}

/// The hash of a leaf: SHA-256(0x00 ‖ leaf), RFC 6962, section 2.1.
#[must_use]
pub fn hash(leaf: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix([0]).chain_update(leaf).finalize().into()
}

/// The fields of a leaf, with `data` in its encoded form. Meant for display; a reader that acts on an event uses
/// [`decode`].
#[derive(Debug, Deserialize, Serialize)]
pub struct RawLeaf<'a> {
    /// The actor who caused the event.
    pub actor: Actor,
    /// The category of the stream.
    pub category: Category,
    /// The id of the event that caused this one.
    pub causation: Option<Uuid>,
    /// The id of the request that caused the event.
    pub correlation: Uuid,
    /// The data of the event, in the schema of its type and version.
    #[serde(borrow)]
    pub data: &'a RawValue,
    /// The id of the event, a UUIDv7.
    pub id: Uuid,
    /// The version of the policy in force at the decision.
    pub policy_version: u32,
    /// The schema version of `data`.
    pub schema_version: u32,
    /// The digests of the personal fields sealed alongside it.
    pub sealed: Vec<SealedDigest>,
    /// The id of the aggregate.
    pub stream: Uuid,
    /// The account concerned.
    pub subject: Option<Uuid>,
    /// The time of the commit.
    #[serde(with = "micros")]
    pub time: DateTime<Utc>,
    /// The event type, `<category>.<fact>`.
    pub r#type: &'a str,
    /// The version of the stream after this event.
    pub version: u64,
}

/// Reads the fields of a leaf.
///
/// # Errors
/// [`LeafError::Unreadable`].
pub fn read(position: u64, leaf: &[u8]) -> Result<RawLeaf<'_>, LeafError> {
    // Checks UTF-8 once for the whole leaf instead of once per string. For invalid UTF-8, serde_json reports the error.
    let raw = std::str::from_utf8(leaf).map_or_else(|_| serde_json::from_slice(leaf), serde_json::from_str);
    raw.map_err(|source| LeafError::Unreadable { position, source })
}

/// Decodes a leaf as an event.
///
/// # Errors
/// [`LeafError::Unreadable`], [`LeafError::UnknownType`].
pub fn decode(position: u64, leaf: &[u8]) -> Result<RecordedEvent, LeafError> {
    let raw = read(position, leaf)?;
    if raw.schema_version != 1 {
        return Err(LeafError::UnknownType { position });
    }
    let tagged = Tagged { tag: raw.r#type, data: raw.data };
    let event = match raw.category {
        Category::Account => AccountEvent::deserialize(tagged).map(Event::Account),
        Category::Authentication => AuthenticationEvent::deserialize(tagged).map(Event::Authentication),
        Category::Session => SessionEvent::deserialize(tagged).map(Event::Session),
        Category::Role => RoleEvent::deserialize(tagged).map(Event::Role),
        Category::Policy => PolicyEvent::deserialize(tagged).map(Event::Policy),
        Category::ApiKey => ApiKeyEvent::deserialize(tagged).map(Event::ApiKey),
        Category::RateLimit => RateLimitEvent::deserialize(tagged).map(Event::RateLimit),
        Category::Lockdown => LockdownEvent::deserialize(tagged).map(Event::Lockdown),
        Category::Checkpoint => CheckpointEvent::deserialize(tagged).map(Event::Checkpoint),
        Category::Audit => AuditTrailEvent::deserialize(tagged).map(Event::Audit),
        Category::Key => KeyEvent::deserialize(tagged).map(Event::Key),
        Category::Incident => IncidentEvent::deserialize(tagged).map(Event::Incident),
        Category::Backup => BackupEvent::deserialize(tagged).map(Event::Backup),
    }
    .map_err(|source| {
        // Serde reports an unknown variant only in the text of its message.
        if source.to_string().starts_with("unknown variant") {
            LeafError::UnknownType { position }
        } else {
            LeafError::Unreadable { position, source }
        }
    })?;
    Ok(RecordedEvent {
        position,
        id: raw.id,
        stream: Stream { category: raw.category, id: raw.stream },
        version: raw.version,
        subject: raw.subject,
        actor: raw.actor,
        correlation: raw.correlation,
        causation: raw.causation,
        policy_version: raw.policy_version,
        recorded_at: raw.time,
        event_type: raw.r#type.into(),
        event,
        sealed: raw.sealed,
    })
}

/// Formats a time in RFC 3339, in UTC, with six digits.
#[must_use]
pub fn format_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Truncates a time to microseconds, the precision of a leaf.
#[must_use]
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// The encoding of times in `data`, identical to that of the leaf's own time.
pub mod micros {
    use std::fmt;

    use chrono::{DateTime, Utc};
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes a time with exactly six digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_time(*time))
    }

    /// Reads any RFC 3339 time.
    ///
    /// # Errors
    /// Any other text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        deserializer.deserialize_str(Time)
    }

    struct Time;

    impl Visitor<'_> for Time {
        type Value = DateTime<Utc>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an RFC 3339 time")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<DateTime<Utc>, E> {
            super::time::parse_time(text.as_bytes()).map_or_else(|| text.parse().map_err(E::custom), Ok)
        }
    }
}

fn is_canonical(value: &Value) -> bool {
    const BOUND: u64 = 1 << 53;
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => {
            number.as_u64().is_some_and(|n| n <= BOUND) || number.as_i64().is_some_and(|n| n.unsigned_abs() <= BOUND)
        }
        Value::Array(items) => items.iter().all(is_canonical),
        Value::Object(members) => members.iter().all(|(key, value)| key.is_ascii() && is_canonical(value)),
    }
}

/// An event type and its data, presented to serde as one enum value, without an intermediate tree.
struct Tagged<'de> {
    tag: &'de str,
    data: &'de RawValue,
}

impl<'de> Deserializer<'de> for Tagged<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = serde_json::Error;
    type Variant = TaggedData<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), Self::Error> {
        let tag =
            seed.deserialize(BorrowedStrDeserializer::<TextError>::new(self.tag)).map_err(serde::de::Error::custom)?;
        Ok((tag, TaggedData(self.data)))
    }
}

struct TaggedData<'de>(&'de RawValue);

impl<'de> VariantAccess<'de> for TaggedData<'de> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Self::Error> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        self.0.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_map(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::{Factor, FailureReason};
    use crate::sealed_field::SealedField;
    use crate::session::RevocationCause;

    fn draft(event: Event) -> EventDraft {
        let id = Uuid::from_u128(0x0193_5c2e_7000_7000_8000_0000_0000_0001);
        EventDraft {
            id,
            stream: Stream { category: event.category(), id },
            subject: Some(id),
            actor: Actor::Account { id },
            correlation: id,
            causation: None,
            policy_version: 1,
            event,
            sealed: vec![SealedDigest { commitment: "Yw".into(), digest: "ZA".into(), fields: vec![SealedField::Ip] }],
        }
    }

    fn time() -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_793_000_000_000_000).unwrap()
    }

    #[test]
    fn a_time_is_read_as_chrono_reads_it_or_not_at_all() {
        for text in ["1969-12-31T23:59:59.999999Z", "2024-02-29T00:00:00.000000Z", "9999-12-31T23:59:59.000001Z"] {
            assert_eq!(time::parse_time(text.as_bytes()), Some(text.parse().unwrap()), "{text}");
        }
        let others = [
            "2023-02-29T00:00:00.000000Z",
            "2024-13-01T00:00:00.000000Z",
            "2024-01-01T24:00:00.000000Z",
            "2024-01-01T00:00:60.000000Z",
            "2024-01-01T00:00:00.00000Z",
            "2024-01-01T00:00:00.0000000Z",
            "2024-01-01t00:00:00.000000z",
            "2024-01-01T00:00:00.000000+00:00",
            "+024-01-01T00:00:00.000000Z",
            "2024-01-01T00:00:00.00000\u{e9}Z",
            "",
        ];
        for text in others {
            assert_eq!(time::parse_time(text.as_bytes()), None, "{text}");
        }
        #[derive(Deserialize)]
        struct Any(#[serde(with = "micros")] DateTime<Utc>);
        let read = |text: &str| serde_json::from_value::<Any>(json!(text)).map(|time| time.0);
        for text in others {
            match text.parse::<DateTime<Utc>>() {
                Ok(time) => assert_eq!(read(text).unwrap(), time, "{text}"),
                Err(_) => assert!(read(text).is_err(), "{text}"),
            }
        }
    }

    #[test]
    fn a_leaf_is_its_own_canonical_form() {
        let event =
            Event::Session(SessionEvent::Refreshed { generation: 2, grace_until: time(), idle_expires_at: time() });
        let leaf = draft(event).encode().unwrap().leaf(time(), 7);
        let tree: Value = serde_json::from_slice(&leaf).unwrap();
        assert_eq!(String::from_utf8(leaf.clone()).unwrap(), tree.to_string());
        let text = String::from_utf8(leaf).unwrap();
        assert!(text.contains(r#""grace_until":"2026-10-26T07:33:20.000000Z""#), "{text}");
        assert!(
            text.ends_with(r#""time":"2026-10-26T07:33:20.000000Z","type":"session.refreshed","version":7}"#),
            "{text}"
        );
    }

    #[test]
    fn a_leaf_decodes_to_its_event() {
        for event in [
            Event::Account(AccountEvent::Registered {}),
            Event::Session(SessionEvent::Revoked { by: RevocationCause::Reuse }),
            Event::Session(SessionEvent::Expired {}),
            Event::Authentication(AuthenticationEvent::Failed {
                factor: Factor::Password,
                reason: FailureReason::Locked,
                device: Some("d".into()),
            }),
        ] {
            let prepared = draft(event).encode().unwrap();
            let decoded = decode(9, &prepared.leaf(time(), 3)).unwrap();
            assert_eq!(decoded, prepared.recorded_event(9, time(), 3));
        }
    }

    #[test]
    fn the_hash_is_that_of_rfc_6962() {
        // The empty leaf of the RFC 6962 test vectors.
        let hex: String = hash(b"").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn an_unknown_type_or_version_is_told_from_a_broken_leaf() {
        let leaf = draft(Event::Account(AccountEvent::Registered {})).encode().unwrap().leaf(time(), 1);
        let text = String::from_utf8(leaf).unwrap();
        let newer = text.replace("account.registered", "account.reinvented");
        assert!(matches!(decode(4, newer.as_bytes()), Err(LeafError::UnknownType { position: 4 })));
        let newer = text.replace("\"schema_version\":1", "\"schema_version\":2");
        assert!(matches!(decode(4, newer.as_bytes()), Err(LeafError::UnknownType { position: 4 })));
        assert!(matches!(decode(4, b"{}"), Err(LeafError::Unreadable { position: 4, .. })));
    }
}
