//! JSON Schemas of documents that the API returns and OpenAPI does not describe. They have no personal data.

use fulexo_node::http::files::{Cache, File};
use hyper::body::Bytes;

/// Returns the schemas.
#[must_use]
pub fn files() -> [File; 1] {
    [File {
        path: "/schemas/my-data.json",
        operation: "get_my_data_schema",
        content_type: "application/schema+json",
        policy: None,
        cache: Cache::Revalidated,
        bytes: Bytes::from_static(include_bytes!("../../assets/my-data.schema.json")),
    }]
}
