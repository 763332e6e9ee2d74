//! HTTP Basic as OAuth clients send it (RFC 7617; RFC 6749, section 2.3.1): id and secret, each written as in a form before
//! they are joined.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poem::http::{HeaderMap, header};
use url::form_urlencoded;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Presented credentials. No `Debug`; wiped when dropped.
pub struct Basic {
    id: String,
    /// The password.
    pub secret: Zeroizing<String>,
}

impl Basic {
    /// `true` if the user is this one.
    #[must_use]
    pub fn is_id(&self, id: Uuid) -> bool {
        Uuid::try_parse(&self.id) == Ok(id)
    }
}

/// The credentials of HTTP Basic: `None` by another scheme or without any, `Some(None)` where it cannot be read.
#[must_use]
pub fn credentials(headers: &HeaderMap) -> Option<Option<Basic>> {
    let line = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = line.split_at_checked(b"Basic".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic") || encoded.first().is_some_and(|octet| *octet != b' ') {
        return None;
    }
    Some(read(encoded.trim_ascii()))
}

fn read(encoded: &[u8]) -> Option<Basic> {
    let octets = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let colon = octets.iter().position(|octet| *octet == b':')?;
    let (id, secret) = octets.split_at_checked(colon)?;
    Some(Basic { id: decoded(id)?, secret: Zeroizing::new(decoded(secret.split_first()?.1)?) })
}

/// A single value, as it is written in a form.
fn decoded(text: &[u8]) -> Option<String> {
    if text.contains(&b'&') || text.contains(&b'=') {
        return None;
    }
    form_urlencoded::parse(text).next().map(|(value, _)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_00ab);

    fn of(value: &str) -> Option<Option<Basic>> {
        credentials(&HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]))
    }

    fn sent(text: &str) -> Option<Basic> {
        of(&format!("Basic {}", STANDARD.encode(text))).unwrap()
    }

    #[test]
    fn id_and_secret_are_read_as_forms_are() {
        for text in [
            "0198c0de-0000-7000-8000-0000000000ab:fxk_a-b_c",
            "0198c0de%2D0000%2d7000-8000-0000000000ab:fxk%5Fa%2Db%5fc",
            "0198C0DE-0000-7000-8000-0000000000AB:%66xk_a-b_c",
        ] {
            let presented = sent(text).unwrap();
            assert!(presented.is_id(ID) && *presented.secret == "fxk_a-b_c", "{text}");
        }
        assert_eq!(sent("a:b:c%3A+d").map(|presented| presented.secret.to_string()).as_deref(), Some("b:c: d"));
    }

    #[test]
    fn the_scheme_is_told_without_case_and_what_cannot_be_read_is_not_another_scheme() {
        for scheme in ["Basic", "basic", "BASIC"] {
            assert!(of(&format!("{scheme} {}", STANDARD.encode("a:b"))).unwrap().is_some(), "{scheme}");
        }
        for unread in ["Basic", "Basic ", "Basic !", "Basic YQ", "basic YWI="] {
            assert!(of(unread).unwrap().is_none(), "{unread}");
        }
        assert!(of("Bearer x").is_none() && of("Basically x").is_none() && of("").is_none());
        assert!(credentials(&HeaderMap::new()).is_none());
        assert!(sent("a=b:c").is_none() && sent("a:").is_none());
    }
}
