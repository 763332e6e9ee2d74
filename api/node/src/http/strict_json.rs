//! A JSON body read against the schema that its operation publishes, in one pass: every fault gets its pointer, no value
//! is repeated, and a name that an object has twice is a fault, since one reader takes the first and another the last (RFC
//! 8259, section 4).
//!
//! The sender of a body chooses its shape, so time and memory grow with its bytes alone. The path to a value is a
//! stack, of names that the schema knows and of indexes; it is written out for the faults that are shown, and reading
//! stops at the last of those. The reader skips what the schema does not know, and keeps nothing once there was a
//! fault.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::bad_input::{self, MAX_FAULTS, MAX_NAME, below};
use super::problem::FieldError;

/// The treatment of members that the schema does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnknownMembers {
    /// Each is a fault.
    Refused,
    /// They are not read.
    Skipped,
}

/// The published schema of one operation's JSON body.
pub(super) struct BodySchema {
    root: MetaSchemaRef,
    named: Arc<BTreeMap<String, MetaSchema>>,
    is_required: bool,
}

impl BodySchema {
    pub(super) fn new(root: MetaSchemaRef, named: Arc<BTreeMap<String, MetaSchema>>, is_required: bool) -> Self {
        Self { root, named, is_required }
    }

    /// The value of a body that has no fault which the schema can tell. No bytes are the JSON null.
    ///
    /// # Errors
    /// Its faults, in the order of the body; [`MAX_FAULTS`] at most.
    pub(super) fn read(&self, body: &[u8]) -> Result<Value, Vec<FieldError>> {
        self.read_with(body, UnknownMembers::Refused)
    }

    /// As [`BodySchema::read`], but members that the schema does not have are skipped.
    ///
    /// # Errors
    /// Its faults, in the order of the body; [`MAX_FAULTS`] at most.
    pub(super) fn read_known(&self, body: &[u8]) -> Result<Value, Vec<FieldError>> {
        self.read_with(body, UnknownMembers::Skipped)
    }

    fn read_with(&self, body: &[u8], unknown: UnknownMembers) -> Result<Value, Vec<FieldError>> {
        // No body at all, and not a null, is what may be left out.
        if body.is_empty() && !self.is_required {
            return Ok(Value::Null);
        }
        let body = if body.is_empty() { b"null" } else { body };
        let mut reader = BodyReader { named: &self.named, unknown, path: Vec::new(), faults: Vec::new() };
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let place = SchemaSeed { schema: resolved(&self.named, &self.root), null: Null::Mistyped, reader: &mut reader };
        let value = place.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
        let faults = reader.faults;
        match value {
            Ok(value) if faults.is_empty() => Ok(value),
            // A body that is not JSON has no other fault that is worth a word.
            Err(error) if faults.len() < MAX_FAULTS => Err(vec![bad_input::malformed(&error)]),
            Ok(_) | Err(_) => Err(faults),
        }
    }
}

/// A schema by its name, and one that only adds words to another by that other.
fn resolved<'a>(named: &'a BTreeMap<String, MetaSchema>, schema: &'a MetaSchemaRef) -> Option<&'a MetaSchema> {
    let schema = match schema {
        MetaSchemaRef::Inline(schema) => schema.as_ref(),
        MetaSchemaRef::Reference(name) => named.get(name)?,
    };
    match schema.all_of.first() {
        Some(first) if schema.ty.is_empty() => resolved(named, first),
        Some(_) | None => Some(schema),
    }
}

/// A body being read.
struct BodyReader<'a> {
    named: &'a BTreeMap<String, MetaSchema>,
    unknown: UnknownMembers,
    path: Vec<Segment>,
    faults: Vec<FieldError>,
}

/// One step of the path to a value.
#[derive(Clone, Copy)]
enum Segment {
    Name(&'static str),
    Index(usize),
}

impl BodyReader<'_> {
    /// Records a fault of the value that is being read.
    ///
    /// # Errors
    /// If it is the last fault that is shown: reading on would be useless.
    fn fault<E: Error>(&mut self, detail: impl Into<String>) -> Result<(), E> {
        let fault = FieldError::new(self.pointer(), detail);
        self.record(fault)
    }

    fn record<E: Error>(&mut self, fault: FieldError) -> Result<(), E> {
        self.faults.push(fault);
        if self.faults.len() < MAX_FAULTS { Ok(()) } else { Err(E::custom("has more faults than are shown")) }
    }

    fn unknown<E: Error>(&mut self, name: Option<&str>) -> Result<(), E> {
        if self.unknown == UnknownMembers::Skipped {
            return Ok(());
        }
        let pointer = self.pointer();
        self.record(match name {
            Some(name) => FieldError::new(below(&pointer, name), "is unknown"),
            None => FieldError::new(pointer, "has an unknown member"),
        })
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for segment in &self.path {
            match segment {
                Segment::Name(name) => pointer = below(&pointer, name),
                // Nothing that is written to a String fails.
                Segment::Index(index) => drop(write!(pointer, "/{index}")),
            }
        }
        pointer
    }

    fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// The meaning of a null.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    /// Of a member that may be missing: it is.
    Absent,
    /// Of a member that may not be missing: it is.
    Missing,
    /// Of anything else: a value of the wrong type, unless the schema has a null.
    Mistyped,
}

