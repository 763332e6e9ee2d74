//! The validation of bodies and queries, which reports every fault at once.

use std::borrow::Cow;
use std::fmt::Display;

use fulexo_commands::context::Context;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{InvalidValue, Reason, RoleName};
use fulexo_node::caller::{Caller, context};
use fulexo_node::http::problem::FieldError;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::page::{MAX_PAGE_SIZE, Paging, SortOrder};
use poem::Request;
use poem_openapi::Object;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, Type};
use uuid::Uuid;

/// The most roles in one list.
const MOST_ROLES: usize = 50;

/// The faults of a body or a query.
#[derive(Default)]
pub struct Input(Vec<FieldError>);

impl Input {
    /// Returns a parsed member, or records its fault.
    pub fn parse<T>(&mut self, pointer: &str, parsed: Result<T, impl Display>) -> Option<T> {
        parsed.map_err(|error| self.0.push(FieldError::new(pointer, error.to_string()))).ok()
    }

    /// Returns a parsed optional member, or records its fault.
    pub fn parse_optional<T>(&mut self, pointer: &str, parsed: Option<Result<T, InvalidValue>>) -> Option<T> {
        parsed.and_then(|parsed| self.parse(pointer, parsed))
    }

    /// Parses a list of role names. Records each fault with the index of its name.
    pub fn parse_roles(&mut self, pointer: &str, roles: &[String]) -> Vec<RoleName> {
        if roles.len() > MOST_ROLES {
            self.0.push(FieldError::new(pointer, format!("must have at most {MOST_ROLES} roles")));
            return Vec::new();
        }
        let parsed = roles.iter().enumerate();
        parsed.filter_map(|(index, role)| self.parse(&format!("{pointer}/{index}"), RoleName::parse(role))).collect()
    }

    /// Returns the problem with all faults.
    pub fn refused(self) -> Problem {
        Problem::invalid_input(self.0)
    }

    /// Checks that no fault was recorded.
    ///
    /// # Errors
    /// 400 with all faults.
    pub fn check(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(self.refused()) }
    }
}

/// The reason for a change by an administrator.
#[derive(Object)]
#[oai(deny_unknown_fields)]
pub struct ReasonRequest {
    /// The reason, 1 to 500 characters. It is sealed alongside the event.
    pub reason: String,
}

/// Checks the permission and the elevation of the caller, then reads the reason.
///
/// # Errors
/// 403 without the permission or the elevation; 400 without a reason.
pub fn act(
    request: &Request,
    caller: &Caller,
    permission: Permission,
    reason: JsonBody<ReasonRequest>,
    idempotency_key: Option<String>,
) -> Result<(Context, Reason), Problem> {
    caller.require(permission)?;
    caller.require_elevated()?;
    let mut input = Input::default();
    let Some(reason) = input.parse("/reason", Reason::parse(&reason.read()?.reason)) else {
        return Err(input.refused());
    };
    Ok((context(request, caller.actor(), idempotency_key)?, reason))
}

/// The `limit` of a list: the maximum number of items on a page, 1 to 200.
pub struct Limit(u16);

/// The default limit.
const DEFAULT: u16 = 50;

impl Type for Limit {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "integer_limit".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let mut schema = MetaSchema::new_with_format("integer", "uint16");
        schema.minimum = Some(1.0);
        schema.maximum = Some(f64::from(MAX_PAGE_SIZE));
        schema.default = Some(DEFAULT.into());
        MetaSchemaRef::Inline(Box::new(schema))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ParseFromParameter for Limit {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let limit = text.parse().ok().filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit));
        limit.map(Self).ok_or_else(|| ParseError::custom("must be a number from 1 to 200"))
    }
}

/// The paging parameters of a query.
pub struct PageQuery {
    /// The maximum number of items.
    pub limit: Option<Limit>,
    /// The direction.
    pub order: Option<Word<Orders>>,
    /// The cursor: the end of the previous page.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// Parses the cursor, which includes the direction of its list.
    ///
    /// # Errors
    /// 400 for a cursor of another list or another direction.
    pub fn paging<K>(self, read: impl Fn(&str) -> Option<K>) -> Result<Paging<K>, Problem> {
        let limit = self.limit.map_or(DEFAULT, |limit| limit.0);
        let order =
            self.order.map(|order| if order.0 == "desc" { SortOrder::Descending } else { SortOrder::Ascending });
        let Some(text) = self.cursor else {
            return Ok(Paging { after: None, order: order.unwrap_or_default(), limit });
        };
        let (its_order, key) = match text.strip_prefix(BACK) {
            Some(key) => (SortOrder::Descending, key),
            None => (SortOrder::Ascending, &*text),
        };
        let after = read(key).filter(|_| order.is_none_or(|order| order == its_order));
        let after = after.ok_or_else(|| {
            Problem::invalid_input(vec![FieldError::new(
                "/cursor",
                "must be the next_cursor of a page of this list in the same order",
            )])
        })?;
        Ok(Paging { after: Some(after), order: its_order, limit })
    }
}

/// The first character of a descending cursor.
const BACK: char = '~';

/// Formats a key as a cursor.
pub fn cursor_of(order: SortOrder, key: impl Display) -> String {
    match order {
        SortOrder::Ascending => key.to_string(),
        SortOrder::Descending => format!("{BACK}{key}"),
    }
}

/// Parses the position in a cursor.
pub fn read_position(text: &str) -> Option<i64> {
    text.parse().ok().filter(|position| *position >= 0)
}

/// Parses the id in a cursor.
pub fn read_id(text: &str) -> Option<Uuid> {
    text.parse().ok()
}
