//! The filters that the list, the stream and the export of events share, and the permissions that they need.

use fulexo_domain::audit::CopyFilter;
use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::AddressDigest;
use fulexo_node::vocabulary::{Categories, EventTypes, Word};
use fulexo_projections::read_models::audit::AuditFilter;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, Type};
use uuid::Uuid;

/// The parameters that select events, apart from their range.
pub struct FilterParameters {
    pub event_type: Option<Word<EventTypes>>,
    pub category: Option<Word<Categories>>,
    pub subject: Option<Uuid>,
    pub actor: Option<Uuid>,
    pub correlation: Option<Uuid>,
    pub session: Option<Uuid>,
    pub api_key: Option<Uuid>,
    pub id: Option<Uuid>,
    pub address: Option<AddressParameter>,
}

/// The digest of an address, 128 bits in base64url.
pub struct AddressParameter(AddressDigest);

impl AddressParameter {
    /// The digest.
    pub const fn digest(self) -> AddressDigest {
        self.0
    }
}

/// The number of characters of a digest.
const DIGEST_LENGTH: usize = 22;

impl FilterParameters {
    /// The permissions that a search with these parameters needs.
    pub fn needs(&self) -> Permissions {
        let unsealing =
            if self.address.is_some() { Permissions::of(&[Permission::AuditUnseal]) } else { Permissions::NONE };
        Permissions::of(&[Permission::AuditRead]).union(unsealing)
    }

    /// The filter of these parameters, without a range.
    pub fn filter(self) -> AuditFilter {
        let Self { event_type, category, subject, actor, correlation, session, api_key, id, address } = self;
        let (event_type, category) = (event_type.map(|word| word.0), category.map(|word| word.0));
        AuditFilter {
            event_type,
            category,
            subject,
            actor,
            correlation,
            session,
            api_key,
            id,
            address: address.map(|address| address.0),
            ..AuditFilter::default()
        }
    }
}

/// The filter of a copy, as the log records it.
pub fn copy_filter(filter: &AuditFilter) -> CopyFilter {
    CopyFilter {
        actor: filter.actor,
        api_key: filter.api_key,
        category: filter.category.map(str::to_owned),
        correlation: filter.correlation,
        id: filter.id,
        session: filter.session,
        subject: filter.subject,
        r#type: filter.event_type.map(str::to_owned),
        address: filter.address.is_some(),
    }
}

/// Formats the digest of an address, as the parameter `address` takes it.
pub fn digest_text(digest: AddressDigest) -> String {
    URL_SAFE_NO_PAD.encode(digest.0)
}

impl Type for AddressParameter {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "string_address_digest".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let mut schema = MetaSchema::new("string");
        schema.min_length = Some(DIGEST_LENGTH);
        schema.max_length = Some(DIGEST_LENGTH);
        schema.pattern = Some("^[A-Za-z0-9_-]{21}[AQgw]$".to_owned());
        MetaSchemaRef::Inline(Box::new(schema))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ParseFromParameter for AddressParameter {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let digest = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let refused = || ParseError::custom("must be the digest of an address, as POST /v1/audit/addresses answers it");
        digest.map(|digest| Self(AddressDigest(digest))).ok_or_else(refused)
    }
}
