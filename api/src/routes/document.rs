//! The OpenAPI document, with what poem-openapi does not say of the types it is made from: that what is optional may be
//! null, and the bounds of values that are parsed past it. Who generates a client, or hostile input, reads this.

use serde_json::{Map, Value, json};

/// What holds of a string wherever a body or an answer has a member of this name.
fn member(name: &str) -> Option<Value> {
    Some(match name {
        "display_name" => json!({"minLength": 1, "maxLength": 100}),
        "email" => json!({"format": "email", "maxLength": 254}),
        "reason" => json!({"minLength": 1, "maxLength": 500}),
        "role" => json!({"pattern": ROLE}),
        _ => return None,
    })
}

/// What holds of a parameter of this name.
fn parameter(name: &str) -> Option<Value> {
    Some(match name {
        "Idempotency-Key" => json!({"minLength": 1, "maxLength": 255}),
        "as_of" => json!({"minLength": 1, "maxLength": 40}),
        "limit" => json!({"minimum": 1, "maximum": 200}),
        "cursor" => json!({"minLength": 1}),
        "role" => json!({"pattern": ROLE}),
        _ => return None,
    })
}

/// A role's name.
const ROLE: &str = "^[a-z][a-z0-9_-]{0,62}$";

/// The document, completed.
///
/// # Errors
/// When it is no JSON.
pub fn complete(document: &str) -> serde_json::Result<String> {
    let mut document: Value = serde_json::from_str(document)?;
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for schema in schemas.into_iter().flat_map(Map::values_mut) {
        complete_schema(schema);
    }
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    let operations = paths.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut);
    for operation in operations.flat_map(Map::values_mut) {
        for it in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            let more = it.get("name").and_then(Value::as_str).and_then(parameter);
            if let (Some(more), Some(schema)) = (more, it.get_mut("schema")) {
                add(schema, more);
            }
        }
    }
    serde_json::to_string_pretty(&document)
}

fn complete_schema(schema: &mut Value) {
    let required: Vec<String> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    for part in schema.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten() {
        complete_schema(part);
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        if property.get("type").is_some_and(|is| is == "string")
            && let Some(more) = member(name)
        {
            add(property, more);
        }
        if required.contains(name) {
            continue;
        }
        // Beside a reference nothing counts (OpenAPI 3.0, "Reference Object"); in an `allOf` it does.
        if let Some(reference) = property.get("$ref").cloned() {
            *property = json!({"allOf": [{"$ref": reference}]});
        }
        add(property, json!({"nullable": true}));
    }
}

fn add(schema: &mut Value, more: Value) {
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_optional_may_be_null_and_bounds_are_said() {
        let document = json!({
            "components": {"schemas": {"Thing": {
                "required": ["email"],
                "properties": {
                    "email": {"type": "string"}, "reason": {"type": "string"}, "part": {"$ref": "#/components/schemas/Part"},
                },
            }}},
            "paths": {"/things": {"get": {"parameters": [{"name": "limit", "schema": {"type": "integer"}}]}}},
        });
        let completed: Value = serde_json::from_str(&complete(&document.to_string()).unwrap()).unwrap();
        assert_eq!(
            completed["components"]["schemas"]["Thing"]["properties"],
            json!({
                "email": {"type": "string", "format": "email", "maxLength": 254},
                "reason": {"type": "string", "minLength": 1, "maxLength": 500, "nullable": true},
                "part": {"allOf": [{"$ref": "#/components/schemas/Part"}], "nullable": true},
            })
        );
        let limit = &completed["paths"]["/things"]["get"]["parameters"][0]["schema"];
        assert_eq!(limit, &json!({"type": "integer", "minimum": 1, "maximum": 200}));
    }
}
