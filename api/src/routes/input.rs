//! From what clients send to values that are sound: every member at fault is named, all at once.

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

/// Most roles in one list.
const MOST_ROLES: usize = 50;

/// Collects what is wrong with a body or a query.
#[derive(Default)]
pub struct Input(Vec<FieldError>);

impl Input {
    /// A member that has to be parsed.
    pub fn parse<T>(&mut self, pointer: &str, parsed: Result<T, impl Display>) -> Option<T> {
        parsed.map_err(|error| self.0.push(FieldError::new(pointer, error.to_string()))).ok()
    }

    /// A member that may be missing.
    pub fn parse_optional<T>(&mut self, pointer: &str, parsed: Option<Result<T, InvalidValue>>) -> Option<T> {
        parsed.and_then(|parsed| self.parse(pointer, parsed))
    }

    /// A list of role names, each at fault named by its place.
    pub fn parse_roles(&mut self, pointer: &str, roles: &[String]) -> Vec<RoleName> {
        if roles.len() > MOST_ROLES {
            self.0.push(FieldError::new(pointer, format!("must name {MOST_ROLES} roles at most")));
            return Vec::new();
        }
        let parsed = roles.iter().enumerate();
        parsed.filter_map(|(index, role)| self.parse(&format!("{pointer}/{index}"), RoleName::parse(role))).collect()
    }

    /// All that is wrong, as one refusal.
    pub fn refused(self) -> Problem {
        Problem::invalid_input(self.0)
    }

    /// Refuses when anything optional was wrong.
    ///
    /// # Errors
    /// 400.
    pub fn check(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(self.refused()) }
    }
}

/// The body of an administrator's act.
#[derive(Object)]
#[oai(deny_unknown_fields)]
pub struct Because {
    /// Why; 1 to 500 characters, sealed beside the log.
    pub reason: String,
}

/// What every act that needs a permission, a fresh proof and a reason begins with.
///
/// # Errors
/// 403 without the permission, or when the login is too long ago; 400 for no reason, once that is clear.
pub fn act(
    request: &Request,
    caller: &Caller,
    permission: Permission,
    because: JsonBody<Because>,
    idempotency_key: Option<String>,
) -> Result<(Context, Reason), Problem> {
    caller.require(permission)?;
    caller.require_elevated()?;
    let mut input = Input::default();
    let Some(reason) = input.parse("/reason", Reason::parse(&because.read()?.reason)) else {
        return Err(input.refused());
    };
    Ok((context(request, caller.actor(), idempotency_key)?, reason))
}

/// The most items of a page, as a query says it: a number from 1 to 200.
pub struct Limit(u16);

/// Items on a page when the client does not say.
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

/// The part of a list that a query asks for.
pub struct Wanted {
    /// The most items.
    pub limit: Option<Limit>,
    /// The direction.
    pub order: Option<Word<Orders>>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

impl Wanted {
    /// Reads the cursor, which says its direction, too: a list that goes back keeps to it.
    ///
    /// # Errors
    /// 400 for a cursor that no page of this list gave.
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
            Problem::invalid_input(vec![FieldError::new("/cursor", "must be the next_cursor of a page in this order")])
        })?;
        Ok(Paging { after: Some(after), order: its_order, limit })
    }
}

/// The first character of a cursor that goes back.
const BACK: char = '~';

/// A key as a cursor.
pub fn cursor_of(order: SortOrder, key: impl Display) -> String {
    match order {
        SortOrder::Ascending => key.to_string(),
        SortOrder::Descending => format!("{BACK}{key}"),
    }
}

/// A position as a cursor has it.
pub fn read_position(text: &str) -> Option<i64> {
    text.parse().ok().filter(|position| *position >= 0)
}

/// An id as a cursor has it.
pub fn read_id(text: &str) -> Option<Uuid> {
    text.parse().ok()
}
