//! Probes of request smuggling: requests whose end two readers may see at different places. Each hides a second request; an
//! instance that answers it has read the first one otherwise than another reader would.

use super::bounds::Halt;
use super::tester::Tester;
use super::wire::statuses;
use crate::finding::{Finding, Rule, Severity};

const DESYNC: Rule = Rule {
    id: "smuggling.desync",
    title: "a request hides another one",
    severity: Severity::Critical,
    remedy: "Refuse requests with two lengths, and close the connection. Update the proxy, and let it speak HTTP/1.1 strictly or \
             HTTP/2 to the service.",
    reference: "RFC 9112, sections 6.1 and 11.2; CWE-444",
};
const MALFORMED: Rule = Rule {
    id: "smuggling.malformed",
    title: "a malformed request is granted",
    severity: Severity::Medium,
    remedy: "Refuse the request with 400, and close the connection.",
    reference: "RFC 9112, section 2.2; CWE-444",
};

/// Sends requests with an end that is in doubt.
pub async fn desync(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let (authority, agent) = (tester.target.authority.clone(), tester.agent());
    let common = format!("host: {authority}\r\nuser-agent: {agent}\r\n");
    let hidden = format!("GET /health/live HTTP/1.1\r\n{common}connection: close\r\n\r\n");
    let post = |lengths: &str, body: &str| {
        format!("POST /v1/auth/refresh HTTP/1.1\r\n{common}content-type: application/json\r\n{lengths}\r\n\r\n{body}")
    };
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let after_end = format!("0\r\n\r\n{hidden}");
    let whole = after_end.len();
    let first_line = chunk.split("\r\n").next().map_or(0, |line| line.len() + 2);
    let attempts = [
        (
            "Content-Length over Transfer-Encoding",
            post(&format!("content-length: {whole}\r\ntransfer-encoding: chunked"), &after_end),
        ),
        (
            "Transfer-Encoding over Content-Length",
            post(&format!("content-length: {first_line}\r\ntransfer-encoding: chunked"), &chunk),
        ),
        ("Content-Length of zero and chunks", post("content-length: 0\r\ntransfer-encoding: chunked", &chunk)),
        (
            "two Content-Lengths",
            post(&format!("content-length: 2\r\ncontent-length: {}", hidden.len() + 2), &format!("{{}}{hidden}")),
        ),
        (
            "a list of Content-Lengths",
            post(&format!("content-length: 2, {}", hidden.len() + 2), &format!("{{}}{hidden}")),
        ),
        ("a Content-Length with a sign", post("content-length: +2", &format!("{{}}{hidden}"))),
        ("an unknown transfer coding", post("transfer-encoding: xchunked", &after_end)),
        ("a transfer coding twice", post("transfer-encoding: chunked\r\ntransfer-encoding: identity", &after_end)),
        ("a space before the colon", post("transfer-encoding : chunked", &after_end)),
        ("a folded transfer coding", post("transfer-encoding:\r\n chunked", &after_end)),
        ("a vertical tab in a transfer coding", post("transfer-encoding: \u{b}chunked", &after_end)),
        (
            "a chunk size that overflows",
            post("transfer-encoding: chunked", &format!("fffffffffffffffff0\r\n{{}}\r\n{after_end}")),
        ),
        ("a negative chunk size", post("transfer-encoding: chunked", &format!("-2\r\n{{}}\r\n{after_end}"))),
        ("a chunk size with a prefix", post("transfer-encoding: chunked", &format!("0x2\r\n{{}}\r\n{after_end}"))),
        ("chunks that end in LF", post("transfer-encoding: chunked", &format!("2\n{{}}\n0\n\n{hidden}"))),
        ("a chunk extension that ends in LF", post("transfer-encoding: chunked", &format!("2;\n{{}}\r\n{after_end}"))),
        ("a chunk longer than its size", post("transfer-encoding: chunked", &format!("2\r\n{{}}XX\r\n{after_end}"))),
    ];
    for (name, request) in &attempts {
        let answered = statuses(&tester.exchange(name, request.as_bytes()).await?);
        if answered.len() > 1 {
            found.push(DESYNC.finding(*name, format!("one request is answered by {answered:?}")));
        }
    }
    Ok(format!("{} requests", attempts.len()))
}

/// Sends heads that HTTP forbids.
pub async fn malformed(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let (authority, agent) = (tester.target.authority.clone(), tester.agent());
    let common = format!("user-agent: {agent}\r\nconnection: close");
    let get = |lines: &str| format!("GET /health/live HTTP/1.1\r\nhost: {authority}\r\n{common}\r\n{lines}\r\n\r\n");
    let attempts = [
        ("a folded header", get("x-a: a\r\n b")),
        ("a space before a colon", get("x-a : b")),
        ("a NUL in a header", get("x-a: a\0b")),
        ("a bare CR in a header", get("x-a: a\rx-b: b")),
        ("a header without a colon", get("x-a")),
        ("two hosts", get("host: penetration-test.invalid")),
        ("two Content-Lengths", get("content-length: 0\r\ncontent-length: 1")),
        ("a transfer coding of HTTP/1.0", {
            format!(
                "GET /health/live HTTP/1.0\r\nhost: {authority}\r\n{common}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            )
        }),
        ("no host", format!("GET /health/live HTTP/1.1\r\n{common}\r\n\r\n")),
        (
            "a version that does not exist",
            format!("GET /health/live HTTP/9.9\r\nhost: {authority}\r\n{common}\r\n\r\n"),
        ),
    ];
    for (name, request) in &attempts {
        let answered = statuses(&tester.exchange(name, request.as_bytes()).await?);
        if let Some(status) = answered.first().filter(|status| (200..300).contains(*status)) {
            found.push(MALFORMED.finding(*name, format!("the answer is {status}")));
        }
    }
    Ok(format!("{} heads", attempts.len()))
}
