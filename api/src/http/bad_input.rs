//! Turns what poem-openapi refuses into one entry for each member at fault.
//!
//! poem-openapi stops at the first fault, seldom names the member (a missing one never), quotes the value it found, a
//! password as readily as any other, and takes `false` for the text "false". So each JSON body is first held against the
//! schema that the operation publishes: every fault gets its pointer, no value is repeated. What the schema cannot say
//! (a custom validator) is taken from the text of the error, without the quotes.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem::error::{ParseFormError, ParseJsonError, ParseQueryError};
use poem_openapi::error::{
    ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde_json::{Map, Value};

use super::problem::{FieldError, Problem};
use super::strict_json::{self, below};

/// The most entries in one answer.
const MAX_FAULTS: usize = 32;

/// The longest member name, in bytes, that is repeated to the client.
const MAX_NAME: usize = 100;

/// The problem for an error of an extractor, by its text alone. `None` for any other error.
pub(super) fn problem(error: &poem::Error) -> Option<Problem> {
    if error.is::<ContentTypeError>() {
        return Some(Problem::unsupported_media_type());
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

/// The published schema of one operation's JSON body.
pub(super) struct BodySchema {
    root: MetaSchemaRef,
    named: Arc<BTreeMap<String, MetaSchema>>,
}

impl BodySchema {
    pub(super) fn new(root: MetaSchemaRef, named: Arc<BTreeMap<String, MetaSchema>>) -> Self {
        Self { root, named }
    }

    /// Every fault of `body` that the schema can tell, in the order of the schema's members.
    pub(super) fn faults(&self, body: &[u8]) -> Vec<FieldError> {
        let mut faults = Vec::new();
        // What is no JSON at all has its line and column in the error's own text.
        if let Ok((value, twice)) = strict_json::read(body) {
            faults.extend(twice.into_iter().map(given_twice));
            self.compare(&self.root, &value, "", &mut faults);
        }
        faults.truncate(MAX_FAULTS);
        faults
    }

    fn compare(&self, schema: &MetaSchemaRef, value: &Value, pointer: &str, faults: &mut Vec<FieldError>) {
        let schema = match schema {
            MetaSchemaRef::Inline(schema) => schema.as_ref(),
            MetaSchemaRef::Reference(name) => match self.named.get(name) {
                Some(schema) => schema,
                None => return,
            },
        };
        if faults.len() >= MAX_FAULTS || (schema.nullable && value.is_null()) {
            return;
        }
        for part in &schema.all_of {
            self.compare(part, value, pointer, faults);
        }
        match (schema.ty, value) {
            ("object", Value::Object(members)) => self.compare_members(schema, members, pointer, faults),
            ("array", Value::Array(items)) => {
                faults.extend(count_fault(schema.min_items, schema.max_items, items.len(), "items", pointer));
                if let Some(each) = &schema.items {
                    for (index, item) in items.iter().enumerate() {
                        self.compare(each, item, &format!("{pointer}/{index}"), faults);
                    }
                }
            }
            ("string", Value::String(text)) => faults.extend(text_fault(schema, text, pointer)),
            ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
                let fault = format_fault(schema, number, pointer);
                faults.extend(fault.or_else(|| number_fault(schema, number.as_f64(), pointer)));
            }
            ("number", Value::Number(number)) => faults.extend(number_fault(schema, number.as_f64(), pointer)),
            ("boolean", Value::Bool(_)) | ("", _) => {}
            (expected, _) => faults.push(FieldError::new(pointer, format!("must be of type {expected}"))),
        }
    }

    fn compare_members(
        &self,
        schema: &MetaSchema,
        members: &Map<String, Value>,
        pointer: &str,
        faults: &mut Vec<FieldError>,
    ) {
        for (name, member) in &schema.properties {
            let place = below(pointer, name);
            match members.get(*name) {
                None | Some(Value::Null) if schema.required.contains(name) => {
                    faults.push(FieldError::new(place, "is required"));
                }
                None | Some(Value::Null) => {}
                Some(value) => self.compare(member, value, &place, faults),
            }
        }
        // An open map has `additionalProperties`; every other object of this API refuses what it does not know.
        if schema.additional_properties.is_none() && !schema.properties.is_empty() {
            for name in members.keys() {
                if !schema.properties.iter().any(|(known, _)| known == name) {
                    faults.push(unknown(pointer, name));
                }
            }
        }
    }
}

fn given_twice(pointer: String) -> FieldError {
    if pointer.len() > MAX_NAME {
        return FieldError::new("", "has a member that is given twice");
    }
    FieldError::new(pointer, "is given twice")
}

fn unknown(pointer: &str, name: &str) -> FieldError {
    if name.len() > MAX_NAME {
        return FieldError::new(pointer, "has a member that is not known");
    }
    FieldError::new(below(pointer, name), "is not known")
}

fn text_fault(schema: &MetaSchema, text: &str, pointer: &str) -> Option<FieldError> {
    let well_formed = match schema.format {
        Some("uuid") => uuid::Uuid::try_parse(text).is_ok(),
        Some("date-time") => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        _ => true,
    };
    if !well_formed {
        return schema.format.map(|format| FieldError::new(pointer, format!("must be a {format}")));
    }
    if !schema.enum_items.is_empty() && !schema.enum_items.iter().any(|item| item == text) {
        let known: Vec<_> = schema.enum_items.iter().filter_map(Value::as_str).collect();
        return Some(FieldError::new(pointer, format!("must be one of {}", known.join(", "))));
    }
    count_fault(schema.min_length, schema.max_length, text.chars().count(), "characters", pointer)
}

fn count_fault(
    least: Option<usize>,
    most: Option<usize>,
    count: usize,
    what: &str,
    pointer: &str,
) -> Option<FieldError> {
    match (least, most) {
        (Some(least), _) if count < least => {
            Some(FieldError::new(pointer, format!("must have at least {least} {what}")))
        }
        (_, Some(most)) if count > most => Some(FieldError::new(pointer, format!("must have at most {most} {what}"))),
        _ => None,
    }
}

/// A number that the integer's format cannot hold.
fn format_fault(schema: &MetaSchema, number: &serde_json::Number, pointer: &str) -> Option<FieldError> {
    let (least, most) = match schema.format {
        Some("int8") => (i128::from(i8::MIN), i128::from(i8::MAX)),
        Some("int16") => (i128::from(i16::MIN), i128::from(i16::MAX)),
        Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
        Some("int64") => (i128::from(i64::MIN), i128::from(i64::MAX)),
        Some("uint8") => (0, i128::from(u8::MAX)),
        Some("uint16") => (0, i128::from(u16::MAX)),
        Some("uint32") => (0, i128::from(u32::MAX)),
        Some("uint64") => (0, i128::from(u64::MAX)),
        _ => return None,
    };
    let number = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))?;
    let fits = (least..=most).contains(&number);
    (!fits).then(|| FieldError::new(pointer, format!("must be from {least} to {most}")))
}

