//! The completion of the OpenAPI document (3.0.3). poem-openapi leaves out that optional members may be null, the bounds of
//! values that handlers parse, and that bodies are strict; it repeats every refusal. Generators of clients and of test input
//! read the document, so it avoids forms that some of them misread.

use std::collections::BTreeSet;

use fulexo_domain::permission::Permission;
use poem::http::StatusCode;
use serde_json::{Map, Value, json};

/// The bounds of string members of this name.
fn member(name: &str) -> Option<Value> {
    Some(match name {
        "display_name" => json!({"minLength": 1, "maxLength": 100}),
        "email" => json!({"format": "email", "maxLength": 254}),
        "reason" => json!({"minLength": 1, "maxLength": 500}),
        "role" => json!({"pattern": ROLE}),
        _ => return None,
    })
}

/// The schema of a member whose values are a closed list.
fn vocabulary_of(schema: &str, name: &str) -> Option<&'static str> {
    Some(match (schema, name) {
        (_, "permission" | "permissions") => "Permission",
        ("Actor", "kind") => "ActorKind",
        ("SecondFactorChallenge", "methods") => "SecondFactorMethod",
        ("CurrentSession", "methods") => "AuthenticationMethod",
        _ => return None,
    })
}

/// Closed lists of values that several members share, each with its own schema.
fn vocabularies() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let permissions = Permission::ALL.map(Permission::as_str).to_vec();
    let actors = vec!["account", "api_key", "anonymous", "operator", "system"];
    vec![
        ("Permission", "A permission of a role or an API key. `GET /v1/permissions` describes each.", permissions),
        ("ActorKind", "The kind of actor that caused an event.", actors),
        ("SecondFactorMethod", "A method of the second factor.", vec!["totp", "recovery_code"]),
        (
            "AuthenticationMethod",
            "An authentication method (RFC 8176): `pwd`, a password; `otp`, a code.",
            vec!["pwd", "otp"],
        ),
    ]
}

/// The description of a member of this name that has no description of its own.
fn member_meaning(name: &str) -> Option<&'static str> {
    Some(match name {
        "account_id" => "The id of the account.",
        "acr" => "The assurance level (RFC 9470): `aal1` with a password, `aal2` with a second factor as well.",
        "active" => "`true` if the token is active.",
        "actor" => "The actor that caused the event.",
        "alg" => "The algorithm of the key.",
        "api_key_id" => "The id of the API key.",
        "api_keys" => "The API key policy.",
        "aud" => "The audience of the token.",
        "category" => "The category of the stream.",
        "challenge_token" => "The challenge token of the login.",
        "checkpoint" => "The published checkpoint of the log.",
        "count" => "The number of events.",
        "created_at" => "The time of creation.",
        "current_password" => "The current password.",
        "dependencies" => "The dependencies of the node: PostgreSQL, and NATS if it is configured.",
        "device_id" => "The id of the device.",
        "display_name" => "The display name.",
        "e" => "The exponent of the key, in base64url.",
        "email" => "The e-mail address.",
        "ended_at" => "The time at which the session ended.",
        "expires_at" => "The expiry.",
        "first_used_at" => "The time of the first login from the device.",
        "gate" => "The gate, which authorises requests from memory.",
        "gauges" => "The gauges at the moment.",
        "granted_at" => "The time of the grant.",
        "granted_by" => "The actor that granted the role.",
        "idle_expires_at" => "The time at which the session expires if it is not refreshed.",
        "iss" => "The issuer of the token.",
        "items" => "The items, in order.",
        "jti" => "The id of the token.",
        "keys" => "The keys of the set.",
        "kid" => "The id of the key, as tokens name it.",
        "kty" => "The type of the key.",
        "last_login_at" => "The time of the last login.",
        "last_used_at" => "The time of the last login from the device.",
        "lockout" => "The lockout policy.",
        "n" => "The modulus of the key, in base64url.",
        "name" => "The name.",
        "new_password" => "The new password.",
        "next_cursor" => {
            "The `cursor` of the next page. `null` on the last page. With filters, a page can have few items, or none, and \
             still be followed by another."
        }
        "password" => "The password.",
        "password_changed_at" => "The time of the last password change.",
        "passwords" => "The password policy.",
        "permission" => "The name of the permission.",
        "permissions" => "The permissions.",
        "projections" => "The state of each read model.",
        "reason" => "The reason.",
        "registered_at" => "The time of registration.",
        "revoked_at" => "The time of revocation.",
        "role" => "The name of the role.",
        "roles" => "The roles of the account.",
        "second_factor" => "The second factor.",
        "session_id" => "The id of the session.",
        "sessions" => "The session policy.",
        "started_at" => "The time at which the session started.",
        "status" => "The state of the component.",
        "tree" => "The tree over the log.",
        "use" => "The use of the key.",
        _ => return None,
    })
}

