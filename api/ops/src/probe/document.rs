//! The operations of the document that an instance serves, and requests for them that do nothing if they are let in: ids that
//! nobody has, and bodies that lack what is required.

use serde_json::{Map, Value};

use super::request::TestRequest;

/// The most operations that are tested.
const MOST: usize = 400;
/// An id that nobody has.
pub const NOBODY: &str = "00000000-0000-7000-8000-000000000000";
/// A body that no operation accepts: an unknown member, and none of those that are required.
const USELESS: &str = r#"{"penetration_test":true}"#;

/// The operations of an instance.
#[derive(Clone, Debug, Default)]
pub struct ApiDocument {
    /// The operations.
    pub operations: Vec<ApiOperation>,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct ApiOperation {
    /// The method, in upper case.
    pub method: String,
    /// The path, with its parameters in braces.
    pub path: String,
    /// `true` if it needs credentials.
    pub is_secured: bool,
    /// The permissions that its description names.
    pub permissions: Vec<String>,
    /// The names of the parameters of its query that take any text.
    pub query: Vec<String>,
    /// The media type of its body, if it has one.
    pub media_type: Option<String>,
    /// The members of its body that are text, and those that are required.
    pub members: Vec<String>,
}

impl ApiDocument {
    /// Reads a document.
    #[must_use]
    pub fn read(document: &Value) -> Self {
        let known = permissions(document);
        let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
        let operations = paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(move |(method, operation)| (path, method, operation))
        });
        let read =
            operations.filter(|(_, method, _)| ["get", "put", "post", "patch", "delete"].contains(&method.as_str()));
        let read = read.map(|(path, method, operation)| ApiOperation::read(document, &known, path, method, operation));
        Self { operations: read.take(MOST).collect() }
    }

    /// Returns the operations that need credentials.
    pub fn secured(&self) -> impl Iterator<Item = &ApiOperation> {
        self.operations.iter().filter(|operation| operation.is_secured)
    }
}

impl ApiOperation {
    fn read(document: &Value, known: &[String], path: &str, method: &str, operation: &Value) -> Self {
        let description = operation.get("description").and_then(Value::as_str).unwrap_or_default();
        let named = description.split('`').skip(1).step_by(2);
        let permissions = named.filter(|name| known.iter().any(|it| it == name)).map(str::to_owned).collect();
        let security = operation.get("security").and_then(Value::as_array);
        let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
        let query = parameters.filter(|it| it.get("in").and_then(Value::as_str) == Some("query")).filter(|it| {
            let schema = it.get("schema").unwrap_or(&Value::Null);
            is_text(resolved(document, schema))
        });
        let query = query.filter_map(|it| it.get("name")?.as_str().map(str::to_owned)).collect();
        let content = operation.pointer("/requestBody/content").and_then(Value::as_object);
        let body = content.and_then(|content| content.iter().next());
        let schema = body.and_then(|(_, media)| media.get("schema")).map(|schema| resolved(document, schema));
        let properties = schema.and_then(|schema| schema.get("properties")?.as_object());
        let members = properties.into_iter().flat_map(Map::iter).filter(|(_, it)| is_text(resolved(document, it)));
        Self {
            method: method.to_uppercase(),
            path: path.to_owned(),
            is_secured: security.is_some_and(|security| !security.is_empty()),
            permissions,
            query,
            media_type: body.and_then(|(media, _)| media.split(';').next()).map(str::to_owned),
            members: members.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Returns method and path, the name of the operation in findings.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// `true` if it concerns the caller alone: no permission is needed.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.is_secured && self.permissions.is_empty()
    }

    /// Returns its path; parameters that are ids are this one.
    #[must_use]
    pub fn path_for(&self, id: &str) -> String {
        let segments = self.path.split('/').map(|segment| {
            let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else { return segment };
            match name {
                "role" => "penetration-test",
                "position" => "999999999999",
                "level" => "0",
                "index" => "000",
                _ => id,
            }
        });
        segments.collect::<Vec<_>>().join("/")
    }

    /// Returns a call that changes nothing if it is let in.
    #[must_use]
    pub fn harmless(&self, id: &str) -> TestRequest {
        let request = TestRequest::new(&self.method, self.path_for(id));
        match self.media_type.as_deref() {
            None => request,
            Some("application/json") => request.json(USELESS),
            Some(other) => TestRequest { body: Some(Vec::new()), ..request }.header("content-type", other),
        }
    }
}

/// Returns the names of all permissions, or, for a document that has no such list, none.
fn permissions(document: &Value) -> Vec<String> {
    let names = document.pointer("/components/schemas/Permission/enum").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Follows one reference.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

fn is_text(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("string")
        && schema.get("enum").is_none()
        && schema.get("format").and_then(Value::as_str) != Some("uuid")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operation_is_read_with_its_permission_its_texts_and_a_call_that_does_nothing() {
        let document = json!({
            "components": {"schemas": {
                "Permission": {"type": "string", "enum": ["a.read", "a.erase"]},
                "Body": {"type": "object", "properties": {"reason": {"type": "string"}, "n": {"type": "integer"}}},
            }},
            "paths": {"/v1/a/{a_id}/x": {
                "parameters": [],
                "post": {
                    "description": "Needs the permission `a.erase`, and a `token`.",
                    "security": [{"bearerAuth": []}],
                    "parameters": [{"name": "q", "in": "query", "schema": {"type": "string"}}],
                    "requestBody": {"content": {"application/json; charset=utf-8": {"schema": {"$ref": "#/components/schemas/Body"}}}},
                },
                "get": {"security": [{"bearerAuth": []}]},
                "head": {"security": []},
            }},
        });
        let document = ApiDocument::read(&document);
        assert_eq!(document.operations.len(), 2);
        let post = document.operations.iter().find(|it| it.method == "POST").unwrap();
        assert_eq!((post.permissions.as_slice(), post.is_own()), (&["a.erase".to_owned()][..], false));
        assert_eq!(
            (post.query.as_slice(), post.members.as_slice()),
            (&["q".to_owned()][..], &["reason".to_owned()][..])
        );
        let call = post.harmless(NOBODY);
        assert_eq!((call.target, call.body), (format!("/v1/a/{NOBODY}/x"), Some(USELESS.into())));
        assert!(document.operations.iter().any(|it| it.method == "GET" && it.is_own()));
    }

    #[test]
    fn what_is_no_document_has_no_operations() {
        for other in [json!(null), json!({"paths": []}), json!({"paths": {"/x": {"get": 1}}})] {
            assert!(ApiDocument::read(&other).secured().next().is_none(), "{other}");
        }
    }
}
