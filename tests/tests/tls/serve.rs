//! `fulexo serve` with a certificate, as an operator runs it.

use fulexo_tests::{Client, Database, Program};
use tokio::task::block_in_place;

use crate::pki::{Authority, CertificateFiles, put};

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_and_stops_when_asked() {
    let (authority, database) = (Authority::new(), Database::create().await);
    let files = CertificateFiles::new(&authority.issue(&["127.0.0.1"]));
    let mut program =
        Program::start(&["serve"], &files.env(&database, &[("FULEXO_PORT", "0"), ("FULEXO_HTTP_PORT", "0")]));
    let (url, plain) = block_in_place(|| (program.says("listening on "), program.says("redirecting from ")));
    assert!(url.starts_with("https://127.0.0.1:") && plain.starts_with("http://127.0.0.1:"), "{url} {plain}");
    let client = Client { tls: Some(authority.believed()), ..Client::new(&url) };
    assert_eq!(client.get("/health/ready").await.status, 200);
    let redirected = Client::new(&plain).get("/health/ready").await;
    assert_eq!(redirected.header("location"), Some(format!("{url}/health/ready").as_str()));
    let ended = block_in_place(|| program.stop("TERM"));
    assert!(ended.status.success(), "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_certificate_does_not_start() {
    let (authority, database) = (Authority::new(), Database::create().await);
    let files = CertificateFiles::new(&authority.issue(&["localhost"]));
    put(&files.key, &authority.issue(&["localhost"]).key);
    let mut program = Program::start(&["serve"], &files.env(&database, &[]));
    let ended = block_in_place(|| program.wait());
    assert_eq!(ended.status.code(), Some(2), "{}", ended.errors);
    assert!(ended.errors.contains("is not the key of the first certificate"), "{}", ended.errors);
}
