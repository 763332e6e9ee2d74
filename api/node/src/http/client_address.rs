//! The address that a request comes from: the peer's, or the one that our own proxies vouch for.
//!
//! `Forwarded` (RFC 7239) and `X-Forwarded-For` are lists that every hop appends to, so only their right end is
//! ours. The walk starts at the socket and goes left while the hop it stands on is a trusted proxy. A stranger wrote
//! everything further left, and it is never read. poem's `RealIp` reads from the left.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use poem::Request;
use poem::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The address of the client, IPv4-mapped IPv6 written as IPv4. Handlers take it as `Data<&ClientAddress>`.
///
/// Personal data: it has no `Debug` or `Display`, so that it does not end up in a log by accident.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most hops that are looked at. A longer chain of our own proxies is a mistake in `TRUSTED_PROXIES`.
const MAX_HOPS: usize = 16;

/// The longest list element that is looked at, in bytes.
const MAX_ELEMENT: usize = 256;

/// The address of the request's client. A peer without an IP address (a Unix socket) counts as `::`, so that
/// all such peers share one limit.
pub(super) fn of(request: &Request, trusted: &[IpNet]) -> ClientAddress {
    let peer = match request.remote_addr().as_socket_addr() {
        Some(peer) => peer.ip(),
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    ClientAddress(resolve(peer, request.headers(), trusted))
}

fn resolve(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let forwarded = walk(peer, headers, &header::FORWARDED, forwarded_for, trusted);
    let x_forwarded_for = walk(peer, headers, &X_FORWARDED_FOR, node, trusted);
    match (forwarded, x_forwarded_for) {
        (None, None) => peer,
        (Some(address), None) | (None, Some(address)) => address,
        (Some(one), Some(other)) if one == other => one,
        // Our proxy writes one of the two and passes the other on as the client sent it. Not knowing which,
        // believe neither.
        (Some(_), Some(_)) => peer,
    }
}

/// Follows one header's list leftwards, over several header lines, to the first hop that is not ours. Stops at
/// the last good hop when an element cannot be read. `None` if the header is absent.
fn walk(
    peer: IpAddr,
    headers: &HeaderMap,
    name: &HeaderName,
    read: fn(&str) -> Option<IpAddr>,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    if !headers.contains_key(name) {
        return None;
    }
    let mut hop = peer;
    // A comma inside a quoted string also splits here. That leaves an unbalanced quote, which is refused, so
    // a stranger's open quote cannot swallow what our proxy appended after it.
    let elements = headers.get_all(name).iter().rev().flat_map(elements_from_the_right);
    for element in elements.take(MAX_HOPS) {
        if !is_trusted(hop, trusted) {
            break;
        }
        match read(element) {
            Some(address) => hop = address.to_canonical(),
            None => break,
        }
    }
    Some(hop)
}

fn elements_from_the_right(line: &HeaderValue) -> impl Iterator<Item = &str> {
    // A line that is not ASCII is one element that cannot be read.
    line.to_str().unwrap_or("?").rsplit(',').map(|element| {
        let element = element.trim_matches([' ', '\t']);
        if element.len() > MAX_ELEMENT { "?" } else { element }
    })
}

/// `true` for the address of one of our own proxies.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The `for` of one forwarded-element (RFC 7239 section 4): `for=192.0.2.60;proto=http;by=203.0.113.43`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        let value = unquote(value.trim_end())?;
        if name.trim_start().eq_ignore_ascii_case("for") {
            if found.is_some() {
                return None;
            }
            found = Some(node(value)?);
        }
    }
    found
}

fn unquote(value: &str) -> Option<&str> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    (!inner.contains(['"', '\\'])).then_some(inner)
}

