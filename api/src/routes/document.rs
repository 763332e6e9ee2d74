//! The OpenAPI document (3.0.3), with what poem-openapi does not say of the types it is made from: that what is optional may
//! be null, the bounds of values that are parsed past it, that bodies are strict, and every refusal once. Who generates a
//! client, or hostile input, reads this: what generators trip over is written in a way that they all read.

use std::collections::BTreeSet;

use fulexo_domain::permission::Permission;
use poem::http::StatusCode;
use serde_json::{Map, Value, json};

/// Bounds of a string wherever a body or an answer has a member of this name.
fn member(name: &str) -> Option<Value> {
    Some(match name {
        "display_name" => json!({"minLength": 1, "maxLength": 100}),
        "email" => json!({"format": "email", "maxLength": 254}),
        "reason" => json!({"minLength": 1, "maxLength": 500}),
        "role" => json!({"pattern": ROLE}),
        _ => return None,
    })
}

/// The schema of a member's values, where they are closed.
fn vocabulary_of(schema: &str, name: &str) -> Option<&'static str> {
    Some(match (schema, name) {
        (_, "permission" | "permissions") => "Permission",
        ("AuditActor" | "Granter", "kind") => "ActorKind",
        ("SecondFactorChallenge", "methods") => "SecondFactorMethod",
        ("CurrentSession", "methods") => "Method",
        _ => return None,
    })
}

/// Words that several members take their values from, each a schema of its own.
fn vocabularies() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let permissions = Permission::ALL.map(Permission::as_str).to_vec();
    let actors = vec!["account", "api_key", "anonymous", "operator", "system"];
    vec![
        ("Permission", "What a role or an API key may allow.", permissions),
        ("ActorKind", "Who can make something happen.", actors),
        ("SecondFactorMethod", "What may be presented as a second factor.", vec!["totp", "recovery_code"]),
        ("Method", "What a session's owner has presented (RFC 8176).", vec!["pwd", "otp"]),
    ]
}

/// The description of a member of this name, wherever it has none of its own.
fn member_meaning(name: &str) -> Option<&'static str> {
    Some(match name {
        "access_token" => "The access token.",
        "account_id" => "The account's id.",
        "accounts" => "How many accounts there are.",
        "acr" => "How well the caller is known (RFC 9470): `aal1` by a password, `aal2` by a second factor, too.",
        "active" => "Whether it is in force.",
        "actor" => "Who made it happen.",
        "alg" => "The algorithm that the key is for.",
        "api_key_id" => "The API key's id.",
        "api_keys" => "What holds of API keys.",
        "at" => "When it happened.",
        "attempts" => "How many attempts there were.",
        "aud" => "Whom the token is for.",
        "category" => "The kind of stream that it is in.",
        "challenge_token" => "What the login answered with.",
        "count" => "How many there were.",
        "created_at" => "When it was made.",
        "current_password" => "The password that holds now.",
        "dependencies" => "What the node needs: the database, and NATS where it is used.",
        "device_id" => "The device's id.",
        "display_name" => "What its owner is called.",
        "e" => "The exponent of the key, in base64url.",
        "email" => "The e-mail address.",
        "ended_at" => "When it ended.",
        "expires_at" => "When it ends by itself.",
        "first_used_at" => "When it first logged in.",
        "from" => "Where it begins.",
        "gate" => "What judges requests from memory.",
        "gauges" => "What there was at the end.",
        "granted_at" => "Since when.",
        "granted_by" => "By whom.",
        "holders" => "How many accounts hold it.",
        "id" => "Its id.",
        "idle_expires_at" => "When it ends, unless it is refreshed before.",
        "ip" => "The address that it came from.",
        "iss" => "Who issued the token.",
        "items" => "What was found, in order.",
        "jti" => "The token's id.",
        "keys" => "The keys.",
        "kid" => "The key's id, as tokens name it.",
        "kty" => "The key's type.",
        "last_login_at" => "When somebody last logged in to it.",
        "last_seen_at" => "When it was last refreshed.",
        "last_used_at" => "When it last logged in.",
        "live_sessions" => "How many sessions are in use.",
        "locked" => "How many accounts are locked.",
        "lockout" => "When guesses lock.",
        "n" => "The modulus of the key, in base64url.",
        "name" => "Its name.",
        "new_password" => "The password that holds from then on.",
        "next_cursor" => {
            "The `cursor` of the next page; none on the last one. A page under filters may be short, or empty, and have one."
        }
        "password" => "The password.",
        "password_changed_at" => "When the password was last changed.",
        "passwords" => "What holds of passwords.",
        "permission" => "Its name.",
        "permissions" => "What it allows.",
        "projections" => "Each read model.",
        "reason" => "Why, for those who look into it later.",
        "registered_at" => "When it was registered.",
        "revoked_at" => "When it was revoked.",
        "role" => "The role's name.",
        "roles" => "The roles that it holds.",
        "second_factor" => "What holds of its second factor.",
        "session_id" => "The session's id.",
        "sessions" => "How long sessions live, and what they need.",
        "started_at" => "When it began.",
        "status" => "How it is.",
        "step_seconds" => "The length of a step.",
        "steps" => "Step by step, in order.",
        "suspended" => "How many accounts are suspended.",
        "to" => "Where it ends.",
        "type" => "The event's type: `<category>.<fact>`.",
        "until" => "Until when.",
        "use" => "What the key is for.",
        "user_agent" => "What the client called itself.",
        _ => return None,
    })
}

