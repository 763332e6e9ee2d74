//! The documents by which services find out how to judge tokens of this issuer, knowing its URL alone: its metadata (RFC 8414)
//! and its public keys (RFC 7517).

use std::time::Duration;

use fulexo_domain::permission::Permission;
use fulexo_node::caller::app;
use fulexo_node::http::Problem;
use fulexo_node::http::cached::Cached;
use poem::Request;
use poem_openapi::{Object, OpenApi};
use url::Url;

use super::tag::Tag;

pub struct WellKnown;

/// The longest time for which caches keep a document. A key that is added is known everywhere after it.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

#[derive(Object)]
struct KeySet {
    keys: Vec<PublicKey>,
}

/// RFC 7517, section 4.
#[derive(Object)]
struct PublicKey {
    kty: String,
    #[oai(rename = "use")]
    usage: String,
    alg: String,
    kid: String,
    n: String,
    e: String,
}

/// RFC 8414, section 2. There is no authorization endpoint, and no token endpoint of RFC 6749: this service's own operations
/// issue tokens.
#[derive(Object)]
struct ServerMetadata {
    /// The `iss` of its access tokens.
    issuer: String,
    /// Where the keys are that verify them.
    jwks_uri: String,
    /// Where services ask about tokens (RFC 7662).
    introspection_endpoint: String,
    /// How they say who they are there: `client_secret_basic`, the id and the secret of an API key; `Bearer`, a token.
    introspection_endpoint_auth_methods_supported: Vec<String>,
    /// `none`: nothing is issued by an authorization endpoint.
    response_types_supported: Vec<String>,
    /// The permissions that introspection names.
    scopes_supported: Vec<String>,
    /// What people read.
    service_documentation: String,
}

#[OpenApi(tag = "Tag::Service")]
impl WellKnown {
    /// Get the public keys of access tokens
    ///
    /// A JWK Set (RFC 7517); empty where tokens are signed with HS256. `If-None-Match` with the `ETag` of an earlier answer is
    /// answered by 304 while the keys are the same.
    #[oai(path = "/.well-known/jwks.json", method = "get", operation_id = "get_jwks")]
    async fn jwks(&self, request: &Request) -> Result<Cached<KeySet>, Problem> {
        let ring = app(request)?.commands.keys();
        let keys = ring.jwks().into_iter().map(|key| PublicKey {
            kty: key.kty.to_owned(),
            usage: key.r#use.to_owned(),
            alg: key.alg.to_owned(),
            kid: key.kid,
            n: key.n,
            e: key.e,
        });
        // No longer than tokens live: for so long a key stays that no longer signs.
        let max_age = ring.lifetime().to_std().unwrap_or_default().min(MAX_AGE);
        Ok(Cached::answer(request, KeySet { keys: keys.collect() }, max_age))
    }

    /// Get the issuer's metadata (RFC 8414)
    ///
    /// Everything that a service needs to judge access tokens, if it knows the issuer's URL. 404 where the configured issuer is
    /// not a URL.
    #[oai(path = "/.well-known/oauth-authorization-server", method = "get", operation_id = "get_server_metadata")]
    async fn metadata(&self, request: &Request) -> Result<Cached<ServerMetadata>, Problem> {
        let issuer = app(request)?.commands.keys().issuer();
        let is_url = Url::parse(issuer).is_ok_and(|url| {
            ["https", "http"].contains(&url.scheme()) && url.query().is_none() && url.fragment().is_none()
        });
        if !is_url {
            return Err(Problem::not_found());
        }
        let at = |path: &str| format!("{}{path}", issuer.trim_end_matches('/'));
        let metadata = ServerMetadata {
            issuer: issuer.to_owned(),
            jwks_uri: at("/.well-known/jwks.json"),
            introspection_endpoint: at("/v1/auth/introspect"),
            introspection_endpoint_auth_methods_supported: ["client_secret_basic", "Bearer"].map(str::to_owned).into(),
            // Required, and an empty list may not be sent (section 3.2).
            response_types_supported: vec!["none".to_owned()],
            scopes_supported: Permission::ALL.map(|permission| permission.as_str().to_owned()).into(),
            service_documentation: at("/docs"),
        };
        Ok(Cached::answer(request, metadata, MAX_AGE))
    }
}