/// A value about to be read, and the schema for its place; none where the schema says nothing of use.
struct SchemaSeed<'r, 'a> {
    schema: Option<&'a MetaSchema>,
    null: Null,
    reader: &'r mut BodyReader<'a>,
}

impl<'a> SchemaSeed<'_, 'a> {
    /// The schema, if it is one for values of this type; a fault if it is not.
    fn schema_for<E: Error>(&mut self, ty: &str) -> Result<Option<&'a MetaSchema>, E> {
        match self.schema {
            Some(schema) if schema.ty == ty => Ok(Some(schema)),
            Some(schema) => self.reader.fault(format!("must be of type {}", schema.ty)).map(|()| None),
            None => self.reader.fault("cannot be read").map(|()| None),
        }
    }

    fn number<E: Error>(mut self, number: Number) -> Result<Value, E> {
        let is_whole = number.is_i64() || number.is_u64();
        let ty = match self.schema {
            Some(schema) if schema.ty == "integer" && is_whole => "integer",
            Some(_) | None => "number",
        };
        if let Some(schema) = self.schema_for(ty)? {
            let by_format = if is_whole { bad_input::format_fault(schema, &number) } else { None };
            if let Some(detail) = by_format.or_else(|| bad_input::number_fault(schema, number.as_f64())) {
                self.reader.fault(detail)?;
            }
        }
        Ok(Value::Number(number))
    }
}

impl<'de> DeserializeSeed<'de> for SchemaSeed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SchemaSeed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        let Self { schema, null, reader } = self;
        match null {
            Null::Absent => {}
            Null::Missing => reader.fault("is required")?,
            Null::Mistyped => match schema {
                Some(schema) if schema.nullable => {}
                Some(schema) => reader.fault(format!("must be of type {}", schema.ty))?,
                None => reader.fault("cannot be read")?,
            },
        }
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<Value, E> {
        self.schema_for("boolean")?;
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        // JSON has no NaN and no infinity.
        Number::from_f64(value).map_or(Ok(Value::Null), |number| self.number(number))
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<Value, E> {
        if let Some(detail) = self.schema_for("string")?.and_then(|schema| bad_input::text_fault(schema, text)) {
            self.reader.fault(detail)?;
        }
        Ok(if self.reader.is_sound() { text.into() } else { Value::Null })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let schema = self.schema_for("array")?;
        let each = schema.and_then(|schema| resolved(self.reader.named, schema.items.as_ref()?));
        let most = schema.and_then(|schema| schema.max_items).unwrap_or(usize::MAX);
        let mut values = Vec::new();
        let mut count = 0;
        while schema.is_some() && count <= most {
            self.reader.path.push(Segment::Index(count));
            let item = items.next_element_seed(SchemaSeed {
                schema: each,
                null: Null::Mistyped,
                reader: &mut *self.reader,
            })?;
            self.reader.path.pop();
            let Some(item) = item else { break };
            count += 1;
            if self.reader.is_sound() {
                values.push(item);
            } else {
                values = Vec::new();
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        let counted =
            schema.and_then(|schema| bad_input::count_fault(schema.min_items, schema.max_items, count, "items"));
        if let Some(detail) = counted {
            self.reader.fault(detail)?;
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let Some(schema) = self.schema_for("object")? else {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut given = vec![false; schema.properties.len()];
        let mut values = Map::new();
        while let Some(name) = members.next_key_seed(Name(schema))? {
            let (index, name) = match name {
                Member::Known(index, name) => (index, name),
                Member::Unknown(name) => {
                    self.reader.unknown(name.as_deref())?;
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            self.reader.path.push(Segment::Name(name));
            let is_second = given.get_mut(index).is_none_or(|given| std::mem::replace(given, true));
            if is_second {
                self.reader.fault("must be given only once")?;
                members.next_value::<IgnoredAny>()?;
            } else {
                let named = self.reader.named;
                let member = schema.properties.get(index).and_then(|(_, member)| resolved(named, member));
                let null = if schema.required.contains(&name) { Null::Missing } else { Null::Absent };
                let value = members.next_value_seed(SchemaSeed { schema: member, null, reader: &mut *self.reader })?;
                if self.reader.is_sound() {
                    values.insert(name.to_owned(), value);
                }
            }
            self.reader.path.pop();
        }
        for ((name, _), given) in schema.properties.iter().zip(given) {
            if !given && schema.required.contains(name) {
                self.reader.path.push(Segment::Name(name));
                self.reader.fault("is required")?;
                self.reader.path.pop();
            }
        }
        Ok(Value::Object(values))
    }
}

/// A member's name, looked up where it stands: a long one is not copied.
struct Name<'a>(&'a MetaSchema);

enum Member {
    /// Its place among the schema's members, and the schema's own name.
    Known(usize, &'static str),
    /// The name, unless it is too long to be repeated.
    Unknown(Option<String>),
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Member;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Member, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Member, E> {
        let mut known = self.0.properties.iter().enumerate();
        Ok(match known.find(|(_, (known, _))| *known == name) {
            Some((index, (known, _))) => Member::Known(index, known),
            None => Member::Unknown((name.len() <= MAX_NAME).then(|| name.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests;