/// Bounds of a parameter of this name.
fn parameter(name: &str) -> Option<Value> {
    Some(match name {
        "Idempotency-Key" => json!({"minLength": 1, "maxLength": 255}),
        "as_of" => json!({"minLength": 1, "maxLength": 40}),
        "cursor" => json!({"minLength": 1}),
        "role" => json!({"pattern": ROLE}),
        _ => return None,
    })
}

/// The description of a parameter of this name, where its operation gives none.
fn meaning(name: &str) -> Option<&'static str> {
    Some(match name {
        "Idempotency-Key" => {
            "Any text of up to 255 bytes: a call repeated with the same one is done once, for 24 hours."
        }
        "Log-Min-Position" => {
            "A `Log-Position` that was answered before: the query sees at least everything up to there."
        }
        "account_id" => "The account's id.",
        "api_key_id" => "The API key's id.",
        "device_id" => "The device's id.",
        "position" => "The event's position in the log.",
        "role" => "The role's name.",
        "session_id" => "The session's id.",
        _ => return None,
    })
}

/// A role's name.
const ROLE: &str = "^[a-z][a-z0-9_-]{0,62}$";

/// The one scheme: every token comes the same way.
const BEARER: &str = "bearerAuth";
/// The scheme of introspection beside it.
const BASIC: &str = "basicAuth";
/// The pointer to all schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// The order of a journey: getting in, one's own things, those of others, what an auditor reads, the service itself.
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

/// The document, completed.
///
/// # Errors
/// When it is no JSON.
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
        "description": "An access token, or what the operation says it takes in the place of one: the secret of an API key, \
                        or the `challenge_token` of a login that is not over.",
    });
    let basic = json!({
        "type": "http",
        "scheme": "basic",
        "description": "The id of an API key and its secret, each written as in a form (RFC 6749, section 2.3.1).",
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

/// The values of an object's members; of nothing, none.
fn members<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.pointer_mut(pointer).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
}

/// The schema that this is a reference to.
fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(SCHEMAS)
}

/// Writes the variants of each union flat, every one with its one `status`, and without a discriminator: there are generators
/// that take that member out of what they then read.
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

/// Gives a variant the member by which it is told from the others.
fn tag_with(variant: &mut Map<String, Value>, tag: &Value) {
    let Some(members) = tag.get("properties").and_then(Value::as_object) else { return };
    for (name, schema) in members {
        let mut schema = schema.clone();
        add(&mut schema, json!({"description": "Which of the answers this is."}));
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

/// Every schema that is referred to from here.
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
        // Beside a reference nothing counts (OpenAPI 3.0, "Reference Object"): it stands in an `allOf`, and what is said of
        // it beside that, not in it as a second schema. There `nullable` has no effect, and null is never sent.
        if let Some(Value::Array(parts)) = property.get_mut("allOf").map(Value::take) {
            let (references, said): (Vec<Value>, Vec<Value>) =
                parts.into_iter().partition(|part| referred(part).is_some());
            add(property, json!({"allOf": references}));
            said.into_iter().for_each(|said| add(property, said));
            // Generators read defaults of plain types alone.
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
    // JSON is UTF-8, and has no such parameter (RFC 8259, section 11).
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut).into_iter().flat_map(Map::iter_mut);
    for (status, response) in responses {
        if response.get("description").is_none_or(|said| said == "") {
            add(response, json!({"description": outcome(status)}));
        }
        name_json(response);
    }
    operation.get_mut("requestBody").map(name_json);
    let scheme = operation.pointer("/security/0").and_then(Value::as_object).and_then(|scheme| scheme.keys().next());
    let (security, taken) = match scheme {
        Some(scheme) if scheme == "Introspector" => (json!([{BEARER: []}, {BASIC: []}]), taken_as_well(scheme)),
        Some(scheme) => (json!([{BEARER: []}]), taken_as_well(scheme)),
        None => (json!([]), None),
    };
    if let Some(taken) = taken {
        let said = operation.get("description").and_then(Value::as_str).map(|said| format!("{said}\n\n"));
        add(operation, json!({"description": said.unwrap_or_default() + taken}));
    }
    add(operation, json!({"security": security}));
}

/// Adds what is sent and answered in the README's walk, as a development server answered it.
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

/// The credentials that an operation takes beside the access token of a session, by its extractor (`caller.rs`).
fn taken_as_well(scheme: &str) -> Option<&'static str> {
    Some(match scheme {
        "BearerOrKey" | "Introspector" => "Takes the secret of an API key, too.",
        "SigningOut" => {
            "Takes the access token of a session that waits for a step-up, too; and in cookie mode the refresh cookie, with \
             `X-CSRF-Token`, where the access token has run out."
        }
        "HeldBearer" => "Takes the access token of a session that waits for a step-up, too.",
        "Enrolling" => "Takes the `challenge_token` of a login with status `second_factor_enrolment_required`, too.",
        "ChangingPassword" => "Takes the `challenge_token` of a login with status `password_change_required`, too.",
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

/// The description of a success, where its operation says no more than its summary.
fn outcome(status: &str) -> &'static str {
    match status {
        "201" => "It was made.",
        "202" => "It was taken note of; the answer is the same whatever comes of it.",
        "204" => "It was done.",
        _ => "What was asked for.",
    }
}

/// Has refusals stand once, under the name of their status.
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

/// Bodies of JSON are refused for members that they should not have: so it is said of all that they are made of.
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
    for (_, schema) in schemas.iter_mut().filter(|(name, schema)| sent.contains(*name) && is_object(schema)) {
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