/// An address with or without brackets and port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
/// `unknown` and obfuscated names (RFC 7239 section 6) are not addresses.
fn node(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn seen(peer: &str, lines: &[(&'static str, &str)]) -> String {
        resolve(peer.parse().unwrap(), &headers(lines), &trusted()).to_string()
    }

    fn by_xff(value: &str) -> String {
        seen(PROXY, &[("x-forwarded-for", value)])
    }

    fn by_forwarded(value: &str) -> String {
        seen(PROXY, &[("forwarded", value)])
    }

    #[test]
    fn a_stranger_is_not_believed() {
        for name in ["x-forwarded-for", "forwarded"] {
            assert_eq!(seen("203.0.113.9", &[(name, "1.2.3.4")]), "203.0.113.9");
            assert_eq!(seen("203.0.113.9", &[(name, "for=1.2.3.4")]), "203.0.113.9");
        }
        assert_eq!(seen("203.0.113.9", &[("x-real-ip", "1.2.3.4")]), "203.0.113.9");
    }

    #[test]
    fn nobody_is_believed_when_no_proxy_is_trusted() {
        let headers = headers(&[("x-forwarded-for", "1.2.3.4")]);
        let peer = PROXY.parse().unwrap();
        assert_eq!(resolve(peer, &headers, &[]), peer);
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        assert_eq!(by_xff("203.0.113.9"), "203.0.113.9");
        assert_eq!(by_forwarded("for=203.0.113.9;proto=https;by=10.0.0.1"), "203.0.113.9");
        assert_eq!(by_forwarded("proto=https; For=\"[2001:db8::17]:4711\""), "2001:db8::17");
    }

    #[test]
    fn what_the_client_wrote_left_of_the_proxy_is_not_read() {
        assert_eq!(by_xff("1.2.3.4, 5.6.7.8, 203.0.113.9"), "203.0.113.9");
        assert_eq!(by_xff("10.0.0.5, 203.0.113.9"), "203.0.113.9");
        assert_eq!(by_forwarded("for=1.2.3.4, for=203.0.113.9"), "203.0.113.9");
        assert_eq!(by_xff("garbage, \"\"\",,, 203.0.113.9"), "203.0.113.9");
    }

    #[test]
    fn several_trusted_hops_are_passed() {
        assert_eq!(by_xff("1.2.3.4, 203.0.113.9, 10.1.1.1, 10.2.2.2"), "203.0.113.9");
        assert_eq!(by_forwarded("for=203.0.113.9, for=\"[fd00::2]\", for=10.2.2.2"), "203.0.113.9");
    }

    #[test]
    fn a_chain_of_trusted_hops_alone_ends_at_the_farthest() {
        assert_eq!(by_xff("10.3.3.3, 10.2.2.2"), "10.3.3.3");
    }

    #[test]
    fn several_header_lines_are_one_list() {
        let lines = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.9, 10.2.2.2")];
        assert_eq!(seen(PROXY, &lines), "203.0.113.9");
        let lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "10.2.2.2")];
        assert_eq!(seen(PROXY, &lines), "203.0.113.9");
    }

    #[test]
    fn garbage_ends_the_walk_at_the_last_good_hop() {
        for value in ["", ",", "nonsense", "203.0.113.9.1", "unknown", "_hidden", "1.2.3.4:99999", "[::1", "::1%eth0"] {
            assert_eq!(by_xff(value), PROXY, "{value}");
        }
        assert_eq!(by_xff("203.0.113.9, nonsense"), PROXY);
        assert_eq!(by_xff("203.0.113.9, nonsense, 10.2.2.2"), "10.2.2.2");
        for value in
            ["for", "for=", "for=unknown", "for=_mdn", "by=203.0.113.9", "for=1.2.3.4;for=5.6.7.8", "203.0.113.9"]
        {
            assert_eq!(by_forwarded(value), PROXY, "{value}");
        }
    }

    #[test]
    fn an_open_quote_cannot_swallow_the_proxys_entry() {
        assert_eq!(by_forwarded("for=\"1.2.3.4, for=203.0.113.9"), "203.0.113.9");
        assert_eq!(by_forwarded("for=1.2.3.4;x=\", for=203.0.113.9;y=z"), "203.0.113.9");
    }

    #[test]
    fn a_quoted_comma_or_escape_is_not_guessed_at() {
        assert_eq!(by_forwarded("for=203.0.113.9;host=\"a,b\""), PROXY);
        assert_eq!(by_forwarded("for=\"203.0.113\\.9\""), PROXY);
        assert_eq!(by_forwarded("for=203.0.113.9\""), PROXY);
    }

    #[test]
    fn the_two_headers_are_believed_only_where_they_agree() {
        let both = |forwarded, xff| seen(PROXY, &[("forwarded", forwarded), ("x-forwarded-for", xff)]);
        assert_eq!(both("for=203.0.113.9", "203.0.113.9"), "203.0.113.9");
        assert_eq!(both("for=1.2.3.4", "203.0.113.9"), PROXY);
        assert_eq!(both("nonsense", "203.0.113.9"), PROXY);
    }

    #[test]
    fn a_mapped_ipv4_address_is_the_ipv4_address() {
        assert_eq!(seen("::ffff:10.0.0.1", &[("x-forwarded-for", "::ffff:203.0.113.9")]), "203.0.113.9");
        assert_eq!(seen("::ffff:203.0.113.9", &[("x-forwarded-for", "1.2.3.4")]), "203.0.113.9");
        assert_eq!(by_xff("203.0.113.9, ::ffff:10.2.2.2"), "203.0.113.9");
    }

    #[test]
    fn a_port_is_dropped() {
        assert_eq!(by_xff("203.0.113.9:4711"), "203.0.113.9");
        assert_eq!(by_xff("[2001:db8::1]:4711"), "2001:db8::1");
        assert_eq!(by_xff("[2001:db8::1]"), "2001:db8::1");
    }

    #[test]
    fn the_walk_is_bounded() {
        let long = format!("203.0.113.9{}", ", 10.2.2.2".repeat(5_000));
        assert_eq!(by_xff(&long), "10.2.2.2");
        let wide = format!("203.0.113.9;{}", "x".repeat(10_000));
        assert_eq!(by_xff(&wide), PROXY);
    }

    #[test]
    fn a_line_that_is_not_ascii_is_garbage() {
        assert_eq!(by_xff("203.0.113.9, é"), PROXY);
    }

    #[test]
    fn a_peer_without_an_address_counts_as_unspecified() {
        let request = Request::builder().header("x-forwarded-for", "1.2.3.4").finish();
        assert_eq!(of(&request, &trusted()).0, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
}