/// The bounds of parameters of this name.
fn parameter(name: &str) -> Option<Value> {
    Some(match name {
        "Idempotency-Key" => json!({"minLength": 1, "maxLength": 255}),
        "as_of" => json!({"minLength": 1, "maxLength": 40}),
        "cursor" => json!({"minLength": 1}),
        "role" => json!({"pattern": ROLE}),
        _ => return None,
    })
}

/// The description of a parameter of this name that has no description of its own.
fn meaning(name: &str) -> Option<&'static str> {
    Some(match name {
        "Idempotency-Key" => {
            "A unique key of this request, 1 to 255 bytes. A request that is repeated with the same key within 24 hours is \
             carried out once and returns the same result."
        }
        "Log-Min-Position" => {
            "The `Log-Position` of an earlier response. The response includes every event up to this position."
        }
        "account_id" => "The id of the account.",
        "api_key_id" => "The id of the API key.",
        "device_id" => "The id of the device.",
        "position" => "The position of the event in the log.",
        "role" => "The name of the role.",
        "session_id" => "The id of the session.",
        _ => return None,
    })
}

/// The pattern of a role's name.
const ROLE: &str = "^[a-z][a-z0-9_-]{0,62}$";

/// The security scheme of every token.
const BEARER: &str = "bearerAuth";
/// The second security scheme of introspection.
const BASIC: &str = "basicAuth";
/// The pointer to all schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// The order of tags: login, own account, other accounts, audit, service.
const TAGS: [&str; 12] = [
    "Authentication",
    "Me",
    "Recovery",
    "Accounts",
    "Roles",
    "Sessions",
    "API keys",
    "Policy",
    "Incidents",
    "Audit",
    "Metrics",
    "Service",
];

/// Completes the document.
///
/// # Errors
/// If the document is not JSON.
pub fn complete(document: &str) -> serde_json::Result<String> {
    let mut document: Value = serde_json::from_str(document)?;
    add(&mut document, json!({"openapi": "3.0.3"}));
    flatten_unions(&mut document);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.iter_mut().for_each(|(name, schema)| complete_schema(name, schema));
        for (name, description, values) in vocabularies() {
            let schema = json!({"type": "string", "enum": values, "description": description});
            schemas.insert(name.to_owned(), schema);
        }
    }
    let examples: Value = serde_json::from_str(include_str!("examples.json"))?;
    let mut refusals = Map::new();
    for operation in members(&mut document, "/paths").flat_map(|path| members(path, "")) {
        complete_operation(operation);
        show_example(operation, &examples);
        share_refusals(operation, &mut refusals);
    }
    refuse_unknown_members(&mut document);
    let scheme = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "An access token. Some operations also accept the secret of an API key, or the `challenge_token` of a \
                        login that needs another step; their descriptions say so.",
    });
    let basic = json!({
        "type": "http",
        "scheme": "basic",
        "description": "The id of an API key as the user name and its secret as the password, each form-encoded (RFC 6749, \
                        section 2.3.1).",
    });
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("responses".to_owned(), Value::Object(refusals));
        components.insert("securitySchemes".to_owned(), json!({BEARER: scheme, BASIC: basic}));
    }
    forget_unused(&mut document);
    if let Some(tags) = document.get_mut("tags").and_then(Value::as_array_mut) {
        tags.sort_by_key(|tag| TAGS.iter().position(|name| tag.get("name").is_some_and(|it| it == name)));
    }
    serde_json::to_string_pretty(&document)
}

