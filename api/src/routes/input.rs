//! From what clients send to values that are sound: every member at fault is named, all at once.

use std::fmt::Display;

use fulexo_commands::context::Context;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{InvalidValue, Reason, RoleName};
use fulexo_projections::page::LARGEST;
use poem::Request;
use poem_openapi::Object;
use uuid::Uuid;

use crate::caller::{Caller, context};
use crate::http::problem::FieldError;
use crate::http::{JsonBody, Problem};

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

/// Where a page begins, and how long it is.
pub struct Paging<K> {
    /// The key behind which it begins.
    pub after: Option<K>,
    /// Most items.
    pub limit: u16,
}

/// Items on a page when the client does not say.
const DEFAULT: u16 = 50;

impl Paging<Uuid> {
    /// # Errors
    /// 400 for a cursor that no page gave, or a limit out of range.
    pub fn by_id(cursor: Option<String>, limit: Option<u16>) -> Result<Self, Problem> {
        paging(cursor, limit, |text| text.parse().ok())
    }
}

impl Paging<i64> {
    /// # Errors
    /// 400 for a cursor that no page gave, or a limit out of range.
    pub fn by_position(cursor: Option<String>, limit: Option<u16>) -> Result<Self, Problem> {
        paging(cursor, limit, read_position)
    }
}

/// A position as a cursor has it.
pub fn read_position(text: &str) -> Option<i64> {
    text.parse().ok().filter(|position| *position >= 0)
}

/// # Errors
/// 400 for a cursor that cannot be read, or a limit out of range.
pub fn paging<K>(
    cursor: Option<String>,
    limit: Option<u16>,
    read: impl Fn(&str) -> Option<K>,
) -> Result<Paging<K>, Problem> {
    let mut input = Input::default();
    let limit = limit.unwrap_or(DEFAULT);
    if !(1..=LARGEST).contains(&limit) {
        input.0.push(FieldError::new("/limit", "must be from 1 to 200"));
    }
    let after = cursor.map(|text| read(&text).ok_or(InvalidValue("must be the next_cursor of an earlier page")));
    let after = input.parse_optional("/cursor", after);
    input.check()?;
    Ok(Paging { after, limit })
}
