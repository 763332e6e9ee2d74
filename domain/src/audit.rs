//! The audit trail, as far as the log itself tells of its use: who opened what is sealed alongside an event, in one stream per
//! event that was opened, with its id; who searched for an address, in one stream per search; and who took copies, in one stream
//! per copy.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::sealed_field::SealedField;
use crate::values::AddressKind;

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditTrailEvent {
    /// The sealed fields of an event were disclosed to the actor. Sealed: reason.
    #[serde(rename = "audit.unsealed")]
    Unsealed {
        /// The position of the event.
        position: u64,
        /// The fields.
        fields: Vec<SealedField>,
    },
    /// The digest of an address was disclosed to the actor, by which events are searched. It names neither.
    #[serde(rename = "audit.address_searched")]
    AddressSearched {
        /// The kind of the address.
        kind: AddressKind,
    },
    /// The actor began to take a copy of events. It may have every event of the range that the filter admits.
    #[serde(rename = "audit.exported")]
    Exported {
        /// The form of the copy.
        form: CopyForm,
        /// The position of the first event.
        first: u64,
        /// The position of the last event. `None` for a copy that goes on as the log grows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<u64>,
        /// The filter.
        #[serde(default, skip_serializing_if = "CopyFilter::is_empty")]
        filter: CopyFilter,
    },
}

/// The form of a copy of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyForm {
    /// An export of events as JSON.
    Ndjson,
    /// An export of events in the Open Cybersecurity Schema Framework.
    Ocsf,
    /// An export of leaves.
    Leaves,
    /// Entry bundles of the log. Recorded once per actor, node and hour.
    Entries,
    /// Server-sent events. Recorded once per actor, node and hour, unless one begins earlier in the log.
    Stream,
    /// An export of a person's own data.
    OwnData,
}

impl CopyForm {
    /// `true` if the copy grows with the log, or is taken piece by piece.
    #[must_use]
    pub const fn goes_on(self) -> bool {
        matches!(self, Self::Entries | Self::Stream)
    }

    /// The operation of the API that gives such copies.
    #[must_use]
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Ndjson | Self::Ocsf | Self::Leaves => "export_audit_events",
            Self::Entries => "get_log_entries",
            Self::Stream => "stream_audit_events",
            Self::OwnData => "export_me",
        }
    }

    /// `true` if the copy is of events about anybody.
    #[must_use]
    pub const fn is_of_others(self) -> bool {
        !matches!(self, Self::OwnData)
    }
}

/// The filter of a copy: an event is in it if it has every property that is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CopyFilter {
    /// The actor that caused the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Uuid>,
    /// `true` if one address was asked for: the log does not say which.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub address: bool,
    /// The API key that the event concerns, or that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Uuid>,
    /// The category.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The request that caused the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Uuid>,
    /// An id that the event has as any of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// The session of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Uuid>,
    /// The account that the event concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Uuid>,
    /// The type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

impl CopyFilter {
    /// `true` if it admits every event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