/// Returns the values of an object's members. Returns nothing if there is no object.
fn members<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.pointer_mut(pointer).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
}

/// Returns the name of the referenced schema.
fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(SCHEMAS)
}

/// Flattens the variants of each union, each with its `status`, and removes the discriminator: some generators drop the
/// discriminator's member from the variants.
fn flatten_unions(document: &mut Value) {
    let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else { return };
    let is_union = |schema: &Value| schema.get("discriminator").is_some();
    let unions: Vec<String> = schemas.iter().filter(|(_, it)| is_union(it)).map(|(name, _)| name.clone()).collect();
    for name in unions {
        let Some(Value::Object(mut union)) = schemas.remove(&name) else { continue };
        union.retain(|member, _| member != "discriminator" && member != "type");
        for variant in union.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
            let wrapper = referred(variant).and_then(|name| schemas.remove(name));
            let parts = wrapper.as_ref().and_then(|wrapper| wrapper.get("allOf")).and_then(Value::as_array);
            let Some([tag, schema]) = parts.map(Vec::as_slice) else { continue };
            if let Some(Value::Object(flat)) = referred(schema).and_then(|name| schemas.get_mut(name)) {
                tag_with(flat, tag);
            }
            *variant = schema.clone();
        }
        schemas.insert(name, Value::Object(union));
    }
}

/// Adds the tag to a variant of a union.
fn tag_with(variant: &mut Map<String, Value>, tag: &Value) {
    let Some(members) = tag.get("properties").and_then(Value::as_object) else { return };
    for (name, schema) in members {
        let mut schema = schema.clone();
        add(&mut schema, json!({"description": "The kind of response."}));
        add(variant.entry("properties").or_insert_with(|| json!({})), json!({name: schema}));
        let required = variant.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut().filter(|required| !required.contains(&json!(name))) {
            required.insert(0, json!(name));
        }
    }
}

fn forget_unused(document: &mut Value) {
    let mut used = BTreeSet::new();
    references(document, &mut used);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.retain(|name, _| used.contains(name));
    }
}

/// Adds the names of all schemas that the value refers to.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    found.extend(referred(value).map(str::to_owned));
    match value {
        Value::Object(members) => members.values().for_each(|it| references(it, found)),
        Value::Array(items) => items.iter().for_each(|it| references(it, found)),
        _ => {}
    }
}

fn complete_schema(schema_name: &str, schema: &mut Value) {
    let required: Vec<String> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        if property.get("type").is_some_and(|is| is == "string")
            && let Some(more) = member(name)
        {
            add(property, more);
        }
        if let Some(vocabulary) = vocabulary_of(schema_name, name) {
            let reference = json!({"$ref": format!("{SCHEMAS}{vocabulary}")});
            match property.get_mut("items") {
                Some(items) => *items = reference,
                None => {
                    property.as_object_mut().map(|it| it.remove("type"));
                    add(property, json!({"allOf": [reference]}));
                }
            }
        }
        // The siblings of a reference are ignored (OpenAPI 3.0, "Reference Object"). The reference goes into an `allOf`, and
        // the description next to it. `nullable` has no effect there, and null is never sent.
        if let Some(Value::Array(parts)) = property.get_mut("allOf").map(Value::take) {
            let (references, siblings): (Vec<Value>, Vec<Value>) =
                parts.into_iter().partition(|part| referred(part).is_some());
            add(property, json!({"allOf": references}));
            siblings.into_iter().for_each(|sibling| add(property, sibling));
            // Generators accept defaults only of plain types.
            property.as_object_mut().map(|it| it.remove("default"));
        } else if !required.contains(name) && property.get("$ref").is_none() {
            add(property, json!({"nullable": true}));
        }
        if let (Some(meaning), None) = (member_meaning(name), property.get("description")) {
            if let Some(reference) = property.get("$ref").cloned() {
                *property = json!({"allOf": [{"$ref": reference}]});
            }
            add(property, json!({"description": meaning}));
        }
    }
}

