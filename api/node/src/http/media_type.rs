//! Media types compared as RFC 9110 says (section 8.3.1): parsed, type and subtype without regard to case, parameters
//! aside. The one place that decides which reader a body gets.

use poem::Request;
use poem::http::header;

use super::problem::Problem;

/// A media type that operations read.
#[derive(Clone, Copy)]
pub(super) enum Readable {
    /// JSON.
    Json,
    /// A form.
    Form,
}

impl Readable {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
        }
    }

    fn fits(self, content_type: &str) -> bool {
        match self {
            Self::Json => is_json(content_type),
            Self::Form => is_form(content_type),
        }
    }
}

/// Checks that a request has one `Content-Type`, which is a fitting one: of two, one reader goes by the first, and another by
/// the last.
///
/// # Errors
/// 415, which names the one that is read.
pub(super) fn the_only(request: &Request, readable: Readable) -> Result<(), Problem> {
    let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(one), None) if one.to_str().is_ok_and(|one| readable.fits(one)) => Ok(()),
        (_, _) => Err(Problem::unsupported_media_type(readable.as_str())),
    }
}

/// `true` if a `Content-Type` names JSON: `application/json`, with or without parameters.
pub(super) fn is_json(content_type: &str) -> bool {
    is(content_type, "application", "json")
}

/// `true` if a `Content-Type` names a form: `application/x-www-form-urlencoded`, with or without parameters.
fn is_form(content_type: &str) -> bool {
    is(content_type, "application", "x-www-form-urlencoded")
}

/// `true` if a `Content-Type` names this type. One that is not well formed names none.
fn is(content_type: &str, r#type: &str, subtype: &str) -> bool {
    let mut parts = content_type.splitn(2, ';');
    let essence = parts.next().unwrap_or_default().trim_matches([' ', '\t']);
    let named = essence.split_once('/').is_some_and(|(is_type, is_subtype)| {
        is_type.eq_ignore_ascii_case(r#type) && is_subtype.eq_ignore_ascii_case(subtype)
    });
    named && parts.next().is_none_or(are_parameters)
}

/// `true` for what may follow the first `;` (RFC 9110, section 5.6.6): names and values, which may be quoted.
fn are_parameters(mut text: &str) -> bool {
    loop {
        text = text.trim_start_matches([' ', '\t', ';']);
        if text.is_empty() {
            return true;
        }
        let Some((name, value)) = text.split_once('=') else { return false };
        let rest = match value.strip_prefix('"') {
            Some(quoted) => behind_quotes(quoted),
            None => {
                let end = value.find([' ', '\t', ';']).unwrap_or(value.len());
                value.split_at_checked(end).filter(|(token, _)| is_token(token)).map(|(_, rest)| rest)
            }
        };
        match rest.map(|rest| rest.trim_start_matches([' ', '\t'])) {
            Some(rest) if is_token(name) && (rest.is_empty() || rest.starts_with(';')) => text = rest,
            Some(_) | None => return false,
        }
    }
}

/// The text after a quoted string (RFC 9110, section 5.6.4) whose opening quote was read.
fn behind_quotes(text: &str) -> Option<&str> {
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return text.get(index + 1..),
            '\\' => drop(characters.next()?),
            _ => {}
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_json_however_it_is_written() {
        for text in [
            "application/json",
            "APPLICATION/JSON",
            "Application/Json;charset=utf-8",
            "application/json ; Charset=\"UTF-8\"",
            "application/json;",
            "application/json; a=\"x;\\\"y\"; b=c",
        ] {
            assert!(is_json(text), "{text}");
        }
    }

    #[test]
    fn what_is_like_json_is_not_json() {
        for text in [
            "",
            "json",
            "text/json",
            "application/jsonp",
            "application/json-patch+json",
            "application/problem+json",
            "application/x-www-form-urlencoded",
            "application / json",
            "application/json, text/plain",
            "application/json; charset",
            "application/json; =utf-8",
            "application/json; charset=\"utf-8",
            "application/json; charset=\"utf-8\"x",
            "application/json; charset=utf 8",
        ] {
            assert!(!is_json(text), "{text}");
        }
    }
}
