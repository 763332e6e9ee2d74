//! Cookie mode, for browsers: the access token comes in a cookie that no script can read, and is taken for a bearer token.
//!
//! A browser attaches cookies to requests that other sites make it send. A request that comes by cookie and changes
//! something must therefore also repeat, in `X-CSRF-Token`, the text that only the page itself was told, and must not
//! come from a foreign origin. `caller.rs` asks for both as it recognises the caller. A request with an `Authorization`
//! header is exempt: no browser adds that by itself.
//!
//! The `__Host-` prefix (RFC 6265bis, section 4.1.3.2) ties a cookie to this very host, over HTTPS: no subdomain can
//! plant one.

use poem::Request;
use poem::http::uri::{Authority, Scheme};
use poem::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::authority;

/// The header in which a page repeats the text that it was told.
pub const CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");

/// The values that are kept in cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// The access token.
    Access,
    /// The refresh token.
    Refresh,
    /// The token by which a device is known again.
    Device,
}

/// The mark of a request that was authenticated by cookie, in its extensions.
#[derive(Clone, Copy)]
pub struct ByCookie;

/// The mark of a request that a page of a foreign origin had a browser send, as far as the browser says so; in its
/// extensions.
#[derive(Clone, Copy)]
pub struct Foreign;

/// The longest cookie value that is looked at, in bytes; browsers keep no longer ones.
const LONGEST: usize = 4_096;

impl Cookie {
    const fn name(self) -> &'static str {
        match self {
            Self::Access => "__Host-fulexo-access",
            Self::Refresh => "__Host-fulexo-refresh",
            Self::Device => "__Host-fulexo-device",
        }
    }

    /// Its value in a request. None where it comes twice: no browser sends one of these twice.
    #[must_use]
    pub fn of(self, headers: &HeaderMap) -> Option<&str> {
        // Octets (RFC 6265, section 5.4): what other applications of the domain have set may be anything.
        let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let pairs = lines.flat_map(|line| line.split(|octet| *octet == b';')).map(<[u8]>::trim_ascii);
        let mut values = pairs.filter_map(|pair| pair.strip_prefix(self.name().as_bytes())?.strip_prefix(b"="));
        match (values.next(), values.next()) {
            (Some(value), None) if !value.is_empty() && value.len() <= LONGEST => str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// Sets it for so many seconds. `None` if the value cannot stand in a header.
    #[must_use]
    pub fn set(self, value: &str, seconds: i64) -> Option<HeaderValue> {
        let name = self.name();
        let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={seconds}");
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// Takes it away.
    #[must_use]
    pub fn clear(self) -> Option<HeaderValue> {
        self.set("", 0)
    }
}

/// Takes the access token out of its cookie, and marks a request that comes from other pages than those of the host
/// that it names.
pub(super) fn present(request: &mut Request, own: Option<&Authority>, origin_is_listed: bool) {
    if !origin_is_listed && is_foreign(request, own) {
        request.set_data(Foreign);
    }
    let headers = request.headers();
    if headers.contains_key(header::AUTHORIZATION) || !headers.contains_key(header::COOKIE) {
        return;
    }
    // An access token is a JWT. Nothing else is taken from a cookie, an API key least of all.
    let token = Cookie::Access.of(headers).filter(|token| token.contains('.'));
    if let Some(value) = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        request.headers_mut().insert(header::AUTHORIZATION, value);
        request.set_data(ByCookie);
    }
}

/// `true` if the browser says that a page of a foreign origin sent the request. A client that is not a browser says
/// nothing.
fn is_foreign(request: &Request, own: Option<&Authority>) -> bool {
    let headers = request.headers();
    if let Some(origin) = headers.get(header::ORIGIN) {
        let page = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        let page = page.and_then(|(scheme, authority)| Some((scheme.parse().ok()?, authority.parse().ok()?)));
        let is_own =
            |(scheme, page): (Scheme, Authority)| own.is_some_and(|own| authority::is_same(own, &page, &scheme));
        return !page.is_some_and(is_own);
    }
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_only_where_it_comes_once() {
        let of = |lines: &[&str]| Cookie::Access.of(&with(lines)).map(str::to_owned);
        assert_eq!(of(&["a=b; __Host-fulexo-access=x.y.z; c=d"]).as_deref(), Some("x.y.z"));
        assert_eq!(of(&["a=b", "__Host-fulexo-access=x.y.z"]).as_deref(), Some("x.y.z"));
        let octets = b"city=Z\xc3\xbcrich; \xff\xfe;__Host-fulexo-access=x.y.z;=; ;a".as_slice();
        let line = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_bytes(octets).unwrap())]);
        assert_eq!(Cookie::Access.of(&line), Some("x.y.z"), "a neighbour's cookie hides nothing");
        for wrong in [
            &["fulexo-access=x"][..],
            &["__Host-fulexo-access=x; __Host-fulexo-access=x"],
            &["__Host-fulexo-access=x", "__Host-fulexo-access=y"],
            &["__host-fulexo-access=x"],
            &["x__Host-fulexo-access=x"],
            &["__Host-fulexo-access="],
            &["__Host-fulexo-access"],
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(of(&[&format!("__Host-fulexo-access={}", "x".repeat(LONGEST + 1))]), None);
    }

    #[test]
    fn cookies_are_for_this_host_over_https_and_for_no_script() {
        let set = Cookie::Refresh.set("abc", 60).unwrap();
        let wanted = "__Host-fulexo-refresh=abc; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=60";
        assert_eq!(set.to_str().unwrap(), wanted);
        assert!(set.is_sensitive() && Cookie::Device.set("a\nb", 1).is_none());
        assert!(Cookie::Access.clear().unwrap().to_str().unwrap().ends_with("Max-Age=0"));
    }

    #[test]
    fn a_foreign_origin_is_told_by_what_the_browser_says() {
        let foreign = |lines: &[(&str, &str)]| {
            let mut request = Request::builder();
            for (name, value) in lines {
                request = request.header(*name, *value);
            }
            is_foreign(&request.finish(), Some(&Authority::from_static("api.example.com")))
        };
        assert!(!foreign(&[]) && !foreign(&[("origin", "https://api.example.com")]));
        assert!(!foreign(&[("sec-fetch-site", "same-origin")]) && !foreign(&[("sec-fetch-site", "none")]));
        for origin in
            ["null", "https://evil.example", "https://api.example.com.evil.example", "https://api.example.com:8"]
        {
            assert!(foreign(&[("origin", origin), ("sec-fetch-site", "same-origin")]), "{origin}");
        }
        assert!(foreign(&[("sec-fetch-site", "cross-site")]) && foreign(&[("sec-fetch-site", "same-site")]));
    }
}