fn complete_operation(operation: &mut Value) {
    for it in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = it.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let (Some(more), Some(schema)) = (parameter(&name), it.get_mut("schema")) {
            add(schema, more);
        }
        if let (Some(meaning), None) = (meaning(&name), it.get("description")) {
            add(it, json!({"description": meaning}));
        }
    }
    // The media type of JSON has no charset parameter (RFC 8259, section 11).
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut).into_iter().flat_map(Map::iter_mut);
    for (status, response) in responses {
        if response.get("description").is_none_or(|said| said == "") {
            add(response, json!({"description": outcome(status)}));
        }
        name_json(response);
    }
    operation.get_mut("requestBody").map(name_json);
    let scheme = operation.pointer("/security/0").and_then(Value::as_object).and_then(|scheme| scheme.keys().next());
    let (security, also) = match scheme {
        Some(scheme) if scheme == "Introspector" => (json!([{BEARER: []}, {BASIC: []}]), other_credentials(scheme)),
        Some(scheme) => (json!([{BEARER: []}]), other_credentials(scheme)),
        None => (json!([]), None),
    };
    if let Some(also) = also {
        let before = operation.get("description").and_then(Value::as_str).map(|text| format!("{text}\n\n"));
        add(operation, json!({"description": before.unwrap_or_default() + also}));
    }
    add(operation, json!({"security": security}));
}

/// Adds the examples of the README's walk: requests, and the responses of a development server.
fn show_example(operation: &mut Value, examples: &Value) {
    let name = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
    let Some(example) = examples.get(name).cloned() else { return };
    let mut show = |pointer: &str, part: &str| {
        if let (Some(content), Some(example)) = (operation.pointer_mut(pointer), example.get(part)) {
            add(content, json!({"example": example}));
        }
    };
    show("/requestBody/content/application~1json", "request");
    for status in ["200", "201"] {
        show(&format!("/responses/{status}/content/application~1json"), "response");
    }
}

/// The credentials that an operation accepts in addition to an access token, by its extractor (`caller.rs`).
fn other_credentials(scheme: &str) -> Option<&'static str> {
    Some(match scheme {
        "BearerOrKey" | "Introspector" => "Also accepts the secret of an API key.",
        "LogoutCaller" => {
            "Also accepts the access token of a session that requires a step-up. In cookie mode it also accepts the refresh \
             cookie with `X-CSRF-Token` after the access token has expired."
        }
        "BearerBeforeStepUp" => "Also accepts the access token of a session that requires a step-up.",
        "EnrolmentCaller" => {
            "Also accepts the `challenge_token` of a login with status `second_factor_enrolment_required`, without elevation."
        }
        "PasswordChangeCaller" => {
            "Also accepts the `challenge_token` of a login with status `password_change_required`, without elevation."
        }
        _ => return None,
    })
}

fn name_json(content: &mut Value) {
    if let Some(content) = content.get_mut("content").and_then(Value::as_object_mut)
        && let Some(schema) = content.remove("application/json; charset=utf-8")
    {
        content.insert("application/json".to_owned(), schema);
    }
}

/// The description of a success that has no description of its own.
fn outcome(status: &str) -> &'static str {
    match status {
        "201" => "Created.",
        "202" => "Accepted.",
        "204" => "Done. The response has no content.",
        _ => "Success.",
    }
}

