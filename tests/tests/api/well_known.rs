//! The metadata that other services find by themselves, from the issuer's URL alone.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_tests::{Client, Database, Node, rsa_key};
use serde_json::{Value, json};
use std::sync::Arc;

const KEYS: &str = "/.well-known/jwks.json";
const METADATA: &str = "/.well-known/oauth-authorization-server";

/// Starts a node with these variables on top of the usual ones.
async fn node(more: &[(&str, &str)]) -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Node::with(&database, env).await
}

async fn asked(client: &Client, path: &str, tags: &str) -> (u16, String) {
    let answer = client.with_header("if-none-match", tags).get(path).await;
    (answer.status, answer.text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_may_be_kept_for_a_while_and_are_sent_again_only_where_they_changed() {
    let (old, new) = (rsa_key(), rsa_key());
    let mut tags = Vec::new();
    for (keys, life, max_age) in [(old.clone(), "1h", 300), (format!("{new}{old}"), "2m", 120)] {
        let node = node(&[("JWT_PRIVATE_KEY", &keys), ("JWT_EXPIRES_IN", life)]).await;
        let nobody = node.anonymous();
        let answer = nobody.get(KEYS).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some(format!("public, max-age={max_age}").as_str()));
        let tag = answer.header("etag").unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.len() > 10, "{tag}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let kept = nobody.with_header("if-none-match", &known).get(KEYS).await;
            assert_eq!((kept.status, kept.text.as_str()), (304, ""), "{known}");
            assert_eq!(
                (kept.header("etag"), kept.header("cache-control")),
                (Some(tag.as_str()), answer.header("cache-control"))
            );
        }
        for other in ["\"other\"", "", "W/\"\""] {
            assert_eq!(asked(&nobody, KEYS, other).await, (200, answer.text.clone()), "{other}");
        }
        tags.push(tag);
    }
    assert!(tags[0] != tags[1], "the tag of other keys is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_is_what_the_issuer_is() {
    let node = node(&[("FULEXO_ISSUER", "https://auth.example.com/")]).await;
    let nobody = node.anonymous();
    let answer = nobody.get(METADATA).await;
    assert_eq!(
        (answer.status, &answer.json),
        (
            200,
            &json!({
                "issuer": "https://auth.example.com/",
                "jwks_uri": "https://auth.example.com/.well-known/jwks.json",
                "introspection_endpoint": "https://auth.example.com/v1/auth/introspect",
                "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "Bearer"],
                "response_types_supported": ["none"],
                "scopes_supported": crate::PERMISSIONS,
                "service_documentation": "https://auth.example.com/docs",
            })
        )
    );
    let tag = answer.header("etag").unwrap();
    assert_ne!(Some(tag), nobody.get(KEYS).await.header("etag"));
    assert_eq!(asked(&nobody, METADATA, tag).await, (304, String::new()));
    // And all that it names is there.
    for (name, url) in answer.json.as_object().unwrap() {
        let Some(path) = url.as_str().and_then(|url| url.strip_prefix("https://auth.example.com")) else { continue };
        let found = match name.as_str() {
            "issuer" => continue,
            "introspection_endpoint" => 405,
            _ => 200,
        };
        assert_eq!(nobody.get(path).await.status, found, "{name}");
    }
    let claims = claims(&node.customer().await);
    assert_eq!(claims["iss"], answer.json["issuer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_is_where_people_reach_the_service_unless_it_is_said_otherwise() {
    for (more, issuer) in [
        (&[("FULEXO_PUBLIC_URL", "https://auth.example.com/")][..], Some("https://auth.example.com")),
        (
            &[("FULEXO_PUBLIC_URL", "https://auth.example.com"), ("FULEXO_ISSUER", "https://x.example")],
            Some("https://x.example"),
        ),
        (&[("FULEXO_ISSUER", "an issuer")], None),
        (&[("FULEXO_ISSUER", "https://x.example/?tenant=1")], None),
    ] {
        let node = node(more).await;
        let answer = node.anonymous().get(METADATA).await;
        match issuer {
            Some(issuer) => assert_eq!(answer.json["issuer"], issuer, "{answer:?}"),
            None => assert_eq!((answer.status, answer.code()), (404, "not_found"), "{more:?}"),
        }
        if let Some(issuer) = issuer {
            assert_eq!(claims(&node.customer().await)["iss"], issuer);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_says_all_that_its_profile_requires() {
    let node = Node::start().await;
    let claims = claims(&node.customer().await);
    // RFC 9068, section 2.2.
    for required in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        assert!(claims[required].is_string() || claims[required].is_i64(), "{required}: {claims}");
    }
}

fn claims(client: &Client) -> Value {
    let token = client.access_token.as_ref().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}
