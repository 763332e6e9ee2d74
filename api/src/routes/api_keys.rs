//! API keys, the credentials of services.

use fulexo_domain::permission::Permission;
use fulexo_domain::values::{ApiKeyId, ApiKeyName, Reason};
use fulexo_node::answer::{CommandResponse, EnforcementResource, query_failed};
use fulexo_node::caller::{Bearer, BearerOrAuditor, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::access;
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::input::{Input, Limit, PageQuery, ReasonRequest, cursor_of, read_id};
use super::roles::{names, parse_permissions};
use super::tag::Tag;

pub struct ApiKeys;

/// An API key to create.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ApiKeyRequest {
    /// The name of the service. Do not use the name of a person: the log keeps it permanently.
    name: String,
    /// The permissions of the key.
    #[oai(validator(max_items = 100))]
    permissions: Vec<String>,
    /// The expiry (RFC 3339), at most 366 days from now.
    expires_at: Timestamp,
}

/// A created API key.
#[derive(Object)]
struct CreatedApiKey {
    api_key_id: Uuid,
    /// The secret: the bearer token of the service. It is shown only in this response.
    secret: String,
    name: String,
    permissions: Vec<String>,
    expires_at: Timestamp,
    /// The size of a signed checkpoint that covers the creation. `null` if none did within 2 seconds, or nothing signs the log.
    checkpoint_size: Option<u64>,
    /// The size of the newest checkpoint that as many witnesses have cosigned as the policy asks for, at the time of the response.
    /// `null` if no witnesses are asked, or too few have cosigned one.
    anchored_size: Option<u64>,
}

/// An API key.
#[derive(Object)]
#[oai(rename = "ApiKey")]
struct ApiKeyResource {
    api_key_id: Uuid,
    name: String,
    permissions: Vec<String>,
    /// The id of the account that created the key.
    created_by: Option<Uuid>,
    created_at: Timestamp,
    expires_at: Timestamp,
    revoked_at: Option<Timestamp>,
}

/// A page of API keys.
#[derive(Object)]
struct ApiKeyPage {
    items: Vec<ApiKeyResource>,
    next_cursor: Option<String>,
}

#[OpenApi(prefix_path = "/v1/api-keys", tag = "Tag::ApiKeys")]
impl ApiKeys {
    /// Create an API key
    ///
    /// Needs the permission `api_keys.manage`, every permission of the key, and an elevated session. Creates the key and
    /// returns its secret, which is not shown again. The key can make every call that its permissions allow, except calls that
    /// need an elevated session.
    #[oai(path = "/", method = "post", operation_id = "create_api_key")]
    async fn create(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<ApiKeyRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<CreatedApiKey, 201>, Problem> {
        let caller = caller.0;
        caller.require(Permission::ApiKeysManage)?;
        caller.require_elevated()?;
        let ApiKeyRequest { name, permissions, expires_at } = body.read()?;
        let mut input = Input::default();
        let name = input.parse("/name", ApiKeyName::parse(&name));
        let permissions = parse_permissions(&mut input, &permissions);
        let (Some(name), Some(permissions)) = (name, permissions) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        let done =
            app.commands.create_api_key(&context, caller.permissions, name.clone(), permissions, expires_at.0).await?;
        let checkpoint_size = app.checkpoint_over(&done).await;
        let response = CommandResponse::of(done, |key| CreatedApiKey {
            api_key_id: key.id.0,
            secret: key.secret.to_string(),
            name: name.into(),
            permissions: names(permissions),
            expires_at,
            checkpoint_size,
            anchored_size: app.anchored_size(),
        });
        Ok(response.with_checkpoint(checkpoint_size))
    }

    /// List API keys
    ///
    /// Needs the permission `api_keys.manage`. Returns API keys by time of creation. Reads the current state, never an older
    /// one. Keys that ended more than a day ago are not listed; the audit trail has them.
    #[oai(path = "/", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        request: &Request,
        caller: BearerOrAuditor,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
    ) -> Result<Json<ApiKeyPage>, Problem> {
        caller.0.require(Permission::ApiKeysManage)?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let paging = wanted.paging(read_id)?;
        let page = access::api_keys(&app(request)?.pool, &paging).await.map_err(query_failed)?;
        let items = page.items.into_iter().map(|key| ApiKeyResource {
            api_key_id: key.key_id,
            name: key.name,
            permissions: key.permissions,
            created_by: key.created_by,
            created_at: key.created_at.into(),
            expires_at: key.expires_at.into(),
            revoked_at: key.revoked_at.map(Timestamp),
        });
        let next_cursor = page.next.map(|key| cursor_of(paging.order, key));
        Ok(Json(ApiKeyPage { items: items.collect(), next_cursor }))
    }

    /// Revoke an API key
    ///
    /// Needs the permission `api_keys.manage` and an elevated session. A reason is optional. Revokes the key, which is refused
    /// from then on. Returns when every node enforces the change.
    #[oai(path = "/:api_key_id", method = "delete", operation_id = "revoke_api_key")]
    async fn revoke(
        &self,
        request: &Request,
        caller: Bearer,
        api_key_id: Path<Uuid>,
        body: JsonBody<Option<ReasonRequest>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<EnforcementResource>, Problem> {
        let caller = caller.0;
        caller.require(Permission::ApiKeysManage)?;
        caller.require_elevated()?;
        let mut input = Input::default();
        let reason = input.parse_optional("/reason", body.read()?.map(|given| Reason::parse(&given.reason)));
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.revoke_api_key(&context, ApiKeyId(api_key_id.0), reason).await?).await
    }
}