fn number_fault(schema: &MetaSchema, number: Option<f64>, pointer: &str) -> Option<FieldError> {
    let number = number?;
    let below = |least: f64| number < least || (schema.exclusive_minimum == Some(true) && number == least);
    let above = |most: f64| number > most || (schema.exclusive_maximum == Some(true) && number == most);
    match (schema.minimum, schema.maximum) {
        (Some(least), _) if below(least) => Some(FieldError::new(pointer, format!("is below the minimum, {least}"))),
        (_, Some(most)) if above(most) => Some(FieldError::new(pointer, format!("is above the maximum, {most}"))),
        _ => None,
    }
}

/// The entry for a body, from the text of the error alone.
fn by_text(reason: &str) -> FieldError {
    let reason = unwrapped(reason);
    if reason.contains(" at line ") {
        return FieldError::new("", format!("is not valid JSON: {reason}"));
    }
    if let Some((name, rest)) = named(reason, "field `") {
        let check = rest.strip_prefix(" verification failed. ").unwrap_or("the rules of this member");
        return FieldError::new(below("", name), format!("does not satisfy {check}"));
    }
    if let Some((name, _)) = named(reason, "unknown field `") {
        return unknown("", name);
    }
    if let Some((name, _)) = named(reason, "missing field `") {
        return FieldError::new(below("", name), "is required");
    }
    if let Some((name, _)) = named(reason, "duplicate field `") {
        return given_twice(below("", name));
    }
    FieldError::new("", plain(reason))
}

