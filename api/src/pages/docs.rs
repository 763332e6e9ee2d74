//! `/openapi.json` and the interactive page at `/docs`.
//!
//! poem-openapi embeds Swagger UI, but serves it as one page with 1.6 MB of inline script, which a strict content policy
//! forbids. Here the script and the style are files of their own. Nothing on the page is inline, and nothing comes from
//! another server.

use std::sync::LazyLock;

use fulexo_domain::jetstream::hex;
use fulexo_node::http::files::{Cache, File, PAGE, SCRIPT, STYLE};
use hyper::body::Bytes;
use poem::http::HeaderValue;
use poem_openapi::OpenApiService;
use sha2::{Digest, Sha256};

/// The content policy of the page: our files and calls to our API. Swagger UI has its icons in `data:` URLs.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const START: &str = "\
window.addEventListener('DOMContentLoaded', () => {
  SwaggerUIBundle({
    dom_id: '#docs',
    url: '/openapi.json',
    deepLinking: true,
    docExpansion: 'list',
    filter: true,
    // Off: it would send the address of this page to a validator on the web.
    validatorUrl: null,
  });
});
";

/// Returns the files of the documentation. `spec` is the text of [`OpenApiService::spec`].
///
/// # Errors
/// If poem-openapi's page does not contain Swagger UI in the expected form.
pub fn files(spec: impl Into<Bytes>) -> Result<[File; 5], MissingSwaggerUi> {
    static SWAGGER_UI: LazyLock<Result<SwaggerUi, MissingSwaggerUi>> = LazyLock::new(SwaggerUi::extract);
    let SwaggerUi { page, style, script } = SWAGGER_UI.as_ref().map_err(|missing| *missing)?;
    Ok([
        File {
            path: "/openapi.json",
            operation: "get_openapi",
            content_type: "application/json",
            policy: None,
            cache: Cache::Revalidated,
            bytes: spec.into(),
        },
        File {
            path: "/docs",
            operation: "get_docs",
            content_type: PAGE,
            policy: Some(PAGE_POLICY),
            cache: Cache::Revalidated,
            bytes: Bytes::from_static(page.as_bytes()),
        },
        File {
            path: "/docs/swagger-ui.css",
            operation: "get_docs_style",
            content_type: STYLE,
            policy: None,
            cache: Cache::Forever,
            bytes: Bytes::from_static(style.as_bytes()),
        },
        File {
            path: "/docs/swagger-ui.js",
            operation: "get_docs_script",
            content_type: SCRIPT,
            policy: None,
            cache: Cache::Forever,
            bytes: Bytes::from_static(script.as_bytes()),
        },
        File {
            path: "/docs/start.js",
            operation: "get_docs_start",
            content_type: SCRIPT,
            policy: None,
            cache: Cache::Forever,
            bytes: Bytes::from_static(START.as_bytes()),
        },
    ])
}

/// Our page, and the parts of poem-openapi's. They are the same for all nodes of a process.
struct SwaggerUi {
    page: String,
    style: String,
    script: String,
}

impl SwaggerUi {
    fn extract() -> Result<Self, MissingSwaggerUi> {
        let theirs = OpenApiService::new((), "", "").swagger_ui_html();
        let style = between(&theirs, "<style charset=\"UTF-8\">", "</style>").ok_or(MissingSwaggerUi)?;
        // The source map is not embedded; without this line a browser does not ask for it.
        let style = style.split("/*# sourceMappingURL").next().unwrap_or(style).to_owned();
        let script = between(&theirs, "<script charset=\"UTF-8\">", "</script>").ok_or(MissingSwaggerUi)?.to_owned();
        Ok(Self { page: html(&style, &script), style, script })
    }
}

/// The error of an unexpected page of poem-openapi.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingSwaggerUi;

impl std::error::Error for MissingSwaggerUi {}

impl std::fmt::Display for MissingSwaggerUi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("poem-openapi's page does not contain Swagger UI in the expected form")
    }
}

fn between<'a>(page: &'a str, before: &str, after: &str) -> Option<&'a str> {
    page.split_once(before)?.1.split_once(after).map(|(inside, _)| inside)
}

fn html(style: &str, script: &str) -> String {
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>Fulexo API</title>
<link rel=\"icon\" href=\"{ICON}\">
<link rel=\"stylesheet\" href=\"/docs/swagger-ui.css?{style}\">
<script src=\"/docs/swagger-ui.js?{script}\" defer></script>
<script src=\"/docs/start.js?{start}\" defer></script>
</head>
<body>
<div id=\"docs\"></div>
<noscript>This page needs JavaScript. The OpenAPI document is at <a href=\"/openapi.json\">/openapi.json</a>.</noscript>
</body>
</html>
",
        style = fingerprint(style),
        script = fingerprint(script),
        start = fingerprint(START),
    )
}

/// The icon: a white F on blue.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Crect width='16' height='16' rx='3' fill='%231d4ed8'/%3E\
%3Cpath d='M5 13V3h7v2H7v2h4v2H7v4z' fill='%23fff'/%3E%3C/svg%3E";

/// Returns a short hash, so that a changed file has another URL.
fn fingerprint(text: &str) -> String {
    hex(Sha256::digest(text).get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use poem::endpoint::make_sync;
    use poem::{Endpoint, Request, Response};

    use super::*;
    use fulexo_node::http::files::beside;

    async fn get(path: &str) -> Response {
        let app = make_sync(|_| "the app");
        let request = Request::builder().uri_str(path).finish();
        beside(app, files("{}").unwrap()).get_response(request).await
    }

    #[tokio::test]
    async fn every_other_path_is_the_apps() {
        for path in ["/", "/docs/", "/docs/other", "/openapi.yaml"] {
            assert_eq!(get(path).await.into_body().into_string().await.unwrap(), "the app", "{path}");
        }
    }

    #[tokio::test]
    async fn the_page_holds_no_inline_script_or_style() {
        let response = get("/docs").await;
        assert_eq!(response.headers()["content-security-policy"], PAGE_POLICY);
        let page = response.into_body().into_string().await.unwrap();
        assert!(page.starts_with("<!doctype html>"));
        assert!(page.contains("<title>Fulexo API</title>"));
        assert!(!page.contains("<style") && !page.contains("style="), "{page}");
        assert!(page.split("<script").skip(1).all(|script| script.starts_with(" src=\"/docs/")), "{page}");
    }

    #[tokio::test]
    async fn the_parts_of_swagger_ui_are_whole_and_may_be_kept() {
        let script = get("/docs/swagger-ui.js").await;
        assert_eq!(script.headers()["cache-control"], "public, max-age=31536000, immutable");
        let script = script.into_body().into_string().await.unwrap();
        assert!(script.len() > 1_000_000 && script.contains("SwaggerUIBundle"));
        let style = get("/docs/swagger-ui.css").await.into_body().into_string().await.unwrap();
        assert!(style.len() > 100_000 && style.contains(".swagger-ui") && !style.contains("sourceMappingURL"));
    }

    #[tokio::test]
    async fn the_description_is_served_as_it_is() {
        let response = get("/openapi.json").await;
        assert_eq!(response.content_type(), Some("application/json"));
        assert_eq!(response.into_body().into_string().await.unwrap(), "{}");
    }
}
