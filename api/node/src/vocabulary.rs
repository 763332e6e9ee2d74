//! Closed lists of words as types of the API: each has a schema with every word, and a refusal that lists the words.

use std::borrow::Cow;
use std::marker::PhantomData;

use fulexo_domain::event::{Category, Event};
use fulexo_projections::export::ExportFormat;
use fulexo_projections::export::ocsf::OcsfVersion;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

/// A closed list of words.
pub trait Vocabulary: Send + Sync {
    /// The name of its schema.
    const NAME: &'static str;
    /// The description of its schema.
    const DESCRIPTION: &'static str;

    /// Returns every word of the list.
    fn words() -> Vec<&'static str>;
}

/// One word of a list.
pub struct Word<V>(pub &'static str, PhantomData<V>);

/// The categories of events.
pub struct Categories;

/// The types of events.
pub struct EventTypes;

/// The directions of a list.
pub struct Orders;

/// The formats of an export.
pub struct ExportFormats;

/// The versions of OCSF that an export may be in.
pub struct OcsfVersions;

impl Vocabulary for Categories {
    const NAME: &'static str = "EventCategory";
    const DESCRIPTION: &'static str =
        "The category of an event: the kind of its stream, and the first part of its type.";

    fn words() -> Vec<&'static str> {
        Category::ALL.map(Category::as_str).to_vec()
    }
}

impl Vocabulary for EventTypes {
    const NAME: &'static str = "EventType";
    const DESCRIPTION: &'static str = "The type of an event, `<category>.<fact>`.";

    fn words() -> Vec<&'static str> {
        Event::types().to_vec()
    }
}

impl Vocabulary for Orders {
    const NAME: &'static str = "SortOrder";
    const DESCRIPTION: &'static str = "The direction of a list: `asc`, oldest first, or `desc`, newest first.";

    fn words() -> Vec<&'static str> {
        vec!["asc", "desc"]
    }
}

impl Vocabulary for ExportFormats {
    const NAME: &'static str = "ExportFormat";
    const DESCRIPTION: &'static str = "The format of an export: `ndjson`, events as `list_audit_events` has them, with the \
        hashes of their leaves; `ocsf`, events of the Open Cybersecurity Schema Framework; `leaves`, the exact leaves.";

    fn words() -> Vec<&'static str> {
        ExportFormat::NAMES.to_vec()
    }
}

impl Vocabulary for OcsfVersions {
    const NAME: &'static str = "OcsfVersion";
    const DESCRIPTION: &'static str = "The version of the Open Cybersecurity Schema Framework.";

    fn words() -> Vec<&'static str> {
        OcsfVersion::ALL.map(OcsfVersion::as_str).to_vec()
    }
}

impl<V: Vocabulary> Word<V> {
    /// Finds a word in the list.
    pub fn find(text: &str) -> Option<Self> {
        V::words().into_iter().find(|word| *word == text).map(|word| Self(word, PhantomData))
    }
}

impl<V: Vocabulary> Type for Word<V> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        V::NAME.into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(V::NAME.to_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>(V::NAME.to_owned(), |_| {
            let mut schema = MetaSchema::new("string");
            schema.description = Some(V::DESCRIPTION);
            schema.enum_items = V::words().into_iter().map(Value::from).collect();
            schema
        });
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl<V: Vocabulary> ParseFromJSON for Word<V> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value {
            Some(Value::String(text)) => Self::parse_from_parameter(&text),
            value => Err(ParseError::expected_type(value.unwrap_or_default())),
        }
    }
}

impl<V: Vocabulary> ParseFromParameter for Word<V> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        Self::find(text).ok_or_else(|| ParseError::custom(format!("must be one of {}", V::words().join(", "))))
    }
}

impl<V: Vocabulary> ToJSON for Word<V> {
    fn to_json(&self) -> Option<Value> {
        Some(Value::from(self.0))
    }
}
