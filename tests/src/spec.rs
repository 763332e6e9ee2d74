//! The operations that the OpenAPI document names, and requests for them made from their schemas: these tests call a
//! new operation without anybody adding it.

use std::sync::{Arc, LazyLock};

use hyper::Method;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::client::{Answer, Client};

/// Returns the document, as clients read it.
#[must_use]
pub fn document() -> Value {
    serde_json::from_str(fulexo_api::routes::spec()).unwrap()
}

/// One operation, as the document has it.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its name in the document.
    pub id: String,
    /// Its method.
    pub method: Method,
    /// Its path, with its parameters in braces.
    pub path: String,
    /// All that the document says about it.
    pub meta: Arc<Value>,
    document: Arc<Value>,
}

/// Returns every operation.
#[must_use]
pub fn operations() -> Vec<Operation> {
    static DOCUMENT: LazyLock<Arc<Value>> = LazyLock::new(|| Arc::new(document()));
    let document = &*DOCUMENT;
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, meta) in methods.as_object().unwrap() {
            operations.push(Operation {
                id: meta["operationId"].as_str().unwrap_or_default().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                meta: Arc::new(meta.clone()),
                document: Arc::clone(document),
            });
        }
    }
    assert!(operations.len() > 15, "the document is all but empty");
    operations
}

impl Operation {
    /// `true` if it concerns the caller alone.
    #[must_use]
    pub fn is_own(&self) -> bool {
        ["/v1/me", "/v1/auth"].iter().any(|own| self.path == *own || self.path.starts_with(&format!("{own}/")))
    }

    /// `true` if the document does not require authentication.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.meta["security"].as_array().is_none_or(Vec::is_empty)
    }

    /// Calls it with everything that it requires, and nothing else; every id is `id`.
    pub async fn call(&self, client: &Client, id: Uuid) -> Answer {
        let body = self.body(id).map(|body| self.encoded(&body)).unwrap_or_default();
        self.send(client, &self.target(|name, schema| sample(name, schema, id)), &body).await
    }

    /// Calls it with this target and body.
    pub async fn send(&self, client: &Client, target: &str, body: &str) -> Answer {
        let content_type = (!body.is_empty()).then(|| self.content_type());
        client.send(self.method.clone(), target, content_type, body).await
    }

    /// Returns its path and required query, filled in.
    #[must_use]
    pub fn target(&self, fill: impl Fn(&str, &Value) -> Value) -> String {
        let mut target = self.path.clone();
        let mut query = Vec::new();
        for parameter in self.parameters() {
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            if place != "path" && parameter["required"] != true {
                continue;
            }
            let value = match fill(name, &parameter["schema"]) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            match place {
                "path" => target = target.replace(&format!("{{{name}}}"), &value),
                "query" => query.push(format!("{name}={value}")),
                _ => {}
            }
        }
        assert!(!target.contains('{'), "{target} has a parameter that the document does not name");
        if query.is_empty() { target } else { format!("{target}?{}", query.join("&")) }
    }

    /// Returns the names of its parameters in this place: `path`, `query`, `header`.
    #[must_use]
    pub fn names(&self, place: &str) -> Vec<&str> {
        let parameters = self.parameters().iter().filter(|parameter| parameter["in"] == place);
        parameters.map(|parameter| parameter["name"].as_str().unwrap()).collect()
    }

    /// `true` if it reads a body.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.meta.get("requestBody").is_some()
    }

    /// Returns the media type of its body.
    #[must_use]
    pub fn content_type(&self) -> &str {
        let content = self.meta["requestBody"]["content"].as_object();
        let media_type = content.and_then(|content| content.keys().next());
        media_type.and_then(|media_type| media_type.split(';').next()).unwrap_or("application/json")
    }

    /// `true` if its body is JSON.
    #[must_use]
    pub fn reads_json(&self) -> bool {
        self.content_type() == "application/json"
    }

    /// Encodes a body in its media type.
    #[must_use]
    pub fn encoded(&self, body: &Value) -> String {
        if self.reads_json() {
            return body.to_string();
        }
        let members = body.as_object().unwrap().iter();
        members.map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect::<Vec<_>>().join("&")
    }

    fn parameters(&self) -> &[Value] {
        self.meta["parameters"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns a body with the members that it requires, and no other.
    #[must_use]
    pub fn body(&self, id: Uuid) -> Option<Value> {
        Some(self.instance("", self.body_schema()?, id))
    }

    /// Returns the same, with these values of its members, required or not. A required member without a value gets a
    /// made-up one.
    pub fn body_with(&self, id: Uuid, mut value: impl FnMut(&str) -> Option<Value>) -> Option<Value> {
        let mut body = self.body(id)?;
        let mut schema = self.body_schema()?;
        if let Some(reference) = schema["$ref"].as_str() {
            schema = self.document.pointer(reference.trim_start_matches('#')).unwrap();
        }
        let names = schema["properties"].as_object().into_iter().flat_map(Map::keys);
        for (name, value) in names.filter_map(|name| Some((name, value(name)?))) {
            body[name] = value;
        }
        Some(body)
    }

    fn body_schema(&self) -> Option<&Value> {
        let content = self.meta.get("requestBody")?["content"].as_object().unwrap();
        Some(&content.values().next().unwrap()["schema"])
    }

    /// Returns a value of this schema, with required members alone.
    fn instance(&self, name: &str, schema: &Value, id: Uuid) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            return self.instance(name, self.document.pointer(pointer).unwrap(), id);
        }
        if let Some(first) = schema["allOf"].as_array().and_then(|schemas| schemas.first()) {
            return self.instance(name, first, id);
        }
        match schema["type"].as_str().unwrap_or_default() {
            "object" => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let members = required.iter().map(|member| {
                    let member = member.as_str().unwrap();
                    (member.to_owned(), self.instance(member, &schema["properties"][member], id))
                });
                Value::Object(members.collect::<Map<_, _>>())
            }
            "array" => Value::Array(vec![self.instance(name, &schema["items"], id)]),
            _ => sample(name, schema, id),
        }
    }
}

/// Returns a valid value for a name and a schema.
#[must_use]
pub fn sample(name: &str, schema: &Value, id: Uuid) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    match (schema["type"].as_str().unwrap_or_default(), schema["format"].as_str(), name) {
        ("string", Some("uuid"), _) => id.to_string().into(),
        ("string", Some("date-time"), _) => "2027-01-01T00:00:00Z".into(),
        ("string", _, "email") => "nobody@example.com".into(),
        ("string", _, "role") => "auditor".into(),
        ("string", _, "password" | "new_password") => "kestrel-Over9thefen".into(),
        ("string", _, "permissions") => "audit.read".into(),
        ("string", _, "required_for") => "auditor".into(),
        ("string", _, _) => "sample".into(),
        ("integer" | "number", _, _) => 1.into(),
        ("boolean", _, _) => true.into(),
        (other, _, _) => panic!("no sample for {name}, of type {other:?}: teach it to this function"),
    }
}