/// Moves each refusal to the shared responses, under the name of its status.
fn share_refusals(operation: &mut Value, refusals: &mut Map<String, Value>) {
    for (status, response) in
        operation.get_mut("responses").and_then(Value::as_object_mut).into_iter().flat_map(Map::iter_mut)
    {
        let status = status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
        let Some(reason) = status.filter(|it| !it.is_success()).and_then(|status| status.canonical_reason()) else {
            continue;
        };
        let name: String = reason.split(' ').collect();
        if *refusals.entry(name.clone()).or_insert_with(|| response.clone()) == *response {
            *response = json!({"$ref": format!("#/components/responses/{name}")});
        }
    }
}

/// The schemas of somebody else's format, which grows.
const FOREIGN: [&str; 4] = ["AlertAnnotations", "AlertLabels", "AlertNotification", "MonitorAlert"];

/// Marks every schema of a request body as closed, except those of another's format: an unknown member is refused.
fn refuse_unknown_members(document: &mut Value) {
    let mut sent = BTreeSet::new();
    for operation in members(document, "/paths").flat_map(|path| members(path, "")) {
        if let Some(body) = operation.pointer("/requestBody/content/application~1json") {
            references(body, &mut sent);
        }
    }
    let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else { return };
    let mut before = 0;
    while sent.len() > before {
        before = sent.len();
        for name in sent.clone() {
            schemas.get(&name).into_iter().for_each(|schema| references(schema, &mut sent));
        }
    }
    let is_object = |schema: &Value| schema.get("type").is_some_and(|is| is == "object");
    let is_closed = |name: &String| sent.contains(name) && !FOREIGN.contains(&name.as_str());
    for (_, schema) in schemas.iter_mut().filter(|(name, schema)| is_closed(name) && is_object(schema)) {
        add(schema, json!({"additionalProperties": false}));
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
                    "email": {"type": "string", "description": "It."},
                    "reason": {"type": "string", "description": "It."},
                    "part": {"$ref": "#/components/schemas/Part"},
                },
            }}},
            "paths": {"/things": {"get": {
                "parameters": [{"name": "cursor", "schema": {"type": "string"}}],
                "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
            }}},
        });
        let completed: Value = serde_json::from_str(&complete(&document.to_string()).unwrap()).unwrap();
        assert_eq!(
            completed["components"]["schemas"]["Thing"]["properties"],
            json!({
                "email": {"type": "string", "format": "email", "maxLength": 254, "description": "It."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 500, "nullable": true, "description": "It."},
                "part": {"$ref": "#/components/schemas/Part"},
            })
        );
        let cursor = &completed["paths"]["/things"]["get"]["parameters"][0]["schema"];
        assert_eq!(cursor, &json!({"type": "string", "minLength": 1}));
    }

    #[test]
    fn a_variant_of_a_union_is_flat_and_has_its_one_tag() {
        let tag = json!({"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "enum": ["in"]}}});
        let document = json!({
            "components": {"schemas": {
                "Answer": {
                    "type": "object",
                    "discriminator": {"propertyName": "status"},
                    "oneOf": [{"$ref": "#/components/schemas/Answer_In"}],
                },
                "Answer_In": {"allOf": [tag, {"$ref": "#/components/schemas/In"}]},
                "In": {"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}},
            }},
            "paths": {"/answer": {"get": {"responses": {"200": {"content": {"application/json; charset=utf-8": {
                "schema": {"$ref": "#/components/schemas/Answer"},
            }}}}}}},
        });
        let completed: Value = serde_json::from_str(&complete(&document.to_string()).unwrap()).unwrap();
        let schemas = completed["components"]["schemas"].as_object().unwrap();
        assert_eq!(schemas["Answer"], json!({"oneOf": [{"$ref": "#/components/schemas/In"}]}));
        assert_eq!(schemas["In"]["required"], json!(["status", "token"]));
        assert_eq!(schemas["In"]["properties"]["status"]["enum"], json!(["in"]));
        assert_eq!(schemas.len(), 2);
    }
}
