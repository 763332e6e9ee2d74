//! The signature by Amazon's published example, and what a hostile store can say.

use chrono::DateTime;
use hyper::StatusCode;
use zeroize::Zeroizing;

use super::error::S3Error;
use super::settings::{S3Credentials, S3Settings};
use super::signature::{SignedParts, encode_path, encode_query, sha256_hex, sign};
use super::xml::{elements, first};

fn credentials() -> S3Credentials {
    S3Credentials {
        key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
        token: None,
    }
}

/// "GET Bucket (List Objects)" of "Signature Calculations for the Authorization Header" in the reference of Amazon S3.
#[test]
fn the_published_example_has_its_signature() {
    let (query, empty) = (encode_query(&[("prefix", "J"), ("max-keys", "2")]), sha256_hex(b""));
    let parts = SignedParts {
        method: "GET",
        host: "examplebucket.s3.amazonaws.com",
        path: "/",
        query: &query,
        body_sha256: &empty,
    };
    let now = DateTime::parse_from_rfc3339("2013-05-24T00:00:00Z").unwrap().to_utc();
    let signed = sign(&parts, &credentials(), "us-east-1", now);
    let expected = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
                    SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
                    Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
    assert_eq!(signed.last().unwrap(), &("authorization", expected.to_owned()));
}

#[test]
fn a_token_is_signed_and_everything_is_encoded() {
    let parts = SignedParts { method: "GET", host: "h", path: "/", query: "", body_sha256: "" };
    let token = Some(Zeroizing::new("t".to_owned()));
    let signed = sign(&parts, &S3Credentials { token, ..credentials() }, "r", DateTime::UNIX_EPOCH);
    assert!(signed.contains(&("x-amz-security-token", "t".to_owned())));
    assert!(
        signed.last().unwrap().1.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,")
    );
    assert_eq!(encode_path("a b/ä~"), "a%20b/%C3%A4~");
    assert_eq!(encode_query(&[("uploads", ""), ("a", "/=&")]), "a=%2F%3D%26&uploads=");
}

#[test]
fn a_place_is_a_bucket_a_prefix_and_a_host_that_may_be_trusted() {
    let parse = |place: &str, endpoint: Option<&str>, allows_http| {
        S3Settings::parse(place, endpoint, Some("eu-central-1"), credentials(), allows_http)
    };
    let amazon = parse("s3://backups/fulexo/", None, false).ok().unwrap();
    assert_eq!(amazon.host(), "backups.s3.eu-central-1.amazonaws.com");
    assert_eq!(amazon.display("x"), "s3://backups/fulexo/x");
    let dotted = parse("s3://back.ups", None, false).ok().unwrap();
    assert_eq!((dotted.host().as_str(), dotted.is_virtual_host), ("s3.eu-central-1.amazonaws.com", false));
    let own = parse("s3://backups", Some("https://minio.example:9000/s3"), false).ok().unwrap();
    assert_eq!((own.host().as_str(), own.is_virtual_host), ("minio.example:9000", false));
    for endpoint in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost"] {
        assert!(parse("s3://backups", Some(endpoint), false).is_ok(), "{endpoint}");
    }
    assert!(parse("s3://backups", Some("http://minio.example"), true).is_ok());
    for (place, endpoint) in [
        ("s3://backups", Some("http://minio.example")),
        ("s3://backups", Some("http://localhost.example")),
        ("s3://backups", Some("https://ann:secret@minio.example")),
        ("s3://backups", Some("https://minio.example/?a=b")),
        ("s3://backups", Some("ftp://minio.example")),
        ("s3://backups", Some("minio.example")),
        ("s3://", None),
        ("s3://ab", None),
        ("s3://UPPER", None),
        ("s3://back/../ups", None),
        ("s3://backups/a//b", None),
        ("s3://backups/a?b", None),
        ("s3://backups/ä", None),
        ("/backups", None),
    ] {
        let refused = parse(place, endpoint, false).err().unwrap_or_else(|| panic!("{place} {endpoint:?}"));
        assert!(!refused.contains("secret"), "{refused}");
    }
}

#[test]
fn elements_are_found_by_their_names_and_nothing_else_is() {
    let xml = "<?xml version=\"1.0\"?><R><Contents><Key>a&amp;b&#x41;&#66;&bad;&</Key><Size>7</Size></Contents>\
               <Contents><Key>c</Key></Contents><Contents><Key>never closed";
    let keys: Vec<_> = elements(xml, "Contents").filter_map(|element| first(element, "Key")).collect();
    assert_eq!(keys, ["a&bAB&bad;&", "c"]);
    assert_eq!(first(xml, "UploadId"), None);
}

#[test]
fn a_refusal_is_named_by_its_code_and_its_words_are_not_repeated() {
    let body = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>secret</StringToSign></Error>";
    let error = S3Error::of(StatusCode::FORBIDDEN, body);
    assert_eq!(error.to_string(), "the store answered 403 SignatureDoesNotMatch");
    assert!(!error.is_transient());
    let error = S3Error::of(StatusCode::BAD_REQUEST, b"<Code>a line\nof its own</Code>");
    assert_eq!(error.to_string(), "the store answered 400");
    let full = S3Error::of(StatusCode::FORBIDDEN, b"<Error><Code>QuotaExceeded</Code></Error>");
    assert_eq!(std::io::Error::from(full).kind(), std::io::ErrorKind::StorageFull);
    let no_bucket = S3Error::of(StatusCode::NOT_FOUND, b"<Error><Code>NoSuchBucket</Code></Error>");
    assert!(!no_bucket.is_missing(), "a bucket that is not there is not an object that is not there");
}
