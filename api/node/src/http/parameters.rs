//! The parameters of a request, held against what its operation publishes before the handler reads them: none is unknown or
//! given twice, each has the form of its schema, and all faults are named at once. A misspelt filter must not be taken for
//! one that finds everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem::Request;
use poem_openapi::registry::{MetaOperationParam, MetaParamIn, MetaSchema, MetaSchemaRef};
use url::form_urlencoded;

use super::bad_input::{self, MAX_FAULTS, MAX_NAME};
use super::problem::{FieldError, Problem};

/// The published parameters of one operation.
pub(super) struct Parameters {
    query: Vec<Parameter>,
    headers: Vec<Parameter>,
    /// The parameters in the path, each with the name that poem-openapi routes it by.
    path: Vec<(String, Parameter)>,
    /// The list of known parameters, for the refusal of an unknown one.
    known: Arc<str>,
}

struct Parameter {
    name: String,
    schema: MetaSchema,
}

/// Faults of a request whose caller is still to be known: they are told to nobody else.
pub struct BadParameters(Vec<FieldError>);

impl BadParameters {
    /// The refusal, once the caller is known.
    pub fn refusal(&self) -> Problem {
        Problem::invalid_input(self.0.clone())
    }
}

impl Parameters {
    /// Takes the published parameters. `in_path` are the names of those in the path, in its order.
    pub(super) fn new(
        published: Vec<MetaOperationParam>,
        in_path: &[String],
        named: &BTreeMap<String, MetaSchema>,
    ) -> Self {
        let (mut query, mut headers, mut path) = (Vec::new(), Vec::new(), Vec::new());
        for MetaOperationParam { name, in_type, schema, .. } in published {
            let schema = match schema {
                MetaSchemaRef::Inline(schema) => *schema,
                MetaSchemaRef::Reference(name) => named.get(&name).cloned().unwrap_or(MetaSchema::ANY),
            };
            let parameter = Parameter { name, schema };
            match in_type {
                MetaParamIn::Query => query.push(parameter),
                MetaParamIn::Header => headers.push(parameter),
                MetaParamIn::Path => {
                    let place = in_path.iter().position(|name| *name == parameter.name);
                    path.extend(place.map(|place| (format!("param{place}"), parameter)));
                }
                // The edge's.
                MetaParamIn::Cookie | MetaParamIn::CookiePrivate | MetaParamIn::CookieSigned => {}
            }
        }
        let mut names: Vec<&str> = query.iter().map(|parameter| &*parameter.name).collect();
        names.sort_unstable();
        let known = if names.is_empty() {
            "is unknown: this operation has no query parameters".into()
        } else {
            format!("is unknown; use one of {}", names.join(", ")).into()
        };
        Self { query, headers, path, known }
    }

    /// The faults of a request's parameters, in its order; [`MAX_FAULTS`] at most.
    pub(super) fn faults(&self, request: &Request) -> Option<BadParameters> {
        let mut faults = Vec::new();
        for (routed, Parameter { name, schema }) in &self.path {
            let fault = request.raw_path_param(routed).and_then(|text| value_fault(schema, text));
            faults.extend(fault.map(|fault| FieldError::new(bad_input::below("", name), fault)));
        }
        if let Some(query) = request.uri().query().filter(|query| !query.is_empty()) {
            self.query_faults(query, &mut faults);
        }
        for Parameter { name, schema } in &self.headers {
            let mut values = request.headers().get_all(name).iter();
            let Some(value) = values.next() else { continue };
            let fault = match value.to_str() {
                _ if values.next().is_some() => Some("must be given only once".to_owned()),
                Ok(text) => value_fault(schema, text),
                Err(_) => Some("must be of visible ASCII characters".to_owned()),
            };
            faults.extend(fault.map(|fault| FieldError::new(bad_input::below("", name), fault)));
        }
        faults.truncate(MAX_FAULTS);
        (!faults.is_empty()).then_some(BadParameters(faults))
    }

    fn query_faults(&self, query: &str, faults: &mut Vec<FieldError>) {
        let mut given: Vec<&str> = Vec::with_capacity(self.query.len());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if faults.len() >= MAX_FAULTS {
                return;
            }
            let Some(Parameter { name, schema }) = self.query.iter().find(|parameter| parameter.name == name) else {
                let pointer = if name.len() > MAX_NAME { String::new() } else { bad_input::below("", &name) };
                faults.push(FieldError::new(pointer, &*self.known));
                continue;
            };
            let fault = if given.contains(&&**name) {
                Some("must be given only once".to_owned())
            } else {
                given.push(name);
                value_fault(schema, &value)
            };
            faults.extend(fault.map(|fault| FieldError::new(bad_input::below("", name), fault)));
        }
    }
}

/// The fault of a value that is written as text.
pub(super) fn value_fault(schema: &MetaSchema, text: &str) -> Option<String> {
    match schema.ty {
        "integer" => integer_fault(schema, text),
        "boolean" => (!matches!(text, "true" | "false")).then(|| "must be true or false".to_owned()),
        "string" => bad_input::text_fault(schema, text),
        _ => None,
    }
}

fn integer_fault(schema: &MetaSchema, text: &str) -> Option<String> {
    let (mut least, mut most) = bad_input::integer_bounds(schema)?;
    #[expect(clippy::cast_possible_truncation, reason = "bounds of whole numbers, written by us")]
    {
        least = schema.minimum.map_or(least, |it| least.max(it as i128));
        most = schema.maximum.map_or(most, |it| most.min(it as i128));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let fits = is_number && text.parse::<i128>().is_ok_and(|number| (least..=most).contains(&number));
    (!fits).then(|| format!("must be a number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::Type;

    use super::*;

    #[test]
    fn a_value_is_judged_by_its_schema_in_plain_words() {
        fn fault<T: Type>(text: &str) -> Option<String> {
            value_fault(T::schema_ref().unwrap_inline(), text)
        }
        for text in ["0", "200", "007", "65535"] {
            assert_eq!(fault::<u16>(text), None, "{text}");
        }
        for text in ["", "abc", "-1", "+1", "65536", "1.5", " 1", "١", "0x1", "1e3", &"9".repeat(60)] {
            assert_eq!(fault::<u16>(text).as_deref(), Some("must be a number from 0 to 65535"), "{text}");
        }
        assert_eq!(fault::<u64>("18446744073709551615"), None);
        assert_eq!(fault::<bool>("TRUE").as_deref(), Some("must be true or false"));
        assert_eq!(fault::<uuid::Uuid>("nope").as_deref(), Some("must be a UUID"));
        let time = fault::<crate::timestamp::Timestamp>("2026-11-01");
        assert_eq!(time.as_deref(), Some("must be a time such as 2026-11-01T12:00:00Z (RFC 3339)"));
    }
}
