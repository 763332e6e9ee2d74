//! The well-known documents by which services verify tokens of this issuer: its metadata (RFC 8414) and its public keys
//! (RFC 7517).

use std::time::Duration;

use fulexo_domain::permission::Permission;
use fulexo_node::caller::app;
use fulexo_node::http::Problem;
use fulexo_node::http::cached::Cached;
use fulexo_node::keys::signing::JWKS_MAX_AGE;
use fulexo_ops::probe::digest;
use poem::Request;
use poem_openapi::payload::PlainText;
use poem_openapi::{ApiResponse, Object, OpenApi};
use url::Url;

use super::tag::Tag;

pub struct WellKnown;

/// The maximum age of the metadata in caches.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// A JWK Set (RFC 7517, section 5).
#[derive(Object)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// A JSON Web Key (RFC 7517, section 4).
#[derive(Object)]
struct Jwk {
    kty: String,
    #[oai(rename = "use")]
    usage: String,
    alg: String,
    kid: String,
    n: String,
    e: String,
}

/// Authorization server metadata (RFC 8414, section 2). The service has no authorization endpoint and no token endpoint of RFC
/// 6749: its own operations issue tokens.
#[derive(Object)]
struct ServerMetadata {
    /// The issuer: the `iss` of access tokens.
    issuer: String,
    /// The URL of the public keys that verify access tokens.
    jwks_uri: String,
    /// The URL of the introspection endpoint (RFC 7662).
    introspection_endpoint: String,
    /// The authentication methods of the introspection endpoint: `client_secret_basic` with the id and secret of an API key,
    /// `Bearer` with a token.
    introspection_endpoint_auth_methods_supported: Vec<String>,
    /// The supported response types: only `none`, because there is no authorization endpoint.
    response_types_supported: Vec<String>,
    /// The permissions that introspection returns as `scope`.
    scopes_supported: Vec<String>,
    /// The URL of the documentation.
    service_documentation: String,
}

/// The consent of the operator to a penetration test.
#[derive(ApiResponse)]
enum ConsentResponse {
    /// The SHA-256 digest of the token, in hex.
    #[oai(status = 200, content_type = "text/plain; charset=utf-8")]
    Shown(PlainText<String>),
}

#[OpenApi(tag = "Tag::Service")]
impl WellKnown {
    /// Get the public keys of access tokens
    ///
    /// Returns the JWK Set (RFC 7517) that verifies access tokens. It is empty if tokens are signed with HS256. A request with
    /// the `ETag` of an earlier response in `If-None-Match` is answered 304 while the keys are the same.
    #[oai(path = "/.well-known/jwks.json", method = "get", operation_id = "get_jwks")]
    async fn jwks(&self, request: &Request) -> Result<Cached<JwkSet>, Problem> {
        let ring = app(request)?.commands.keys();
        let keys = ring.jwks().into_iter().map(|key| Jwk {
            kty: key.kty.to_owned(),
            usage: key.r#use.to_owned(),
            alg: key.alg.to_owned(),
            kid: key.kid,
            n: key.n,
            e: key.e,
        });
        // At most the lifetime of tokens: a key stays published for this time after it stops signing.
        let max_age = ring.lifetime().to_std().unwrap_or_default().min(JWKS_MAX_AGE);
        Ok(Cached::answer(request, JwkSet { keys: keys.collect() }, max_age))
    }

    /// Get the issuer's metadata (RFC 8414)
    ///
    /// Returns the authorization server metadata, from which a service that knows the issuer's URL learns how to verify access
    /// tokens.
    ///
    /// Answers 404 if the configured issuer is not a URL.
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
            // A required member, and section 3.2 forbids an empty list.
            response_types_supported: vec!["none".to_owned()],
            scopes_supported: Permission::ALL.map(|permission| permission.as_str().to_owned()).into(),
            service_documentation: at("/docs"),
        };
        Ok(Cached::answer(request, metadata, MAX_AGE))
    }

    /// Get the consent to a penetration test
    ///
    /// Returns the digest of the token that the operator has configured. `fulexo penetration-test` tests no instance that does
    /// not show the digest of its operator's token.
    ///
    /// Answers 404 if no token is configured.
    #[oai(path = "/.well-known/fulexo-penetration-test", method = "get", operation_id = "get_penetration_test_consent")]
    async fn consent(&self, request: &Request) -> Result<ConsentResponse, Problem> {
        let token = app(request)?.penetration_test_token.as_ref().ok_or_else(Problem::not_found)?;
        Ok(ConsentResponse::Shown(PlainText(digest(token))))
    }
}
