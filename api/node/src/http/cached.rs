//! Answers that caches may keep: the time for which they are good, and an entity tag by which the holder of one asks
//! for a newer one (RFC 9110, sections 8.8.3 and 13.1.2; RFC 9111, section 5.2.2).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem::Request;
use poem::http::{HeaderValue, header};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Json;
use poem_openapi::types::{ParseFromJSON, ToJSON};
use sha2::{Digest, Sha256};

/// A public document, the same for all who ask.
#[derive(ApiResponse)]
pub enum Cached<T: ParseFromJSON + ToJSON + Send + Sync> {
    /// The document. It may be kept for as long as `Cache-Control` says.
    #[oai(status = 200)]
    Whole(
        Json<T>,
        /// Names this content.
        #[oai(header = "ETag")]
        String,
        /// The time for which it may be kept.
        #[oai(header = "Cache-Control")]
        String,
    ),
    /// `If-None-Match` names the content that there is.
    #[oai(status = 304)]
    Unchanged(
        /// Names this content.
        #[oai(header = "ETag")]
        String,
        /// The time for which it may be kept.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

impl<T: ParseFromJSON + ToJSON + Send + Sync> Cached<T> {
    /// The answer to this request.
    pub fn answer(request: &Request, document: T, max_age: Duration) -> Self {
        let tag = tag_of(document.to_json_string().as_bytes());
        let control = format!("public, max-age={}", max_age.as_secs());
        if is_known(request, &tag) { Self::Unchanged(tag, control) } else { Self::Whole(Json(document), tag, control) }
    }
}

/// The entity tag of these bytes, a strong one.
pub fn tag_of(bytes: &[u8]) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(Sha256::digest(bytes).split_at(16).0))
}

/// `true` if `If-None-Match` names this tag, weakly compared.
pub fn is_known(request: &Request, tag: &str) -> bool {
    let lines = request.headers().get_all(header::IF_NONE_MATCH).iter().map(HeaderValue::to_str);
    let mut tags = lines.filter_map(Result::ok).flat_map(|line| line.split(',')).map(|it| it.trim_matches([' ', '\t']));
    tags.any(|it| it == "*" || it.strip_prefix("W/").unwrap_or(it) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_in_any_list_that_names_it() {
        let known = |lines: &[&str]| {
            let asked = lines.iter().fold(Request::builder(), |request, line| request.header("if-none-match", *line));
            is_known(&asked.finish(), "\"a\"")
        };
        for lines in [&["\"a\""][..], &["W/\"a\""], &["\"b\", \"a\""], &["\"b\"", "W/\"a\""], &["*"]] {
            assert!(known(lines), "{lines:?}");
        }
        for lines in [&[][..], &[""], &["a"], &["\"b\""], &["w/\"a\""], &["\"A\""]] {
            assert!(!known(lines), "{lines:?}");
        }
    }
}
