//! Handshakes: what is spoken, what is refused, and that a refusal has no other effect.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Served, connect};

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_are_spoken() {
    let served = Served::start().await;
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let config = Arc::new(served.authority.believed_by(&[version]));
        let stream = connect(served.node.port(), "localhost", &config).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
    }
    assert_eq!(served.anonymous().get("/health/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_with_ml_kem_where_the_client_can() {
    let served = Served::start().await;
    let stream = connect(served.node.port(), "localhost", &served.authority.believed()).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_1_is_refused_by_an_alert() {
    let served = Served::start().await;
    // A ClientHello of RFC 4346, section 7.4.1.2: version, random, no session, two suites of its time, no compression,
    // and extensions that say P-256 and ECDSA with SHA-256. Except for its version it is fine.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x0a, 0xc0, 0x2b, 1, 0]);
    hello.extend([0, 16, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], hello.as_slice()].concat();
    let mut stream = TcpStream::connect(("127.0.0.1", served.node.port())).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // Alert, two bytes, fatal, protocol_version.
    assert_eq!((answer.first(), answer.get(3..)), (Some(&21), Some(&[0, 2, 2, 70][..])), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_chosen_by_alpn_and_served() {
    let served = Served::start().await;
    let mut config = served.authority.believed_by(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(served.node.port(), "localhost", &Arc::new(config)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("https://localhost/health/live").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        assert!(answer.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_1_is_chosen_where_the_client_has_no_other() {
    let served = Served::start().await;
    let mut config = served.authority.believed_by(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = connect(served.node.port(), "localhost", &Arc::new(config.clone())).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // RFC 7301, section 3.2: no_application_protocol.
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let refused = connect(served.node.port(), "localhost", &Arc::new(config)).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_refuses_the_certificate_under_another_name() {
    let served = Served::start().await;
    let config = served.authority.believed();
    let refused = connect(served.node.port(), "other.example", &config).await.unwrap_err();
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
    connect(served.node.port(), "localhost", &config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_tls_port_is_refused_and_harms_nobody() {
    let served = Served::start().await;
    let nonsense = [0_u8; 4096];
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [&b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"[..], http2, &nonsense, b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(("127.0.0.1", served.node.port())).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.windows(4).any(|window| window == b"HTTP"), "{answer:?}");
    }
    assert_eq!(served.anonymous().get("/health/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_over_https_carry_strict_transport_security() {
    let served = Served::start().await;
    for path in ["/health/live", "/nothing", "/v1/me"] {
        let answer = served.anonymous().get(path).await;
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000; includeSubDomains"));
    }
}
