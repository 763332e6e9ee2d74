//! API keys, by which services act.

use fulexo_domain::permission::Permission;
use fulexo_domain::values::{ApiKeyId, KeyName, Reason};
use fulexo_node::answer::{Enforced, Recorded, query_failed};
use fulexo_node::caller::{Bearer, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::access;
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::input::{Because, Input, Limit, Wanted, cursor_of, read_id};
use super::roles::{names, parse_permissions};
use super::tag::Tag;

pub struct ApiKeys;

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ApiKeyRequest {
    /// Which service it is for, never whom: it stands in the log for ever.
    name: String,
    /// What the service may do.
    #[oai(validator(max_items = 100))]
    permissions: Vec<String>,
    /// When the key ends (RFC 3339), within 366 days.
    expires_at: Timestamp,
}

#[derive(Object)]
struct CreatedApiKey {
    api_key_id: Uuid,
    /// The bearer token of the service; shown this once.
    secret: String,
    name: String,
    permissions: Vec<String>,
    expires_at: Timestamp,
}

#[derive(Object)]
struct ApiKey {
    api_key_id: Uuid,
    name: String,
    permissions: Vec<String>,
    /// The account that made it.
    created_by: Option<Uuid>,
    created_at: Timestamp,
    expires_at: Timestamp,
    revoked_at: Option<Timestamp>,
}

#[derive(Object)]
struct ApiKeyPage {
    items: Vec<ApiKey>,
    next_cursor: Option<String>,
}

#[OpenApi(prefix_path = "/v1/api-keys", tag = "Tag::ApiKeys")]
impl ApiKeys {
    /// Create an API key
    ///
    /// It makes every call that its permissions allow and that needs no login within the last ten minutes. Needs
    /// `api_keys.manage`, every permission of the key, and a login within the last ten minutes.
    #[oai(path = "/", method = "post", operation_id = "create_api_key")]
    async fn create(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<ApiKeyRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<CreatedApiKey, 201>, Problem> {
        let caller = caller.0;
        caller.require(Permission::ApiKeysManage)?;
        caller.require_elevated()?;
        let ApiKeyRequest { name, permissions, expires_at } = body.read()?;
        let mut input = Input::default();
        let name = input.parse("/name", KeyName::parse(&name));
        let permissions = parse_permissions(&mut input, &permissions);
        let (Some(name), Some(permissions)) = (name, permissions) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let done =
            commands.create_api_key(&context, caller.permissions, name.clone(), permissions, expires_at.0).await?;
        Ok(Recorded::of(done, |key| CreatedApiKey {
            api_key_id: key.id.0,
            secret: key.secret.to_string(),
            name: name.into(),
            permissions: names(permissions),
            expires_at,
        }))
    }

    /// List API keys
    ///
    /// In the order of their creation.
    /// Those that ended more than a day ago are in the audit trail alone. Never behind the log. Needs `api_keys.manage`.
    #[oai(path = "/", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        request: &Request,
        caller: Bearer,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
    ) -> Result<Json<ApiKeyPage>, Problem> {
        caller.0.require(Permission::ApiKeysManage)?;
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
        let paging = wanted.paging(read_id)?;
        let page = access::api_keys(&app(request)?.pool, &paging).await.map_err(query_failed)?;
        let items = page.items.into_iter().map(|key| ApiKey {
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
    /// It is refused from then on. A reason may be given. Needs `api_keys.manage` and a login within the last ten
    /// minutes.
    #[oai(path = "/:api_key_id", method = "delete", operation_id = "revoke_api_key")]
    async fn revoke(
        &self,
        request: &Request,
        caller: Bearer,
        api_key_id: Path<Uuid>,
        body: JsonBody<Option<Because>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<Enforced>, Problem> {
        let caller = caller.0;
        caller.require(Permission::ApiKeysManage)?;
        caller.require_elevated()?;
        let mut input = Input::default();
        let reason = input.parse_optional("/reason", body.read()?.map(|because| Reason::parse(&because.reason)));
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        app.enforced(app.commands.revoke_api_key(&context, ApiKeyId(api_key_id.0), reason).await?).await
    }
}
