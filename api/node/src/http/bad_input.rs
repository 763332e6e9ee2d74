//! Names what is wrong with input: one entry for each member at fault, and never the value that was sent.
//!
//! Judgements of single values by the published schema, for `strict_json.rs`, which reads bodies; and what poem-openapi
//! refuses on its own (parameters, forms, custom validators), by the text of its error, without the quotes.

use fulexo_domain::values::parse_timestamp;
use poem::error::{ParseFormError, ParseJsonError, ParseQueryError};
use poem::http::StatusCode;
use poem_openapi::error::{
    ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};
use poem_openapi::registry::MetaSchema;
use serde_json::Value;

use super::problem::{FieldError, Problem};

/// The most entries in one answer.
pub(super) const MAX_FAULTS: usize = 32;

/// The longest member name, in bytes, that is repeated to the client.
pub(super) const MAX_NAME: usize = 100;

/// The problem for an error of an extractor, by its text alone. `None` for any other error.
pub(super) fn problem(error: &poem::Error) -> Option<Problem> {
    if error.is::<ContentTypeError>() {
        return Some(Problem::from_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let fault = if let Some(ParseParamError { name, reason }) = error.downcast_ref() {
        FieldError::new(format!("/{name}"), plain(reason))
    } else if let Some(ParsePathError { name, reason }) = error.downcast_ref() {
        FieldError::new(format!("/{name}"), plain(reason))
    } else if let Some(ParseRequestPayloadError { reason }) = error.downcast_ref() {
        by_text(reason)
    } else if let Some(ParseMultipartError { reason }) = error.downcast_ref() {
        by_text(reason)
    } else if let Some(ParseJsonError::Parse(error)) = error.downcast_ref() {
        by_text(&error.to_string())
    } else if let Some(ParseFormError::UrlDecode(error)) = error.downcast_ref() {
        by_text(&error.to_string())
    } else if let Some(ParseQueryError(error)) = error.downcast_ref() {
        by_text(&error.to_string())
    } else {
        return None;
    };
    Some(Problem::invalid_input(vec![fault]))
}

/// The entry for a body that is not JSON: line and column, and nothing that was sent.
pub(super) fn malformed(error: &serde_json::Error) -> FieldError {
    FieldError::new("", format!("is not valid JSON: {error}"))
}

/// Returns the pointer to a member of this name (RFC 6901).
pub(super) fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A name that is repeated, unless it is too long for that.
fn about(name: &str, short: &str, long: &str) -> FieldError {
    if name.len() > MAX_NAME { FieldError::new("", long) } else { FieldError::new(below("", name), short) }
}

/// Returns the fault of a text, by its schema.
pub(super) fn text_fault(schema: &MetaSchema, text: &str) -> Option<String> {
    let ill_formed = match schema.format {
        Some("uuid") => uuid::Uuid::try_parse(text).err().map(|_| "must be a UUID".to_owned()),
        Some("date-time") => parse_timestamp(text).err().map(|fault| fault.to_string()),
        _ => None,
    };
    if ill_formed.is_some() {
        return ill_formed;
    }
    if !schema.enum_items.is_empty() && !schema.enum_items.iter().any(|item| item == text) {
        let known: Vec<_> = schema.enum_items.iter().filter_map(Value::as_str).collect();
        return Some(format!("must be one of {}", known.join(", ")));
    }
    count_fault(schema.min_length, schema.max_length, text.chars().count(), "characters")
}

/// Returns the fault of a number of things: too few, or too many.
pub(super) fn count_fault(least: Option<usize>, most: Option<usize>, count: usize, things: &str) -> Option<String> {
    match (least, most) {
        (Some(least), _) if count < least => Some(format!("must have at least {least} {things}")),
        (_, Some(most)) if count > most => Some(format!("must have at most {most} {things}")),
        _ => None,
    }
}

/// A number that the integer's format cannot hold.
pub(super) fn format_fault(schema: &MetaSchema, number: &serde_json::Number) -> Option<String> {
    let (least, most) = integer_bounds(schema)?;
    let number = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))?;
    let fits = (least..=most).contains(&number);
    (!fits).then(|| format!("must be from {least} to {most}"))
}

/// The least and the greatest number that an integer's format can hold.
pub(super) fn integer_bounds(schema: &MetaSchema) -> Option<(i128, i128)> {
    Some(match schema.format? {
        "int8" => (i128::from(i8::MIN), i128::from(i8::MAX)),
        "int16" => (i128::from(i16::MIN), i128::from(i16::MAX)),
        "int32" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        "int64" => (i128::from(i64::MIN), i128::from(i64::MAX)),
        "uint8" => (0, i128::from(u8::MAX)),
        "uint16" => (0, i128::from(u16::MAX)),
        "uint32" => (0, i128::from(u32::MAX)),
        "uint64" => (0, i128::from(u64::MAX)),
        _ => return None,
    })
}