fn named<'a>(reason: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    reason.strip_prefix(prefix)?.split_once('`')
}

/// What the text says of one value, without the value. poem-openapi's own sentences quote it; those of custom
/// parsers are ours or the standard library's, which do not.
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
        return format!("does not satisfy {check}");
    }
    // serde's sentences for a form quote the value too.
    if reason.starts_with("invalid type") || reason.starts_with("invalid value") {
        return "is not valid".to_owned();
    }
    reason.to_owned()
}

/// Without the names of our types around it: `failed to parse "LoginRequest": … (occurred while parsing "…")`.
fn unwrapped(reason: &str) -> &str {
    let reason = match reason.strip_prefix("failed to parse \"") {
        Some(rest) => rest.split_once("\": ").map_or(rest, |(_, inner)| inner),
        None => reason,
    };
    reason.split(" (occurred while parsing \"").next().unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use poem_openapi::registry::Registry;
    use poem_openapi::types::{ParseFromJSON, Type};
    use poem_openapi::{Enum, Object};
    use serde_json::json;

    use super::*;

    #[derive(Object)]
    #[oai(deny_unknown_fields)]
    struct Order {
        id: uuid::Uuid,
        #[oai(validator(min_length = 2, max_length = 4))]
        name: String,
        #[oai(validator(minimum(value = "1"), maximum(value = "9", exclusive)))]
        count: i32,
        note: Option<String>,
        lines: Vec<Line>,
        colour: Option<Colour>,
    }

    #[derive(Object)]
    #[oai(deny_unknown_fields)]
    struct Line {
        price: f64,
        due: Option<chrono::DateTime<chrono::Utc>>,
    }

    #[derive(Enum)]
    #[oai(rename_all = "snake_case")]
    enum Colour {
        Red,
        Blue,
    }

    fn faults(body: &Value) -> Vec<(String, String)> {
        let mut registry = Registry::new();
        Order::register(&mut registry);
        BodySchema::new(Order::schema_ref(), Arc::new(registry.schemas))
            .faults(body.to_string().as_bytes())
            .into_iter()
            .map(|fault| (fault.pointer, fault.detail))
            .collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
    }

    #[test]
    fn every_fault_is_named_at_once() {
        assert_eq!(
            faults(&json!({
                "id": "7", "name": "x", "count": 9, "note": 5, "lines": [{"price": 1}, {"due": "soon"}, 3],
                "colour": "green", "extra/~": 1
            })),
            pairs(&[
                ("/id", "must be a uuid"),
                ("/name", "must have at least 2 characters"),
                ("/count", "is above the maximum, 9"),
                ("/note", "must be of type string"),
                ("/lines/1/price", "is required"),
                ("/lines/1/due", "must be a date-time"),
                ("/lines/2", "must be of type object"),
                ("/colour", "must be one of red, blue"),
                ("/extra~1~0", "is not known"),
            ])
        );
    }

    #[test]
    fn an_absent_body_is_one_fault() {
        assert_eq!(faults(&Value::Null), pairs(&[("", "must be of type object")]));
    }

    #[test]
    fn what_parses_has_no_faults() {
        let body = json!({
            "id": uuid::Uuid::nil(), "name": "abc", "count": 1, "note": null,
            "lines": [{"price": 1.5, "due": "2026-01-01T00:00:00Z"}], "colour": "red"
        });
        assert_eq!(faults(&body), []);
        assert!(Order::parse_from_json(Some(body)).is_ok());
    }

    #[test]
    fn the_answer_is_bounded_however_large_the_body() {
        let many: Map<String, Value> = (0..5_000).map(|n| (format!("extra{n}"), Value::Null)).collect();
        assert_eq!(faults(&Value::Object(many)).len(), MAX_FAULTS);
        let mut long = Map::new();
        long.insert("x".repeat(10_000), Value::Null);
        assert!(faults(&Value::Object(long)).iter().all(|(pointer, _)| pointer.len() <= MAX_NAME));
    }

    #[test]
    fn the_text_of_an_error_gives_its_member_and_keeps_its_value() {
        let secret = "hunter2hunter2";
        let reason = Order::parse_from_json(Some(json!(secret))).err().unwrap().into_message();
        assert!(reason.contains(secret), "poem-openapi has stopped quoting: this file can be simpler");
        assert_eq!(by_text(&reason), FieldError::new("", "must be of type Order"));

        let of = |text| {
            let fault = by_text(text);
            (fault.pointer, fault.detail)
        };
        let expected = |pointer: &str, detail: &str| (pointer.to_owned(), detail.to_owned());
        assert_eq!(
            of("failed to parse \"Order\": field `name` verification failed. maxLength(4)"),
            expected("/name", "does not satisfy maxLength(4)")
        );
        assert_eq!(of("failed to parse \"Order\": unknown field `x`."), expected("/x", "is not known"));
        assert_eq!(of("missing field `token`"), expected("/token", "is required"));
        assert_eq!(
            of("failed to parse \"EmailAddress\": has no @ (occurred while parsing \"Order\")"),
            expected("", "has no @")
        );
        assert_eq!(
            of("expected value at line 1 column 1"),
            expected("", "is not valid JSON: expected value at line 1 column 1")
        );
        assert_eq!(plain("Type \"string\" expects an input value."), "is required");
    }
}
