//! The one host that a request names. Of two names, one reader may read the one and another reader, such as a proxy or
//! a page's origin check, the other. So a request that names two hosts, or none, goes no further.

use poem::Request;
use poem::http::uri::{Authority, Scheme};
use poem::http::{HeaderValue, Version, header};

use super::problem::Problem;

/// The host, and port, that a request names.
///
/// In HTTP/1.1 there is one `Host` (RFC 9112, section 3.2), and an absolute target counts in its place (section 3.2.2). In
/// HTTP/2 `:authority` and `host` are the same (RFC 9113, section 8.3.1). HTTP/1.0 may name none.
///
/// # Errors
/// 400 `invalid_host`.
pub fn of(request: &Request) -> Result<Option<Authority>, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(read(host).ok_or_else(Problem::invalid_host)?),
        (Some(_), Some(_)) => return Err(Problem::invalid_host()),
    };
    let target = match request.uri().authority() {
        Some(authority) => Some(sound(authority.clone()).ok_or_else(Problem::invalid_host)?),
        None => None,
    };
    match (host, target) {
        (Some(_), Some(target)) if request.version() < Version::HTTP_2 => Ok(Some(target)),
        (Some(host), Some(target)) if is_same(&host, &target, request.scheme()) => Ok(Some(host)),
        (Some(_), Some(_)) => Err(Problem::invalid_host()),
        (Some(host), None) => Ok(Some(host)),
        (None, Some(target)) if request.version() != Version::HTTP_11 => Ok(Some(target)),
        (None, None) if request.version() <= Version::HTTP_10 => Ok(None),
        (None, Some(_) | None) => Err(Problem::invalid_host()),
    }
}

/// `true` if both lead to the same place: a port that goes without saying may be said.
pub(super) fn is_same(one: &Authority, other: &Authority, scheme: &Scheme) -> bool {
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

fn read(host: &HeaderValue) -> Option<Authority> {
    sound(host.to_str().ok()?.parse().ok()?)
}

/// Returns the authority, unless it has a user, which reads as another host, a port that is not valid, or no host.
fn sound(authority: Authority) -> Option<Authority> {
    let behind = authority.as_str().strip_prefix(authority.host())?;
    let port_is_sound = behind.is_empty() || behind == ":" || authority.port_u16().is_some();
    (!authority.host().is_empty() && port_is_sound).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(version: Version, target: &str, hosts: &[&str]) -> Result<Option<String>, &'static str> {
        let mut request = Request::builder().version(version).uri(target.parse().unwrap());
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let named = of(&request.finish()).map_err(|problem| problem.code())?;
        Ok(named.map(|authority| authority.to_string()))
    }

    #[test]
    fn http_1_1_names_one_host() {
        let of = |hosts: &[&str]| named(Version::HTTP_11, "/x", hosts);
        assert_eq!(of(&["api.example.com"]), Ok(Some("api.example.com".to_owned())));
        assert_eq!(of(&["[::1]:8080"]), Ok(Some("[::1]:8080".to_owned())));
        for wrong in [
            &[][..],
            &["a.example", "a.example"],
            &["a.example", "b.example"],
            &[""],
            &["a b"],
            &["user@a.example"],
            &["a.example:x"],
            &["a.example:65536"],
            &["a.example/path"],
            &["http://a.example"],
            &[":80"],
            &["a.example, b.example"],
        ] {
            assert_eq!(of(wrong), Err("invalid_host"), "{wrong:?}");
        }
        assert_eq!(named(Version::HTTP_11, "http://a.example/x", &[]), Err("invalid_host"));
        assert_eq!(named(Version::HTTP_11, "http://a.example/x", &["b.example"]), Ok(Some("a.example".to_owned())));
    }

    #[test]
    fn http_1_0_may_name_none() {
        assert_eq!(named(Version::HTTP_10, "/x", &[]), Ok(None));
        assert_eq!(named(Version::HTTP_10, "/x", &["a.example", "b.example"]), Err("invalid_host"));
    }

    #[test]
    fn the_target_and_the_host_are_the_same() {
        let of = |hosts: &[&str]| named(Version::HTTP_2, "http://a.example/x", hosts);
        assert_eq!(of(&[]), Ok(Some("a.example".to_owned())));
        assert!(of(&["A.example"]).is_ok() && of(&["a.example:80"]).is_ok());
        for other in ["b.example", "a.example:8080", "a.example:443"] {
            assert_eq!(of(&[other]), Err("invalid_host"), "{other}");
        }
        assert_eq!(named(Version::HTTP_2, "/x", &[]), Err("invalid_host"));
    }
}