/// A number beyond the bounds that its schema names.
pub(super) fn number_fault(schema: &MetaSchema, number: Option<f64>) -> Option<String> {
    let number = number?;
    let below = |least: f64| number < least || (schema.exclusive_minimum == Some(true) && number == least);
    let above = |most: f64| number > most || (schema.exclusive_maximum == Some(true) && number == most);
    match (schema.minimum, schema.maximum) {
        (Some(least), _) if below(least) => Some(format!("must be at least {least}")),
        (_, Some(most)) if above(most) => Some(format!("must be at most {most}")),
        _ => None,
    }
}

/// The entry for a body, from the text of the error alone.
pub(super) fn by_text(reason: &str) -> FieldError {
    let reason = unwrapped(reason);
    if reason.contains(" at line ") {
        return FieldError::new("", format!("is not valid JSON: {reason}"));
    }
    if let Some((name, rest)) = named(reason, "field `") {
        let check = rest.strip_prefix(" verification failed. ").unwrap_or("the rules of this member");
        return FieldError::new(below("", name), format!("must satisfy {check}"));
    }
    if let Some((name, _)) = named(reason, "unknown field `") {
        return about(name, "is unknown", "has an unknown member");
    }
    if let Some((name, _)) = named(reason, "missing field `") {
        return FieldError::new(below("", name), "is required");
    }
    if let Some((name, _)) = named(reason, "duplicate field `") {
        return about(name, "must be given only once", "has a repeated member");
    }
    FieldError::new("", plain(reason))
}

fn named<'a>(reason: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    reason.strip_prefix(prefix)?.split_once('`')
}

/// Returns the text's statement about one value, without the value. poem-openapi's own sentences quote the value; those
/// of custom parsers are ours or the standard library's, which do not.
pub(super) fn plain(reason: &str) -> String {
    let reason = unwrapped(reason);
    if reason.ends_with("expects an input value.") {
        return "is required".to_owned();
    }
    if let Some(rest) = reason.strip_prefix("Expected input type \"") {
        let expected = rest.split('"').next().unwrap_or_default();
        return format!("must be of type {expected}");
    }
    if let Some(check) = reason.strip_prefix("verification failed. ") {
        return format!("must satisfy {check}");
    }
    // serde's sentences for a form quote the value too.
    if reason.starts_with("invalid type") || reason.starts_with("invalid value") {
        return "is not valid".to_owned();
    }
    reason.to_owned()
}

/// Takes the names of our types away from around it: `failed to parse "LoginRequest": … (occurred while parsing "…")`.
fn unwrapped(reason: &str) -> &str {
    let reason = match reason.strip_prefix("failed to parse \"") {
        Some(rest) => rest.split_once("\": ").map_or(rest, |(_, inner)| inner),
        None => reason,
    };
    reason.split(" (occurred while parsing \"").next().unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use poem_openapi::Object;
    use poem_openapi::types::ParseFromJSON;
    use serde_json::json;

    use super::*;

    #[derive(Object)]
    struct Purchase {
        name: String,
    }

    #[test]
    fn the_text_of_an_error_gives_its_member_and_keeps_its_value() {
        let secret = "hunter2hunter2";
        let reason = Purchase::parse_from_json(Some(json!(secret))).err().unwrap().into_message();
        assert!(reason.contains(secret), "poem-openapi has stopped quoting: this file can be simpler");
        assert_eq!(by_text(&reason), FieldError::new("", "must be of type Purchase"));

        let of = |text| {
            let fault = by_text(text);
            (fault.pointer, fault.detail)
        };
        let expected = |pointer: &str, detail: &str| (pointer.to_owned(), detail.to_owned());
        assert_eq!(
            of("failed to parse \"Purchase\": field `name` verification failed. maxLength(4)"),
            expected("/name", "must satisfy maxLength(4)")
        );
        assert_eq!(of("failed to parse \"Purchase\": unknown field `x`."), expected("/x", "is unknown"));
        assert_eq!(of("missing field `token`"), expected("/token", "is required"));
        assert_eq!(
            of("failed to parse \"EmailAddress\": has no @ (occurred while parsing \"Purchase\")"),
            expected("", "has no @")
        );
        assert_eq!(
            of("expected value at line 1 column 1"),
            expected("", "is not valid JSON: expected value at line 1 column 1")
        );
        assert_eq!(plain("Type \"string\" expects an input value."), "is required");
    }
}
